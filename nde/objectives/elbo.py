"""The evidence lower bound of a latent path model, its parts apart."""

from collections.abc import Callable
from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from nde.dtypes import as_floats, where_finite
from nde.objectives.likelihoods import AbstractLikelihood
from nde.objectives.terms import AbstractTerms
from nde.regularise import AbstractRegulariser
from nde.train import Average


class _Path(Protocol):
    @property
    def zs(self) -> Array: ...
    @property
    def kl_initial(self) -> Array: ...
    @property
    def kl_path(self) -> Array: ...
    @property
    def penalty(self) -> Array: ...


class LatentPathModel(Protocol):
    """What the bound asks of a model; `nde.models.LatentSDE` is one."""

    @property
    def likelihood(self) -> AbstractLikelihood:
        """The law of the values around their location."""
        ...

    def posterior(
        self,
        times: Array,
        values: Array,
        mask: Array,
        ts: Array,
        *,
        key: PRNGKeyArray,
        regulariser: AbstractRegulariser | None = None,
    ) -> _Path:
        """A sample of the path given the observed entries, with its KL divergences and what a regulariser says."""
        ...

    def decode(self, zs: Array) -> Array:
        """The locations of the values along a path."""
        ...


class ELBOTerms(eqx.Module):
    """The parts of the bound for one series, in nats.

    - `log_likelihood`: expected log density of the observed values.
    - `kl_path`, `kl_initial`: divergence of the posterior from the prior, of the path and of its start.
    - `count`: the number of observed values.
    - `penalty`: what a regulariser makes of the solves, their mean; zero without one, and no part of the bound.
    """

    log_likelihood: Float[Array, ""]
    kl_path: Float[Array, ""]
    kl_initial: Float[Array, ""]
    count: Float[Array, ""]
    penalty: Float[Array, ""]

    def loss(self, kl_weight: Float[Array, ""] | float = 1.0) -> Float[Array, ""]:
        """The bound, negative, with the divergences weighted."""
        kl = self.kl_path + self.kl_initial
        return jnp.asarray(kl_weight, kl.dtype) * kl - self.log_likelihood


class ELBO(eqx.Module):
    r"""The evidence lower bound of a series, $\mathbb E_q[\log p(x \mid z)] - \mathrm{KL}(q \,\|\, p)$, by samples.

    The posterior may be shown a part of the series only, its *context*; the rest is then forecast by the prior from
    where the context ends. The bound holds for every context, since a posterior may ignore what it likes; training
    over random contexts teaches one model both to smooth and to forecast.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> key, sizes = jax.random.key(0), {"channels": 1, "state_size": 2, "width": 4, "encoder_size": 4}
    >>> model = nde.LatentSDE(**sizes, horizon=3.0, dt0=1.0, key=key)
    >>> times, values, mask = jnp.arange(3), jnp.array([[1.0], [0.0], [1.2]]), jnp.array([[True], [False], [True]])
    >>> terms = nde.ELBO(samples=2)(model, times, values, mask, mask, key=key)
    >>> terms.loss().shape, int(terms.count)
    ((), 2)

    ```

    **Arguments of the constructor:**

    - `samples`: how many paths each series is averaged over.
    - `predictive`: share, in [0, 1], in which the values outside of the context are scored by their marginal
      predictive density $\log \tfrac1K \sum_k p(x \mid z_k)$ rather than by the mean of their log densities. The
      marginal is what a forecast is judged by; at 0 the objective is the ELBO, above it is a bound no more. A model
      that is `causal`, as `nde.EncoderDecoder` is, has not read a row where it says what stands there: its values
      inside of the context are forecasts too, and scored alike.

    **Call:** `elbo(model, times, values, mask, context, key=key)` for one series, with `context` a part of `mask`;
    returns `nde.objectives.ELBOTerms`. `regulariser=` gives these their penalty.

    **Source:** Li et al. 2020, arXiv 2001.01328, equation 9.
    """

    samples: int = eqx.field(static=True)
    predictive: float = eqx.field(static=True)

    def __init__(self, *, samples: int = 4, predictive: float = 0.0):
        if samples < 1 or not 0 <= predictive <= 1:
            raise ValueError(f"ELBO needs samples >= 1 and predictive in [0, 1], but got {samples} and {predictive}.")
        self.samples, self.predictive = samples, predictive

    def __call__(
        self,
        model: LatentPathModel,
        times: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike,
        context: ArrayLike,
        *,
        key: PRNGKeyArray,
        regulariser: AbstractRegulariser | None = None,
    ) -> ELBOTerms:
        # A hidden entry may hold anything, and a NaN times a weight of zero would still be one in the gradient.
        times, values = as_floats(times, values)
        mask, context = jnp.asarray(mask, bool), jnp.asarray(context, bool)
        values = jnp.where(mask, values, 0.0)

        read = jnp.where(jnp.all(jnp.isfinite(values)), values, 0.0)

        def terms(values, path):
            misfit = -model.likelihood.log_prob(values, model.decode(path.zs))
            return misfit, path.kl_path, path.kl_initial, path.penalty

        def sample(key):
            path = model.posterior(times, read, context, times, key=key, regulariser=regulariser)
            return where_finite(lambda x: terms(*x), (values, path))

        misfit, kl_path, kl_initial, penalty = jax.vmap(sample)(jax.random.split(key, self.samples))
        density = -misfit
        score = jnp.mean(density, 0)
        if self.predictive > 0:
            marginal = logsumexp(density, 0) - jnp.log(self.samples)
            known = context & (not getattr(model, "causal", False))
            weight = jnp.where(known, 0.0, self.predictive)
            score = score + weight * (marginal - score)
        log_likelihood = jnp.sum(jnp.where(mask, score, 0.0))
        count = jnp.sum(mask, dtype=log_likelihood.dtype)
        return ELBOTerms(log_likelihood, jnp.mean(kl_path), jnp.mean(kl_initial), count, jnp.mean(penalty))


