"""Any explicit method made reversible."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import RESULTS

from nde.solvers.explicit import add, combine, increment, run_stages
from nde.solvers.inverse_step import AbstractInverseStep, EvaluateWithVJP, InverseStepResult, SubFunction
from nde.solvers.traits import SolverTraits, Stages, traits_of
from nde.terms import brownian_terms, Interpretation, reads_state
from nde.types import Args, ScalarLike, SolverState, State, Terms


class Reversible(diffrax.AbstractWrappedSolver):
    r"""An explicit method $\Psi$ made algebraically reversible: two solutions that take turns,

    $$y_{n+1} = \lambda y_n + (1 - \lambda) z_n + \Psi_h(t_n, z_n), \qquad
    z_{n+1} = z_n - \Psi_{-h}(t_{n+1}, y_{n+1}), \qquad z_0 = y_0,$$

    with $\Psi_h(t, y)$ the increment of a step of the wrapped method. Each line is solved for what stood before,

    $$z_n = z_{n+1} + \Psi_{-h}(t_{n+1}, y_{n+1}), \qquad
    y_n = \bigl(y_{n+1} - (1 - \lambda) z_n - \Psi_h(t_n, z_n)\bigr) / \lambda,$$

    so that `nde.ReversibleAdjoint` keeps no states. It has the order of the wrapped method, takes its embedded
    estimate for the error of a step, that of $\Psi_h(t_n, z_n)$, and its dense output, shifted to meet $y_n$ and
    $y_{n+1}$. Its own state is $z_n$. For an SDE the step back over an interval takes the negative of its increment.

    **Arguments:** `solver`: an explicit Runge–Kutta method (`diffrax.AbstractERK`) or `diffrax.Euler`; `coupling`:
    $\lambda$, in (0, 1].

    **Raises:** `ValueError` for another solver or coupling; and, when it is used with noise that depends on the state,
    for a method that converges to the Itô solution: $z$ would take it at the end of each step, which is not Itô's.
    Methods that converge to the Stratonovich solution are right forward and backward.

    **Limits:** a step costs twice the evaluations of the wrapped method, and none is shared between steps. What is
    gained in memory is paid in stability. For $y' = \mu y$ the difference $y - z$ is multiplied by about
    $\lambda e^{-\mu h}$ in a step: where the solution is damped, the difference grows. So the method is stable for
    $\mu h$ from about $-(1 - \lambda)$ to 0 on the real axis, whatever $\Psi$: to -0.001 at $\lambda = 0.999$, to -0.1
    at 0.9. On the imaginary axis it grows by less than 1e-9 a step up to $0.67 i$ for Tsit5, $0.08 i$ for Heun at
    $\lambda = 0.999$. (`nde.solvers.reversible.amplification` computes it.) Elsewhere the difference,
    at first of the size of the local errors, grows by $\lambda^N e^{|\mu| T}$ over $N$ steps: harmless over a short
    time, a failure over a long one. Damped and stiff equations want a smaller $\lambda$, and short steps.

    Back in time it is the other way about: the difference grows by $1/\lambda$ in a step where nothing is damped, and
    with it rounding errors, by some $\lambda^{-N}$ over $N$ steps: 2.7 for 1000 steps and 22 000 for 10 000 at
    $\lambda = 0.999$; and a damped equation itself makes them grow, by $e^{|\mu| T}$.

    **Source:** McCallum & Foster, *Efficient, accurate and stable gradients for neural ODEs*, 2024, arXiv 2410.11648;
    it treats ODEs and shows convergence and a region of stability; the figures above are computed here.
    """

    solver: diffrax.AbstractSolver
    coupling: float = eqx.field(default=0.999, static=True)

    def __check_init__(self):
        if traits_of(self.solver).tableau is None:
            raise ValueError(
                "Reversible wraps an explicit Runge-Kutta method, as diffrax.Tsit5, or diffrax.Euler, but got "
                f"{type(self.solver).__name__}."
            )
        if not 0 < self.coupling <= 1:
            raise ValueError(f"Reversible: coupling must lie in (0, 1], but got {self.coupling}.")

    @property
    def term_structure(self):
        """That of the wrapped solver."""
        return self.solver.term_structure

    @property
    def interpolation_cls(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """The wrapped solver's dense output, shifted to meet a step's ends."""
        return Shifted(self.solver.interpolation_cls)

    @property
    def scan_kind(self) -> str:
        """Not `None`, which diffrax would replace: there is no scan over stages here."""
        return "none"

    def traits(self) -> SolverTraits:
        """Those of the wrapped solver as for its solution, and a step that can be taken back."""
        inner = traits_of(self.solver)
        stages = inner.stages and Stages(inner.tableau, lambda dense: dense["inner"]["k"])
        evaluations = 2 * inner.tableau.num_stages - inner.tableau.ssal
        return SolverTraits(evaluations, noise=inner.noise, stages=stages, inverse=self.inverse_step)

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
        if Interpretation.ITO in traits_of(self.solver).interpretations:
            _refuse_state_dependent_noise(self.solver, terms, t0, y0, args)
        return y0

    def step(
        self,
        terms: Terms,
        t0: ScalarLike,
        t1: ScalarLike,
        y0: State,
        args: Args,
        solver_state: SolverState,
        made_jump: ScalarLike,
    ):
        """One step; there is nothing that a jump could make stale."""
        del made_jump
        dx = terms.contr(t0, t1)
        z0 = solver_state
        psi, error, inner = self.ahead(terms, args, t0, t1, z0, dx)
        y1 = jax.tree.map(lambda y, z, p: self.coupling * y + (1 - self.coupling) * z + p, y0, z0, psi)
        z1 = jax.tree.map(jnp.subtract, z0, self.behind(terms, args, t1, t0, y1, _negative(dx)))
        if not isinstance(self.solver, diffrax.AbstractAdaptiveSolver):
            error = None
        return y1, error, {"y0": y0, "y1": y1, "inner": inner}, z1, RESULTS.successful

    def func(self, terms: Terms, t0: ScalarLike, y0: State, args: Args):
        """The field."""
        return terms.vf(t0, y0, args)

    def ahead(
        self, terms: Terms, args: Args, t0: ScalarLike, t1: ScalarLike, z: State, dx: State
    ) -> tuple[Any, Any, Any]:
        r"""$\Psi_h(t_0, z)$ with the control `dx`, the estimate of its error, and its dense output."""
        tableau: Any = traits_of(self.solver).tableau
        ks = run_stages(tableau, terms, args, t0, t1, z, dx).ks
        psi = increment(tableau, ks)
        dense = {"y0": z, "y1": add(z, psi)}
        if isinstance(self.solver, diffrax.AbstractERK):
            dense["k"] = jax.tree.map(lambda *k: jnp.stack(k), *ks)
        return psi, combine(tableau.b_error, ks), dense

    def behind(self, terms: Terms, args: Args, t1: ScalarLike, t0: ScalarLike, y: State, dx: State) -> Any:
        r"""$\Psi_{-h}(t_1, y)$ with the control `dx` from `t1` back to `t0`."""
        tableau: Any = traits_of(self.solver).tableau
        return increment(tableau, run_stages(tableau, terms, args, t1, t0, y, dx).ks)

    def inverse_step(self, terms: Terms, args: Args) -> AbstractInverseStep:
        """How its steps are taken back."""
        return _ReversibleInverse(self, terms, args)


def _refuse_state_dependent_noise(
    solver: diffrax.AbstractSolver, terms: Terms, t: ScalarLike, y: State, args: Args
) -> None:
    if any(reads_state(term, t, y, args) for term, _ in brownian_terms(terms)):
        name = type(solver).__name__
        raise ValueError(
            f"Reversible({name}()) was given noise that depends on the state, but {name} converges to the Itô "
            "solution, which is another one backward in time. Wrap a Stratonovich method, as "
            "Reversible(diffrax.Heun()), with the equation in Stratonovich form, or make the noise "
            "independent of the state."
        )


class _ReversibleInverse(AbstractInverseStep):
    """The reverse state is $(y_n, z_n)$."""

    def __init__(self, solver: Reversible, terms: Terms, args: Args):
        self.solver, self.terms, self.args = solver, terms, args

    def sub_functions(self, t0: ScalarLike, t1: ScalarLike, y: State, solver_state: SolverState):
        solver, terms, args = self.solver, self.terms, self.args
        dx = jax.eval_shape(terms.contr, t0, t1)
        dx = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dx)

        def inside(t0: ScalarLike, t1: ScalarLike, z: State, dx: State):
            psi, _, dense = solver.ahead(terms, args, t0, t1, z, dx)
            return psi, dense

        return {
            "control": SubFunction(terms.contr, (t0, t1)),
            "increment": SubFunction(lambda *x: solver.behind(terms, args, *x), (t0, t1, solver_state, dx)),
            "inside": SubFunction(inside, (t0, t1, solver_state, dx)),
        }

    def init_reverse(self, call: EvaluateWithVJP, t0: ScalarLike, t1: ScalarLike, y: State, solver_state: SolverState):
        del call, t0, t1
        return y, solver_state

    def step_back(
        self, call: EvaluateWithVJP, t0: ScalarLike, t1: ScalarLike, reverse_state: Any, inside: bool
    ) -> InverseStepResult:
        y1, z1 = reverse_state
        coupling = self.solver.coupling
        dx, pull_dx = call("control", t0, t1)
        back, pull_back = call("increment", t1, t0, y1, _negative(dx))
        z0 = add(z1, back)
        if inside:
            (psi, inner), pull_ahead = call("inside", t0, t1, z0, dx)
        else:
            (psi, pull_ahead), inner = call("increment", t0, t1, z0, dx), None
        y0 = jax.tree.map(lambda y, z, p: (y - (1 - coupling) * z - p) / coupling, y1, z0, psi)
        dense = {"y0": y0, "y1": y1, "inner": inner} if inside else None

        def pull(y1_ct: State, z1_ct, dense_ct: Any):
            if inside:
                y1_ct = add(y1_ct, dense_ct["y1"])
            t1_ct, t0_ct, more, dx_ct = pull_back(_negative(z1_ct))
            y1_ct = add(y1_ct, more)
            t0_more, t1_more, more, dx_more = pull_ahead((y1_ct, dense_ct["inner"]) if inside else y1_ct)
            z0_ct = jax.tree.map(lambda z, y, m: z + (1 - coupling) * y + m, z1_ct, y1_ct, more)
            y0_ct = jax.tree.map(lambda y: coupling * y, y1_ct)
            if inside:
                y0_ct = add(y0_ct, dense_ct["y0"])
            t0_last, t1_last = pull_dx(jax.tree.map(jnp.subtract, dx_more, dx_ct))
            return t0_ct + t0_more + t0_last, t1_ct + t1_more + t1_last, y0_ct, z0_ct

        return InverseStepResult(y1, dense, (y0, z0), pull, (y0, z0))


class Shifted(eqx.Module):
    """Makes dense output of a step's ends, `y0` and `y1`, and the `inner` dense output, which `make` takes."""

    make: Callable = eqx.field(static=True)

    def __call__(self, *, t0: ScalarLike, t1: ScalarLike, y0: State, y1: State, inner) -> "ShiftedInterpolation":
        """The interpolation of one step."""
        return ShiftedInterpolation(t0, t1, y0, y1, self.make(t0=t0, t1=t1, **inner))


