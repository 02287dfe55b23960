"""A mixture of Gaussians, of which everything that a diffusion model learns is known exactly."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from nde.diffusion.mixture_checks import check_values
from nde.diffusion.mixture_prediction import centre_of, MixturePrediction
from nde.diffusion.schedules import AbstractSchedule
from nde.dtypes import as_floats


class GaussianMixture(eqx.Module):
    r"""$p(x) = \sum_k w_k\,\mathcal N(x;\,m_k, \Sigma_k)$: data whose noisy law is known at every time.

    Under a schedule $x_t = \alpha_t x_0 + \sigma_t \varepsilon$ it stays a mixture, of
    $\mathcal N(\alpha m_k,\,\alpha^2 \Sigma_k + \sigma^2 I)$, and given $x_t$ each component has

    $$\mathbb E_k[x_0 \mid x_t] = m_k + \alpha \Sigma_k C_k^{-1} (x_t - \alpha m_k),\qquad
    \nabla \log p_k(x_t) = -C_k^{-1} (x_t - \alpha m_k),\qquad C_k = \alpha^2 \Sigma_k + \sigma^2 I,$$

    averaged by its posterior probability. So the perfect network is there, to try a sampler on without training one,
    and a trained one beside it. Each covariance is kept by its eigenvalues and eigenvectors, which noise leaves alone:
    no time needs a factorisation, and nothing is divided by an $\alpha$ or a $\sigma$ that may be tiny.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> mixture = nde.diffusion.GaussianMixture([1, 3], means=[[-2.0, 0.0], [2.0, 0.0]], std=0.5)
    >>> mixture.sample(jax.random.key(0), 100).shape
    (100, 2)
    >>> score = mixture.prediction(nde.diffusion.VariancePreserving(), "score")
    >>> score(1.0, jnp.ones(2), None).shape
    (2,)

    ```

    **Arguments of the constructor:**

    - `weights`: `(components,)`, not negative; they need not add to one. `None` for equal ones.
    - `means`: `(components, size)`.
    - `covariances`: `(components, size, size)`, or `(size, size)` for all components: symmetric, positive definite.
    - `std`: instead of covariances, the standard deviation: a number, one a component of shape `(components,)`, or one
      a coordinate too, `(components, size)`.

    It acts on one point, of shape `(size,)`; use `jax.vmap` over points.

    **Raises:** `ValueError` for shapes that do not fit together, for both or none of `covariances` and `std`, and,
    where the values are known, for a weight that is negative or not finite, weights that are all zero, a mean that is
    not finite, a covariance that is not symmetric and positive definite, or an `std` that is not positive.

    **Limits:** gradients by `covariances` go through their eigenvectors, and are not finite where two eigenvalues of
    one are equal; those by `std`, and by the leaves of a mixture, always are.

    **Source:** Gaussian conditioning; the posterior mean by the score is Tweedie's formula: Efron, *Tweedie's formula
    and selection bias*, 2011.
    """

    log_weights: Float[Array, " components"]
    means: Float[Array, "components size"]
    variances: Float[Array, "components size"]
    axes: Float[Array, "components size size"] | None

    def __init__(
        self, weights: ArrayLike | None, means: ArrayLike, covariances: ArrayLike | None = None, *, std: Any = None
    ):
        if (covariances is None) == (std is None):
            raise ValueError("GaussianMixture takes covariances or std, and needs one of the two.")
        if np.ndim(means) != 2 or 0 in np.shape(means):
            raise ValueError(f"GaussianMixture: means must be of shape (components, size), but are {np.shape(means)}.")
        count, size = np.shape(means)
        weights, means, spread = as_floats(
            np.ones(count) if weights is None else weights, means, covariances if std is None else std
        )
        allowed = [(count, size, size), (size, size)] if std is None else [(), (count,), (count, size)]
        for name, array, shapes in (
            ("weights", weights, [(count,)]),
            ("covariances" if std is None else "std", spread, allowed),
        ):
            if array.shape not in shapes:
                raise ValueError(
                    f"GaussianMixture of {count} means of size {size} needs {name} of shape "
                    f"{' or '.join(map(str, shapes))}, but got {array.shape}."
                )
        check_values(weights, means, spread, of_covariances=std is None)
        self.log_weights = jnp.log(weights / weights.sum())
        self.means = means
        if std is None:
            variances, axes = jnp.linalg.eigh(spread)
            self.variances = jnp.broadcast_to(variances, (count, size))
            self.axes = jnp.broadcast_to(axes, (count, size, size))
        else:
            each = spread[:, None] if spread.ndim == 1 else spread
            self.variances, self.axes = jnp.broadcast_to(each, (count, size)) ** 2, None

    @property
    def weights(self) -> Float[Array, " components"]:
        """The weights, which add to one."""
        return jnp.exp(self.log_weights)

    @property
    def covariances(self) -> Float[Array, "components size size"]:
        """The covariance of each component."""
        if self.axes is None:
            return jax.vmap(jnp.diag)(self.variances)
        return jnp.einsum("kij,kj,klj->kil", self.axes, self.variances, self.axes)

    @property
    def mean(self) -> Float[Array, " size"]:
        """The mean of the whole."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Float[Array, "size size"]:
        """The covariance of the whole: within components and between them."""
        apart = self.means - self.mean[None]
        return jnp.einsum("k,kij->ij", self.weights, self.covariances + apart[:, :, None] * apart[:, None, :])

    def sample(self, key: PRNGKeyArray, count: int) -> Float[Array, "count size"]:
        """Points drawn independently."""
        return self.sample_with_components(key, count)[0]

    def sample_with_components(
        self, key: PRNGKeyArray, count: int
    ) -> tuple[Float[Array, "count size"], Int[Array, " count"]]:
        """Points drawn independently, and the component that each is of."""
        which, normal = jax.random.split(key)
        components = jax.random.categorical(which, self.log_weights, shape=(count,))
        noise = jax.random.normal(normal, (count, self.means.shape[1]), self.means.dtype)
        noise = jnp.sqrt(self.variances)[components] * noise
        if self.axes is not None:
            noise = jnp.einsum("nij,nj->ni", self.axes[components], noise)
        return self.means[components] + noise, components

    def log_prob(self, x: ArrayLike) -> Float[Array, ""]:
        """The log-density at a point, in nats."""
        return jax.nn.logsumexp(self.log_joint(x))

    def responsibilities(self, x: ArrayLike) -> Float[Array, " components"]:
        """The probability of each component given a point."""
        return jax.nn.softmax(self.log_joint(x))

    def given(self, components: Any) -> "GaussianMixture":
        """The law given that the component is one of some.

        **Arguments:** `components`: their numbers, or of each component whether it is one, a boolean array of shape
        `(components,)`, such as `labels == 2`.
        """
        chosen = jnp.where(self._chosen(components), self.log_weights, -jnp.inf)
        return eqx.tree_at(lambda m: m.log_weights, self, jax.nn.log_softmax(chosen))

    def marginal(self, schedule: AbstractSchedule, t: Any) -> "GaussianMixture":
        r"""The law of $x_t = c + \alpha_t (x_0 - c) + \sigma_t \varepsilon$, with $c$ the schedule's centre or zero."""
        alpha, sigma = (jnp.asarray(x, self.means.dtype) for x in (schedule.alpha(t), schedule.sigma(t)))
        centre = centre_of(schedule, self.means.dtype)
        means = centre + alpha * (self.means - centre)
        return eqx.tree_at(lambda m: (m.means, m.variances), self, (means, alpha**2 * self.variances + sigma**2))

    def prediction(self, schedule: AbstractSchedule, predicts: str) -> MixturePrediction:
        r"""What a perfect network predicts, for `nde.diffusion.diffusion_model_term`.

        **Arguments:** `predicts`: one of `nde.diffusion.PREDICTIONS`.

        **Returns:** a function `(t, x, args)` of one state of shape `(size,)`, to its shape and dtype; `args` is not
        used.

        **Raises:** `ValueError` for what is none of `PREDICTIONS`.
        """
        return MixturePrediction(self, schedule, predicts, None, 1.0)

    def guided(self, schedule: AbstractSchedule, predicts: str, components: Any, scale: Any) -> MixturePrediction:
        r"""A perfect network under guidance without a classifier: $u + s\,(c - u)$.

        $u$ is the prediction of the whole mixture, $c$ that of the class, the law given `components`. At a scale $s$ of
        1 that is the class's own law; above, $\nabla \log p + s\,\nabla \log p(\text{class} \mid x)$, of no known law.

        **Arguments:** as for `prediction`; `components`: those of the class, as for `given`; `scale`: $s$.

        **Source:** Ho & Salimans, *Classifier-free diffusion guidance*, 2022, arXiv 2207.12598, whose $w$ is $s - 1$.
        """
        return MixturePrediction(self, schedule, predicts, self._chosen(components), scale)

    def flow_map(self, schedule: AbstractSchedule, t0: Any, t1: Any, x: ArrayLike) -> Float[Array, " size"]:
        r"""Where the probability-flow ODE carries `x` from $t_0$ to $t_1$, for one Gaussian.

        $x_{t_1} = \mu_1 + C_1^{1/2} C_0^{-1/2} (x - \mu_0)$ with the mean and covariance of each time, which have their
        axes in common.

        **Raises:** `ValueError` for a mixture of more than one: its flow has no closed form.
        """
        if len(self.means) != 1:
            raise ValueError(
                f"GaussianMixture.flow_map is known for one Gaussian, but this mixture has {len(self.means)}: solve "
                "nde.diffusion.diffusion_model_term(mixture.prediction(schedule, 'data'), schedule) instead."
            )
        mixture, point = self.matched(x)
        first, last = mixture.marginal(schedule, t0), mixture.marginal(schedule, t1)
        ratio = jnp.sqrt(last.variances / first.variances)
        moved = mixture.from_axes(ratio * mixture.along_axes(point[None] - first.means))
        return (last.means + moved)[0]

    def matched(self, x: ArrayLike) -> tuple["GaussianMixture", Float[Array, " size"]]:
        """The mixture and a point, of the floating type that holds both.

        **Raises:** `ValueError` for a point of another shape than `(size,)`.
        """
        if np.shape(x) != self.means.shape[1:]:
            raise ValueError(
                f"GaussianMixture of size {self.means.shape[1]} needs a point of shape {self.means.shape[1:]}, but got "
                f"{np.shape(x)}; use jax.vmap over points."
            )
        (point,) = as_floats(x, like=self)
        return jax.tree.map(lambda leaf: leaf.astype(point.dtype), self), point

    def _chosen(self, components: Any) -> Bool[Array, " components"]:
        chosen, count = jnp.asarray(components), len(self.means)
        if chosen.dtype == bool:
            if chosen.shape != (count,):
                raise ValueError(
                    f"GaussianMixture of {count} components: a boolean array that chooses some has shape ({count},), "
                    f"but got {chosen.shape}."
                )
            return chosen
        if chosen.size == 0 or not jnp.issubdtype(chosen.dtype, jnp.integer):
            raise ValueError(f"GaussianMixture: components must be whole numbers or booleans, but got {components!r}.")
        return jnp.any(chosen.reshape(-1, 1) == jnp.arange(count, dtype=chosen.dtype)[None], axis=0)

    def log_joint(self, x: ArrayLike) -> Float[Array, " components"]:
        r"""$\log w_k\,\mathcal N(x; m_k, \Sigma_k)$ of each component, at a point."""
        mixture, point = self.matched(x)
        squares = mixture.along_axes(point[None] - mixture.means) ** 2 / mixture.variances
        return mixture.log_weights - 0.5 * jnp.sum(squares + jnp.log(2 * jnp.pi * mixture.variances), axis=1)

    def along_axes(self, vectors: Float[Array, "components size"]) -> Float[Array, "components size"]:
        """A vector for each component, in coordinates along the axes of its covariance."""
        return vectors if self.axes is None else jnp.einsum("kij,ki->kj", self.axes, vectors)

    def from_axes(self, coordinates: Float[Array, "components size"]) -> Float[Array, "components size"]:
        """The inverse of `along_axes`."""
        return coordinates if self.axes is None else jnp.einsum("kij,kj->ki", self.axes, coordinates)
