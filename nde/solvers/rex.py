"""A reversible solver of semilinear equations, as those of diffusion models."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from nde.solvers.inverse_step import AbstractInverseStep, EvaluateWithVJP, InverseStepResult, SubFunction
from nde.solvers.lawson import Lawson
from nde.solvers.new_variables import NewVariables, points_of, PointsInterpolation
from nde.solvers.reversible import Reversible
from nde.solvers.traits import SolverTraits
from nde.types import Args, ScalarLike, SolverState, State, Terms


class Rex(diffrax.AbstractWrappedSolver):
    r"""A reversible exponential Runge–Kutta method, for equations $\mathrm d(x / m) = f\,\mathrm ds\;(+\,\mathrm dW)$.

    A step goes from $x_n$ to $y_n = x_n / m(t_n)$, takes one of `nde.Reversible` in the time $s$ over the equation
    $\mathrm dy = f(t(s), m y)\,\mathrm ds\;(+\,\mathrm dW_\tau)$, whose linear part is gone,

    $$y_{n+1} = \lambda y_n + (1 - \lambda) z_n + \Psi_{\Delta s}(s_n, z_n), \qquad
    z_{n+1} = z_n - \Psi_{-\Delta s}(s_{n+1}, y_{n+1}), \qquad z_0 = y_0,$$

    and comes back to $x_{n+1} = m(t_{n+1})\,y_{n+1}$. So the linear part is solved exactly, every step can be undone,
    and `nde.ReversibleAdjoint` keeps no states. Order, error estimate and stability are those of `Reversible` for
    the equation in $y$ and $s$. Its own state is $z_n$. Dense output is the polynomial in $t$ through six points of
    each step, where that of `Reversible` is taken from $y$ to $x$.

    **Arguments:** `solver`: an explicit Runge–Kutta method (`diffrax.AbstractERK`) or `diffrax.Euler`; `coupling`:
    $\lambda$, in (0, 1]. The terms are one `nde.terms.SemilinearTerm`, as `nde.diffusion_model_term` makes
    it.

    **Raises:** `ValueError` for another solver, coupling or term.

    **Limits:** a step costs twice the evaluations of the wrapped method. The steps are those of the solve, in $t$:
    even ones are not even in $s$, and those even in $s$ are `diffrax.StepTo` of $t(s)$; where a controller knows
    nothing of $s$, a late step of a sampler may be far too long in $\gamma$. For an SDE the noise enters the stages as
    an increment alone, so that the strong order is at most 1: methods that use the area of a path are not wrapped.
    What damps the equation in $y$ and $s$ costs stability: see the limits of `nde.Reversible`. For normal data of
    variance $v$ it is $\mathrm dy / \mathrm d\gamma = y\,v\gamma / (1 + v\gamma^2)$ by the data prediction, which grows
    while it samples, and $\mathrm dy / \mathrm d\chi = y\,\chi / (v + \chi^2)$, $\chi = \gamma^{-1}$, by the noise
    prediction, which is then damped, $y - z$ growing by up to $\sqrt{(v + \chi_0^2) / (v + \chi_1^2)}$. So the data
    prediction is the one to sample with, and the noise prediction the one to encode with.

    **Source:** Blasingame & Liu, *Rex: A family of reversible exponential (stochastic) Runge–Kutta solvers*, 2025,
    arXiv 2502.08834; the coupling: McCallum & Foster, 2024, arXiv 2410.11648; integrating factors: Lawson,
    *Generalized Runge–Kutta processes for stable systems with large Lipschitz constants*, 1967.
    """

    solver: diffrax.AbstractSolver
    coupling: float = eqx.field(default=0.999, static=True)

    def __check_init__(self):
        _ = self.reversible  # raises

    @property
    def reversible(self) -> Reversible:
        """The method in the variables in which the linear part is gone."""
        return Reversible(self.solver, self.coupling)

    @property
    def term_structure(self):
        """One term."""
        return diffrax.AbstractTerm

    @property
    def interpolation_cls(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """A polynomial through points of the step."""
        return PointsInterpolation

    @property
    def scan_kind(self) -> str:
        """Not `None`, which diffrax would replace: there is no scan over stages here."""
        return "none"

    def traits(self) -> SolverTraits:
        """Those of `nde.Reversible`, but for its dense output, which holds points."""
        return self.reversible.traits()._replace(stages=None, inverse=self.inverse_step)

    def order(self, terms: Terms):
        """The wrapped solver's order for ODEs."""
        return self.solver.order(terms)

    def strong_order(self, terms: Terms):
        """The wrapped solver's strong order for SDEs."""
        return self.solver.strong_order(terms)

    def error_order(self, terms: Terms):
        """The order of the wrapped solver's estimate of its error."""
        return self.solver.error_order(terms)

    def init(self, terms: Terms, t0: ScalarLike, t1: ScalarLike, y0: State, args: Args):
        """$z_0 = y_0$."""
        NewVariables(terms, "Rex")  # raises
        return self._forward.init(terms, t0, t1, y0, args)

    def step(
        self,
        terms: Terms,
        t0: ScalarLike,
        t1: ScalarLike,
        y0: State,
        args: Args,
        solver_state: SolverState,
        made_jump: Any,
    ):
        """One step; there is nothing that a jump could make stale."""
        return self._forward.step(terms, t0, t1, y0, args, solver_state, made_jump)

    @property
    def _forward(self) -> Lawson:
        """The method without its way back."""
        return Lawson(self.reversible)

    def func(self, terms: Terms, t0: ScalarLike, y0: State, args: Args):
        """The field."""
        return terms.vf(t0, y0, args)

    def inverse_step(self, terms: Terms, args: Args) -> AbstractInverseStep:
        """How its steps are taken back."""
        return _RexInverse(self, terms, args)


