"""Stochastic Runge–Kutta methods, unrolled."""

from collections.abc import Sequence
from typing import Any, Protocol

import diffrax
import jax
import jax.numpy as jnp
from diffrax import RESULTS
from jaxtyping import PyTree

from nde.solvers import add, combine, stage_time
from nde.steppers.base import AbstractStepper, Step
from nde.types import Args, SolverState, State, Time

AREAS = ("W", "H", "K")


class StochasticRKStepper(AbstractStepper):
    r"""A stochastic Runge–Kutta method (`diffrax.AbstractSRK`), unrolled from its tableau.

    $$z_j = y_0 + \sum_{i<j} \bigl( a_{ji} f_i\,h + a^W_{ji} g_i W + a^H_{ji} g_i H + a^K_{ji} g_i K \bigr), \quad
    f_j = f(t_0 + c_j h, z_j), \quad g_j = g(t_0 + c_j h, z_j),$$

    and the end and the estimate of the error are such sums with $b$ and $\hat b$; the increment W and the areas H and
    K are those of the step. For an additive-noise tableau $g$ is evaluated at the step's ends only, and each stage has
    one multiple of W, H and K. Stages whose drift or diffusion the tableau ignores do not evaluate it.

    Backward in time the drift's control is $-h$, and the reversed path has the increment $-W$ and the areas $H$ and
    $-K$. diffrax 0.7.2 takes $h$ and $-H$ there.

    **Source:** Foster, dos Reis & Strange, *High order splitting methods for SDEs satisfying a commutativity
    condition*, 2023, arXiv 2210.17543, section 6; the time-dependent additive noise: diffrax 0.7.2, `AbstractSRK`.
    """

    def __init__(self, solver: diffrax.AbstractSRK, terms: diffrax.MultiTerm, args: Args):
        self.tableau: Any = solver.tableau
        self.drift, self.diffusion = terms.terms
        self.args = args
        coefficients = (self.tableau.coeffs_w, self.tableau.coeffs_hh, self.tableau.coeffs_kk)
        self.coefficients = [each for each in coefficients if each is not None]
        stages = len(self.tableau.b_sol)
        self.has_f = _not(self.tableau.ignore_stage_f, stages)
        self.has_g = _not(self.tableau.ignore_stage_g, stages)

    def init_state(self, t0: Time, t1: Time, y: State, solver_state: SolverState, made_jump: jax.Array | None):
        del t0, t1, y, made_jump
        return solver_state

    def step(
        self,
        t0: Time,
        t1: Time,
        y: State,
        solver_state: SolverState,
        made_jump: jax.Array | None,
        opaque_true: jax.Array | None = None,
    ):
        del made_jump, opaque_true
        tableau, drift, args = self.tableau, self.drift, self.args
        times = [stage_time(float(c), t0, t1, t1 - t0) for c in (0.0, *tableau.c)]
        h, areas = drift.contr(t0, t1), self._areas(t0, t1)
        kind = _AdditiveNoise if tableau.is_additive_noise() else _GeneralNoise
        noise: _Noise = kind(self, t0, t1, y, areas)
        fs = []
        for j, (t, row) in enumerate(zip(times, ((), *tableau.a), strict=True)):
            z = _sum(y, _weighted(row, fs), noise.at_stage(j))
            fs.append(_as(drift.vf_prod(t, z, args, h), y) if self.has_f[j] else None)
            if self.has_g[j]:
                noise.add_stage(j, t, z)
        y1 = _sum(y, _weighted(tableau.b_sol, fs), noise.over_step())
        error = None
        if tableau.b_error is not None:
            error = _sum(jax.tree.map(jnp.zeros_like, y), _weighted(tableau.b_error, fs), noise.error())
        return Step(y1, solver_state, error, {"y0": y, "y1": y1}, RESULTS.successful)

    def _areas(self, t0: Time, t1: Time) -> list[State]:
        """The step's increment W and areas H and K, as many of them as the tableau has coefficients for.

        Their `dt` is negative in a solve backward in time, whose terms multiply the whole increment by -1: H too, which
        is one and the same for a path and its reverse.
        """
        found = self.diffusion.contr(t0, t1, use_levy=True)
        areas = [getattr(found, name) for name in AREAS[: len(self.coefficients)]]
        if len(areas) > 1:
            areas[1] = jax.tree.map(lambda dt, h: jnp.where(dt < 0, -h, h), found.dt, areas[1])
        return areas

    def products(self, g: PyTree[Any], areas: Sequence[State], y: State) -> list[State]:
        """The diffusion times W, H and K."""
        return [_as(self.diffusion.prod(g, area), y) for area in areas]

    def final_state(self, solver_state: SolverState, initial_solver_state: SolverState, moved: jax.Array):
        del initial_solver_state, moved
        return solver_state

    def can_fail(self, t0: Time, t1: Time, y: State, solver_state: SolverState):
        del t0, t1, y, solver_state
        return False

    def count_evaluations(self, steps: jax.Array):
        return steps * sum(self.has_f)


