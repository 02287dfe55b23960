"""The marginal likelihood of an individual whose effects are not seen, by Laplace's approximation."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nde.fields import has_prior, log_prior
from nde.objectives.terms import AbstractTerms
from nde.regularise import AbstractRegulariser
from nde.train import Average


class MixedModel(Protocol):
    """What the objective asks of a model; `nde.models.Population` is one."""

    @property
    def raw_spread(self) -> Array:
        """Logarithms of the effects' standard deviations."""
        ...

    def log_joint(self, individual: Any, eta: Array, /) -> Array:
        """Log density of an individual's values and effects."""
        ...

    def expected_curvature(self, individual: Any, eta: Array, /) -> Array:
        """Its negative Hessian in the effects, of the linearised model; asked for by `curvature="expected"` alone."""
        ...


class MarginalTerms(AbstractTerms):
    """Of one individual: `nll`, the negative log marginal likelihood, and `count`, the number of its values.

    `prior`: the negative log prior of the model's parameters, and `prior_weight`; `None` where no parameter has one.
    """

    nll: Float[Array, "*batch"]
    count: Float[Array, "*batch"]
    prior: Float[Array, "*batch"] | None = None
    prior_weight: float = eqx.field(static=True, default=0.0)
    penalty: Float[Array, "*batch"] | None = None

    def losses(self) -> tuple[Average, ...]:
        losses = (Average(self.nll, self.count),)
        return losses if self.prior is None else (*losses, Average(self.prior_weight * self.prior))

    def per_example(self) -> Float[Array, " batch"]:
        return self.nll

    def parts(self) -> dict[str, Average]:
        parts = {"nll": Average(self.nll, self.count)}
        return parts if self.prior is None else {**parts, "prior": Average(self.prior_weight * self.prior)}


class LaplaceMarginal(eqx.Module):
    r"""$\log p(x_i) = \log \int p(x_i \mid \eta)\,p(\eta)\,d\eta \approx
    \ell(\hat\eta) + \tfrac q2 \log 2\pi - \tfrac12 \log\det H(\hat\eta)$, with $\ell = \log p(x_i, \eta)$, its maximum
    $\hat\eta$, and $H = -\nabla^2 \ell$.

    The maximum is found by Newton's method with a line search. It depends on the parameters, and so does $H$ at it: the
    gradient follows both, through $d\hat\eta = H^{-1} \nabla_\eta d\ell$, the implicit function theorem.

    **Arguments of the constructor**, all static:

    - `iterations`: of Newton's method.
    - `curvature`: `"observed"`, $H$ as above; or `"expected"`, that of the model linearised in $\eta$ about
      $\hat\eta$, $J^\top V^{-1} J + \Omega^{-1}$ for normal noise: the first-order conditional estimate (FOCE), which
      takes one derivative of the solve less and compiles in less time.
    - `prior_weight`: of the negative log prior of the model's parameters (`nde.fields.log_prior`): one over the number
      of all values that are fitted, so that the loss is the negative log posterior density per value.

    **Call:** `objective(model, times, values, mask, inputs)` of one individual; returns `MarginalTerms`. `step` and
    `key` are not used.

    **Raises:** `ValueError` for a regulariser, or another curvature.

    **Limits:** exact where $\ell$ is quadratic in $\eta$. Where Newton's method has not come to a maximum, the
    approximation is about where it came to; `posterior_mode` says how far that is. Third derivatives of the solve are
    taken: the model's ODE needs a known grid, `steps_per_row` or constant steps.

    **Source:** Tierney and Kadane, *Accurate approximations for posterior moments and marginal densities*, JASA 1986;
    Wolfinger, *Laplace's approximation for nonlinear mixed models*, Biometrika 1993; implicit gradients: Almquist,
    Leander, Jirstrand, *Using sensitivity equations for computing gradients of the FOCE and FOCEI approximations to the
    population likelihood*, J. Pharmacokinet. Pharmacodyn. 2015; FOCE: Wang, *Derivation of various NONMEM estimation
    methods*, J. Pharmacokinet. Pharmacodyn. 2007.
    """

    iterations: int = eqx.field(static=True, default=15)
    curvature: Literal["observed", "expected"] = eqx.field(static=True, default="observed")
    prior_weight: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        if self.curvature not in ("observed", "expected"):
            raise ValueError(f"LaplaceMarginal's curvature is 'observed' or 'expected', but is {self.curvature!r}.")

    def __call__(
        self,
        model: MixedModel,
        times: Array,
        values: Array,
        mask: Array,
        inputs: Any = None,
        *,
        step: Array | int = 0,
        key: PRNGKeyArray | None = None,
        regulariser: AbstractRegulariser | None = None,
    ) -> MarginalTerms:
        del step, key
        if regulariser is not None:
            raise ValueError("LaplaceMarginal takes no regulariser.")
        individual = (times, values, mask, inputs)
        value = self.log_marginal(model, individual)
        prior = -log_prior(model) if self.prior_weight and has_prior(model) else None
        count = jnp.sum(mask).astype(value.dtype)
        return MarginalTerms(nll=-value, count=count, prior=prior, prior_weight=self.prior_weight)

    def log_marginal(self, model: MixedModel, individual: Any) -> Float[Array, ""]:
        """The approximation of an individual's log marginal likelihood, in nats, differentiable in the model."""
        still = jax.lax.stop_gradient(eqx.filter(model, eqx.is_inexact_array))
        held = eqx.combine(still, model)
        mode, curvature, _ = jax.lax.stop_gradient(_climb(held, individual, self.iterations))

        def joint(eta):
            return model.log_joint(individual, eta)

        # One more step of Newton's: zero to rounding, but its derivative is that of the mode.
        mode = mode + jax.scipy.linalg.solve(curvature, jax.jacfwd(joint)(mode), assume_a="sym")
        if self.curvature == "expected":
            value, bend = joint(mode), model.expected_curvature(individual, mode)
        else:
            value, _, hessian = _derivatives(joint, mode)
            bend = -hessian
        _, log_det = jnp.linalg.slogdet(bend)
        is_maximum = jnp.all(jax.lax.stop_gradient(jnp.linalg.eigvalsh(bend)) > 0)
        half = 0.5 * mode.shape[0] * np.log(2 * np.pi)
        return jnp.where(is_maximum, value + half - 0.5 * log_det, -jnp.inf)


