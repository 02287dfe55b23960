"""nde: neural differential equations in JAX.

Data make paths; fields and paths make terms; the engine solves terms; a model wraps that; an objective scores it;
training improves it. The daily names are here; each layer's own overview is the docstring of its folder:
[`nde.data`][], [`nde.fields`][], [`nde.paths`][], [`nde.engine`][], [`nde.models`][], [`nde.objectives`][],
[`nde.train`][], [`nde.report`][], and, for what the command line does, [`nde.config`][] and [`nde.runs`][].
"""

from importlib.metadata import version

from nde.engine import diffeqsolve as diffeqsolve
from nde.fields import (
    AugmentedField as AugmentedField,
    CDEField as CDEField,
    ConcatSquashField as ConcatSquashField,
    DiagonalDiffusion as DiagonalDiffusion,
    GatedField as GatedField,
    GeneralDiffusion as GeneralDiffusion,
    HamiltonianField as HamiltonianField,
    Hybrid as Hybrid,
    KnownField as KnownField,
    LinearCDEField as LinearCDEField,
    LinearMLPField as LinearMLPField,
    MLPField as MLPField,
    Parameter as Parameter,
)
from nde.models import (
    ContinuousNormalizingFlow as ContinuousNormalizingFlow,
    LatentSDE as LatentSDE,
    NeuralCDE as NeuralCDE,
    NeuralODE as NeuralODE,
    NeuralSDE as NeuralSDE,
)
from nde.objectives import (
    ELBO as ELBO,
    GaussianLikelihood as GaussianLikelihood,
    StudentTLikelihood as StudentTLikelihood,
)
from nde.paths import (
    BrownianGrid as BrownianGrid,
    SpaceSpaceLevyArea as SpaceSpaceLevyArea,
    VirtualBrownianTree as VirtualBrownianTree,
)

__version__ = version("nde")