class _Noise(Protocol):
    """What the noise adds to the stages of a step, to its end and to its error; `None` for nothing."""

    def at_stage(self, j: int) -> State | None: ...

    def add_stage(self, j: int, t: Time, z: State) -> None: ...

    def over_step(self) -> State | None: ...

    def error(self) -> State | None: ...


class _AdditiveNoise:
    r"""What noise $g(t)\,dW$ adds: multiples of $g(t_0) W$ and so on, and at the end what $g$ changes by.

    $\int g\,dW = g(t_0) W + (g(t_1) - g(t_0)) (\tfrac12 W - H)$ for a $g$ that is linear in time.
    """

    def __init__(self, stepper: StochasticRKStepper, t0: Time, t1: Time, y: State, areas: list[State]):
        self.coefficients = stepper.coefficients
        g0, g1 = (stepper.diffusion.vf(t, y, stepper.args) for t in (t0, t1))
        self.products = stepper.products(g0, areas, y)
        half = [0.5, -1.0][: len(areas)]
        at_mean = jax.tree.map(lambda *x: sum(w * v for w, v in zip(half, x, strict=True)), *areas[:2])
        (late,), (early,) = stepper.products(g1, [at_mean], y), stepper.products(g0, [at_mean], y)
        self.change = jax.tree.map(jnp.subtract, late, early)

    def at_stage(self, j: int):
        return _weighted([each.a[j] for each in self.coefficients], self.products)

    def add_stage(self, j: int, t: Time, z: State) -> None:
        del j, t, z

    def over_step(self):
        return _sum(self.change, _weighted([each.b_sol for each in self.coefficients], self.products))

    def error(self):
        return None


class _GeneralNoise:
    """What any noise adds: each stage's diffusion times W, H and K, for each of these a list over stages."""

    def __init__(self, stepper: StochasticRKStepper, t0: Time, t1: Time, y: State, areas: list[State]):
        del t0, t1
        self.stepper, self.areas, self.y = stepper, areas, y
        self.products: list[list[Any]] = [[None] * len(stepper.has_g) for _ in areas]

    def at_stage(self, j: int):
        rows = [each.a[j - 1] if j else () for each in self.stepper.coefficients]
        return self._total(rows)

    def add_stage(self, j: int, t: Time, z: State) -> None:
        stepper = self.stepper
        if stepper.diffusion.is_vf_expensive(t, t, z, stepper.args):
            found = [_as(stepper.diffusion.vf_prod(t, z, stepper.args, area), self.y) for area in self.areas]
        else:
            found = stepper.products(stepper.diffusion.vf(t, z, stepper.args), self.areas, self.y)
        for products, product in zip(self.products, found, strict=True):
            products[j] = product

    def over_step(self):
        return self._total([each.b_sol for each in self.stepper.coefficients])

    def error(self):
        return self._total([each.b_error for each in self.stepper.coefficients])

    def _total(self, rows: Sequence[Sequence[float]]) -> State | None:
        parts = [_weighted(row, ks[: len(row)]) for row, ks in zip(rows, self.products, strict=True)]
        parts = [part for part in parts if part is not None]
        return _sum(*parts) if parts else None


def _not(ignored: Sequence[bool] | None, stages: int) -> list[bool]:
    return [True] * stages if ignored is None else [not x for x in ignored]


def _weighted(weights: Sequence[float], ks: Sequence[State | None]) -> State | None:
    """Σ w k over trees, those that are `None` counting as zeros; `None` if nothing is left."""
    used = [(w, k) for w, k in zip(weights, ks, strict=True) if w != 0 and k is not None]
    return combine(*zip(*used, strict=True)) if used else None


def _sum(first: State, *more: State | None) -> State:
    """The sum of trees, without those that are `None`."""
    for each in more:
        first = first if each is None else add(first, each)
    return first


def _as(tree: State, y: State) -> State:
    """A tree with the dtypes of `y`, which the loops keep."""
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), tree, y)
