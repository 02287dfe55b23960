"""One step of a solver, in the form that the loops want it."""

import abc
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from diffrax import RESULTS

from nde.engine.apart import apart
from nde.solvers import add, combine, increment, run_stages, traits_of


class Step(NamedTuple):
    """What a step gives.

    - `y`: the state at the step's end.
    - `solver_state`: the kernel's own.
    - `error`: the embedded estimate of the step's error, shaped like `y`, or `None`.
    - `dense`: what `solver.interpolation_cls` takes beside the step's ends.
    - `result`: a `diffrax.RESULTS`.
    """

    y: Any
    solver_state: Any
    error: Any
    dense: dict[str, Any]
    result: RESULTS


class AbstractKernel(abc.ABC):
    """A solver, its terms and `args`, as steps from a time to a time."""

    @abc.abstractmethod
    def enter(self, t0, t1, y, solver_state, made_jump) -> Any:
        """The kernel's state at the start, from the solver's."""

    @abc.abstractmethod
    def step(self, t0, t1, y, solver_state, made_jump, truth=None) -> Step:
        """One step.

        `made_jump`: `None`, or whether the field has jumped since the last one; `truth`: `None`, or what keeps stages
        apart, see `nde.engine.apart`.
        """

    @abc.abstractmethod
    def leave(self, solver_state, entered, moved) -> Any:
        """The solver's state at the end; `entered` is what it was at the start, `moved` whether a step was accepted."""

    @abc.abstractmethod
    def may_fail(self, t0, t1, y, solver_state) -> bool:
        """Whether a step's result may be other than a success."""

    def count_evaluations(self, steps) -> Any:
        """Evaluations of the field (of an SDE, the drift) in so many steps; `None` where the method does not fix it."""
        del steps

    # What only a kernel with heuristics has: see `nde.engine.heuristics`.

    def sums(self, solver_state) -> Any:
        """The sums of the heuristics, `None` where there are none."""
        del solver_state

    def last(self, solver_state) -> Any:
        """The heuristics of the last step, of one example or a batch; `None` where there are none."""
        del solver_state

    def watch_back(self, way_back: Any) -> Any:
        """A reversible method's way back, with the heuristics."""
        return way_back


class SolverKernel(AbstractKernel):
    """Any solver by its own `step`."""

    def __init__(self, solver, terms, args):
        self.solver, self.terms, self.args = solver, terms, args

    def enter(self, t0, t1, y, solver_state, made_jump):
        del t0, t1, y, made_jump
        return solver_state

    def step(self, t0, t1, y, solver_state, made_jump, truth=None):
        del truth
        jump = False if made_jump is None else made_jump
        y1, error, dense, state, result = self.solver.step(self.terms, t0, t1, y, self.args, solver_state, jump)
        return Step(y1, state, error, dense, result)

    def leave(self, solver_state, entered, moved):
        del entered, moved
        return solver_state

    def may_fail(self, t0, t1, y, solver_state):
        traced = []

        def probe():
            traced.append(self.step(t0, t1, y, solver_state, None).result.is_traced())

        jax.eval_shape(probe)
        return traced[0]

    def count_evaluations(self, steps):
        known = traits_of(self.solver)
        return None if known.evaluations is None else steps * known.evaluations + known.first_evaluations


class ExplicitKernel(AbstractKernel):
    r"""An explicit Runge–Kutta method, unrolled from its Butcher tableau.

    $$y_i = y_0 + \sum_{j<i} a_{ij} k_j, \quad k_i = f(t_0 + c_i h, y_i)\,\Delta x, \quad
    y_1 = y_0 + \sum_i b_i k_i, \quad e = \sum_i \hat b_i k_i$$

    with $\Delta x$ the control of the term over the step (for an ODE its length $h$), held over all stages. Where the
    last stage is the first of the next step (FSAL), its field value is the kernel's state.
    """

    def __init__(self, tableau: Any, terms, args, fsal: bool, is_cheap: bool):
        self.tableau, self.terms, self.args, self.fsal, self.is_cheap = tableau, terms, args, fsal, is_cheap

    def enter(self, t0, t1, y, solver_state, made_jump):
        del t1
        if not self.fsal:
            return solver_state
        first, f = solver_state
        stale = first if made_jump is None else first | made_jump
        y = jax.tree.map(lambda x: jnp.where(jnp.isnan(x), 0, x), y)  # so that a masked NaN has no NaN for a gradient
        return jax.tree.map(lambda new, old: jnp.where(stale, new, old), self.terms.vf(t0, y, self.args), f)

    def step(self, t0, t1, y, solver_state, made_jump, truth=None):
        terms, args, tableau = self.terms, self.args, self.tableau
        truth = truth if self.is_cheap else None
        first = None
        if self.fsal:
            first = solver_state
            if made_jump is not None:
                first = jax.lax.cond(made_jump, lambda: terms.vf(t0, y, args), lambda: solver_state)
        evaluate = functools.partial(apart, truth)
        ks, last = run_stages(tableau, terms, args, t0, t1, y, terms.contr(t0, t1), first, evaluate)
        y1 = add(y, increment(tableau, ks))
        error = combine(tableau.b_error, ks)
        dense = {"y0": y, "y1": y1, "k": jax.tree.map(lambda *k: jnp.stack(k), *ks)}
        return Step(y1, last if self.fsal else solver_state, error, dense, RESULTS.successful)

    def leave(self, solver_state, entered, moved):
        return (entered[0] & ~moved, solver_state) if self.fsal else solver_state

    def may_fail(self, t0, t1, y, solver_state):
        del t0, t1, y, solver_state
        return False

    def count_evaluations(self, steps):
        saved = int(self.fsal)
        return steps * (self.tableau.num_stages - saved) + saved


def any_nonfinite(tree) -> jax.Array:
    """Whether a tree holds an infinity or a NaN."""
    return jnp.any(jnp.stack([jnp.any(~jnp.isfinite(x)) for x in jax.tree.leaves(tree)] or [jnp.asarray(False)]))