class ShiftedInterpolation(diffrax.AbstractLocalInterpolation):
    r"""Dense output $p$ with its errors at both ends taken off along a line:
    $p(t) + (1 - s)\,(y_0 - p(t_0)) + s\,(y_1 - p(t_1))$, $s = (t - t_0)/(t_1 - t_0)$.
    """

    t0: Any
    t1: Any
    y0: Any
    y1: Any
    inner: diffrax.AbstractLocalInterpolation

    def evaluate(self, t0: ScalarLike, t1: ScalarLike | None = None, left=True):
        """The state at `t0`, or the increment from `t0` to `t1`."""
        del left
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        span = self.t1 - self.t0
        s = jnp.where(span == 0, 0, t0 - self.t0) / jnp.where(span == 0, 1, span)
        at = self.inner.evaluate

        def shift(p, y0: State, p0, y1: State, p1):
            r = s.astype(p.dtype)  # times may have another dtype than the state
            return p + ((1 - r) * (y0 - p0) + r * (y1 - p1))

        return jax.tree.map(shift, at(t0), self.y0, at(self.t0), self.y1, at(self.t1))


def amplification(solver: diffrax.AbstractSolver, coupling: float, z: Any) -> np.ndarray:
    r"""The spectral radius of one step of `Reversible(solver, coupling)` on $y' = \mu y$, at $z = \mu h$.

    With $P(z)$ the increment of the wrapped method, $R(z) = 1 + P(z)$, the pair $(y, z)$ is multiplied by

    $$\begin{pmatrix} \lambda & 1 - \lambda + P(z) \\ -\lambda P(-z) & 1 - P(-z)(1 - \lambda + P(z)) \end{pmatrix}.$$

    **Arguments:** `z`: complex numbers. **Returns:** of the same shape; at most 1 where the method is stable.
    """
    tableau: Any = traits_of(solver).tableau
    z = np.asarray(z, complex)

    def p(z: State):
        ks = [z]
        for row in tableau.a_lower:
            ks.append(z * (1 + combine(row, ks)))
        return increment(tableau, ks)

    ahead, behind = 1 - coupling + p(z), p(-z)
    trace, determinant = coupling + 1 - behind * ahead, coupling
    root = np.sqrt(trace**2 / 4 - determinant)
    return np.maximum(np.abs(trace / 2 + root), np.abs(trace / 2 - root))


def _negative(tree: Any) -> Any:
    return jax.tree.map(jnp.negative, tree)
