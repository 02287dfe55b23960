"""Forecasts by an encoder that reads forward and a latent ODE or SDE that runs on from what it has read."""

import dataclasses
import math
from typing import ClassVar, Protocol, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.dtypes import as_floats
from nde.fields import DiagonalDiffusion, LinearMLPField
from nde.models.checks import refuse, up_to
from nde.models.latent_path import LatentPath
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of, over_unit
from nde.objectives import AbstractLikelihood, StudentTLikelihood
from nde.regularise import AbstractRegulariser


class SequenceEncoder(Protocol):
    """What reads a series forward; `nde.models.ODERNN`, `nde.models.CDEEncoder` and `nde.models.GRUDeltaT` do."""

    @property
    def hidden_size(self) -> int:
        """The length of its state."""
        ...

    def states(self, times: ArrayLike, values: ArrayLike, mask: ArrayLike, /) -> Float[Array, "rows hidden"]:
        """The state after each row: row `i` has read the rows up to `i` and no later one.

        Rows without observations change nothing.
        """
        ...


class EncoderDecoder(AbstractSolvingModel):
    r"""A causal forecaster: what an encoder has read before a time starts a latent path that runs on to it.

    $$z(t_i) \sim \mathcal N\bigl(m(h_i), s(h_i)^2\bigr), \qquad dz = f(z)\,dt + \sigma(z)\,dW, \quad t > t_i,$$

    where $h_i$ is the encoder's state after the row of time $t_i$. At every row that holds an observation the path
    starts anew, and its state at a time `t` follows from the last such row *strictly before* `t`, or, before there is
    one, from a start that is learned. So at the time of a row it forecasts the row, and after the last observation it
    runs on by itself: one law for one step ahead and for many. **Causal:** what is observed at `t` or later, and when,
    changes nothing at `t`. For targets that are not the series itself, as in sequence-to-sequence regression,
    `strictly=False` lets a time see what is observed at it.

    Everything acts on one series: times of shape `(rows,)`, sorted, values and mask of shape `(rows, channels)`; what
    the mask hides is never read, and NaN is missing. Times count from the first row. Use `jax.vmap` over series, and
    over keys for samples.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> key = jax.random.key(0)
    >>> encoder = nde.models.ODERNN(channels=2, hidden_size=4, width=4, key=key)
    >>> model = nde.EncoderDecoder(encoder, channels=2, state_size=3, horizon=30.0, dt0=1.0, width=4, key=key)
    >>> days, values = jnp.array([0, 7, 14]), jnp.array([[1.0, 2.0], [0.0, 2.5], [1.2, 0.0]])
    >>> mask = jnp.array([[1, 1], [0, 1], [1, 0]], bool)  # what was observed
    >>> model(days, values, mask, jnp.array([3, 7, 20])).shape  # of both channels at three other times
    (3, 2)

    ```

    **Arguments of the constructor:**

    - `encoder`: a `nde.models.SequenceEncoder`.
    - `channels`: of the output; those of a forecast are the series'.
    - `state_size`: length of the latent state `z`.
    - `width`, `depth`: of the network in `f`, a `nde.fields.LinearMLPField`; `width=0` leaves `f` linear.
    - `diffusion_scale`: the diffusion to start from, in state per square root of time; `None` for a latent ODE.
    - `likelihood`: of the outputs, a `nde.objectives.AbstractLikelihood`; Student's t if `None`.
    - `horizon`: how far after its first row a series is solved, in units of time.
    - `numerics`: how a step is solved, a `nde.Numerics`; or its members by keyword. `dt0` is the longest step, in units
      of time. `diffrax.Euler` by default, with which a step of the SDE is one of Euler–Maruyama.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `model(times, values, mask, ts, strictly=True, key=None)`: the locations of the outputs at times `ts`, in
    any order, of shape `(asked, channels)`; of one random path by `key`, else of the path from the means without noise.

    **Raises:** `ValueError` if not `0 < dt0 <= horizon`, or for noise with a solver other than `diffrax.Euler`; an
    error at run time for a time before the first row or past the horizon, unless `throw` is false.

    **Limits:** the steps lie on a grid of size `dt0`; to a time between two of its points, and from a row there, leads
    one shorter step. The samples at two times inside of one step share their noise: the law at each time is that of the
    scheme, and so is the joint one on the grid, but between its points a path is smoother than the SDE's. Across a row
    the path jumps: it is no sample of a smoothed path, for which see `nde.LatentSDE`.

    **Source:** encoder and decoder as Rubanova et al. 2019 (arXiv 1907.03907, section 3) join them, the encoder run
    forward; training on what comes next as in De Brouwer, Simm, Arany, Moreau, *GRU-ODE-Bayes*, NeurIPS 2019, arXiv
    1905.12374, but by samples, without a step of Bayes' rule.
    """

    encoder: SequenceEncoder
    initial: eqx.nn.Linear
    drift: LinearMLPField
    diffusion: DiagonalDiffusion | None
    decoder: eqx.nn.Linear
    likelihood: AbstractLikelihood
    numerics: Numerics
    num_steps: int = eqx.field(static=True)

    causal: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913  (its keywords are the interface)
        self,
        encoder: SequenceEncoder,
        channels: int,
        state_size: int,
        *,
        width: int = 16,
        depth: int = 1,
        diffusion_scale: float | None = None,
        likelihood: AbstractLikelihood | None = None,
        horizon: float,
        numerics: Numerics | None = None,
        key: PRNGKeyArray,
        **keywords: Unpack[Keywords],
    ):
        default = Numerics(diffrax.Euler(), diffrax.ConstantStepSize())
        self.numerics = numerics_of("EncoderDecoder", default, numerics, **keywords)
        dt0 = self.numerics.dt0
        if dt0 is None or not 0 < dt0 <= horizon:
            raise ValueError(f"EncoderDecoder needs 0 < dt0 <= horizon, but got dt0={dt0} and horizon={horizon}.")
        if diffusion_scale is not None and not isinstance(self.solver, diffrax.Euler):
            raise ValueError(f"EncoderDecoder with noise is solved by diffrax.Euler(), but got {self.solver}.")
        initial_key, drift_key, decoder_key = jax.random.split(key, 3)
        self.encoder = encoder
        self.initial = eqx.nn.Linear(encoder.hidden_size, 2 * state_size, key=initial_key)
        self.drift = LinearMLPField(state_size, width, depth, key=drift_key)
        self.diffusion = None if diffusion_scale is None else DiagonalDiffusion(state_size, scale=diffusion_scale)
        self.decoder = eqx.nn.Linear(state_size, channels, key=decoder_key)
        self.likelihood = StudentTLikelihood(channels) if likelihood is None else likelihood
        self.num_steps = math.ceil(horizon / dt0 - 1e-6)

    @property
    def horizon(self) -> float:
        """How far after its first row a series is solved, in units of time: a whole number of steps."""
        assert self.dt0 is not None
        return self.num_steps * self.dt0

    def __call__(
        self,
        times: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike,
        ts: ArrayLike,
        *,
        strictly: bool = True,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "asked channels"]:
        return self.decode(self.path(times, values, mask, ts, strictly=strictly, key=key))

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
        """One sample of the path, each state given the observed entries before its time; its divergences are zero.

        **Raises:** `ValueError` for a regulariser: its solves begin anew at every row.
        """
        if regulariser is not None:
            raise ValueError("EncoderDecoder takes no regulariser: its path starts anew at every row.")
        zs = self.path(times, values, mask, ts, key=key)
        zero = jnp.zeros((), zs.dtype)
        return LatentPath(zs, zero, zero, zero)

    def decode(self, zs: Float[Array, "asked state"]) -> Float[Array, "asked channels"]:
        """The location of the outputs at each state."""
        return jax.vmap(self.decoder)(zs)

    @eqx.filter_jit  # or a call outside of `jit` would compile its scans anew
    def path(
        self,
        times: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike,
        ts: ArrayLike,
        *,
        strictly: bool = True,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "asked state"]:
        """The latent states at times `ts`; arguments as those of the call."""
        parameters = self.encoder, self.initial, self.drift, self.decoder
        times, values, ts = as_floats(times, values, ts, like=parameters)
        mask = jnp.asarray(mask, bool) & ~jnp.isnan(values)
        ts, times = up_to(ts - times[0], self.horizon), times - times[0]
        if self.throw:
            outside = ~((ts >= 0) & (ts <= self.horizon))
            ts = refuse(ts, outside, f"EncoderDecoder forecasts from the first row to {self.horizon:g} after it only.")
        states, (noise, start_noise) = self.encoder.states(times, values, mask), self._random(key, ts.dtype)
        start = jax.vmap(lambda hidden: self._start(hidden, start_noise))
        rows = _Rows(times, jax.lax.cummax(jnp.where(jnp.any(mask, axis=1), jnp.arange(times.shape[0]), -1)))
        grid = jnp.asarray(np.linspace(0.0, self.horizon, self.num_steps + 1), ts.dtype)
        # One step a cell of the grid: from its beginning, or from the last row inside of it, to its end.
        row, since = rows.later(grid[:-1], rows.before(grid[1:]))

        def cell(z, inputs):
            restart, start, wait, forcing = inputs
            return self._step(jnp.where(restart, start, z), wait, forcing), z

        # A start is made where it is used: of a number of rows the sums would round as the number is.
        inputs = (row >= 0, start(states[row]), grid[1:] - since, noise)
        last, firsts = jax.lax.scan(cell, self._start(jnp.zeros_like(states[0]), start_noise), inputs)
        zs = jnp.concatenate([firsts, last[None]])
        place = jnp.searchsorted(grid, ts, side="right") - 1
        row, since = rows.later(grid[place], rows.before(ts, strictly=strictly))
        z = jnp.where((row >= 0)[:, None], start(states[row]), zs[place])
        return jax.vmap(self._step)(z, ts - since, noise[jnp.minimum(place, self.num_steps - 1)])

    def _random(self, key, dtype):
        """Standard normals of each step, and of the starts; zeros without a key.

        All starts of a path share theirs: the law at each time is right, and does not depend on the number of rows.
        """
        shape = self.drift.bias.shape
        if key is None:
            return jnp.zeros((self.num_steps, *shape), dtype), jnp.zeros(shape, dtype)
        # each step's by its number, so that a later horizon leaves the path as it is
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(self.num_steps + 1))
        normals = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
        return normals[1:], normals[0]

    def _start(self, hidden, noise):
        """The latent state right after a row, given the encoder's."""
        mean, log_std = jnp.split(self.initial(hidden), 2)
        return mean + jnp.exp(log_std) * noise

    def _step(self, z, wait, forcing):
        """The state after a wait of at most `dt0`. In units of the wait, so that the time of the solve is known."""
        return over_unit(dataclasses.replace(self.numerics, dt0=1.0), self._over_step, z, (wait, forcing))

    def _over_step(self, s, z, args):
        """Euler's rule makes of this z + f(z) wait + sigma(z) sqrt(wait) forcing: a step of Euler–Maruyama."""
        wait, forcing = args
        drift = wait * self.drift(s, z)
        if self.diffusion is None:
            return drift
        root = jnp.where(wait > 0, jnp.sqrt(jnp.where(wait > 0, wait, 1.0)), 0.0)  # with a gradient at zero
        return drift + root * self.diffusion(s, z) * forcing


class _Rows(eqx.Module):
    """The rows of a series: their times, and of each the last row up to it that holds an observation, or -1."""

    times: Float[Array, " rows"]
    last: Array

    def before(self, ts: Array, *, strictly: bool = True) -> Array:
        """The last row with an observation before each time, or up to it; -1 for none."""
        count = jnp.searchsorted(self.times, ts, side="left" if strictly else "right")
        return jnp.where(count > 0, self.last[count - 1], -1)

    def later(self, points: Array, rows: Array) -> tuple[Array, Array]:
        """The later of each point and row, a row if they are equal: the row, or -1 for the point, and the time."""
        inside = (rows >= 0) & (self.times[rows] >= points)
        return jnp.where(inside, rows, -1), jnp.where(inside, self.times[rows], points)
