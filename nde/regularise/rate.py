"""Integrals along the solution of what a field does there."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental import jet
from jax.extend.core import Primitive
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray

from nde.regularise.base import AbstractRegulariser, Call, need_key, Plan, Seen


def _integral(seen: Seen) -> Any:
    return jnp.abs(seen.integrals[0])  # a solve backward in time integrates with a negative dt


def _square(tree: Any) -> Any:
    return sum(jnp.sum(jnp.abs(x) ** 2) for x in jax.tree.leaves(tree))


def _kinetic(field: Any, t: Any, y: Any, args: Any) -> Any:
    return _square(field(t, y, args))


class KineticEnergy(AbstractRegulariser):
    r"""$\int_{t_0}^{t_1} \|f(t, y(t))\|^2\,dt$, with $f$ the drift: the first part of RNODE.

    **Raises:** in a solve, as `nde.regularise.solve` for any integral.

    **Source:** Finlay, Jacobsen, Nurbekyan, Oberman, *How to train your neural ODE: the world of Jacobian and kinetic
    regularization*, ICML 2020, arXiv 2002.02798, section 3.
    """

    def plan(self, call: Call, key) -> Plan:
        del key
        return Plan(call, _integral, rates=(_kinetic,))


class JacobianNorm(AbstractRegulariser):
    r"""$\int_{t_0}^{t_1} \frac1k \sum_i \|\epsilon_i^\top \partial_y f(t, y(t))\|^2\,dt$: the second part of RNODE.

    With entries of the `probes` $\epsilon_i$ drawn from $\pm 1$ once a solve, its mean is the integral of the squared
    Frobenius norm of the Jacobian (Hutchinson 1989). One vector–Jacobian product a probe and evaluation.

    **Raises:** `ValueError` for less than one probe; in a solve, without a key, and as `nde.regularise.solve`.

    **Source:** Finlay et al. 2020, arXiv 2002.02798, section 3; Grathwohl et al. 2019, arXiv 1810.01367, for the probe
    that is held over a solve.
    """

    probes: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        if self.probes < 1:
            raise ValueError(f"JacobianNorm needs probes >= 1, but got probes={self.probes}.")

    def plan(self, call: Call, key) -> Plan:
        key = need_key(key, "JacobianNorm draws at random")
        return Plan(call, _integral, rates=(_JacobianRate(self.probes, key),))


class _JacobianRate(eqx.Module):
    probes: int = eqx.field(static=True)
    key: PRNGKeyArray

    def __call__(self, field, t, y, args):
        flat, unflat = ravel_pytree(y)
        _, pull = jax.vjp(lambda x: ravel_pytree(field(t, unflat(x), args))[0], flat)
        signs = jax.random.rademacher(self.key, (self.probes, flat.size), flat.dtype)
        return _square(jax.vmap(pull)(signs)) / self.probes


class TaylorDerivative(AbstractRegulariser):
    r"""TayNODE: $\int_{t_0}^{t_1} \bigl\|\tfrac{d^K y}{dt^K}(t)\bigr\|^2\,dt$ along the solution of $y' = f(t, y)$.

    **Arguments:** `order`: $K \ge 1$. The paper takes 2 or 3: the order of the solver, or one less.

    **Raises:** `ValueError` for an order below 1; in a solve, as `nde.regularise.solve`, and for a field with an
    operation that `jax.experimental.jet` has no rule for: a loop, say, as in the search of a path for a time.

    **Limits:** time grows with $K^2$ evaluations of the field's Taylor polynomial, in the way back too. Of an SDE it is
    that of the drift alone.

    **Source:** Kelly, Bettencourt, Johnson, Duvenaud, *Learning differential equations that are easy to solve*,
    NeurIPS 2020, arXiv 2007.04504, section 3, equation 1.
    """

    order: int = eqx.field(default=2, static=True)

    def __check_init__(self):
        if self.order < 1:
            raise ValueError(f"TaylorDerivative needs order >= 1, but got order={self.order}.")

    def plan(self, call: Call, key) -> Plan:
        del key
        return Plan(call, _integral, rates=(_TaylorRate(self.order),))


class _TaylorRate(eqx.Module):
    order: int = eqx.field(static=True)

    def __call__(self, field, t, y, args):
        flat, unflat = ravel_pytree(y)
        t = jnp.asarray(t, jnp.finfo(flat.dtype).dtype)
        return _square(derivatives(lambda t, x: ravel_pytree(field(t, unflat(x), args))[0], t, flat, self.order)[-1])


def derivatives(field: Any, t: Any, y: Any, order: int) -> list[Any]:
    r"""$y', y'', \dots$ up to `order` along the solution of $y' = f(t, y)$ through `y`, an array.

    Each is the Taylor coefficient of $f(t, y(t))$ that those before it give.
    """
    found = [field(t, y)]
    for count in range(1, order):
        clock = [jnp.ones_like(t)] + [jnp.zeros_like(t)] * (count - 1)
        try:
            _, series = jet.jet(field, (t, y), (clock, list(found)))
        except (NotImplementedError, KeyError) as error:
            if isinstance(error, KeyError) and not isinstance(error.args[0], Primitive):
                raise  # not jet's own, which is the operation without a rule
            raise ValueError(
                "TaylorDerivative needs a field all of whose operations jax.experimental.jet knows, but: "
                f"{error}. Write the field without it, or take another regulariser."
            ) from None
        found.append(series[-1])
    return found
