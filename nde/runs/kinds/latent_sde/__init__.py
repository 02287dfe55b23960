"""The latent SDE as a kind of run: its table, training, scores, figures and forecasts, a module each."""

from nde.runs.kinds.latent_sde.evaluation import LatentSDEEvaluation as LatentSDEEvaluation
from nde.runs.kinds.latent_sde.kind import LatentSDEKind as LatentSDEKind
from nde.runs.kinds.latent_sde.problem import Problem as Problem
