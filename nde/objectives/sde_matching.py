"""The evidence lower bound of a latent SDE without simulation: SDE Matching."""

from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.dtypes import as_floats
from nde.objectives.elbo import ELBOTerms, LatentPathModel
from nde.regularise import AbstractRegulariser


class _Normal(Protocol):
    @property
    def mean(self) -> Array: ...
    @property
    def std(self) -> Array: ...


class _MarginalPath(Protocol):
    @property
    def end(self) -> Array: ...
    def at_rows(self, rows: Array) -> _Normal: ...
    def kl(self, place: Array, noise: Array) -> tuple[Array, Array]: ...


class MarginalModel(LatentPathModel, Protocol):
    """What matching asks of a model; a `nde.LatentSDE` with `posterior="marginals"` is one."""

    def marginal_path(self, times: Array, values: Array, mask: Array) -> _MarginalPath:
        """The posterior given the observed entries, by its marginals; a `ValueError` of a model without them."""
        ...

    def kl_initial(self, path: _MarginalPath) -> Array:
        """The KL divergence of its start from the prior's, in nats."""
        ...


class SDEMatching(eqx.Module):
    r"""The evidence lower bound of a latent SDE whose posterior is given by its marginals, without any simulation.

    $$\sum_j \mathbb E_{q_{t_j}} \log p(x_j \mid z_{t_j}) - T\,\mathbb E_{t \sim U(0, T)}\,\mathbb E_{q_t}\,
    \tfrac12 |u(t, z_t)|^2 - \mathrm{KL}(q_0 \,\|\, p_0),$$

    with $T$ the time of the last observation and $u$ the control that makes the prior the posterior
    (`nde.models.posterior_control`). It is the same bound as the `nde.ELBO`'s of the simulated posterior, in the limit
    of small steps.

    The posterior may be shown a part of the series only, its *context*. The bound is then that of the context alone, a
    shorter series: what follows would have to be simulated, by the prior from the context's end on, and is left out
    unless `predictive` asks for it.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> key, sizes = jax.random.key(0), {"channels": 1, "state_size": 2, "width": 4, "encoder_size": 4}
    >>> model = nde.LatentSDE(**sizes, posterior="marginals", horizon=3.0, dt0=1.0, key=key)
    >>> times, values, mask = jnp.arange(3), jnp.array([[1.0], [0.0], [1.2]]), jnp.array([[True], [False], [True]])
    >>> terms = nde.SDEMatching(samples=8)(model, times, values, mask, mask, key=key)
    >>> terms.loss().shape, int(terms.count)
    ((), 2)

    ```

    **Arguments of the constructor:**

    - `samples`: how many states each observation is averaged over, and how many times the path's divergence, see
      `nde.models.MarginalPath.kl`.
    - `rows`: how many rows with observations are drawn, one from each of so many equal parts of them; `None` for all. A
      draw is unbiased, and makes a step on a long series cheaper.
    - `predictive`: weight, in [0, 1], of the marginal predictive log density of the values outside of the context,
      $\log \tfrac1K \sum_k p(x \mid z_k)$ with $K$ paths solved from the context's end. At 0 nothing is solved and the
      objective is the bound; above it is a bound no more.

    **Call:** `matching(model, times, values, mask, context, key=key)` for one series, with `context` a part of `mask`;
    returns `nde.objectives.ELBOTerms`, whose count is of the values that are scored.

    **Raises:** `ValueError` for a model whose posterior is not given by its marginals, and for a regulariser where
    nothing is solved.

    **Source:** Bartosh, Vetrov, Naesseth, *SDE Matching: Scalable and Simulation-Free Training of Latent Stochastic
    Differential Equations*, ICML 2025, arXiv 2502.02472, section 4, where one observation
    and one uniform time are drawn.
    """

    samples: int = eqx.field(static=True)
    rows: int | None = eqx.field(static=True)
    predictive: float = eqx.field(static=True)

    def __init__(self, *, samples: int = 4, rows: int | None = None, predictive: float = 0.0):
        if samples < 1 or (rows is not None and rows < 1) or not 0 <= predictive <= 1:
            raise ValueError(
                "SDEMatching needs samples >= 1, rows >= 1 or None, and predictive in [0, 1], but got "
                f"{samples=}, {rows=} and {predictive=}."
            )
        self.samples, self.rows, self.predictive = samples, rows, predictive

    def __call__(
        self,
        model: MarginalModel,
        times: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike,
        context: ArrayLike,
        *,
        key: PRNGKeyArray,
        regulariser: AbstractRegulariser | None = None,
    ) -> ELBOTerms:
        if not hasattr(model, "marginal_path"):
            raise ValueError(
                f"SDEMatching needs a model with marginals, such as LatentSDE(posterior='marginals'), and not a "
                f"{type(model).__name__}."
            )
        if regulariser is not None and self.predictive == 0:
            raise ValueError("SDEMatching solves nothing that could be regularised, unless it has predictive > 0.")
        # A hidden entry may hold anything, and a NaN times a weight of zero would still be one in the gradient.
        times, values = as_floats(times, values)
        mask, context = jnp.asarray(mask, bool), jnp.asarray(context, bool)
        values = jnp.where(mask, values, 0.0)
        path = model.marginal_path(times, values, context)
        state_key, row_key, kl_key, future_key = jax.random.split(key, 4)
        rows, weight = self._rows(context, path.end.dtype, row_key)
        law = path.at_rows(rows)
        drawn = jax.random.normal(state_key, (self.samples, *law.mean.shape), law.mean.dtype)
        density = jax.vmap(lambda noise: self._density(model, values[rows], law.mean + law.std * noise))(drawn)
        log_likelihood = weight * jnp.sum(jnp.where(context[rows], jnp.mean(density, 0), 0.0))
        kl_path = self._kl_path(path, law, kl_key)
        count, penalty = jnp.sum(context, dtype=log_likelihood.dtype), jnp.zeros_like(kl_path)
        if self.predictive > 0:
            future, penalty = self._future(model, times, values, context, future_key, regulariser)
            beyond = mask & ~context
            log_likelihood += self.predictive * jnp.sum(jnp.where(beyond, future, 0.0))
            count += jnp.sum(beyond, dtype=count.dtype)
        return ELBOTerms(log_likelihood, kl_path, model.kl_initial(path), count, penalty)

    def _density(self, model: MarginalModel, values: Array, zs: Array) -> Array:
        return model.likelihood.log_prob(values, model.decode(zs))

    def _rows(self, context: Array, dtype, key: PRNGKeyArray) -> tuple[Array, Array]:
        """The rows that are scored, and how many each of them stands for."""
        seen = context.any(1)
        if self.rows is None or self.rows >= len(seen):
            return jnp.arange(len(seen)), jnp.ones((), dtype)
        count = jnp.sum(seen, dtype=dtype)
        places = (jnp.arange(self.rows, dtype=dtype) + jax.random.uniform(key, (self.rows,), dtype)) / self.rows
        chosen = jnp.floor(places * count).astype(int)
        return jnp.argsort(~seen, stable=True)[chosen], count / self.rows

    def _kl_path(self, path: _MarginalPath, law: _Normal, key: PRNGKeyArray) -> Float[Array, ""]:
        """The path's divergence, from one time in each of equally probable parts."""
        (time_key, noise_key), dtype = jax.random.split(key), law.mean.dtype
        places = jnp.arange(self.samples, dtype=dtype) + jax.random.uniform(time_key, (self.samples,), dtype)
        noise = jax.random.normal(noise_key, (self.samples, law.mean.shape[-1]), dtype)
        return jnp.mean(jax.vmap(path.kl)(places / self.samples, noise)[1])

    def _future(self, model: MarginalModel, times, values, context, key, regulariser) -> tuple[Array, Array]:
        """The marginal predictive log density of each value, and the mean penalty of the solves."""

        def sample(key):
            path = model.posterior(times, values, context, times, key=key, regulariser=regulariser)
            return self._density(model, values, path.zs), path.penalty

        density, penalty = jax.vmap(sample)(jax.random.split(key, self.samples))
        return logsumexp(density, 0) - jnp.log(self.samples), jnp.mean(penalty)
