"""One solve that serves its caller and a regulariser."""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Float, PRNGKeyArray

from nde.engine import Call as EngineCall, check_call, diffeqsolve
from nde.regularise.base import AbstractRegulariser, Call, Plan, Seen
from nde.steppers import check_heuristics
from nde.terms import WithIntegrals


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
    check_call(
        EngineCall(terms, solver, t0, t1, dt0, y0, args), options
    )  # before its terms have something beside the state
    plan = regulariser.plan(Call(terms, solver, t0, t1, dt0, y0, args, options), key)
    return _run(plan)


def _run(plan: Plan) -> tuple[diffrax.Solution, Any]:
    call = plan.call
    options = dict(call.options)
    spec = check_heuristics(options.get("heuristics", ()))
    spec = dataclasses.replace(spec, names=(*spec.names, *plan.heuristics))
    given = options.get("saveat") or diffrax.SaveAt(t1=True)
    saveat, terms, y0 = given, call.terms, call.y0
    subs = list(plan.subs)
    if plan.rates:
        _refuse(given, options)
        pair = WithIntegrals(call.terms, plan.rates)
        terms, y0, saveat = pair.terms, pair.state(y0), pair.saveat(given)
        subs = [*map(pair.sub, subs), pair.integrals]
        spec = dataclasses.replace(
            spec,
            controller=spec.controller and pair.controller(spec.controller),
            norm=pair.norm(spec.norm or optimistix.rms_norm),
        )
        options |= _of_state(pair, options)
    if subs:
        saveat = _with_subs(saveat, (saveat.subs, subs))
    options |= {"saveat": saveat, "heuristics": spec}
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


def _of_state(pair: WithIntegrals, options: dict[str, Any]) -> dict[str, Any]:
    """The step-size controller and the event of a call whose state has integrals beside it, where they are given."""
    controller, event = options.get("stepsize_controller"), options.get("event")
    found = {} if controller is None else {"stepsize_controller": pair.controller(controller)}
    return found if event is None else found | {"event": pair.event(event, controller)}


def _refuse(saveat: diffrax.SaveAt, options: dict[str, Any]) -> None:
    for name in ("dense", "solver_state", "controller_state"):
        if getattr(saveat, name) or (name != "dense" and options.get(name) is not None):
            raise ValueError(
                f"A regulariser that integrates along the solution can not be used with SaveAt({name}=True) or a "
                "state passed in: the integral rides beside the state. Save at t1, ts or steps."
            )


def _with_subs(saveat: diffrax.SaveAt, subs: Any) -> diffrax.SaveAt:
    return eqx.tree_at(lambda s: s.subs, saveat, subs, is_leaf=lambda x: x is None)
