"""The inverse step of `diffrax.ReversibleHeun`."""

from typing import Any

import jax
import jax.numpy as jnp

from nde.solvers.explicit import add
from nde.solvers.inverse_step import AbstractInverseStep, EvaluateWithVJP, InverseStepResult, SubFunction
from nde.types import Args, ScalarLike, SolverState, State, Terms


class ReversibleHeunInverse(AbstractInverseStep):
    r"""Reversible Heun's steps taken back, with one new evaluation of the field in a step, as forward.

    A step with $f_n = f(t_n, \hat y_n)$ and the control $\Delta x_n$ is

    $$\hat y_{n+1} = 2 y_n - \hat y_n + f_n \Delta x_n, \qquad
    y_{n+1} = y_n + \tfrac12 (f_n + f_{n+1})\,\Delta x_n$$

    and its inverse

    $$\hat y_n = 2 y_{n+1} - \hat y_{n+1} - f_{n+1} \Delta x_n, \qquad
    y_n = y_{n+1} - \tfrac12 (f_{n+1} + f_n)\,\Delta x_n.$$

    The cotangent goes through $f_{n+1}$, which is evaluated at $\hat y_{n+1}$ on the backward pass over step $n$, and
    used for the end of step $n$ and, at the same time, for the start of step $n + 1$: the reverse state is what is
    known before it is, $(y_n + \tfrac12 f_n \Delta x_n,\ \hat y_n,\ \Delta x_n)$. A second evaluation, of $f_n$, is
    only made where values at the start of the step enter a derivative: by the control (a path that is learned, times),
    and by what is saved inside of a step through a function that is not linear. Elsewhere the compiler drops it.

    **Limits:** for $y' = \mu y$ a step has the eigenvalues $z \pm \sqrt{1 + z^2}$, $z = \mu h$, whose product is -1:
    the method is stable only for $z$ on the imaginary segment $[-i, i]$. It damps nothing: with a damped equation
    ($\operatorname{Re} \mu < 0$) the difference of $y$ and $\hat y$ grows by $e^{|\mu| T}$, at any step.

    **Source:** Kidger, Foster, Li, Lyons, *Efficient and accurate gradients for neural SDEs*, 2021, arXiv 2105.13493,
    algorithms 1 and 2.
    """

    needs_no_jump = True

    def __init__(self, terms: Terms, args: Args):
        self.terms, self.args = terms, args

    def sub_functions(self, t0: ScalarLike, t1: ScalarLike, y: State, solver_state: SolverState):
        terms, args = self.terms, self.args
        dx = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(terms.contr, t0, t1))
        return {
            "control": SubFunction(terms.contr, (t0, t1)),
            "field": SubFunction(lambda t, _, y: terms.vf(t, y, args), (t0, t1, y)),
            "product": SubFunction(lambda t0, t1, f, dx: terms.prod(f, dx), (t0, t1, solver_state[1], dx)),
        }

    def init_reverse(self, call: EvaluateWithVJP, t0: ScalarLike, t1: ScalarLike, y: State, solver_state: SolverState):
        dx, _ = call("control", t0, t1)
        return y, solver_state[0], jax.tree.map(jnp.zeros_like, dx)

    def step_back(
        self, call: EvaluateWithVJP, t0: ScalarLike, t1: ScalarLike, reverse_state: Any, inside: bool
    ) -> InverseStepResult:
        half, yhat1, after = reverse_state
        f1, pull_f1 = call("field", t1, t1, yhat1)
        y1 = _less(half, 0.5, call("product", t0, t1, f1, after)[0])
        dx, pull_dx = call("control", t0, t1)
        product1, pull_product1 = call("product", t0, t1, f1, dx)
        yhat0 = jax.tree.map(lambda y, yhat, p: 2 * y - yhat - p, y1, yhat1, product1)
        half0 = _less(y1, 0.5, product1)
        f0 = call("field", t0, t0, yhat0)[0]
        product0, pull_product0 = call("product", t0, t1, f0, dx)
        y0 = _less(half0, 0.5, product0)
        dense = {"y0": y0, "y1": y1} if inside else None

        def pull(y1_ct: State, state_ct: SolverState, dense_ct: Any):
            yhat1_ct, f1_ct = state_ct
            if inside:
                y1_ct = add(y1_ct, dense_ct["y1"])
            *_, more, dx_ct = pull_product1(jax.tree.map(lambda y: 0.5 * y, y1_ct))
            t1_ct, _, moved = pull_f1(add(f1_ct, more))
            yhat1_ct = add(yhat1_ct, moved)
            *_, f0_ct, dx_more = pull_product0(jax.tree.map(lambda yhat, y: yhat + 0.5 * y, yhat1_ct, y1_ct))
            t0_ct, t1_more = pull_dx(add(dx_ct, dx_more))
            y0_ct = jax.tree.map(lambda y, yhat: y + 2 * yhat, y1_ct, yhat1_ct)
            if inside:
                y0_ct = add(y0_ct, dense_ct["y0"])
            return t0_ct, t1_ct + t1_more, y0_ct, (jax.tree.map(jnp.negative, yhat1_ct), f0_ct)

        return InverseStepResult(y1, dense, (half0, yhat0, dx), pull, (y0, (yhat0, f0)))


def _less(tree: State, factor, more):
    return jax.tree.map(lambda x, m: x - factor * m, tree, more)
