"""The continuous adjoint: optimise, then discretise."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from nde.adjoints.adjoint_equation import adjoint_terms, AdjointStep
from nde.adjoints.adjoint_equation_sweep import AdjointEquationSweep
from nde.adjoints.base import AbstractAdjoint, RecordSize
from nde.adjoints.semilinear_pair import semilinear_pair
from nde.loop import Convert, has_active_stops, Loop, LoopInputs, LoopOutcome, LoopState, Problem
from nde.solvers import traits_of
from nde.steppers import make_stepper
from nde.terms import brownian_terms, Interpretation, SemilinearTerm, unwrap_time_direction
from nde.types import State, Time


class ContinuousAdjoint(AbstractAdjoint):
    r"""The costate's own equation, solved backward in time (Pontryagin):

    $$d\lambda = -\lambda\,\partial_y f(t, y)\,dx, \qquad \lambda(t_1) = \partial_{y(t_1)} L, \qquad
    \frac{dL}{d\theta} = \int_{t_0}^{t_1} \lambda\,\partial_\theta\bigl(f\,dx\bigr), \qquad
    \frac{dL}{dy_0} = \lambda(t_0),$$

    for ODEs, Stratonovich SDEs and CDEs. At each time that was saved, $\lambda$ jumps by what the loss says of it. The
    state is solved again, backward, together with the costate, and an SDE's Brownian path is asked for the same
    increments: memory does not depend on the number of steps. The integral is a Gauss quadrature over each accepted
    step, outside of the control of the error; over a batch, a parameter that the examples share gets one gradient,
    summed in the loop. Times have $dL/dt_1 = \lambda(t_1) f(t_1, y_1)$, $dL/dt_0 = -\lambda(t_0) f(t_0, y_0)$, and a
    save time the jump there times $f$.

    Of a `nde.terms.SemilinearTerm` by an exponential solver (`nde.Exponential`, `nde.ExponentialAdams`, `nde.Lawson`)
    state and costate are solved in the variables $y = (x - c) / m$ and $\mu = m \lambda$, whose linear part is gone,
    $d\mu = -m\,\mu\,\partial_x f\,ds$: AdjointDPM and AdjointDEIS. A multistep method begins anew at each save time.

    It is not the gradient of the solve that was done: it differs by the error of both solves, and tends to the same
    as the tolerance falls. `nde.CheckpointAdjoint` gives the exact one, mostly in less time.

    **Arguments:** `controller`: a step-size controller for the backward pass, one that chooses steps by their error, if
    not the forward solve's. `solver`: a solver for the backward pass, if not the forward solve's. `slack`: the
    costate's error may be so many times the controller's tolerances, in units in which the largest cotangent that comes
    in is 1. Where the field has a kink (relu) the costate's field has a jump: to follow each of these as closely as the
    state takes ten times the steps, and says nothing about the loss.

    **Raises:** when a solve is differentiated: `ValueError` for a solve of an Itô SDE, an event, dense output, a saved
    state of the solver, heuristics other than the steps' times (looked at or not), a solver that takes more of a term
    than its product with the control, and for a gradient in the times of an SDE, or in those at which a step-size
    controller is told to stop. `nde.CheckpointAdjoint` has all of these.

    **Limits:** reverse mode, once, and forward mode over it (`jax.hessian`). Solving the state backward is unstable
    where the flow contracts strongly: errors grow by $e^{\int |\partial_y f|}$. A backward pass that does not come to
    its end in `max_steps` steps, and one more for each save time, has a gradient of NaN. A `BrownianGrid` needs save
    times that are points of the grid. For an SDE the quadrature takes W alone, and has strong order 1 for commutative
    noise, 1/2 for other.

    **Source:** Pontryagin et al. 1962; Chen et al., *Neural ordinary differential equations*, 2018, algorithm 1;
    Li et al., *Scalable gradients for stochastic differential equations*, 2020, theorem 3.3 and algorithm 1; Pan et
    al., *AdjointDPM*, 2023, arXiv 2307.10711; Blasingame & Liu, *AdjointDEIS*, 2024, arXiv 2405.15020.
    """

    controller: diffrax.AbstractAdaptiveStepSizeController | None = None
    solver: diffrax.AbstractSolver | None = None
    slack: float = eqx.field(default=100.0, static=True)

    def __check_init__(self):
        if not self.slack > 0:
            raise ValueError(f"ContinuousAdjoint: slack must be positive, not {self.slack!r}.")
        if self.controller is not None and not isinstance(self.controller, diffrax.AbstractAdaptiveStepSizeController):
            raise ValueError(
                "ContinuousAdjoint: controller must choose steps by their error, as diffrax.PIDController, not "
                f"{type(self.controller).__name__}."
            )

    def num_checkpoints(self, size: RecordSize) -> int | None:
        del size

    def prepare(self, problem: Problem, state: LoopState):
        return lambda convert: AdjointEquation(convert, self, problem, state)

    def run_loop(self, loop: Loop, inputs: LoopInputs, perturbed: LoopInputs) -> LoopOutcome:
        equation: Any = loop.problem.adjoint_functions
        if equation.refusal is not None:
            raise ValueError(f"ContinuousAdjoint can not differentiate {equation.refusal}: take nde.CheckpointAdjoint.")
        times = perturbed.state.t or perturbed.t1 or any(bool(x) for x in perturbed.ts)
        if times and equation.is_sde:
            raise ValueError(
                "ContinuousAdjoint has no gradient in the times of an SDE, whose path has no derivative: hold t0, t1 "
                "and ts constant (jax.lax.stop_gradient), or take nde.CheckpointAdjoint."
            )
        if has_active_stops(loop.problem, perturbed):
            raise ValueError(
                "ContinuousAdjoint has no gradient in the times at which a step-size controller is told to stop "
                "(step_ts or jump_ts of diffrax.ClipStepSizeController, ts of diffrax.StepTo), where the field may "
                "jump: hold them constant (jax.lax.stop_gradient), or take nde.CheckpointAdjoint."
            )

        def backward(inputs: LoopInputs, outcome, checkpoints, cotangents: Any):
            del checkpoints
            return AdjointEquationSweep(loop, perturbed, inputs, outcome, cotangents, bool(times)).run()

        return loop.with_vjp(inputs, backward)


class AdjointEquation:
    """The functions of one example that the backward pass computes, traced together with the problem; or why there are
    none (`refusal`).

    - `begin`, `advance`: those of `nde.adjoints.adjoint_equation.AdjointStep`.
    - `change(low, high, ts, ys)`: the field at nodes, times the control from `low` to `high`.
    - `rate(t, y)`: the derivative of the state by time; `None` for an SDE.
    """

    def __init__(self, convert: Convert, adjoint: ContinuousAdjoint, problem: Problem, state: LoopState):
        solve = problem.solve
        self.solve, self.solver = solve, adjoint.solver or solve.solver
        self.controller = adjoint.controller
        forward = solve.stepsize_controller
        if self.controller is not None:  # its times are the user's, which a solve backward in time turns
            self.controller = self.controller.wrap(unwrap_time_direction(solve.terms)[1])
        elif problem.controls_error:
            self.controller = forward
        self.grid = forward.ts if isinstance(forward, diffrax.StepTo) and self.controller is None else None
        self.is_sde = bool(brownian_terms(solve.terms))
        self.refusal = self._refusal(problem, state)
        if self.refusal is None:
            self._trace(convert, state, adjoint.slack)

    def _refusal(self, problem: Problem, state: LoopState) -> str | None:
        solve, solver = self.solve, self.solver
        heuristics = problem.stepper.heuristic_totals(state.solver_state)
        reasons = {
            "a solve with an event": solve.event is not None,
            "dense output": solve.saveat.dense,
            "a saved state of the solver": solve.saveat.solver_state,
            "the heuristics of the solver, which are of the discrete solve": heuristics is not None,
            "terms that are not one term": not isinstance(solve.terms, diffrax.AbstractTerm),
            f"a solve by {type(solver).__name__}, which takes more of a term than its product with the control (give "
            "ContinuousAdjoint a solver, as diffrax.Heun(), or)": not (traits_of(solver).only_products or self._place),
        }
        if self.is_sde:
            for each in (solve.solver, solver):
                known = Interpretation.STRATONOVICH in traits_of(each).interpretations
                why = f"an SDE solved by {type(each).__name__}, which does not converge to the Stratonovich solution "
                reasons[
                    f"{why}(take nde.to_stratonovich of an Itô equation, and a solver as diffrax.Heun(), or)"
                ] = not known
        return next((reason for reason, holds in reasons.items() if holds), None)

    @property
    def _place(self) -> Callable | None:
        """That of a solver of semilinear equations, if there is one to solve."""
        given, _ = unwrap_time_direction(self.solve.terms)
        return traits_of(self.solver).place if isinstance(given, SemilinearTerm) else None

    def _trace(self, convert: Convert, state: LoopState, slack: float) -> None:
        terms: Any = self.solve.terms
        args, pair = self.solve.args, (state.y, state.y)
        place = self._place
        both = adjoint_terms(terms, args) if place is None else semilinear_pair(terms, args)
        controller = None if self.controller is None else self.controller.wrap(-1)
        stepper = make_stepper(self.solver, both, args, state.t, state.tnext, pair)
        order: Any = 2 if self.is_sde else self.solver.order(terms)
        step = AdjointStep(stepper, self.solver, both, controller, args, order=order, slack=slack, place=place)
        self.weights = step.weights
        self.begin = convert(step.begin, state.t, state.t, state.t, *pair)
        back = jax.eval_shape(step.begin, state.t, state.t, state.t, *pair)
        self.advance = convert(step.advance, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), back), state.t)
        self.fresh = convert(step.fresh, state.t, state.t, *pair)
        nodes = [jnp.stack([x] * len(step.weights)) for x in (state.t, *jax.tree.leaves(state.y))]
        ys = jax.tree.structure(state.y).unflatten(nodes[1:])

        def change(low: Time, high: Time, ts: jax.Array, ys: State):
            control = terms.contr(low, high)
            changes = jax.vmap(lambda t, y: terms.vf_prod(t, y, args, control))(ts, ys)
            if place is None:
                return changes
            # Nodes that are not even in time: each stands for another length of it.
            lengths = shares_of_time(place, terms, high, low, jnp.asarray(step.nodes, low.dtype))
            return jax.tree.map(lambda x: x * lengths.reshape((-1,) + (1,) * (x.ndim - 1)).astype(x.dtype), changes)

        def rate(t: Time, y: State):
            _, control = jax.jvp(lambda end: terms.contr(t, end), (t,), (jnp.ones_like(t),))
            return terms.vf_prod(t, y, args, control)

        self.change = convert(change, state.t, state.tnext, nodes[0], ys)
        self.rate = None if self.is_sde else convert(rate, state.t, state.y)
        grid = self.grid
        if grid is not None:
            self.below = convert(lambda t: jnp.max(jnp.where(grid < t, grid, -jnp.inf)), state.t)


def shares_of_time(place: Callable, terms: Any, t0: Time, t1: Time, shares: jax.Array) -> jax.Array:
    """How fast time goes at shares of a step, in units of the step's length; zero of a step without any."""
    rates = jax.vmap(lambda share: jax.jvp(lambda u: place(terms, t0, t1, u), (share,), (jnp.ones_like(share),))[1])
    return jnp.where(t1 == t0, 0, rates(shares) / jnp.where(t1 == t0, 1, t1 - t0))
