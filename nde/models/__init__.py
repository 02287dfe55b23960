"""Models: fields, encoders and readouts tied together with their numerics, one model a file."""

from nde.models.encoder import BackwardEncoder as BackwardEncoder, Context as Context
from nde.models.latent_sde import LatentPath as LatentPath, LatentSDE as LatentSDE
