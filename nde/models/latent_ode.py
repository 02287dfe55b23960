"""The latent ODE of Rubanova et al. (2019): an ODE from a start that an ODE-RNN infers."""

from typing import Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.dtypes import as_floats
from nde.fields import LinearMLPField
from nde.models.checks import check_series, up_to
from nde.models.latent_path import LatentPath, normal_kl
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of
from nde.models.ode_rnn import ODERNN
from nde.objectives import AbstractLikelihood, StudentTLikelihood
from nde.regularise import AbstractRegulariser


class LatentODE(AbstractSolvingModel):
    r"""A latent ODE, $dz = f(z)\,dt$ from $z_0 \sim \mathcal N(0, I)$, seen through a linear decoder and a likelihood.

    The posterior of the start given observations is a normal whose mean and deviation a network reads off an ODE-RNN
    that runs over them backward in time, from the last to the first row. All that a series says must pass through
    `z_0`: from there the path is determined. That is the difference from `nde.LatentSDE`, whose path observations steer
    on their way, and which without noise differs from this model by its encoder, a GRU that is told the gaps.

    Everything acts on one series: times of shape `(rows,)`, sorted, values and mask of shape `(rows, channels)`; what
    the mask hides is never read, and NaN is missing. Times count from the first row. Use `jax.vmap` over series, and
    over keys for samples.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> key = jax.random.key(0)
    >>> model = nde.LatentODE(channels=2, state_size=3, horizon=30.0, dt0=1.0, width=4, encoder_size=4, key=key)
    >>> days, values = jnp.array([0, 7, 14]), jnp.array([[1.0, 2.0], [0.0, 2.5], [1.2, 0.0]])
    >>> mask = jnp.array([[1, 1], [0, 1], [1, 0]], bool)  # what was observed
    >>> path = model.posterior(days, values, mask, jnp.array([0, 10, 20]), key=key)
    >>> model.decode(path.zs).shape  # both channels at three times
    (3, 2)

    ```

    **Arguments of the constructor:**

    - `channels`: number of observed channels; `state_size`: length of the latent state `z`.
    - `width`, `depth`: of the network in `f`, a `nde.fields.LinearMLPField`; `width=0` leaves `f` linear.
    - `encoder_size`, `encoder_width`: length of the state of the `nde.models.ODERNN`, and the width of its field and of
      the network that reads the posterior off it.
    - `likelihood`: a `nde.objectives.AbstractLikelihood`; Student's t if `None`.
    - `horizon`: how far after its first row a series is solved, in units of time.
    - `numerics`: how `z` is solved, a `nde.Numerics`; or its members by keyword.
    - `key`: a JAX random key, for the initial weights.

    **Limits:** the dynamics do not see the time. A path is always solved up to the horizon.

    **Source:** Rubanova, Chen, Duvenaud, *Latent ODEs for Irregularly-Sampled Time Series*, NeurIPS 2019, arXiv
    1907.03907, equations 7 to 11. The likelihood there is a normal of fixed deviation, and there may be a Poisson
    process of the observation times, which is not here.
    """

    encoder: ODERNN
    initial: eqx.nn.MLP
    drift: LinearMLPField
    decoder: eqx.nn.Linear
    likelihood: AbstractLikelihood
    numerics: Numerics
    horizon: float = eqx.field(static=True)

    def __init__(  # noqa: PLR0913  (its keywords are the interface)
        self,
        channels: int,
        state_size: int,
        *,
        width: int = 16,
        depth: int = 1,
        encoder_size: int = 32,
        encoder_width: int = 32,
        likelihood: AbstractLikelihood | None = None,
        horizon: float,
        numerics: Numerics | None = None,
        key: PRNGKeyArray,
        **keywords: Unpack[Keywords],
    ):
        if not 0 < horizon < float("inf"):
            raise ValueError(f"LatentODE needs a horizon above zero, and not infinite, but got {horizon}.")
        encoder_key, initial_key, drift_key, decoder_key = jax.random.split(key, 4)
        self.encoder = ODERNN(channels, encoder_size, width=encoder_width, key=encoder_key)
        self.initial = eqx.nn.MLP(encoder_size, 2 * state_size, encoder_width, 1, activation=jnp.tanh, key=initial_key)
        self.drift = LinearMLPField(state_size, width, depth, key=drift_key)
        self.decoder = eqx.nn.Linear(state_size, channels, key=decoder_key)
        self.likelihood = StudentTLikelihood(channels) if likelihood is None else likelihood
        self.numerics = numerics_of("LatentODE", Numerics(), numerics, **keywords)
        self.horizon = float(horizon)

    @eqx.filter_jit  # or a call outside of `jit` would compile the encoder's scan anew
    def posterior(
        self,
        times: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike,
        ts: ArrayLike,
        *,
        key: PRNGKeyArray,
        regulariser: AbstractRegulariser | None = None,
    ) -> LatentPath:
        """One sample of the latent path given the observed entries.

        **Arguments:** `times`, `values`, `mask`: the series; `ts`: sorted times at which the state is wanted, between
        the first row and `horizon` after it; `key`: the sample; `regulariser`: of the solve, see `nde.regularise`.

        **Returns:** a `nde.models.LatentPath`, whose path KL is zero. Without an observation the posterior of the start
        is the prior.
        """
        parameters = self.encoder, self.initial, self.drift, self.decoder
        times, values, ts = as_floats(times, values, ts, like=parameters)
        mean, log_std = self.start(times, values, mask)
        start_key, solve_key = jax.random.split(key)
        z0 = mean + jnp.exp(log_std) * jax.random.normal(start_key, mean.shape, mean.dtype)
        solved = self._solve(z0, ts - times[0], regulariser, solve_key)
        zero = jnp.zeros_like(mean)
        return LatentPath(solved.ys, normal_kl(mean, log_std, zero, zero), jnp.zeros((), z0.dtype), solved.penalty)

    def start(
        self, times: ArrayLike, values: ArrayLike, mask: ArrayLike
    ) -> tuple[Float[Array, " state"], Float[Array, " state"]]:
        """Mean and logarithm of the standard deviation of the start's posterior, at the time of the first row."""
        times, values, mask = check_series(
            "LatentODE", times, values, mask, channels=self.encoder.channels, like=self.initial
        )
        seen = jnp.any(mask, axis=1)
        hidden = self.encoder.read(-times[::-1], values[::-1], mask[::-1])[-1]
        first = times[jnp.argmax(seen)]
        mean, log_std = jnp.split(self.initial(self.encoder.moved(hidden, first - times[0])), 2)
        return jnp.where(jnp.any(seen), mean, 0.0), jnp.where(jnp.any(seen), log_std, 0.0)

    @eqx.filter_jit
    def prior(self, ts: ArrayLike, *, key: PRNGKeyArray) -> Float[Array, "asked state"]:
        """One sample of the latent path given nothing, at sorted times `ts` after the start; shape `(asked, state)`."""
        (ts,) = as_floats(ts, like=(self.initial, self.drift, self.decoder))
        return self._solve(jax.random.normal(key, self.drift.bias.shape, ts.dtype), ts).ys

    def decode(self, zs: Float[Array, "asked state"]) -> Float[Array, "asked channels"]:
        """The location of the observed values at each state."""
        return jax.vmap(self.decoder)(zs)

    def _solve(self, z0, ts, regulariser=None, key=None):
        saveat = diffrax.SaveAt(ts=up_to(ts, self.horizon))
        term = diffrax.ODETerm(self.drift)
        t0, t1 = np.array([0.0, self.horizon], z0.dtype)  # numbers of the state's precision
        return self.numerics.solve(term, t0, t1, z0, saveat=saveat, regulariser=regulariser, key=key)
