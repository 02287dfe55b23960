"""What a solve of an SDE is called with: does the solver suit the noise, the path the times, the diffusion the path."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from nde.solvers import check_noise, traits_of
from nde.terms import (
    brownian_terms,
    dependence,
    Interpretation,
    interpretation_of,
    is_noise,
    MIXED,
    NoiseKind,
    unwrap_solver,
    without_integrals,
)
from nde.types import Args, ScalarLike, State, Terms, Time


def check_sde(terms: Terms, solver: diffrax.AbstractSolver, times: "StepTimes", y0: State, args: Args) -> None:
    """Check the terms that have Brownian motion for a control, if any.

    **Raises:** `ValueError`, naming both sides, where: the drift declares the other reading (Itô, Stratonovich) than
    the solver's solution; the solver is made for less noise than there is; the path makes none of the areas that the
    solver needs, is not known all the way from `t0` to `t1`, or not at the solver's steps; the diffusion's shape fits
    neither the state nor the path. StepTimes are looked at where they are known when the solve is traced; so are values
    of a diffusion whose operations do not show whether its columns commute, and elsewhere it is believed.
    """
    inner, parts = unwrap_solver(solver)
    terms, y0 = without_integrals(terms, y0)
    noisy = brownian_terms(terms)
    if any(is_noise(term) for term, _ in noisy):
        _check_interpretation(terms, inner)
    for term, path in noisy:
        if is_noise(term):  # others take the increments of their path only, and read it by a clock of their own
            _check_area(path, inner)
        times.check(path, parts, type(inner).__name__, getattr(term, "path_time", None))
        if isinstance(term, diffrax.ControlTerm):
            state = _state(y0, times.dtype)
            field = eqx.filter_eval_shape(lambda y, term=term: term.vf(times.any, y, args), state)
            _check_shapes(field, path, state)
            _check_kind(term, inner, times.any, state, args)


class StepTimes:
    """The times of a solve as its caller gave them, and the `dtype` they will have.

    `steps`: how many there are, where that is known; `any`: one of them.
    """

    def __init__(
        self,
        t0: ScalarLike,
        t1: ScalarLike,
        dt0: ScalarLike | None,
        controller: diffrax.AbstractStepSizeController,
        steps: int | None,
        dtype: Any,
    ):
        self.controller, self.steps = controller, steps
        self.grid = controller.ts if isinstance(controller, diffrax.StepTo) else None
        self.ends = None if any(isinstance(t, Tracer) or jnp.ndim(t) for t in (t0, t1)) else (float(t0), float(t1))
        self.dt0 = None if dt0 is None or isinstance(dt0, Tracer) or jnp.ndim(dt0) else float(dt0)
        self.any, self.dtype = jnp.asarray(t0, dtype), dtype

    def check(self, path: Any, parts: int, solver: str, clock: Callable[..., Any] | None = None) -> None:
        """Whether a path is known from end to end, and at every step, `parts` of which the solver takes at a time.

        `clock`: the time of the path by the time of the solve, if that is another.
        """
        name = type(path).__name__
        bounds = (path.t0, path.t1)
        ends = self.ends if self.ends is None or clock is None else self._by(clock, self.ends)
        if ends is not None and not any(isinstance(t, Tracer) for t in bounds):
            slack = (8 if clock is None else 64) * float(jnp.finfo(self.dtype).eps) * max(map(abs, ends))
            if min(ends) + slack < float(path.t0) or max(ends) - slack > float(path.t1):
                where = "the solve goes" if clock is None else "in the path's own time the solve goes"
                raise ValueError(
                    f"{name} is known from t0={path.t0} to t1={path.t1}, but {where} from {ends[0]} to {ends[1]}: "
                    "give the path the solve's ends."
                )
        knows = getattr(path, "knows", None)
        if knows is None:
            return
        if isinstance(self.controller, diffrax.AbstractAdaptiveStepSizeController):
            raise ValueError(
                f"{name} is known at its {path.num_steps} equal steps only, but {type(self.controller).__name__} "
                "chooses steps of its own: take a VirtualBrownianTree."
            )
        grid = self._grid(parts) if clock is None else None  # steps that are equal in time are not by another clock
        if grid is not None and not np.all(knows(grid)):
            raise ValueError(
                f"{name} has num_steps={path.num_steps} from t0={path.t0} to t1={path.t1}, but {solver} takes "
                f"{len(grid) - 1} steps from {grid[0]} to {grid[-1]}, whose ends are not all points of that grid. "
                f"{self._remedy(len(grid) - 1, parts)}, or take a VirtualBrownianTree."
            )

    def _by(self, clock: Callable[..., Any], ends: tuple[float, float]) -> tuple[float, float] | None:
        """The ends by another clock, if they are known when the solve is traced, and are numbers."""
        with jax.ensure_compile_time_eval():
            found = [clock(jnp.asarray(t, self.dtype)) for t in ends]
        if any(isinstance(t, Tracer) for t in found) or not all(np.isfinite(np.asarray(t)) for t in found):
            return None
        return float(found[0]), float(found[1])

    def _remedy(self, steps: int, parts: int) -> str:
        """The number of steps to give a path, and the first step that makes them equal where it does not yet."""
        if self.grid is not None or self.ends is None or self.dt0 is None:
            return f"Give the path the solve's ends and num_steps={steps}, for equal steps"
        even = (self.ends[1] - self.ends[0]) * parts / steps
        uneven = abs(self.dt0 - even) > 1e-3 * abs(even)
        return f"Give the path the solve's ends and num_steps={steps}" + (f", and dt0={even!r}" if uneven else "")

    def _grid(self, parts: int) -> np.ndarray | None:
        """All times at which the solver asks for the path, if they are known."""
        if self.grid is not None:
            grid = None if isinstance(self.grid, Tracer) else np.asarray(self.grid)
        elif self.steps is None or self.ends is None or self.dt0 is None:
            grid = None
        else:
            grid = np.linspace(*self.ends, self.steps + 1)
            grid[1] = grid[1] if self.steps == 1 else self.ends[0] + self.dt0
        if grid is None:
            return None
        shares = np.arange(parts) / parts
        inner = (grid[:-1, None] + np.diff(grid)[:, None] * shares[None]).reshape(-1)
        return np.append(inner, grid[-1])


def _state(y0: PyTree[Any], time_dtype: Any) -> PyTree[jax.ShapeDtypeStruct]:
    """The state as the solve will have it: its dtype holds the times' too."""

    def struct(y):
        with jax.numpy_dtype_promotion("standard"):
            return jax.ShapeDtypeStruct(jnp.shape(y), jnp.result_type(y, time_dtype))

    return jax.tree.map(struct, y0)


