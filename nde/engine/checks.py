"""What a solve is called with, checked before anything is traced: things that are no terms, classes for instances, a
field that does not fit the state, times that are no numbers.

diffrax's entry checks more; what it leaves to its own insides, or to Python, to say is said here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike, PyTree

from nde.adjoints import AbstractAdjoint
from nde.engine.check_sde import check_sde, StepTimes
from nde.engine.fixed import count_steps
from nde.engine.unchecked_times import save_times
from nde.steppers import HeuristicSpec, STEPS
from nde.terms import single_terms
from nde.types import Args, ScalarLike, State, Terms


class Call(NamedTuple):
    """The equation of a call of `nde.diffeqsolve`, as its caller gave it."""

    terms: Terms
    solver: diffrax.AbstractSolver
    t0: ScalarLike
    t1: ScalarLike
    dt0: ScalarLike | None
    y0: State
    args: Args


def check_call(call: Call, options: Mapping[str, Any]) -> StepTimes:
    """What nde checks of a call beside diffrax's own entry; what is known of its times.

    `options`: the keywords of `nde.diffeqsolve`, those that were given.

    **Raises:** `TypeError` for a class where an instance is wanted, a function where a term is, and what is no
    `diffrax.SaveAt`; `ValueError` for NaN among the times, a field whose output does not fit the state, and what
    `nde.engine.check_sde.check_sde` refuses.
    """
    _check_kinds(call, options)
    saveat = options.get("saveat")
    controller = options.get("stepsize_controller", diffrax.ConstantStepSize())
    _refuse_nan(t0=call.t0, t1=call.t1, dt0=call.dt0)
    for ts in save_times(saveat):
        _refuse_nan(ts=ts)
    dtype = time_dtype([call.t0, call.t1, *jax.tree.leaves(call.dt0), *save_times(saveat)])
    steps = count_steps(controller, call.t0, call.t1, call.dt0, dtype)
    times = StepTimes(call.t0, call.t1, call.dt0, controller, steps, dtype)
    check_sde(call.terms, call.solver, times, call.y0, call.args)
    _check_fields(call, dtype)
    return times


_KINDS = {
    "solver": (diffrax.AbstractSolver, "a solver, as nde.Tsit5()"),
    "stepsize_controller": (diffrax.AbstractStepSizeController, "a controller, as nde.PIDController(rtol=…, atol=…)"),
    "adjoint": (diffrax.AbstractAdjoint, "an adjoint, as nde.CheckpointAdjoint()"),
    "saveat": (diffrax.SaveAt, "a nde.SaveAt, as nde.SaveAt(ts=…)"),
    "event": (diffrax.Event, "a nde.Event"),
}


def _check_kinds(call: Call, options: Mapping[str, Any]) -> None:
    """Whether each is what it stands for: an instance, and no class; a term, and no bare function."""
    for name, x in {"solver": call.solver, **options}.items():
        kind, example = _KINDS.get(name, (None, ""))
        if kind is None or x is None or isinstance(x, kind):
            continue
        if isinstance(x, type):
            raise TypeError(f"nde.diffeqsolve: {name} is the class {x.__name__}; give an instance: {x.__name__}(…).")
        raise TypeError(f"nde.diffeqsolve: {name} must be {example}, but is a {type(x).__name__}.")
    if isinstance(call.terms, type):
        raise TypeError(
            f"nde.diffeqsolve: terms is the class {call.terms.__name__}; give an instance, as nde.ODETerm(field)."
        )
    leaves = [call.terms] if callable(call.terms) else jax.tree.leaves(call.terms, is_leaf=_is_term_or_function)
    for x in leaves:
        if not isinstance(x, diffrax.AbstractTerm):
            wrap = (
                "wrap the function f(t, y, args) as nde.ODETerm(f)" if callable(x) else "give terms, as nde.ODETerm(f)"
            )
            raise TypeError(f"nde.diffeqsolve: terms must be terms, but got a {type(x).__name__}: {wrap}.")


def _is_term_or_function(x: Any) -> bool:
    return isinstance(x, diffrax.AbstractTerm) or callable(x)


def _check_fields(call: Call, dtype: Any) -> None:
    """Whether each `diffrax.ODETerm` of one equation returns a rate of change of its state, up to broadcasting.

    The terms of a tree of them, as a splitting method takes, act on parts of the state that only the solver knows.
    """
    if not isinstance(call.terms, diffrax.AbstractTerm):
        return
    t, y = jax.ShapeDtypeStruct((), dtype), jax.eval_shape(lambda: jax.tree.map(jnp.asarray, call.y0))
    for term in single_terms(call.terms):
        if type(term) is diffrax.ODETerm:
            rate = eqx.filter_eval_shape(term.vector_field, t, y, call.args)
            if not _fits(rate, y):
                raise ValueError(
                    f"nde.diffeqsolve: the field returns {_shapes(rate)}, but the state y0 is {_shapes(y)}: a field "
                    "f(t, y, args) of an ODETerm returns dy/dt, in the structure and the shapes of y."
                )


def _fits(rate: PyTree[Any], y: PyTree[Any]) -> bool:
    if jax.tree.structure(rate) != jax.tree.structure(y):
        return False
    pairs = zip(jax.tree.leaves(rate), jax.tree.leaves(y), strict=True)
    return all(_broadcasts(jnp.shape(a), b.shape) for a, b in pairs)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of one shape can be broadcast to another."""
    paired = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(a in (1, b) for a, b in paired)


def _shapes(tree: PyTree[Any]) -> str:
    """A tree with the shapes of its leaves, in words."""
    if not jax.tree_util.all_leaves([tree]):
        return str(jax.tree.map(lambda x: tuple(jnp.shape(x)), tree))
    return f"an array of shape {tuple(jnp.shape(tree))}"


def check_heuristics_fit(spec: HeuristicSpec, adjoint: diffrax.AbstractAdjoint, max_steps: int | None) -> None:
    """Whether a solve can give the heuristics that are asked for.

    **Raises:** `ValueError` for an adjoint that is none of nde's, and for every step's without a bound of their number.
    """
    if spec.names and not isinstance(adjoint, AbstractAdjoint):
        raise ValueError(
            f"nde.diffeqsolve has heuristics by its own adjoints alone, but got {type(adjoint).__name__}: take "
            "nde.CheckpointAdjoint."
        )
    if STEPS in spec.names and max_steps is None:
        raise ValueError("nde.diffeqsolve with heuristics='steps' needs a bound of their number: give max_steps.")


def _refuse_nan(**times: ArrayLike | None) -> None:
    """Refuse times that hold NaN, as far as they are known: no comparison with such a one is true."""
    for name, x in times.items():
        if x is not None and not isinstance(x, Tracer) and np.any(np.asarray(x) != np.asarray(x)):
            raise ValueError(f"nde.diffeqsolve needs times that are numbers, but {name} holds NaN.")


def are_apart(t0: ScalarLike, t1: ScalarLike) -> bool:
    """Whether two times are known to differ."""
    return not isinstance(t0, Tracer) and not isinstance(t1, Tracer) and bool(np.asarray(t0) != np.asarray(t1))


def time_dtype(times: Sequence[ArrayLike]) -> Any:
    """The dtype in which diffrax's entry will hold all times."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*times)
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
