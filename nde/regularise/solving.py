"""One solve that serves its caller and a regulariser."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Float, PRNGKeyArray

from nde.engine import check_call, check_heuristics, diffeqsolve
from nde.regularise.base import AbstractRegulariser, Call, Plan, Seen
from nde.terms import is_noise, is_sub


def solve(
    regulariser: AbstractRegulariser,
    terms: Any,
    solver: diffrax.AbstractSolver,
    t0: Any,
    t1: Any,
    dt0: Any,
    y0: Any,
    args: Any = None,
    *,
    key: PRNGKeyArray | None = None,
    **options: Any,
) -> tuple[diffrax.Solution, Float[Array, ""]]:
    """Solve as `nde.diffeqsolve` does, and say what a regulariser makes of it.

    **Arguments:** `regulariser`, then those of `nde.diffeqsolve`; `key`: for a regulariser that draws.

    **Returns:** the solution and the penalty, both differentiable as the adjoint allows. The solution is that of
    `nde.diffeqsolve`, unless the regulariser moves the end of time. An integral that a regulariser asks for rides
    beside the state and has no part in the control of the error.

    **Raises:** what `nde.diffeqsolve` raises; `ValueError` if the regulariser asks for an integral and the terms are
    not one `ODETerm`, with or without noise beside it, or the caller for dense output or a saved state of the solver.
    """
    check_call(terms, solver, t0, t1, dt0, y0, args, options)  # before its terms have something beside the state
    plan = regulariser.plan(Call(terms, solver, t0, t1, dt0, y0, args, options), key)
    return _run(plan)


def _run(plan: Plan) -> tuple[diffrax.Solution, Any]:
    call = plan.call
    options = dict(call.options)
    measure = check_heuristics(options.get("heuristics", ()))
    measure = dataclasses.replace(measure, names=(*measure.names, *plan.heuristics))
    given = options.get("saveat") or diffrax.SaveAt(t1=True)
    saveat, terms, y0 = given, call.terms, call.y0
    subs = list(plan.subs)
    if plan.rates:
        _refuse(given, options)
        y0 = (y0, [jnp.zeros((), _real_dtype(y0))] * len(plan.rates))
        terms = _terms_with(terms, plan.rates)
        subs = [_of_state(sub) for sub in subs] + [diffrax.SubSaveAt(t1=True, fn=_integrals)]
        saveat = _with_subs(given, jax.tree.map(_of_state, given.subs, is_leaf=is_sub))
        measure = dataclasses.replace(
            measure,
            controller=measure.controller and _with_norm_of_state(measure.controller),
            norm=_NormOfState(measure.norm or optimistix.rms_norm),
        )
        options = _options_of_state(options)
    if subs:
        saveat = _with_subs(saveat, (saveat.subs, subs))
    options |= {"saveat": saveat, "heuristics": measure}
    solution = diffeqsolve(terms, call.solver, call.t0, call.t1, call.dt0, y0, call.args, **options)
    saved, integrals = [], []
    if subs:
        (ts, more_ts), (ys, more_ys) = solution.ts, solution.ys  # pyright: ignore
        saved = list(zip(more_ts, more_ys, strict=True))
        solution = eqx.tree_at(lambda s: (s.ts, s.ys), solution, (ts, ys), is_leaf=lambda x: x is None)
    if plan.rates:
        integrals = [x[-1] for x in saved.pop()[1]]
    seen = Seen(call, solution, (solution.stats or {}).get("heuristics"), integrals, saved)
    return solution, jnp.asarray(plan.penalty(seen))


class Beside(diffrax.AbstractTerm):
    """A term on a state that has something beside it, which the term leaves alone."""

    term: diffrax.AbstractTerm

    @property
    def control(self) -> Any:
        """The path of the term, if it has one."""
        return getattr(self.term, "control", None)

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


class _WithRates(eqx.Module):
    """A drift on a state with the integrals of rates beside it.

    A field with a method `seen(y)` says which field and which part of the state these are to be rates of.
    """

    field: Callable[..., Any]
    rates: Sequence[Callable[..., Any]]

    def __call__(self, t, z, args):
        y, integrals = z
        seen_by = getattr(self.field, "seen", lambda y: (self.field, y))
        field, seen = seen_by(y)
        rates = [rate(field, t, seen, args) for rate in self.rates]
        return self.field(t, y, args), [jnp.asarray(r, x.dtype) for r, x in zip(rates, integrals, strict=True)]


def _terms_with(terms: Any, rates: Sequence[Callable[..., Any]]) -> Any:
    """The terms with integrals beside the state; the first `ODETerm` is the drift."""
    if isinstance(terms, diffrax.ODETerm):
        return diffrax.ODETerm(_WithRates(terms.vector_field, rates))
    if isinstance(terms, diffrax.MultiTerm) and isinstance(terms.terms[0], diffrax.ODETerm):
        first, *rest = terms.terms
        if not all(is_noise(term) for term in rest):
            raise ValueError(
                "A regulariser that integrates along the solution sees the first term of a MultiTerm, and the others "
                f"must be noise, but got {', '.join(type(term).__name__ for term in rest)}: make one ODETerm of all "
                "that is not noise."
            )
        return diffrax.MultiTerm(_terms_with(first, rates), *[Beside(term) for term in rest])
    raise ValueError(
        "A regulariser that integrates along the solution needs an ODETerm, or a MultiTerm that begins with one, but "
        f"got {type(terms).__name__}: for a smooth control take ControlTerm(...).to_ode()."
    )


def _refuse(saveat: diffrax.SaveAt, options: dict[str, Any]) -> None:
    for name in ("dense", "solver_state", "controller_state"):
        if getattr(saveat, name) or (name != "dense" and options.get(name) is not None):
            raise ValueError(
                f"A regulariser that integrates along the solution can not be used with SaveAt({name}=True) or a "
                "state passed in: the integral rides beside the state. Save at t1, ts or steps."
            )


def _with_subs(saveat: diffrax.SaveAt, subs: Any) -> diffrax.SaveAt:
    return eqx.tree_at(lambda s: s.subs, saveat, subs, is_leaf=lambda x: x is None)


def _of_state(sub: diffrax.SubSaveAt) -> diffrax.SubSaveAt:
    """The same of a state that has something beside it."""
    return dataclasses.replace(sub, fn=_OfState(sub.fn))


class _OfState(eqx.Module):
    """What is saved of a state that has something beside it."""

    fn: Callable[..., Any]

    def __call__(self, t, z, args):
        return self.fn(t, z[0], args)


def _integrals(t: Any, z: Any, args: Any) -> Any:
    del t, args
    return z[1]


def _options_of_state(options: dict[str, Any]) -> dict[str, Any]:
    """The step-size controller's norm and the event's conditions, of a state that has something beside it."""
    options = dict(options)
    controller, event = options.get("stepsize_controller"), options.get("event")
    if controller is not None:
        options["stepsize_controller"] = _with_norm_of_state(controller)
    if event is not None:
        conditions = jax.tree.map(lambda each: _Condition(each, controller), event.cond_fn, is_leaf=callable)
        options["event"] = dataclasses.replace(event, cond_fn=conditions)
    return options


class _Condition(eqx.Module):
    """An event's condition, of a state that has something beside it; `controller`: the caller's own."""

    condition: Callable[..., Any]
    controller: Any

    def __call__(self, t, z, args, *, terms, stepsize_controller, **rest):
        terms, stepsize_controller = Alone(terms, z[1]), self.controller or stepsize_controller
        return self.condition(t, z[0], args, terms=terms, stepsize_controller=stepsize_controller, **rest)


class Alone(diffrax.AbstractTerm):
    """A drift on a state that has something beside it, as one on the state alone: what an event's condition may ask."""

    term: diffrax.AbstractTerm
    beside: Any

    def vf(self, t, y, args):
        return self.term.vf(t, (y, self.beside), args)[0]

    def contr(self, t0, t1, **kwargs):
        return self.term.contr(t0, t1, **kwargs)

    def prod(self, vf, control):
        return self.term.prod((vf, self.beside), control)[0]


class _NormOfState(eqx.Module):
    """A norm of the state alone."""

    norm: Callable[[Any], Any]

    def __call__(self, z):
        return self.norm(z[0])


def _with_norm_of_state(controller: Any) -> Any:
    """A controller whose norm, or that of the one it wraps, is of the state alone."""
    if "norm" in {field.name for field in dataclasses.fields(controller)}:
        return eqx.tree_at(lambda c: c.norm, controller, _NormOfState(controller.norm))
    if hasattr(controller, "controller"):
        return eqx.tree_at(lambda c: c.controller, controller, _with_norm_of_state(controller.controller))
    return controller


def _real_dtype(tree: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(float, *jax.tree.leaves(tree))
    return jnp.finfo(dtype).dtype