def _check_interpretation(terms: Terms, solver: diffrax.AbstractSolver) -> None:
    reading = interpretation_of(terms)
    converges = traits_of(solver).interpretations
    if reading is not None and converges and reading not in converges:
        other = next(each for each in Interpretation if each is not reading)
        convert = "to_ito" if other is Interpretation.ITO else "to_stratonovich"
        raise ValueError(
            f"The drift is right for the {reading} reading, but {type(solver).__name__} converges to the {other} "
            f"solution. Take nde.{convert} of the terms, or a solver for the {reading} solution."
        )


def _check_area(path: diffrax.AbstractPath, solver: diffrax.AbstractSolver) -> None:
    needed, made = getattr(solver, "minimal_levy_area", None), getattr(path, "levy_area", None)
    if needed is None or made is None or issubclass(made, needed):
        return
    take = "SpaceTimeTimeLevyArea" if needed is diffrax.AbstractSpaceTimeTimeLevyArea else "SpaceTimeLevyArea"
    raise ValueError(
        f"{type(solver).__name__} needs a path with {take}, but {type(path).__name__} makes {made.__name__}: give the "
        f"path levy_area=diffrax.{take}."
    )


def _check_shapes(field: PyTree[Any], path: diffrax.AbstractPath, state: PyTree[Any]) -> None:
    """Whether a diffusion takes an increment of the path to a change of the state."""
    shape = getattr(path, "shape", None)
    if shape is None:
        return
    if isinstance(field, lx.AbstractLinearOperator):
        takes, gives = _shapes(field.in_structure()), _shapes(field.out_structure())
        fits = takes == _shapes(shape) and gives == _shapes(state)
        found = f"an operator from {takes} to {gives}"
    else:
        ys, xs = jax.tree.leaves(state), jax.tree.leaves(shape)
        wanted = [y.shape + x.shape for y, x in zip(ys, xs, strict=False)]
        fits = len(ys) == len(xs) and wanted == _shapes(field)
        found = f"an array of shape {_shapes(field)}"
    if not fits:
        raise ValueError(
            f"The diffusion returns {found}, but the state has shape {_shapes(state)} and {type(path).__name__} makes "
            f"increments of shape {_shapes(shape)}: an array needs the state's axes and then the path's; diagonal "
            "noise needs a lineax.DiagonalLinearOperator and a path of the state's shape."
        )


