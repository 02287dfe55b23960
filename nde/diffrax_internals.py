"""All that nde knows of diffrax's private parts, and nothing of it stands elsewhere.

`nde.diffeqsolve` goes through diffrax's own entry, which checks and prepares a solve and makes the `Solution`, and
takes its loop's place as an adjoint (`nde.engine.diffrax_entry`). So it reads and fills the state that diffrax's loop
would carry; and gradients in times read what two of its controllers keep. None of that is promised by diffrax:
`missing_parts` says what a version lacks, and pyproject.toml has an upper bound.
"""

import dataclasses
import inspect
from typing import Any, NamedTuple, TypeAlias

import diffrax
import jax
from diffrax import _integrate, _term
from diffrax._step_size_controller import clip
from jaxtyping import PyTree

_STATE = [
    "y",
    "tprev",
    "tnext",
    "made_jump",
    "solver_state",
    "controller_state",
    "progress_meter_state",
    "result",
    "num_steps",
    "num_accepted_steps",
    "num_rejected_steps",
    "save_state",
    "dense_ts",
    "dense_infos",
    "dense_save_index",
    "event_tprev",
    "event_tnext",
    "event_dense_info",
    "event_values",
    "event_mask",
]
_SAVE_STATE = ["saveat_ts_index", "ts", "ys", "save_index"]
_LOOP = [
    "args",
    "terms",
    "solver",
    "stepsize_controller",
    "event",
    "saveat",
    "t0",
    "t1",
    "dt0",
    "max_steps",
    "init_state",
    "throw",
    "passed_solver_state",
    "passed_controller_state",
    "progress_meter",
]
_CLIP = ["step_info", "jump_info", "inner_state"]


def missing_parts() -> list[str]:
    """What this version of diffrax lacks, or has more of than nde fills; empty where all is as nde knows it."""
    found = []
    for name, module, fields in (
        ("_integrate.State", _integrate, _STATE),
        ("_integrate.SaveState", _integrate, _SAVE_STATE),
        ("_step_size_controller.clip._ClipState", clip, _CLIP),
        ("_term.WrapTerm", _term, ["term", "direction"]),
    ):
        kind = getattr(module, name.split(".")[-1], None)
        if kind is None:
            found.append(f"diffrax.{name} is gone")
            continue
        have = [field.name for field in dataclasses.fields(kind)]
        found += [f"diffrax.{name} has no field {field}" for field in fields if field not in have]
        if name.startswith("_integrate"):
            found += [f"diffrax.{name} has a new field {field}" for field in have if field not in fields]
    source = inspect.getsource(diffrax.diffeqsolve)
    found += [f"diffrax.diffeqsolve hands no {name} to an adjoint's loop" for name in _LOOP if f"{name}=" not in source]
    _, state = diffrax.ConstantStepSize().init(
        diffrax.ODETerm(lambda t, y, args: y), 0.0, 1.0, 0.0, 0.1, None, lambda *_: 0.0, 1
    )
    if len(state) != len(ConstantState._fields):
        found.append(f"diffrax.ConstantStepSize keeps {len(state)} things, not {len(ConstantState._fields)}")
    return found


EntryState: TypeAlias = _integrate.State
"""What diffrax's loop carries."""


class ConstantState(NamedTuple):
    """What `diffrax.ConstantStepSize` keeps: steps done and to do (-1: no end), the start, and the end (or `dt0`)."""

    done: Any
    steps: Any
    t0: Any
    t1: Any


def is_save_state(x: Any) -> bool:
    """Whether it is diffrax's record of one sub's rows."""
    return isinstance(x, _integrate.SaveState)


def save_states(state: EntryState) -> list[Any]:
    """Of the state of diffrax's loop, its records of rows, one for each sub."""
    return jax.tree.leaves(state.save_state, is_leaf=is_save_state)


class SavedRows(NamedTuple):
    """What diffrax keeps of one sub's rows: `ts` passed, the rows' times and values, how many rows are written."""

    ts_index: Any
    ts: Any
    ys: Any
    filled: Any


def replace_state(state: EntryState, saved: list[SavedRows] | None = None, **fields: Any) -> EntryState:
    """The state of diffrax's loop with some of its fields, and the rows of each sub, replaced."""
    if saved is not None:
        old = save_states(state)
        new = [
            dataclasses.replace(each, saveat_ts_index=x.ts_index, ts=x.ts, ys=x.ys, save_index=x.filled)
            for each, x in zip(old, saved, strict=True)
        ]
        structure = jax.tree.structure(state.save_state, is_leaf=is_save_state)
        fields["save_state"] = structure.unflatten(new)
    return dataclasses.replace(state, **fields)


def clip_states(state: PyTree[Any]) -> list[Any]:
    """The states of `diffrax.ClipStepSizeController`s in a controller's state, the outermost ones."""
    return [x for x in jax.tree.leaves(state, is_leaf=_is_clip) if _is_clip(x)]


def _is_clip(x: Any) -> bool:
    return isinstance(x, clip._ClipState)


def clip_times(state: Any) -> tuple[jax.Array | None, jax.Array | None]:
    """`step_ts` and `jump_ts` in the state of a `diffrax.ClipStepSizeController`, `None` where it has none."""
    step, jump = state.step_info, state.jump_info
    return None if step is None else step[1], None if jump is None else jump[1]


def grid_state_at(controller: Any, state: Any, number: jax.Array) -> Any:
    """The state of a `diffrax.ConstantStepSize` or `StepTo` from which it makes the time with a number.

    `state`: at the start; both keep the number of a step, and the times of step `n` are made from `n - 2`.
    """
    if isinstance(controller, diffrax.StepTo):
        return state + number.astype(jax.numpy.asarray(state).dtype) - 2
    constant = ConstantState(*state)
    done = constant.done + number.astype(jax.numpy.asarray(constant.done).dtype) - 2
    return tuple(constant._replace(done=done))


def is_turned(x: Any) -> bool:
    """Whether it is a term that diffrax has turned in time."""
    return isinstance(x, _term.WrapTerm)


def turn(term: Any, direction: Any) -> Any:
    """A term in the time that is its own times a sign."""
    return _term.WrapTerm(term, direction)


def time_direction(term: Any) -> Any:
    """The sign by which diffrax turns the time of a term."""
    return term.direction
