"""Objectives: arrays in, a scalar out, for one series; `jax.vmap` over series stands in the training step."""

from nde.objectives.classification import cross_entropy as cross_entropy
from nde.objectives.density import DensityModel as DensityModel, negative_log_likelihood as negative_log_likelihood
from nde.objectives.draws import (
    check_ids as check_ids,
    draw_by_series as draw_by_series,
    series_codes as series_codes,
)
from nde.objectives.elbo import (
    annealed as annealed,
    ELBO as ELBO,
    ELBOTerms as ELBOTerms,
    hide_future as hide_future,
    LatentPathModel as LatentPathModel,
)
from nde.objectives.likelihoods import (
    AbstractLikelihood as AbstractLikelihood,
    GaussianLikelihood as GaussianLikelihood,
    ScaledLikelihood as ScaledLikelihood,
    StudentTLikelihood as StudentTLikelihood,
)
from nde.objectives.shooting import (
    growing_horizon as growing_horizon,
    multiple_shooting as multiple_shooting,
    segment_knots as segment_knots,
    Shots as Shots,
    solve_within as solve_within,
)