class _RexInverse(AbstractInverseStep):
    """That of `Reversible`, between the changes to its variables and back; the reverse state is $(x_n, z_n)$."""

    def __init__(self, solver: Rex, terms: Terms, args: Args):
        self.reversible, self.lawson = solver.reversible, NewVariables(terms)
        self.inner = self.reversible.inverse_step(self.lawson.term, args)

    def sub_functions(self, t0: ScalarLike, t1: ScalarLike, y: State, solver_state: SolverState):
        lawson = self.lawson
        s0, s1 = lawson.clock(t0), lawson.clock(t1)
        inner = self.inner.sub_functions(s0, s1, solver_state, solver_state)
        dense = jax.eval_shape(inner["inside"].function, *inner["inside"].examples)[1]
        dense = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dense)
        dense = {"y0": solver_state, "y1": solver_state, "inner": dense}

        def in_clock(part):
            def function(t0: ScalarLike, t1: ScalarLike, *arguments):
                return part.function(lawson.clock(t0), lawson.clock(t1), *arguments)

            return SubFunction(function, (t0, t1, *part.examples[2:]))

        return {name: in_clock(part) for name, part in inner.items()} | {
            "into": SubFunction(lambda t0, t1, x: lawson.into(t0, x), (t0, t1, y)),
            "out of": SubFunction(lambda t0, t1, y: lawson.out_of(t0, y), (t0, t1, solver_state)),
            "points": SubFunction(
                lambda t0, t1, dense: points_of(lawson, self.reversible, t0, t1, dense), (t0, t1, dense)
            ),
        }

    def init_reverse(self, call: EvaluateWithVJP, t0: ScalarLike, t1: ScalarLike, y: State, solver_state: SolverState):
        del call, t0, t1
        return y, solver_state

    def step_back(
        self, call: EvaluateWithVJP, t0: ScalarLike, t1: ScalarLike, reverse_state: Any, inside: bool
    ) -> InverseStepResult:
        x1, z1 = reverse_state
        y1 = call("into", t1, t1, x1)[0]
        _, pull_out = call("out of", t1, t1, y1)
        step = self.inner.step_back(call, t0, t1, (y1, z1), inside)
        y0, z0 = step.reverse_state
        x0 = call("out of", t0, t0, y0)[0]
        _, pull_in = call("into", t0, t0, x0)
        points, pull_points = call("points", t0, t1, step.dense) if inside else (None, None)

        def pull(x1_ct, z1_ct, dense_ct: Any):
            t0_ct, t1_ct, y_dense_ct = 0.0, 0.0, None
            if pull_points is not None:
                t0_ct, t1_ct, y_dense_ct = pull_points(dense_ct["points"])
            end_ct, more_ct, y1_ct = pull_out(x1_ct)
            t0_step, t1_step, y0_ct, z0_ct = step.pull(y1_ct, z1_ct, y_dense_ct)
            start_ct, begin_ct, x0_ct = pull_in(y0_ct)
            return t0_ct + t0_step + start_ct + begin_ct, t1_ct + t1_step + end_ct + more_ct, x0_ct, z0_ct

        return InverseStepResult(x1, {"points": points} if inside else None, (x0, z0), pull, (x0, z0))