class ContextELBOTerms(AbstractTerms):
    """The terms of a `nde.objectives.ContextELBO`: those of the bound, and the weight of their divergences."""

    elbo: ELBOTerms
    kl_weight: Float[Array, "*batch"]
    penalty: Float[Array, "*batch"] | None = None

    def losses(self) -> tuple[Average, ...]:
        """Nats per observed value."""
        return (Average(self.per_example(), self.elbo.count),)

    def per_example(self) -> Float[Array, " batch"]:
        return self.elbo.loss(self.kl_weight)

    def parts(self) -> dict[str, Average]:
        terms = self.elbo
        parts = {"log_likelihood": terms.log_likelihood, "kl_path": terms.kl_path, "kl_initial": terms.kl_initial}
        return {name: Average(part) for name, part in parts.items()}


class ContextELBO(eqx.Module):
    """The loss of a latent path model on a series: a bound in a random context, its divergences annealed.

    One model then learns both to smooth a series and to forecast it.

    **Arguments of the constructor:**

    - `elbo`: the bound, a `nde.ELBO` or a `nde.SDEMatching`.
    - `whole`: the probability that the context is the whole series (see `nde.objectives.hide_future`).
    - `kl_weight`, `anneal_steps`: the weight of the divergences, and over how many steps it rises to that.

    **Call:** `objective(model, times, values, mask, step=0, key=key, regulariser=None)` for one series, as of the
    `nde.ELBO`; `step` counts the steps of training. Returns `nde.objectives.ContextELBOTerms`.

    **Raises:** `ValueError` for a probability outside of [0, 1].
    """

    elbo: Callable[..., ELBOTerms] = ELBO()
    whole: float = eqx.field(static=True, default=0.5)
    kl_weight: float = eqx.field(static=True, default=1.0)
    anneal_steps: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        if not 0 <= self.whole <= 1:
            raise ValueError(f"ContextELBO needs a probability whole in [0, 1], but got {self.whole}.")

    def __call__(
        self,
        model: LatentPathModel,
        times: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike,
        *,
        step: Int[Array, ""] | int = 0,
        key: PRNGKeyArray,
        regulariser: AbstractRegulariser | None = None,
    ) -> ContextELBOTerms:
        context_key, path_key = jax.random.split(key)
        context = hide_future(times, mask, whole=self.whole, key=context_key)
        terms = self.elbo(model, times, values, mask, context, key=path_key, regulariser=regulariser)
        weight = annealed(self.kl_weight, self.anneal_steps, step).astype(terms.log_likelihood.dtype)
        return ContextELBOTerms(elbo=terms, kl_weight=weight, penalty=None if regulariser is None else terms.penalty)


def hide_future(times: ArrayLike, mask: ArrayLike, *, whole: float, key: PRNGKeyArray) -> Bool[Array, "rows channels"]:
    """A random context: with probability `whole` all of a series, else what lies before a uniform time.

    The time is uniform between the first and the last row. Returns a part of `mask`, of its shape.
    """
    (times,), mask = as_floats(times), jnp.asarray(mask, bool)
    whole_key, time_key = jax.random.split(key)
    span = times[-1] - times[0]
    cut = times[0] + span * jax.random.uniform(time_key, (), times.dtype)
    return mask & ((times <= cut)[:, None] | jax.random.bernoulli(whole_key, whole))


def annealed(weight: float, steps: int, step: Int[Array, ""] | int) -> Float[Array, ""]:
    """A weight that rises linearly from near zero to `weight` over the first `steps` steps, and stays."""
    return weight * jnp.minimum(1.0, (jnp.asarray(step) + 1) / max(steps, 1))
