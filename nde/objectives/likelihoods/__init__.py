"""Observation models: the law of a value around a location, one scale (and one tail) a channel.

| law | of values | mean | standard deviation |
|---|---|---|---|
| `GaussianLikelihood` | any | $f$ | $s$ |
| `StudentTLikelihood` | any, some far out | $f$ | $s\\sqrt{\\nu / (\\nu - 2)}$ |
| `CombinedLikelihood` | any; proportional with `additive=None` | $f$ | $\\sqrt{a^2 + (b f)^2}$ |
| `LogNormalLikelihood` | positive, of median $f$ | $f e^{s^2 / 2}$ | $f e^{s^2 / 2}\\sqrt{e^{s^2} - 1}$ |
| `PoissonLikelihood` | counts | $f$ | $\\sqrt f$ |
| `BernoulliLikelihood` | 0 and 1 | $f$ | $\\sqrt{f (1 - f)}$ |
| `ScaledLikelihood` | those of another, in units | | |
| `ChannelLikelihood` | of a law a channel | | |
| `CensoredLikelihood` | those of another, through limits of quantification | of the values themselves | |

Each has `log_prob(values, loc)`, `mean(loc)`, `variance(loc)` and `sample(loc, series=…, key=…)`.
"""

from nde.objectives.likelihoods.base import (
    AbstractCensorableLikelihood as AbstractCensorableLikelihood,
    AbstractLikelihood as AbstractLikelihood,
)
from nde.objectives.likelihoods.discrete import (
    BernoulliLikelihood as BernoulliLikelihood,
    PoissonLikelihood as PoissonLikelihood,
)
from nde.objectives.likelihoods.location import (
    GaussianLikelihood as GaussianLikelihood,
    StudentTLikelihood as StudentTLikelihood,
)
from nde.objectives.likelihoods.relative import (
    CombinedLikelihood as CombinedLikelihood,
    LogNormalLikelihood as LogNormalLikelihood,
)
from nde.objectives.likelihoods.saved import (
    likelihood_from_plain as likelihood_from_plain,
    likelihood_to_plain as likelihood_to_plain,
)
from nde.objectives.likelihoods.wrapped import (
    CensoredLikelihood as CensoredLikelihood,
    ChannelLikelihood as ChannelLikelihood,
    ScaledLikelihood as ScaledLikelihood,
)
