"""nde: neural differential equations in JAX."""

from nde.engine import diffeqsolve as diffeqsolve
from nde.models import LatentSDE as LatentSDE
from nde.objectives import ELBO as ELBO

__version__ = "0.1.0"
