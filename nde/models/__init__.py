"""Models: fields, encoders and readouts tied together with their numerics, one model a file.

The plain ones take any field, any diffrax solver, controller and adjoint: `NeuralODE`,
`NeuralSDE`, `NeuralCDE`, `ControlledSDE` (whose drift reads the path of a series) and
`ContinuousNormalizingFlow`; `LinearCDE` takes no solver, but a scan. All act on one series, or one point, and are
batched by `jax.vmap`. `DiffusionModel` and `InterpolantModel` are laws of points that are learned without a solve, and
sampled by an ODE or an SDE. `LogNCDE` solves a neural CDE over
windows of a series by their log-signatures. `ObservedODE` is an ODE with what is
seen of it, `ObservedSDE` one whose state is also pushed at random, `Population` one whose parameters differ from
individual to individual, `ContextFlow` one whose field differs from environment to environment by a learned context.
`LatentSDE` is a generative model of panels of irregular series, and so is
`LatentODE`, whose start an ODE-RNN infers. `EncoderDecoder` forecasts
them causally: it is made of an encoder that reads forward (`ODERNN`, `CDEEncoder` or a
recurrent network) and of a latent ODE or SDE that runs on from what was read.
`SignatureRegression` is linear in a series' signature, and fitted in closed form.
`GRUDeltaT` and `GRUD` are the recurrent networks that a neural CDE is compared with; `LTC` is one whose state follows
an equation.

**A line search must be able to try a bad point.** L-BFGS does, and by default a solve that fails is an error; with
`throw=False` such a point has an infinite loss, from which the search turns back:

```python
>>> import jax, jax.numpy as jnp, nde, optax
>>> ts = jnp.linspace(0.0, 0.9, 10)
>>> model = nde.NeuralODE(lambda t, y, rate: rate * y**2, throw=False, max_steps=100)
>>> def loss(rate):  # against 1 / (1 - t); with a rate above 1.11 the solution blows up before the last row
...     return jnp.mean((model(ts, 1.0, rate) - 1 / (1 - ts)) ** 2)
>>> optimiser = optax.lbfgs()  # whose first step has length one
>>> @jax.jit
... def step(rate, state):
...     value, gradient = optax.value_and_grad_from_state(loss)(rate, state=state)
...     change, state = optimiser.update(gradient, state, rate, value=value, grad=gradient, value_fn=loss)
...     return optax.apply_updates(rate, change), state
>>> rate, state = jnp.array(0.4), optimiser.init(jnp.array(0.4))
>>> float(loss(rate + 1.0))
inf
>>> for _ in range(5):
...     rate, state = step(rate, state)
>>> print(f"{rate:.2f}")
1.00

```
"""

from nde.models.cde_encoder import CDEEncoder as CDEEncoder
from nde.models.context_flow import adapt as adapt, ContextFlow as ContextFlow
from nde.models.controlled_sde import ControlledSDE as ControlledSDE
from nde.models.diffusion_model import DiffusionModel as DiffusionModel
from nde.models.encoder import BackwardEncoder as BackwardEncoder, Context as Context
from nde.models.encoder_decoder import EncoderDecoder as EncoderDecoder, SequenceEncoder as SequenceEncoder
from nde.models.exponential import matrix_exponential as matrix_exponential
from nde.models.gru_d import GRUD as GRUD
from nde.models.gru_delta_t import GRUDeltaT as GRUDeltaT
from nde.models.interpolant_model import InterpolantModel as InterpolantModel
from nde.models.latent_ode import LatentODE as LatentODE
from nde.models.latent_path import LatentPath as LatentPath
from nde.models.latent_sde import LatentSDE as LatentSDE
from nde.models.linear_cde import LinearCDE as LinearCDE
from nde.models.log_ncde import LogNCDE as LogNCDE
from nde.models.ls4 import LS4 as LS4
from nde.models.ltc import LTC as LTC
from nde.models.marginals import (
    GaussianMarginals as GaussianMarginals,
    MarginalPath as MarginalPath,
    Normal as Normal,
    posterior_control as posterior_control,
)
from nde.models.neural_cde import NeuralCDE as NeuralCDE
from nde.models.neural_ode import NeuralODE as NeuralODE
from nde.models.neural_sde import NeuralSDE as NeuralSDE
from nde.models.normalising_flow import (
    ContinuousNormalizingFlow as ContinuousNormalizingFlow,
    position_norm as position_norm,
)
from nde.models.numerics import (
    AbstractSolvingModel as AbstractSolvingModel,
    at_tolerance as at_tolerance,
    Numerics as Numerics,
    Solved as Solved,
)
from nde.models.observation import Observation as Observation
from nde.models.observed_ode import (
    forward_mode as forward_mode,
    observed_states as observed_states,
    ObservedODE as ObservedODE,
)
from nde.models.observed_sde import Filtered as Filtered, ObservedSDE as ObservedSDE
from nde.models.ode_rnn import ODERNN as ODERNN
from nde.models.population import known_parameters as known_parameters, Population as Population
from nde.models.recurrence import linear_recurrence as linear_recurrence
from nde.models.reflow import (
    flow_paths as flow_paths,
    reflow_pairs as reflow_pairs,
    straightness as straightness,
)
from nde.models.restart import restart_sample as restart_sample, RestartInterval as RestartInterval
from nde.models.signature_regression import (
    fit_signature_regression as fit_signature_regression,
    SignatureFit as SignatureFit,
    SignatureRegression as SignatureRegression,
)
from nde.models.state_space import StateSpace as StateSpace, StateSpaceStack as StateSpaceStack
from nde.models.with_inputs import rates_with_inputs as rates_with_inputs
from nde.paths import series_path as series_path