def _shape_of(term: diffrax.ControlTerm) -> PyTree[Any]:
    """The shape of the path that drives a term."""
    path: Any = term.control
    return path.shape


def _shapes(tree: PyTree[Any]) -> list[tuple[int, ...]]:
    return [jnp.shape(x) for x in jax.tree.leaves(tree)]


def _check_kind(term: diffrax.ControlTerm, solver: diffrax.AbstractSolver, t: Time, state: State, args: Args) -> None:
    """Whether a solver that is made for some kinds of noise only is given one of them."""
    if not 0 < len(traits_of(solver).noise) < len(NoiseKind):
        return
    diffusion = term.vector_field
    kind = None if hasattr(diffusion, "noise") else _kind(term, t, state, args)
    check_noise(diffusion, solver, kind)


def _kind(term: diffrax.ControlTerm, t: Time, state: State, args: Args) -> NoiseKind:
    """The kind of noise that a diffusion's operations show; where they show none, whether its columns may commute."""
    returned = []

    def field(y):
        returned.append(term.vf(t, y, args))
        return [x for x in jax.tree.leaves(returned[0]) if isinstance(x, jax.Array)]

    found = dependence(field, state)
    if all(each.leaf is None for each in found):
        return NoiseKind.ADDITIVE
    if sum(x.size for x in jax.tree.leaves(_shape_of(term))) == 1:
        return NoiseKind.SCALAR
    own = all(each.leaf is None or each.leaf == i != MIXED for i, each in enumerate(found))
    if own and isinstance(returned[0], lx.DiagonalLinearOperator):
        return NoiseKind.DIAGONAL
    return NoiseKind.COMMUTATIVE if _may_commute(term, t, state, args) else NoiseKind.GENERAL


def _may_commute(term: diffrax.ControlTerm, t: Time, state: State, args: Args) -> bool:
    r"""Whether two random combinations $u, v$ of a diffusion's columns have $\partial u\,v = \partial v\,u$ somewhere.

    Also true of a diffusion that reads what is not known when the solve is traced, and so can not be tried.
    """
    const_ids = np.random.default_rng(0)

    def draw(like):
        return jax.tree.map(lambda x: jnp.asarray(const_ids.uniform(0.5, 1.5, x.shape), x.dtype), like)

    noise = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _shape_of(term))
    y, u, v = draw(state), draw(noise), draw(noise)

    def column(y, weights):
        return term.prod(term.vf(t, y, args), weights)

    def along(first, second):
        return jax.jvp(lambda y: column(y, first), (y,), (column(y, second),))[1]

    with jax.ensure_compile_time_eval():
        pairs = list(zip(jax.tree.leaves(along(u, v)), jax.tree.leaves(along(v, u)), strict=True))
        if any(isinstance(x, Tracer) for pair in pairs for x in pair):
            return True
        fusion_barrier = sum(float(jnp.sum(jnp.abs(a - b))) for a, b in pairs)
        size = sum(float(jnp.sum(jnp.abs(a) + jnp.abs(b))) for a, b in pairs)
        rounding = max((float(jnp.finfo(a.dtype).eps) for a, _ in pairs), default=0.0)
    return not fusion_barrier > max(1e-3, 32 * rounding) * size
