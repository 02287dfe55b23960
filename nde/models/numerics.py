"""How models are solved: the numerics that each holds, and the one solve that they have in common."""

import dataclasses
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple, TypedDict, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, PyTree

from nde.adjoints import CheckpointAdjoint
from nde.engine import diffeqsolve
from nde.regularise import AbstractRegulariser, solve as solve_regularised
from nde.terms import is_sub
from nde.train import AbstractTallied, tallied, Tally


class Solved(NamedTuple):
    """What a solve gave.

    - `ys`: the states that were asked for, or what a model makes of them.
    - `penalty`: what the regulariser makes of the solve; zero without one.
    - `stats`: numbers of steps and more, of `diffrax.Solution`.
    """

    ys: Any
    penalty: Float[Array, ""]
    stats: dict[str, Any]


class Numerics(AbstractTallied):
    r"""How an equation $dy = f(t, y)\,dx$ is solved: what every model that solves one holds as `numerics`.

    **Arguments of the constructor:**

    - `solver`: a diffrax solver, one of `nde.solvers`, or any of their interface.
    - `controller`: of the step size.
    - `adjoint`: how gradients are made.
    - `dt0`: the first step, or with `diffrax.ConstantStepSize()` every step; positive, whichever way time runs; `None`
      lets the controller choose.
    - `max_steps`: how many steps a solve may take, rejected ones included; more is an error. Static.
    - `steps_per_row`: so many steps of one length from each row of a series to the next, instead of `controller`,
      `dt0` and `max_steps`, for models that a series drives, such as `nde.NeuralCDE`. One midpoint or Heun step a row
      is what neural CDEs are mostly trained with: no step is spent where the path says nothing, none goes past a row,
      and a batch of series on different times takes its steps together. Static.
    - `throw`: whether a solve that fails is an error. If not, its states are NaN from where it failed on, or infinite:
      what a line search needs, which must be able to try a bad point. Static.
    - `tally`: where solves are counted; set by training, for the time of a step: see `nde.train.Tally`.

    Swap one of them by `dataclasses.replace(numerics, solver=diffrax.Dopri8())`, within a model by
    `eqx.tree_at(lambda m: m.solver, model, diffrax.Dopri8())`.
    """

    solver: diffrax.AbstractSolver = diffrax.Tsit5()
    controller: diffrax.AbstractStepSizeController = diffrax.PIDController(rtol=1e-3, atol=1e-6)
    adjoint: diffrax.AbstractAdjoint = CheckpointAdjoint()
    dt0: float | None = None
    max_steps: int = eqx.field(default=4096, static=True)
    throw: bool = eqx.field(default=True, static=True)
    steps_per_row: int | None = eqx.field(default=None, static=True)
    tally: Tally | None = None

    def __check_init__(self) -> None:
        for name, kind, example in (
            ("solver", diffrax.AbstractSolver, "diffrax.Tsit5()"),
            ("controller", diffrax.AbstractStepSizeController, "diffrax.PIDController(rtol=1e-3, atol=1e-6)"),
            ("adjoint", diffrax.AbstractAdjoint, "nde.CheckpointAdjoint()"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"the {name} of nde.Numerics is one such as {example}, but is {_said(self, name)}.")
        if not (self.dt0 is None or isinstance(self.dt0, Real) or eqx.is_array(self.dt0)):
            raise TypeError(f"the dt0 of nde.Numerics is a number or None, but is {_said(self, 'dt0')}.")
        if isinstance(self.dt0, Real) and not 0 < self.dt0 < math.inf:
            raise ValueError(
                f"the dt0 of nde.Numerics is above zero, whichever way time runs, but is {_said(self, 'dt0')}."
            )
        steps = self.max_steps
        if steps is not None and not (isinstance(steps, Integral) and steps > 0):
            raise ValueError(f"the max_steps of nde.Numerics is a whole number above zero, but is {steps!r}.")
        each = self.steps_per_row
        if each is not None and not (isinstance(each, Integral) and not isinstance(each, bool) and each > 0):
            raise ValueError(f"the steps_per_row of nde.Numerics is a whole number above zero, but is {each!r}.")
        if each is not None and self.dt0 is not None:
            raise ValueError("nde.Numerics takes steps_per_row or dt0, and not both.")

    def solve(
        self,
        terms: PyTree[diffrax.AbstractTerm],
        t0: ArrayLike,
        t1: ArrayLike,
        y0: PyTree[Array],
        args: PyTree[Any] = None,
        *,
        saveat: diffrax.SaveAt,
        backward: bool | Bool[Array, ""] = False,
        regulariser: AbstractRegulariser | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solved:
        """The states that `saveat` asks for, of terms solved from `t0` to `t1`.

        **Arguments:** `backward`: whether time runs backward, which turns the sign of `dt0`; `regulariser`: see
        `nde.regularise`, `key`: for one that draws. The others are those of `nde.diffeqsolve`.

        **Raises:** `ValueError` for `steps_per_row`; an error at run time if the solve fails, unless `throw` is false:
        then the penalty is infinite, and so are the states that the solve did not get to.
        """
        if self.steps_per_row is not None:
            raise ValueError(
                "steps_per_row is for models that a series drives, as nde.NeuralCDE; this one needs dt0 or a controller"
                " of its steps."
            )
        where: Any = (terms, self.solver, t0, t1, self._first_step(backward), y0, args)
        options = {
            "saveat": saveat,
            "stepsize_controller": self.controller,
            "adjoint": self.adjoint,
            "max_steps": self.max_steps,
            "throw": self.throw,
        }
        if regulariser is None:
            solution, penalty = diffeqsolve(*where, **options), jnp.zeros((), jnp.result_type(t1))
        else:
            solution, penalty = solve_regularised(regulariser, *where, key=key, **options)
        if self.throw:
            return Solved(self.counted(solution.ys, solution.stats), penalty, solution.stats)
        went = solution.result
        good = (went == diffrax.RESULTS.successful) | (went == diffrax.RESULTS.event_occurred)

        # Rows at times `ts` past the failure are infinite already; a state at the end is where the solve stopped, which
        # looks as good as any other.
        def mark(sub, ys):
            return jax.tree.map(lambda y: jnp.where(good, y, jnp.inf), ys) if sub.t1 else ys

        ys = jax.tree.map(mark, saveat.subs, solution.ys, is_leaf=is_sub)
        return Solved(self.counted(ys, solution.stats), jnp.where(good, penalty, jnp.inf), solution.stats)

    def counted(self, ys: PyTree[Array], stats: dict[str, Any]) -> PyTree[Array]:
        """The states, their solve counted if there is a tally, by the statistics that it came with."""
        evaluations = stats.get("num_field_evaluations")
        numbers = (
            stats["num_accepted_steps"],
            stats["num_rejected_steps"],
            jnp.nan if evaluations is None else evaluations,
        )
        return tallied(ys, self.tally, (1, *numbers))

    def _first_step(self, backward: bool | Bool[Array, ""]) -> Any:
        if self.dt0 is None or backward is False:
            return self.dt0
        return -self.dt0 if backward is True else jnp.where(backward, -self.dt0, self.dt0)


def equal_steps(numerics: Numerics, steps: int, dt0: Any, solver: diffrax.AbstractSolver | None = None) -> Numerics:
    """The numerics with so many steps of `dt0`, by `diffrax.Heun` unless another solver is given."""
    constant = diffrax.ConstantStepSize()
    return dataclasses.replace(
        numerics, solver=solver or diffrax.Heun(), controller=constant, dt0=dt0, max_steps=steps + 2
    )


def at_tolerance(model: Any, tolerance: float) -> Any:
    """The model, its steps as small as a tolerance asks, by its own solver, or Tsit5 if that estimates no error.

    To score, or to draw, what was trained with fixed steps or roughly.
    """
    solver = model.solver if isinstance(model.solver, diffrax.AbstractAdaptiveSolver) else diffrax.Tsit5()
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance, norm=model.error_norm)
    numerics = dataclasses.replace(
        model.numerics, solver=solver, controller=controller, adjoint=CheckpointAdjoint(), dt0=None, max_steps=4096
    )
    return eqx.tree_at(lambda m: m.numerics, model, numerics)


def _said(numerics: Numerics, name: str) -> str:
    value = getattr(numerics, name)
    return f"the class {value.__name__}" if isinstance(value, type) else repr(value)


def over_unit(numerics: Numerics, field: Callable[..., Any], y0: Array, args: PyTree[Any]) -> Array:
    r"""The state at time one of $dy = f(t, y)\,dt$ from time zero: of a gap, or a step, whose length the field holds.

    Where the steps are fixed their number is then known, however long a gap is. Times are of the state's precision.
    """
    t0, t1 = np.array([0.0, 1.0], y0.dtype)
    return numerics.solve(diffrax.ODETerm(field), t0, t1, y0, args, saveat=diffrax.SaveAt(t1=True)).ys[0]


class Keywords(TypedDict, total=False):
    """The members of `nde.Numerics`, as a model's constructor takes them one by one."""

    solver: diffrax.AbstractSolver | None
    controller: diffrax.AbstractStepSizeController | None
    adjoint: diffrax.AbstractAdjoint | None
    dt0: float | None
    max_steps: int
    throw: bool
    steps_per_row: int | None


def numerics_of(model: str, default: Numerics, numerics: Numerics | None, **keywords: Unpack[Keywords]) -> Numerics:
    """The numerics of a model: those given, or its default with what is given by keyword.

    `None` for a solver, a controller or an adjoint is the default one.

    **Raises:** `TypeError`, naming `model`, for a keyword that is none, for `numerics` and keywords together, and for
    `numerics` that are none.
    """
    known = [field.name for field in dataclasses.fields(Numerics) if field.name != "tally"]
    for name in keywords:
        if name not in known:
            raise TypeError(f"{model} has no argument '{name}'; those of its numerics are {', '.join(known)}.")
    if numerics is None:
        optional = ("solver", "controller", "adjoint")
        return dataclasses.replace(default, **{k: x for k, x in keywords.items() if x is not None or k not in optional})
    if keywords:
        raise TypeError(f"{model} takes numerics, or {', '.join(keywords)} by keyword, and not both.")
    if not isinstance(numerics, Numerics):
        raise TypeError(f"the numerics of {model} are a nde.Numerics, but are {numerics!r}.")
    return numerics


class AbstractSolvingModel(eqx.Module):
    """A model that solves an equation: it holds `numerics`, whose members are to be read, and swapped, as its own."""

    numerics: eqx.AbstractVar[Numerics]

    @property
    def error_norm(self) -> Callable[[Any], Any]:
        """The norm of its error, as a controller takes it."""
        return optx.rms_norm

    @property
    def solver(self) -> diffrax.AbstractSolver:
        """The solver of its numerics."""
        return self.numerics.solver

    @property
    def controller(self) -> diffrax.AbstractStepSizeController:
        """What chooses the step size."""
        return self.numerics.controller

    @property
    def adjoint(self) -> diffrax.AbstractAdjoint:
        """How gradients are made."""
        return self.numerics.adjoint

    @property
    def dt0(self) -> float | None:
        """The first step, or every step."""
        return self.numerics.dt0

    @property
    def max_steps(self) -> int:
        """How many steps a solve may take."""
        return self.numerics.max_steps

    @property
    def throw(self) -> bool:
        """Whether a solve that fails is an error."""
        return self.numerics.throw
