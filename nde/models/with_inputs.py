"""Solve an ODE that is given doses, infusions and covariates: onto every discontinuity, and not past it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nde.models.checks import refuse
from nde.models.numerics import Numerics, over_unit, Solved
from nde.paths import Inputs
from nde.regularise import AbstractRegulariser
from nde.solvers import add, increment, run_stages


def solve_with_inputs(
    numerics: Numerics,
    field: Callable[..., Any],
    ts: Float[Array, " times"],
    y0: Float[Array, " state"],
    inputs: Inputs,
    *,
    regulariser: AbstractRegulariser | None = None,
    key: PRNGKeyArray | None = None,
) -> Solved:
    r"""$\dot y = f(t, y; u(t)) + R(t)$ with $y$ moved by what is given at once, at `ts`; before what is given then.

    With a controller of the error it is one solve, of $z = y - G(t)$, which is continuous:
    $\dot z = f(t, z + G(t); u(t)) + R(t)$, whose steps end at the discontinuities. With `numerics.steps_per_row` it is
    a scan over the pieces between all times of `ts` and of the inputs, each crossed in so many steps: a batch of series
    takes its steps together, and every transformation of JAX works, such as third derivatives. With
    `diffrax.ConstantStepSize()` it is that too, of steps of `dt0` that are cut at these times, of which `max_steps`
    must
    reach the end: where rows lie far apart, so that a few steps from one to the next would be too long.

    **Raises:** `ValueError` for another controller where inputs jump, and for a regulariser with steps of a known grid;
    an error at run time for times that run backward on one, and for `max_steps` that do not reach the end.
    """
    inputs = jax.tree.map(lambda x: x.astype(y0.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, inputs)
    doses = inputs.doses
    if doses is not None and (y0.ndim != 1 or doses.amounts.shape[-1] != y0.shape[0]):
        raise ValueError(
            f"NeuralODE needs doses of as many states as it has, but got amounts of shape {doses.amounts.shape} and a "
            f"state of shape {y0.shape}."
        )
    constant = isinstance(numerics.controller, diffrax.ConstantStepSize) and numerics.dt0 is not None
    if numerics.steps_per_row is not None or constant:
        if regulariser is not None:
            raise ValueError("A regulariser needs a controller of the error beside inputs, and not a known grid.")
        return _solve_pieces(numerics, field, ts, y0, inputs)
    if doses is not None and doses.resets is not None:
        raise ValueError(
            "Doses that reset a state need steps_per_row or constant steps: with a controller they can only add to it."
        )
    jumps = inputs.jumps()
    if not sum(map(len, jumps)):
        return _solve_whole(numerics, field, ts, y0, inputs, regulariser, key)
    if not isinstance(numerics.controller, diffrax.PIDController):
        raise ValueError(
            "An ODE with inputs that jump needs a PIDController, whose steps can end at the jumps, steps_per_row, or "
            f"ConstantStepSize with dt0, but got {type(numerics.controller).__name__}."
        )
    moved = separated(jnp.concatenate(jumps), ts)
    controller = diffrax.ClipStepSizeController(numerics.controller, jump_ts=moved)
    numerics = dataclasses.replace(numerics, controller=controller)
    inputs = inputs.jumping_at(jnp.split(moved, np.cumsum([len(x) for x in jumps])[:-1]))
    return _solve_whole(numerics, field, ts, y0, inputs, regulariser, key)


def rates_with_inputs(field: Callable[..., Any]) -> Callable[..., Any]:
    r"""$\dot z$ of what is left of a state without that which was given at once: `rates(t, z, inputs)`."""

    def rates(t: Any, z: Array, inputs: Inputs) -> Array:
        if inputs.doses is None:
            return field(t, z, inputs.at(t))
        return field(t, z + inputs.doses.given(t), inputs.at(t)) + inputs.doses.rate(t)

    return rates


def _solve_whole(numerics, field, ts, y0, inputs, regulariser, key) -> Solved:
    doses, rates = inputs.doses, rates_with_inputs(field)
    start = y0 if doses is None else y0 - doses.given(ts[0], left=True)
    solved = numerics.solve(
        diffrax.ODETerm(rates), ts[0], ts[-1], start, inputs, saveat=diffrax.SaveAt(ts=ts), backward=ts[-1] < ts[0],
        regulariser=regulariser, key=key,
    )  # fmt: skip
    if doses is None:
        return solved
    return solved._replace(ys=solved.ys + jax.vmap(lambda t: doses.given(t, left=True))(ts))


def _solve_pieces(numerics: Numerics, field: Callable[..., Any], ts: Array, y0: Array, inputs: Inputs) -> Solved:
    doses = inputs.doses
    ts = refuse(ts, ts[-1] < ts[0], "On a known grid an ODE with inputs runs forward, but its times run backward.")
    times, each = _known_times(numerics, ts, inputs)
    first, last = ts[0], ts[-1]
    order = jnp.argsort(jax.lax.stop_gradient(times), stable=True)  # rows before what is given at their time
    places = jnp.argsort(order)
    edges = times[order]
    starts, gaps = edges[:-1], jnp.diff(edges)
    middle = starts + gaps / 2
    given = None
    if doses is not None:
        # What is given at once moves the state at the start of the piece whose place its time has among all of them.
        at_once = (doses.ends == doses.times) & (doses.times >= first) & (doses.times < last)
        where = places[len(ts) : len(ts) + len(at_once)]

        def placed(x: Array) -> Array:
            moves = jnp.where(at_once[:, None], x, jnp.zeros_like(x))
            return jnp.zeros((len(starts), *y0.shape), x.dtype).at[where].set(moves, mode="drop")

        resets = None if doses.resets is None else placed(doses.resets)
        given = placed(doses.amounts), resets, jax.vmap(doses.rate)(middle)

    def cross(y, piece):
        start, gap, middle, given = piece
        if given is not None:
            amount, reset, _ = given
            y = y + amount if reset is None else jnp.where(reset, amount, y + amount)

        def rates(s, y, inputs):
            t = start + s * gap
            found = field(t, y, inputs.at(t, between=middle))
            return gap * (found if given is None else found + given[2])

        end = _over_piece(numerics, rates, y, inputs, each)
        return end, end

    _, ends = jax.lax.scan(cross, y0, (starts, gaps, middle, given))
    states = jnp.concatenate([y0[None], ends])
    if numerics.throw:  # one check, of what is carried on to the end
        bad = ~jnp.all(jnp.isfinite(states[-1]))
        states = eqx.error_if(states, bad, diffrax.RESULTS[diffrax.RESULTS.nonfinite])
    else:
        states = jnp.where(jnp.isfinite(states), states, jnp.inf)
    steps, solver = each * len(starts), numerics.solver
    explicit = isinstance(solver, diffrax.AbstractERK)
    tableau: Any = solver.tableau if explicit else None
    evaluations = steps * tableau.num_stages if explicit else None
    stats = {"num_steps": steps, "num_accepted_steps": steps, "num_rejected_steps": 0}
    stats |= {"num_field_evaluations": evaluations}
    found = states[places[: len(ts)]]
    # The steps of another method are solves of their own, which count themselves.
    return Solved(numerics.counted(found, stats) if explicit else found, jnp.zeros((), y0.dtype), stats)


def _known_times(numerics: Numerics, ts: Array, inputs: Inputs) -> tuple[Array, int]:
    """Rows, inputs and, of constant steps, a mesh, in this order; and how many steps there are between two of them."""
    first, last, each = ts[0], ts[-1], numerics.steps_per_row
    mesh = []
    if each is None:
        each, size = 1, numerics.dt0
        assert size is not None
        long = last - first > size * numerics.max_steps * (1 + 1e-6)
        first = refuse(first, long, f"steps of dt0 do not reach the end within max_steps={numerics.max_steps}.")
        mesh = [first + size * np.arange(1, numerics.max_steps, dtype=ts.dtype)]
    # No jnp.clip, whose derivative at its ends is one half.
    jumps = [jnp.where(x < first, first, jnp.where(x > last, last, x)) for x in [*inputs.jumps(), *mesh]]
    times = jnp.concatenate([ts, *jumps])
    return times, each


def _over_piece(numerics: Numerics, rates: Callable[..., Any], y: Array, inputs: Inputs, each: int) -> Array:
    """The state at time one from that at zero, in so many steps.

    Those of an explicit method are taken here: a population takes third derivatives of them, and to trace those through
    a solve of its own in every piece took four times as long.
    """
    if not isinstance(numerics.solver, diffrax.AbstractERK):
        fixed = dataclasses.replace(
            numerics, steps_per_row=None, controller=diffrax.ConstantStepSize(), dt0=1 / each, max_steps=each
        )
        return over_unit(fixed, rates, y, inputs)
    tableau, term = numerics.solver.tableau, diffrax.ODETerm(rates)
    ends = jnp.arange(each + 1, dtype=y.dtype) / each

    def step(y: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        stages = run_stages(tableau, term, inputs, *step, y, term.contr(*step))
        return add(y, increment(tableau, stages.ks)), None

    return jax.lax.scan(step, y, (ends[:-1], ends[1:]))[0]


def separated(times: Float[Array, " jumps"], rows: Float[Array, " times"]) -> Float[Array, " jumps"]:
    """The times a few units in the last place apart, so that each can move by itself, and a moment after a row's.

    In their order, of equal ones that in which they stand, as what is given at one time is given one after another. A
    moment is four units in the last place of the ends.
    """
    still, at_rows = jax.lax.stop_gradient(times), jax.lax.stop_gradient(rows)
    moment = 4 * np.finfo(times.dtype).eps * jnp.maximum(jnp.abs(at_rows[0]), jnp.abs(at_rows[-1]))
    at_row = jnp.any(still[:, None] == at_rows[None, :], axis=1)
    order = jnp.argsort(still, stable=True)
    ordered = (still + jnp.where(at_row, moment, 0.0))[order]
    lead = jnp.arange(len(times)).astype(times.dtype) * moment
    apart = jax.lax.cummax(ordered - lead) + lead
    shift = jnp.where(jnp.isfinite(ordered), apart - ordered + jnp.where(at_row[order], moment, 0.0), 0.0)
    return times + jnp.zeros_like(still).at[order].set(shift)
