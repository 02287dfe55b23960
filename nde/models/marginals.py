"""A latent SDE's posterior by its marginals: Gaussians whose mean and spread are functions of time."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from nde.fields import silence_last_layer
from nde.models.checks import as_series

Field = Callable[..., Float[Array, " state"]]


class Normal(eqx.Module):
    """Independent normals, one for each state: their `mean` and `std`."""

    mean: Float[Array, "*batch state"]
    std: Float[Array, "*batch state"]


class MarginalPath(eqx.Module):
    r"""The posterior of one series' latent path: $z_t = m(t) + s(t)\,\varepsilon$ up to its last observation.

    It is the SDE with the prior's diffusion whose marginals these are, see `nde.models.posterior_control`.

    **Members:** `end`: the time of the last observation, up to which the marginals hold; times count from the first
    row. `path(t, z)` is the control $u$ there, and zero from `end` on.

    A **node** is a row that holds an observation, or the first; `before` and `after` are, for each row, the node at or
    before it and the one at or after it (the number of rows if there is none).
    """

    part: "GaussianMarginals"
    drift: Field
    diffusion: Field
    times: Float[Array, " rows"]
    features: Float[Array, "rows features"]
    seen: Float[Array, "rows seen"]
    before: Int[Array, " rows"]
    after: Int[Array, " rows"]

    @property
    def end(self) -> Float[Array, ""]:
        """The time of the last observation; zero without one."""
        return self.times[self.before[-1]]

    def at_rows(self, rows: Int[Array, " chosen"]) -> Normal:
        """The marginals at some rows, `(chosen, state)`: at each that is a node; of no meaning at the others."""
        return jax.vmap(lambda row: self._node(row)[0])(rows)

    def at(self, t: Float[Array, ""]) -> Normal:
        r"""The marginal at a time from zero to `end`.

        Between two nodes a time of $h$ apart, at the share $r$ of the way,

        $$m = (1 - r)\,m_0 + r\,m_1 + r (1 - r) \sqrt h\,a, \qquad
        s^2 = (1 - r)^2 s_0^2 + r^2 s_1^2 + 2 r (1 - r)\,\rho\,s_0 s_1 + r (1 - r)\,h\,\sigma(m)^2 e^{b}, \qquad
        \rho = \sqrt{1 + \kappa^2} - \kappa, \quad \kappa = \frac{h\,\sigma(m)^2}{2 s_0 s_1}:$$

        with the network's $a = b = 0$ a Brownian bridge between two uncertain ends, which are correlated as two ends of
        which equally much is known: exact for a prior without drift, and near it in gaps that are short enough. Both
        are continuous, with kinks at the nodes, as those of the exact posterior are.
        """
        row = jnp.maximum(jnp.searchsorted(self.times, t, side="right") - 1, 0)
        here, there, alone = self._around(row)
        (first, first_code), (second, second_code) = self._node(here), self._node(there)
        gap = jnp.where(alone, 1.0, self.times[there] - self.times[here])
        r = (t - self.times[here]) / gap
        root = jnp.sqrt(gap)
        known = jnp.concatenate([first_code, second_code, first.mean, second.mean, jnp.stack([r, root])])
        bend, factor = jnp.split(self.part.between(known), 2)
        inside = r * (1 - r)
        mean = (1 - r) * first.mean + r * second.mean + inside * root * bend
        spread, both = gap * self.diffusion(t, mean) ** 2, first.std * second.std
        kappa = 0.5 * spread / both
        shared = 2 * both / (kappa + jnp.sqrt(1 + kappa**2))  # the root minus kappa, without cancellation
        ends = ((1 - r) * first.std) ** 2 + (r * second.std) ** 2
        return Normal(mean, jnp.sqrt(ends + inside * (shared + spread * jnp.exp(factor))))

    def state(self, t: Float[Array, ""], noise: Float[Array, " state"]) -> Float[Array, " state"]:
        r"""$z_t = m(t) + s(t)\,\varepsilon$."""
        law = self.at(t)
        return law.mean + law.std * noise

    def kl(self, place: Float[Array, ""], noise: Float[Array, " state"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        r"""An unbiased estimate of the path's KL divergence up to `end`, in nats, from one time.

        The integrand $\tfrac12 |u(t, z_t)|^2$ is no even one, and a time drawn uniformly seldom meets what counts: it
        grows as the square of the distance of two nodes over the square of the time between them, and within a gap
        towards its end, as that of a bridge to a value known up to $s_1$, where $\mathbb E\,|u|^2$ is $1 / (\tau +
        \delta)$, with $\tau$ the time that is left and $\delta = s_1^2 / \sigma^2$. Half of the draws are therefore
        uniform over time, and half of them over the gaps; within one they have the density of that bridge,
        proportional to $1 / (\tau + \delta)$; and each is divided by the density of its time.

        **Arguments:** `place`: uniform in [0, 1); `noise`: of the state. **Returns:** the time, and the estimate.
        """
        # A distribution function of time: the mean of the share of the time and of the share of the gaps.
        rank = jnp.cumsum(self.before == jnp.arange(len(self.before))).astype(self.times.dtype) - 1.0
        end, gaps = jnp.where(self.end > 0, self.end, 1.0), jnp.maximum(rank[-1], 1.0)
        reached = 0.5 * (self.times / end + rank / gaps)[self.before]
        row = jnp.searchsorted(reached, place, side="right") - 1
        here, there, alone = self._around(row)
        gap = jnp.where(alone, 1.0, self.times[there] - self.times[here])
        mass = 0.5 * (gap / end + 1.0 / gaps)
        share = jnp.clip((place - reached[row]) / mass, 0.0, 1.0)
        law = self._node(there)[0]
        known = jnp.min((law.std / self.diffusion(self.times[there], law.mean)) ** 2)
        sharp = jax.lax.stop_gradient(jnp.clip(known / gap, 1e-4, 1e2))  # delta, in units of the gap
        left = sharp * jnp.expm1((1 - share) * jnp.log1p(1 / sharp))
        t = self.times[here] + jnp.where(alone, 0.0, gap * (1 - left))
        weight = gap / mass * (left + sharp) * jnp.log1p(1 / sharp)
        u = posterior_control(self.at, self.drift, self.diffusion, t, self.state(t, noise))
        return t, jnp.where(alone, 0.0, weight * 0.5 * jnp.sum(u**2))

    def __call__(self, t: Float[Array, ""], z: Float[Array, " state"]) -> Float[Array, " state"]:
        inside = t < self.end
        t = jnp.where(inside, t, 0.0)
        return jnp.where(inside, posterior_control(self.at, self.drift, self.diffusion, t, z), 0.0)

    def _around(self, row: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""], Bool[Array, ""]]:
        """The node at or before a row, the next one after the row, and whether there is none: then both are the one."""
        here, last = self.before[row], self.times.shape[0] - 1
        there = jnp.where(row == last, last + 1, self.after[jnp.minimum(row + 1, last)])
        return here, jnp.where(there > last, here, there), there > last

    def _node(self, row: Int[Array, ""]) -> tuple[Normal, Float[Array, " code"]]:
        """The marginal at a node, and what is known there."""
        code = self.part.code(self.features[row])
        mean, log_std = jnp.split(self.part.law(jnp.concatenate([code, self.seen[row]])), 2)
        return Normal(mean, jnp.exp(log_std)), code


def posterior_control(
    marginal: Callable[[Float[Array, ""]], Normal],
    drift: Field,
    diffusion: Field,
    t: Float[Array, ""],
    z: Float[Array, " state"],
) -> Float[Array, " state"]:
    r"""The control $u$ with which $dz = (f + \sigma u)\,dt + \sigma\,dW$ (Itô) has given Gaussian marginals $q_t$.

    From the Fokker–Planck equation,

    $$f + \sigma u = \dot m + \dot s\,\varepsilon + \tfrac12 \sigma^2 \nabla \log q_t(z)
    + \tfrac12 \nabla \cdot \sigma^2, \qquad \varepsilon = (z - m) / s, \quad \nabla \log q_t = -\varepsilon / s.$$

    **Arguments:** `marginal`: $q$ as a function of time, with a time derivative (from the right, at a kink); `drift`,
    `diffusion`: $f$ and the diagonal $\sigma > 0$, called with time and state, each entry of $\sigma$ a function of
    its own state alone; `t`, `z`.

    **Source:** Bartosh, Vetrov, Naesseth, *SDE Matching*, ICML 2025, arXiv 2502.02472, section 4.
    """
    law, rate = jax.jvp(marginal, (t,), (jnp.ones_like(t),))
    noise = (z - law.mean) / law.std
    square, slope = jax.jvp(lambda z: diffusion(t, z) ** 2, (z,), (jnp.ones_like(z),))
    wanted = rate.mean + rate.std * noise - 0.5 * square * noise / law.std + 0.5 * slope
    return (wanted - drift(t, z)) / jnp.sqrt(square)


class GaussianMarginals(eqx.Module):
    r"""Gaussian marginals of the posterior from a reading of a series in both directions.

    At each row it knows, of each channel, exponentially weighted means $\sum_i e^{-\lambda |t - t_i|} x_i /
    \sum_i e^{-\lambda |t - t_i|}$ of the observed values up to and from there, at several learned rates $\lambda$, and
    their weights: linear filters that take irregular times and missing values as they are. A network of these, which
    can express any operator of fading memory (Boyd and Chua 1985, *Fading memory and the problem of approximating
    nonlinear operators with Volterra series*), gives the marginals at the observations, and another one how they go
    from one to the next. No row waits for a network's answer at another, so that all are computed side by side.

    A row without any observation changes nothing, whatever its time or its values: padding and hidden futures leave no
    trace.

    **Arguments of the constructor:** `channels`, `state_size`; `code_size`: of what is known at a row; `width`: of both
    networks, of one hidden layer; `rates`: from the slowest to the fastest $\lambda$ to start from, per unit of time;
    `num_rates`: how many there are between; `std`: of the marginals at the observations, to start from; `key`.

    **Call:** `marginals(times, values, mask, drift, diffusion)` with times of shape `(rows,)`, sorted, from zero at the
    first row, and no observations at the same time in two rows; values and mask of shape `(rows, channels)`, where NaN
    is missing; and the prior's fields. Returns a `nde.models.MarginalPath`.

    **Raises:** `ValueError` where the three do not fit each other or the channels.
    """

    log_rates: Float[Array, " rates"]
    code: eqx.nn.MLP
    law: eqx.nn.Linear
    between: eqx.nn.MLP

    def __init__(
        self,
        channels: int,
        state_size: int,
        *,
        code_size: int,
        width: int,
        rates: tuple[float, float],
        num_rates: int = 6,
        std: float = 0.1,
        key: PRNGKeyArray,
    ):
        code_key, law_key, between_key = jax.random.split(key, 3)
        self.log_rates = jnp.linspace(np.log(rates[0]), np.log(rates[1]), num_rates)
        read, act = 4 * channels * num_rates + 1, jax.nn.silu
        self.code = eqx.nn.MLP(read, code_size, width, 1, activation=act, key=code_key)
        law = eqx.nn.Linear(code_size + 2 * channels, 2 * state_size, key=law_key)
        start = jnp.concatenate([jnp.zeros(state_size), jnp.full(state_size, np.log(std))])
        self.law = eqx.tree_at(lambda linear: linear.bias, law, start)
        between = eqx.nn.MLP(
            2 * (code_size + state_size + 1), 2 * state_size, width, 1, activation=act, key=between_key
        )
        self.between = silence_last_layer(between)

    def __call__(
        self, times: ArrayLike, values: ArrayLike, mask: ArrayLike, drift: Field, diffusion: Field
    ) -> MarginalPath:
        channels = (self.code.layers[0].weight.shape[1] - 1) // (4 * len(self.log_rates))
        times, values, mask = as_series("GaussianMarginals", times, values, mask, channels=channels, like=self.law)
        rows, count = jnp.arange(len(times)), len(times)
        node = mask.any(1) | (rows == 0)
        before = jax.lax.cummax(jnp.where(node, rows, 0))
        after = jax.lax.cummin(jnp.where(node, rows, count), reverse=True)
        # How far each node lies from the one before it, and from the one after it; other rows change no sum.
        last = times[jnp.concatenate([before[:1], before[:-1]])]
        following = jnp.concatenate([after[1:], jnp.full(1, count)])
        following = jnp.where(following < count, times[jnp.minimum(following, count - 1)], times)
        gaps = jnp.where(node[:, None], jnp.stack([times - last, following - times], 1), 0.0)
        weights = mask.astype(values.dtype)
        seen = jnp.concatenate([jnp.where(mask, values, 0.0), weights], 1)
        features = jnp.concatenate([self._read(gaps, seen), jnp.log1p(times)[:, None]], 1)
        return MarginalPath(self, drift, diffusion, times, features, seen, before, after)

    def _read(self, gaps: Float[Array, "rows 2"], seen: Float[Array, "rows seen"]) -> Float[Array, "rows read"]:
        """The weighted means of both directions, and the logarithms of their weights, at each row."""
        both = jnp.stack([seen, seen[::-1]], 1)
        gaps = jnp.stack([gaps[:, 0], gaps[::-1, 1]], 1)
        decays = jnp.exp(-jnp.tensordot(gaps, jnp.exp(self.log_rates), 0))[:, :, None, :]

        def step(sums, row):
            decay, value = row
            sums = decay * sums + value[..., None]
            return sums, sums

        start = jnp.zeros((*both.shape[1:], len(self.log_rates)), seen.dtype)
        _, sums = jax.lax.scan(step, start, (decays, both))
        sums = jnp.concatenate([sums[:, 0], sums[::-1, 1]], 2)
        values, weights = jnp.split(sums, 2, axis=1)
        read = jnp.stack([values / (weights + FORGOTTEN), jnp.log1p(weights)], 1)
        return read.reshape(len(seen), -1)


FORGOTTEN = 0.01
"""The weight of past observations below which their mean fades to zero: they lie some five time constants back."""
