"""The equation of the costate, solved backward together with the state: its term, and one step of it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nde.types import Args, ScalarLike, State, Time


class AdjointTerm(diffrax.AbstractTerm):
    r"""A term $f\,dx$ as that of state and costate $(y, \lambda)$ in reversed time $s = -t$:

    $$dy = f(-s, y)\,d\bar x, \quad d\lambda = -\lambda\,\partial_y f(-s, y)\,d\bar x, \quad \bar x(s) = x(-s).$$

    Its field is kept unevaluated, as `(s, (y, λ))`: only its product with a control is ever needed, which is one
    vector–Jacobian product.
    """

    term: diffrax.AbstractTerm
    args: Any

    def vf(self, t: ScalarLike, y: State, args: Args):
        del args
        return t, y

    def contr(self, t0: ScalarLike, t1: ScalarLike, **kwargs):
        return jax.tree.map(jnp.negative, self.term.contr(-t1, -t0, **kwargs))

    def prod(self, vf, control: State):
        s, (y, costate) = vf
        dy, pull = jax.vjp(lambda y: like(self.term.vf_prod(-s, y, self.args, control), y), y)
        return dy, jax.tree.map(jnp.negative, pull(costate)[0])

    def is_vf_expensive(self, t0: ScalarLike, t1: ScalarLike, y: State, args: Args):
        del t0, t1, y, args
        return True


def adjoint_terms(terms: PyTree[Any], args: Any) -> PyTree[Any]:
    """The terms of state and costate in reversed time."""

    def is_single(x: jax.Array):
        return isinstance(x, diffrax.AbstractTerm) and not isinstance(x, diffrax.MultiTerm)

    return jax.tree.map(lambda term: AdjointTerm(term, args), terms, is_leaf=is_single)


class AdjointState(NamedTuple):
    """Where the backward pass stands: `h`, the length of the step to try next; `controller`, `solver`: their states."""

    t: jax.Array
    h: jax.Array
    y: Any
    costate: Any
    controller: Any
    solver: Any


class TrialStep(NamedTuple):
    """A step tried: where it leads to, if it is accepted, and the nodes of a quadrature over it.

    `low`, `high`: its ends in time; `ts`, `ys`, `costates`: at the nodes, which lead.
    """

    back: AdjointState
    accepted: jax.Array
    low: jax.Array
    high: jax.Array
    ts: jax.Array
    ys: Any
    costates: Any


class AdjointStep:
    """One step back of state and costate, for one example.

    **Arguments:** `stepper`: that of the solver, over the terms of state and costate; `solver`, `terms`: these;
    `controller`: one that chooses steps by their error, in reversed time, or `None` for steps of one size; `order`: of
    the solver, from which the number of Gauss nodes follows; `slack`: how many times the tolerance the costate's error
    may be; `place`: where the nodes of a semilinear equation lie, see `nde.solvers.SolverTraits`.
    """

    def __init__(
        self,
        stepper: Any,
        solver: Any,
        terms: Any,
        controller: Any,
        args: Any,
        *,
        order: int,
        slack: float,
        place: Callable | None = None,
    ):
        self.stepper, self.solver, self.terms, self.controller, self.args = stepper, solver, terms, controller, args
        self.place = place
        self.slack = slack
        self.error_order = None if controller is None else solver.error_order(terms)
        # As exact as the method that the error is estimated with, and as the interpolation between a step's ends.
        # In a long step of an exponential method the integrand is far from a polynomial: more nodes than the order.
        count = math.ceil((order - 1) / 2) if place is None else order + 1
        nodes, weights = np.polynomial.legendre.leggauss(max(1, count))
        self.nodes, self.weights = 0.5 + 0.5 * nodes, 0.5 * weights

    def begin(self, t: Time, h: Time, t0: Time, y: State, costate: State) -> AdjointState:
        """The start of the backward pass, from the state at `t` to `t0`."""
        state = ()
        if self.controller is not None:
            _, state = self.controller.init(
                self.terms, -t, -t0, (y, costate), h, self.args, self.solver.func, self.error_order
            )
        return AdjointState(t, h, y, costate, jax.tree.map(jnp.asarray, state), self.fresh(t, t0, y, costate))

    def fresh(self, t: Time, t0: Time, y: State, costate: State) -> Any:
        """The solver's state without a past, as where the costate has jumped."""
        if self.place is None:
            return ()
        return jax.tree.map(jnp.asarray, self.solver.init(self.terms, -t, -t0, (y, costate), self.args))

    def advance(self, back: AdjointState, stop: Time) -> TrialStep:
        """Try a step, no further back than to `stop`, which is met if there is hardly anything left of the way."""
        clipped = back.t - back.h < stop + 1e-3 * back.h
        end = jnp.where(clipped, stop, back.t - back.h)
        s0, s1, z = -back.t, -end, (back.y, back.costate)
        step = self.stepper.step(s0, s1, z, None if self.place is None else back.solver, None)
        keep, h, state = jnp.asarray(True), back.h, back.controller
        if self.controller is not None:
            state_error, costate_error = jax.tree.map(lambda x: jnp.where(jnp.isnan(x), jnp.inf, x), step.error)
            error = (state_error, jax.tree.map(lambda x: x / self.slack, costate_error))
            keep, begin, until, _, state, _ = self.controller.adapt_step_size(
                s0, s1, z, step.y, self.args, error, self.error_order, state
            )
            # A step cut short by a stop says that a longer one would do; the one planned is no worse than it was.
            h = jnp.where(keep & clipped, jnp.maximum(until - begin, back.h), until - begin)
        inside = self.solver.interpolation_cls(t0=s0, t1=s1, **step.dense)
        at = s0 + (s1 - s0) * jnp.asarray(self.nodes, s0.dtype)
        solver = back.solver
        if (place := self.place) is not None:
            at = jax.vmap(lambda share: place(self.terms, s0, s1, share))(jnp.asarray(self.nodes, s0.dtype))
            solver = jax.tree.map(lambda a, b: jnp.where(keep, a, b), like(step.solver_state, solver), solver)
        ys, costates = jax.vmap(inside.evaluate)(at)
        y, costate = jax.tree.map(lambda a, b: jnp.where(keep, a, b), step.y, z)
        new = AdjointState(
            jnp.where(keep, end, back.t), h.astype(back.h.dtype), y, costate, like(state, back.controller), solver
        )
        return TrialStep(new, keep, end, back.t, -at, ys, costates)


def like(tree: State, example):
    """A tree with the dtypes of another."""
    return jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), tree, example)