def posterior_mode(
    model: MixedModel, individual: Any, *, iterations: int = 15
) -> tuple[Float[Array, " effects"], Float[Array, ""]]:
    r"""The effects $\hat\eta$ that maximise $\log p(x_i, \eta)$ of an individual, and the Newton decrement there.

    Newton's method from zero, with the absolute eigenvalues of the curvature, so that every step goes up, of at most
    three standard deviations, and the best of six lengths of each step. The decrement $\sqrt{g^\top |H|^{-1} g}$ is
    how far, in standard deviations of the posterior, the maximum still is.

    **Limits:** it has no gradient (`LaplaceMarginal` has); of several maxima it finds one.
    """
    mode, _, decrement = _climb(model, individual, iterations)
    return mode, decrement


def effects_posterior(
    model: MixedModel, individual: Any, *, iterations: int = 15
) -> tuple[Float[Array, " effects"], Float[Array, "effects effects"], Float[Array, ""]]:
    r"""Laplace's approximation of the law of an individual's effects given its values: $\hat\eta$, and $L$ with
    $L L^\top = |H|^{-1}$, the absolute eigenvalues of the curvature; and the Newton decrement of `posterior_mode`.

    Without any value it is the law of the population. **Limits:** those of `posterior_mode`.
    """
    mode, curvature, decrement = _climb(model, individual, iterations)
    sizes, axes = jnp.linalg.eigh(curvature)
    return mode, axes / jnp.sqrt(jnp.abs(sizes))[None, :], decrement


def _climb(model: MixedModel, individual: Any, iterations: int) -> tuple[Array, Array, Array]:
    """The mode, the negative curvature at it, and the Newton decrement there."""

    def joint(eta):
        return model.log_joint(individual, eta)

    def improve(eta, _):
        _, gradient, hessian = _derivatives(joint, eta)
        curvature = -hessian
        # In standard deviations of the effects, where the prior's part of the curvature is one: at a mode it is mostly
        # more, and a direction in which it is less, or turned up, must not make the step as long as it likes.
        sizes, axes = jnp.linalg.eigh(curvature * spread[:, None] * spread[None, :])
        sizes = jnp.maximum(jnp.abs(sizes), LEAST_CURVATURE)
        along = axes.T @ (gradient * spread)
        move = along / sizes
        step = spread * (axes @ (move * jnp.minimum(1.0, LONGEST / (jnp.linalg.norm(move) + LONGEST / 100))))
        tried = eta[None] + jnp.asarray(LENGTHS, eta.dtype)[:, None] * step[None, :]
        scores = jax.vmap(joint)(tried)
        best = tried[jnp.argmax(jnp.where(jnp.isfinite(scores), scores, -jnp.inf))]
        return best, (eta, curvature, jnp.sqrt(jnp.sum(along**2 / sizes)))

    start, spread = jnp.zeros_like(model.raw_spread), jnp.exp(model.raw_spread)
    _, found = jax.lax.scan(improve, start, None, length=iterations + 1)
    return jax.tree.map(lambda x: x[-1], found)


def _derivatives(function: Callable[[Array], Array], x: Array) -> tuple[Array, Array, Array]:
    """Value, gradient and Hessian in one program, forward over forward: there are few effects."""

    def first(x):
        def twice(x):
            value = function(x)
            return value, value

        gradient, value = jax.jacfwd(twice, has_aux=True)(x)
        return gradient, (value, gradient)

    hessian, (value, gradient) = jax.jacfwd(first, has_aux=True)(x)
    return value, gradient, hessian


LEAST_CURVATURE, LONGEST = 0.3, 3.0
LENGTHS = (1.0, 0.5, 0.2, 0.05, 0.005, 0.0)
