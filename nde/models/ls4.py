"""The latent state-space model LS4 of Zhou et al. (2023) for one irregular, partly observed series."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from nde.dtypes import as_floats, default_float
from nde.models.checks import check_series, last_observed, up_to
from nde.models.latent_path import LatentPath, normal_kl
from nde.models.state_space import StateSpaceStack
from nde.objectives import AbstractLikelihood, StudentTLikelihood
from nde.regularise import AbstractRegulariser


class LS4(eqx.Module):
    r"""A latent sequence seen through state spaces: $z_j \sim p(z_j \mid z_{<j})$, $x(t) \sim p(x \mid z(s), s \le t)$.

    The latents are held over cells of time of length `dt0`, $z(t) = z_j$ for $t \in ((j - 1)\,dt_0, j\,dt_0]$, counted
    from the first row. Three stacks of linear state spaces (`nde.models.StateSpaceStack`), each exact over any gap, are

    - the prior, a normal whose mean and deviation are read off the latents before;
    - the posterior, a normal read off the observations up to the end of the cell, $q(z_j \mid x_{\le j\,dt_0})$: all
      cells at once, by a scan;
    - the generator, driven by the latents, which gives the location of the values at any time, by a scan.

    After the cell of the last observation the posterior *is* the prior, and that is the forecast. There the latents are
    drawn one after another, the only part in sequence; the state of the prior runs with it.

    Everything acts on one series: times of shape `(rows,)`, sorted, values and mask of shape `(rows, channels)`; what
    the mask hides is never read, and NaN is missing. Use `jax.vmap` over series, and over keys for samples.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> key = jax.random.key(0)
    >>> model = nde.models.LS4(channels=2, state_size=3, horizon=30.0, dt0=1.0, width=4, modes=2, key=key)
    >>> days, values = jnp.array([0, 7, 14]), jnp.array([[1.0, 2.0], [0.0, 2.5], [1.2, 0.0]])
    >>> mask = jnp.array([[1, 1], [0, 1], [1, 0]], bool)  # what was observed
    >>> path = model.posterior(days, values, mask, jnp.array([0, 10, 20]), key=key)
    >>> model.decode(path.zs).shape  # both channels at three times
    (3, 2)

    ```

    **Arguments of the constructor:**

    - `channels`: number of observed channels; `state_size`: length of a latent `z`.
    - `width`, `modes`, `depth`: of each of the three stacks: channels, complex modes of each, and layers.
    - `likelihood`: a `nde.objectives.AbstractLikelihood`; Student's t if `None`.
    - `horizon`: how far after its first row a series goes, in units of time.
    - `dt0`: length of a cell; `horizon` is rounded up to whole cells.
    - `time_scale`: the longest time scale of the modes to start from; the horizon if `None`. The shortest is `dt0`.
    - `key`: a JAX random key, for the initial weights. Prior and posterior start as standard normals.

    **Raises:** `ValueError` unless $0 <$ `dt0` $\le$ `horizon`.

    **Limits:** a posterior of independent cells pays for a prior that couples them, in nats a cell: let a cell be about
    as long as the time between observations. What the generator says jumps from cell to cell only where its skip does.

    **Source:** Zhou, Poli, Xu, Massaroli, Ermon, *Deep Latent State Space Models for Time-Series Generation*, ICML
    2023, arXiv 2212.12749, section 4. Otherwise than there: latents live on cells and not on the observations, so that
    asking for one more time changes no path; the generator does not read the observations before, so that a forecast
    needs none drawn; modes are diagonal (S4D), and layers residual without the pooling of a U-Net.
    """

    encoder: StateSpaceStack
    transition: StateSpaceStack
    generator: StateSpaceStack
    decoder: eqx.nn.Linear
    initial_mean: Float[Array, " state"]
    initial_log_std: Float[Array, " state"]
    likelihood: AbstractLikelihood
    channels: int = eqx.field(static=True)
    dt0: float = eqx.field(static=True)
    cells: int = eqx.field(static=True)

    def __init__(  # noqa: PLR0913  (its keywords are the interface)
        self,
        channels: int,
        state_size: int,
        *,
        width: int = 16,
        modes: int = 8,
        depth: int = 1,
        likelihood: AbstractLikelihood | None = None,
        horizon: float,
        dt0: float,
        time_scale: float | None = None,
        key: PRNGKeyArray,
    ):
        if not 0 < dt0 <= horizon < math.inf:
            raise ValueError(f"LS4 needs 0 < dt0 <= horizon, and not infinite, but got {dt0=} and {horizon=}.")
        scales = {"shortest": float(dt0), "longest": max(float(time_scale or horizon), float(dt0))}
        keys = jax.random.split(key, 5)
        self.encoder = StateSpaceStack(3 * channels, 2 * state_size, width, modes, depth, **scales, key=keys[0])
        self.transition = StateSpaceStack(state_size, 2 * state_size, width, modes, depth, **scales, key=keys[1])
        generator = StateSpaceStack(2 * state_size, width, width, modes, depth, **scales, key=keys[2])
        # of this one the output is not to be zero: nothing would reach the latents
        last = eqx.nn.Linear(width, width, key=keys[3])
        self.generator = eqx.tree_at(lambda stack: stack.last, generator, last)
        self.decoder = eqx.nn.Linear(width, channels, key=keys[4])
        self.initial_mean = jnp.zeros(state_size, default_float())
        self.initial_log_std = jnp.zeros_like(self.initial_mean)
        self.likelihood = StudentTLikelihood(channels) if likelihood is None else likelihood
        self.channels, self.dt0, self.cells = channels, float(dt0), math.ceil(horizon / dt0 - 1e-6)

    @property
    def horizon(self) -> float:
        """How far after its first row a series goes, in units of time: a whole number of cells."""
        return self.cells * self.dt0

    @eqx.filter_jit  # or a call outside of `jit` would compile its scans anew
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
        the first row and `horizon` after it; `key`: the sample; `regulariser`: has nothing to act on here.

        **Returns:** a `nde.models.LatentPath`, whose `zs` are the generator's features, of `width`.
        """
        times, values, seen = check_series("LS4", times, values, mask, channels=self.channels, like=self.decoder)
        times, ts = as_floats(times, ts)
        rows, asked = up_to(times - times[0], self.horizon), up_to(ts - times[0], self.horizon)
        means, log_stds = self._read(rows, values, seen)
        filled = jnp.any(seen, axis=1)
        last = jnp.where(jnp.any(filled), jnp.max(jnp.where(filled, self._cell(rows), 0)), -1)
        zs, divergences = self._latents((means, log_stds), last, key)
        wanted = jnp.where(jnp.arange(self.cells + 1) <= self._cell(asked[-1]), divergences, 0.0)
        zero = jnp.zeros((), zs.dtype)
        return LatentPath(self._generate(zs, asked), wanted[0], jnp.sum(wanted[1:]), zero)

    @eqx.filter_jit
    def prior(self, ts: ArrayLike, *, key: PRNGKeyArray) -> Float[Array, "asked width"]:
        """One sample of the path given nothing, at sorted times `ts` after the start."""
        (ts,) = as_floats(ts, like=self.decoder)
        nothing = jnp.zeros((self.cells + 1, *self.initial_mean.shape), ts.dtype)
        return self._generate(self._latents((nothing, nothing), jnp.array(-1), key)[0], up_to(ts, self.horizon))

    def decode(self, zs: Float[Array, "asked width"]) -> Float[Array, "asked channels"]:
        """The location of the observed values at each state."""
        return jax.vmap(self.decoder)(zs)

    def _cell(self, t: Float[Array, "*rows"]) -> Int[Array, "*rows"]:
        """The cell that a time belongs to, those within rounding past its end too."""
        return jnp.clip(jnp.ceil(t / self.dt0 - 1e-3), 0, self.cells).astype(int)

    def _read(self, rows, values, seen) -> tuple[Array, Array]:
        """Mean and logarithm of the deviation of each cell's posterior: the encoder's, where a cell ends."""
        count, number = rows.shape[0], self.cells + 1
        ends = self.dt0 * jnp.arange(number, dtype=rows.dtype)
        clocks = jnp.concatenate([jnp.minimum(rows, ends[self._cell(rows)]), ends])
        order = jnp.argsort(clocks, stable=True)  # a row stands before the end that it lies on
        clocks = clocks[order]
        seen = jnp.concatenate([seen, jnp.zeros((number, seen.shape[1]), bool)])[order]
        values = jnp.concatenate([values, jnp.zeros((number, values.shape[1]), values.dtype)])[order]
        held = last_observed(values, seen)
        before = jnp.concatenate([jnp.zeros_like(held[:1]), held[:-1]])
        inputs = jnp.concatenate([held, seen.astype(held.dtype), before], axis=1)
        laws = self.encoder(inputs, jnp.diff(clocks, prepend=clocks[:1]))[0]
        where = jnp.argsort(order)[count:]
        means, log_stds = jnp.split(laws[where], 2, axis=1)
        return means, bounded(log_stds)

    def _latents(self, laws, last, key) -> tuple[Float[Array, "cells state"], Float[Array, " cells"]]:
        """A sample of the latents, the posterior's up to the cell `last` and then the prior's; each cell's KL."""
        number = self.cells + 1
        gap = jnp.asarray(self.dt0, laws[0].dtype)
        noise = jax.random.normal(key, laws[0].shape, laws[0].dtype)

        def cell(carry, row):
            before, states = carry
            j, mean, log_std, normal = row
            out, states = self.transition.step(states, before, gap)
            prior_mean, prior_log_std = jnp.split(out, 2)
            prior_mean = jnp.where(j == 0, self.initial_mean, prior_mean)
            prior_log_std = jnp.where(j == 0, self.initial_log_std, bounded(prior_log_std))
            informed = j <= last
            divergence = jnp.where(informed, normal_kl(mean, log_std, prior_mean, prior_log_std), 0.0)
            mean, log_std = jnp.where(informed, mean, prior_mean), jnp.where(informed, log_std, prior_log_std)
            z = mean + jnp.exp(log_std) * normal
            return (z, states), (z, divergence)

        start = (jnp.zeros_like(laws[0][0]), self.transition.start)
        return jax.lax.scan(cell, start, (jnp.arange(number), *laws, noise))[1]

    def _generate(self, zs: Float[Array, "cells state"], asked: Float[Array, " asked"]) -> Float[Array, "asked width"]:
        """The generator's features at times, each by one exact step from the end of the cell before."""
        inputs = jnp.concatenate([zs, jnp.concatenate([jnp.zeros_like(zs[:1]), zs[:-1]])], axis=1)
        gaps = jnp.full(self.cells + 1, self.dt0, zs.dtype).at[0].set(0.0)
        _, states = self.generator(inputs, gaps)
        before = jax.tree.map(lambda x: jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]]), states)
        j = self._cell(asked)
        elapsed = asked - jnp.maximum(j - 1, 0).astype(zs.dtype) * self.dt0
        chosen = jax.tree.map(lambda x: x[j], before)
        return jax.vmap(self.generator.step)(chosen, inputs[j], jnp.where(j == 0, 0.0, elapsed))[0]


def bounded(log_std: Array) -> Array:
    """A logarithm of a deviation, kept between -4 and 4."""
    return 4 * jnp.tanh(log_std / 4)
