"""Objectives: arrays in, a scalar out, for one series; `jax.vmap` over series stands in the training step.

Those to train by, called as `objective(model, *arrays, step=step, key=key, regulariser=regulariser)`, return
`nde.objectives.AbstractTerms`, of which `nde.train.batch_loss` makes the loss of a batch:

| objective | of | arrays |
|---|---|---|
| `nde.TrajectoryFit` | an observed ODE | times, values, weights, series, first, knots |
| `nde.objectives.ContextELBO`, of an `ELBO` or of `SDEMatching` | a latent SDE | times, values, mask |
| `nde.objectives.classification_loss` | a classifier | what the model takes, label |
| `nde.objectives.density_loss` | a density | point |
| `nde.objectives.ContextFit` | a flow of many environments | times, values, environment |
| `nde.objectives.LaplaceMarginal` | a population | times, values, mask, inputs |
| `nde.objectives.Matching` | a diffusion model or a flow between laws | target, source, label |
"""

from nde.objectives.classification import classification_loss as classification_loss, cross_entropy as cross_entropy
from nde.objectives.context_fit import (
    ContextFit as ContextFit,
    ContextModel as ContextModel,
    row_windows as row_windows,
)
from nde.objectives.coupling import (
    independent_pairs as independent_pairs,
    optimal_assignment as optimal_assignment,
    transport_pairs as transport_pairs,
)
from nde.objectives.density import (
    density_loss as density_loss,
    DensityModel as DensityModel,
    negative_log_likelihood as negative_log_likelihood,
)
from nde.objectives.draws import (
    check_ids as check_ids,
    draw_by_series as draw_by_series,
    series_codes as series_codes,
)
from nde.objectives.elbo import (
    annealed as annealed,
    ContextELBO as ContextELBO,
    ContextELBOTerms as ContextELBOTerms,
    ELBO as ELBO,
    ELBOTerms as ELBOTerms,
    hide_future as hide_future,
    LatentPathModel as LatentPathModel,
)
from nde.objectives.laplace import (
    effects_posterior as effects_posterior,
    LaplaceMarginal as LaplaceMarginal,
    MarginalTerms as MarginalTerms,
    MixedModel as MixedModel,
    posterior_mode as posterior_mode,
)
from nde.objectives.likelihoods import (
    AbstractCensorableLikelihood as AbstractCensorableLikelihood,
    AbstractLikelihood as AbstractLikelihood,
    BernoulliLikelihood as BernoulliLikelihood,
    CensoredLikelihood as CensoredLikelihood,
    ChannelLikelihood as ChannelLikelihood,
    CombinedLikelihood as CombinedLikelihood,
    GaussianLikelihood as GaussianLikelihood,
    likelihood_from_plain as likelihood_from_plain,
    likelihood_to_plain as likelihood_to_plain,
    LogNormalLikelihood as LogNormalLikelihood,
    PoissonLikelihood as PoissonLikelihood,
    ScaledLikelihood as ScaledLikelihood,
    StudentTLikelihood as StudentTLikelihood,
)
from nde.objectives.matching import MatchedModel as MatchedModel, Matching as Matching
from nde.objectives.matching_times import (
    AbstractTimes as AbstractTimes,
    LogitNormalTimes as LogitNormalTimes,
    LogSNRTimes as LogSNRTimes,
    UniformTimes as UniformTimes,
    UShapedTimes as UShapedTimes,
)
from nde.objectives.points import point_loss as point_loss
from nde.objectives.sde_matching import MarginalModel as MarginalModel, SDEMatching as SDEMatching
from nde.objectives.shooting import (
    growing_horizon as growing_horizon,
    multiple_shooting as multiple_shooting,
    segment_knots as segment_knots,
    Shots as Shots,
    solve_within as solve_within,
)
from nde.objectives.terms import AbstractTerms as AbstractTerms, Terms as Terms
from nde.objectives.trajectory_fit import (
    TrajectoryFit as TrajectoryFit,
    TrajectoryModel as TrajectoryModel,
    TrajectoryTerms as TrajectoryTerms,
)
