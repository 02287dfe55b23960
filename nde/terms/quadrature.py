"""Integrals along a solution, as states beside it (quadrature states)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from nde.terms.inspect import in_given_time, is_noise, is_sub, unwrap_time_direction


class WithIntegrals(eqx.Module):
    r"""An equation with integrals along its solution:

    $$dy = f(t, y)\,dt\;(+\,\sigma(t, y)\,dW), \qquad dq_i = r_i(t, y)\,dt, \quad q_i(t_0) = 0.$$

    What is solved is `terms`, from `state(y0)`, whose state is the pair `(y, [q_1, …])`. The rest of a call is made to
    fit it: `controller` gives a step-size controller for which the integrals have weight zero, `saveat` what is saved
    of the state alone, `event` what ends a solve by the state alone.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> pair = nde.terms.WithIntegrals(nde.ODETerm(lambda t, y, args: -y), [lambda field, t, y, args: y**2])
    >>> y, (energy,) = nde.diffeqsolve(pair.terms, nde.Tsit5(), 0.0, 1.0, 0.01, pair.state(jnp.ones(()))).ys
    >>> round(float(energy[0]), 5)  # (1 - exp(-2)) / 2
    0.43233

    ```

    **Arguments:** `equation`: an `ODETerm`, the drift, or a `MultiTerm` that begins with one and goes on with noise;
    `integrands`: functions `integrand(field, t, y, args)` to a number, with `field(t, y, args)` the drift; `joint`:
    for an integrand that shares its work with the drift, a function `joint(field, t, y, args)` to the pair of
    `field(t, y, args)` and a number, whose integral is then the first.

    The equation may be the `terms` of another `WithIntegrals`: the new integrals then follow those that it has, their
    integrands see the same drift and state, and "the state alone" is the state and the integrals before them.

    **Raises:** `ValueError` for another equation, and for a `joint` where the equation has integrals already.
    """

    equation: PyTree[Any]
    integrands: Sequence[Callable[..., Any]] = ()
    joint: Callable[..., Any] | None = None

    def __check_init__(self):
        drift, rest = _drift_and_noise(self.equation)
        if not isinstance(drift, diffrax.ODETerm):
            raise ValueError(
                "An integral along the solution needs an ODETerm, or a MultiTerm that begins with one, but got "
                f"{type(self.equation).__name__}: for a smooth control take ControlTerm(...).to_ode()."
            )
        if not all(is_noise(term) for term in rest):
            raise ValueError(
                "An integral along the solution is one of the first term of a MultiTerm, and the others must be noise, "
                f"but got {', '.join(type(term).__name__ for term in rest)}: make one ODETerm of all that is not noise."
            )
        if self.joint is not None and self._before is not None:
            raise ValueError("WithIntegrals: joint must be None for an equation that has integrals already.")

    @property
    def terms(self) -> PyTree[Any]:
        """The terms on the state and its integrals."""
        drift, rest = _drift_and_noise(self.equation)
        if isinstance(drift.vector_field, _WithRates):
            inner = drift.vector_field
            field = _WithRates(inner.field, (*inner.integrands, *self.integrands), inner.joint)
            return _joined(diffrax.ODETerm(field), rest, self.equation)
        field = _WithRates(drift.vector_field, tuple(self.integrands), self.joint)
        return _joined(diffrax.ODETerm(field), [_Beside(term) for term in rest], self.equation)

    @property
    def _before(self) -> int | None:
        """How many integrals the equation has itself."""
        field = _drift_and_noise(self.equation)[0].vector_field
        return field.count if isinstance(field, _WithRates) else None

    @property
    def count(self) -> int:
        """How many integrals there are beside the state of the equation."""
        return len(self.integrands) + (self.joint is not None)

    def state(self, y0: PyTree[Any]) -> tuple[PyTree[Any], list[Any]]:
        """The start: `y0`, of the equation's own state, and integrals of zero in its real dtype."""
        y, before = (y0, []) if self._before is None else y0
        return y, [*before, *[jnp.zeros((), _real_dtype(y))] * self.count]

    def controller(self, controller: Any) -> Any:
        """A step-size controller whose norm, or that of the one it wraps, is of the state alone."""
        if "norm" in {field.name for field in dataclasses.fields(controller)}:
            return eqx.tree_at(lambda c: c.norm, controller, self.norm(controller.norm))
        if hasattr(controller, "controller"):
            return eqx.tree_at(lambda c: c.controller, controller, self.controller(controller.controller))
        return controller

    def norm(self, norm: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A norm of the state alone."""
        return _Norm(norm, self._before)

    def saveat(self, saveat: diffrax.SaveAt) -> diffrax.SaveAt:
        """What is saved, of the state alone."""
        return eqx.tree_at(lambda s: s.subs, saveat, jax.tree.map(self.sub, saveat.subs, is_leaf=is_sub))

    def sub(self, sub: diffrax.SubSaveAt) -> diffrax.SubSaveAt:
        """One set of saved values, of the state alone."""
        return dataclasses.replace(sub, fn=_Saved(sub.fn, self._before))

    @property
    def integrals(self) -> diffrax.SubSaveAt:
        """To be saved: the integrals at the end, a list of arrays of shape `(1,)`."""
        return diffrax.SubSaveAt(t1=True, fn=_Integrals(self._before))

    def event(self, event: diffrax.Event, controller: Any) -> diffrax.Event:
        """An event whose conditions see the state alone; and `controller`, the caller's own, where it is not `None`."""

        def of_state(condition):
            return _Condition(condition, self._before, self.count, controller)

        return dataclasses.replace(event, cond_fn=jax.tree.map(of_state, event.cond_fn, is_leaf=callable))


def without_integrals(terms: PyTree[Any], y0: PyTree[Any]) -> tuple[PyTree[Any], PyTree[Any]]:
    """The equation and the state to which `terms` and `y0` add integrals; themselves if they add none.

    **Raises:** `ValueError` for a state that has not the integrals of the terms.
    """
    drift, _ = _drift_and_noise(terms)
    field = getattr(drift, "vector_field", None)
    if not isinstance(field, _WithRates):
        return terms, y0
    if not (isinstance(y0, tuple) and len(y0) == 2 and _are_integrals(y0[1], field.count)):
        raise ValueError(
            f"The terms have {field.count} integrals beside the state, and start from the pair of it and a list of as "
            f"many numbers, as WithIntegrals(...).state(y0) makes it, but got {jax.tree.structure(y0)}."
        )
    return _less(terms, field.count), y0[0]


def _are_integrals(x: Any, count: int) -> bool:
    return isinstance(x, list) and len(x) == count and all(jnp.shape(q) == () for q in x)


def _drift_and_noise(terms: Any) -> tuple[Any, Sequence[Any]]:
    """The first term of a `MultiTerm` and the others; of another term itself."""
    if isinstance(terms, diffrax.MultiTerm) and terms.terms:
        return terms.terms[0], terms.terms[1:]
    return terms, ()


def _joined(drift: Any, noise: Sequence[Any], like: Any) -> Any:
    return diffrax.MultiTerm(drift, *noise) if isinstance(like, diffrax.MultiTerm) else drift


def _less(terms: Any, count: int) -> Any:
    """The terms without the last `count` of their integrals, turned in time as they."""
    drift, rest = _drift_and_noise(terms)
    field = unwrap_time_direction(drift)[0].vector_field
    if count < field.count:
        left = _WithRates(field.field, field.integrands[: len(field.integrands) - count], field.joint)
    else:
        left, rest = field.field, [in_given_time(lambda term: term.term, term) for term in rest]
    return _joined(in_given_time(lambda _: diffrax.ODETerm(left), drift), rest, terms)


class _WithRates(eqx.Module):
    """A drift, with the integrands beside it."""

    field: Callable[..., Any]
    integrands: tuple[Callable[..., Any], ...]
    joint: Callable[..., Any] | None

    @property
    def count(self) -> int:
        return len(self.integrands) + (self.joint is not None)

    def __call__(self, t, z, args):
        y, integrals = z
        if self.joint is None:
            drift, rates = self.field(t, y, args), []
        else:
            drift, *rates = self.joint(self.field, t, y, args)
        rates = [*rates, *[integrand(self.field, t, y, args) for integrand in self.integrands]]
        return drift, [jnp.asarray(rate, q.dtype) for rate, q in zip(rates, integrals, strict=True)]


class _Beside(diffrax.AbstractTerm):
    """Noise of a state that has integrals beside it, which it leaves alone."""

    term: diffrax.AbstractTerm

    def vf(self, t, y, args):
        return self.term.vf(t, y[0], args), jax.tree.map(jnp.zeros_like, y[1])

    def contr(self, t0, t1, **kwargs):
        return self.term.contr(t0, t1, **kwargs)

    def prod(self, vf, control):
        return self.term.prod(vf[0], control), vf[1]

    def vf_prod(self, t, y, args, control):
        return self.term.vf_prod(t, y[0], args, control), jax.tree.map(jnp.zeros_like, y[1])

    def is_vf_expensive(self, t0, t1, y, args):
        return self.term.is_vf_expensive(t0, t1, y[0], args)


def _own(z: Any, before: int | None) -> Any:
    """The equation's own state, which has `before` integrals, or if that is `None` is no pair."""
    y, integrals = z
    return y if before is None else (y, integrals[:before])


class _Norm(eqx.Module):
    norm: Callable[[Any], Any]
    before: int | None = eqx.field(static=True)

    def __call__(self, z):
        return self.norm(_own(z, self.before))


class _Saved(eqx.Module):
    fn: Callable[..., Any]
    before: int | None = eqx.field(static=True)

    def __call__(self, t, z, args):
        return self.fn(t, _own(z, self.before), args)


class _Condition(eqx.Module):
    """An event's condition; `count`: of the integrals that it does not see, `controller`: the caller's own."""

    condition: Callable[..., Any]
    before: int | None = eqx.field(static=True)
    count: int = eqx.field(static=True)
    controller: Any

    def __call__(self, t, z, args, *, terms, stepsize_controller, **rest):
        own, controller = _own(z, self.before), self.controller or stepsize_controller
        return self.condition(t, own, args, terms=_less(terms, self.count), stepsize_controller=controller, **rest)


class _Integrals(eqx.Module):
    before: int | None = eqx.field(static=True)

    def __call__(self, t, z, args):
        del t, args
        return z[1][self.before or 0 :]


def _real_dtype(tree: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(float, *jax.tree.leaves(tree))
    return jnp.finfo(dtype).dtype
