"""Models: fields, encoders and readouts tied together with their numerics, one model a file.

The plain ones take any field, any diffrax solver, controller and adjoint: [`NeuralODE`][nde.models.NeuralODE],
[`NeuralSDE`][nde.models.NeuralSDE], [`NeuralCDE`][nde.models.NeuralCDE] and
[`ContinuousNormalizingFlow`][nde.models.ContinuousNormalizingFlow]. All act on one series, or one point, and are
batched by `jax.vmap`. [`ObservedODE`][nde.models.ObservedODE] is an ODE with what is
seen of it. [`LatentSDE`][nde.models.LatentSDE] is a generative model of panels of irregular series.
[`GRUDeltaT`][nde.models.GRUDeltaT] is the recurrent network that a neural CDE is compared with.
"""

from nde.models.encoder import BackwardEncoder as BackwardEncoder, Context as Context
from nde.models.gru_delta_t import GRUDeltaT as GRUDeltaT
from nde.models.latent_sde import LatentPath as LatentPath, LatentSDE as LatentSDE
from nde.models.neural_cde import NeuralCDE as NeuralCDE, series_path as series_path
from nde.models.neural_ode import NeuralODE as NeuralODE
from nde.models.neural_sde import NeuralSDE as NeuralSDE
from nde.models.normalising_flow import (
    ContinuousNormalizingFlow as ContinuousNormalizingFlow,
    position_norm as position_norm,
)
from nde.models.observed_ode import observed_states as observed_states, ObservedODE as ObservedODE
