"""Exponential multistep solvers of semilinear equations: the linear part exact, the rest by past evaluations."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, get_args, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from nde.dtypes import as_floats
from nde.solvers.lagrange import Abscissa, check_abscissa, lagrange_weights, place_in, WeightKind
from nde.solvers.new_variables import NewVariables, points_at, PointsInterpolation
from nde.solvers.semilinear_step import advance, weighted
from nde.solvers.traits import SolverTraits
from nde.types import Args, ScalarLike, SolverState, State, Terms


class AdamsState(NamedTuple):
    """What a multistep method remembers.

    - `steps`: how many there were.
    - `times`, `values`: of the past evaluations, the latest first, stacked.
    - `now`: the field at the state, as predicted; of a method with a corrector.
    """

    steps: jax.Array
    times: jax.Array
    values: State
    now: State | None


class ExponentialAdams(diffrax.AbstractItoSolver, diffrax.AbstractStratonovichSolver):
    r"""A multistep exponential method for equations $\mathrm d(x / m) = f\,\mathrm ds\;(+\,\mathrm dW)$.

    With $y = x / m(t)$ and Lagrange's polynomials $\ell_j$, in a variable $\xi$, through the latest evaluations
    $f_{n - j}$ of the field,

    $$y_{n+1} = y_n + \sum_{j < k} w_{nj} f_{n - j}\;(+\,W_{n+1} - W_n), \qquad
    w_{nj} = \int_{s_n}^{s_{n+1}} \ell_j(\xi(s))\,ds,$$

    with one evaluation a step; the order $k$ is built up over the first steps. With a `corrector` the field at the
    predicted state joins the polynomial for the step's end, one order more, and is the next step's evaluation. It is

    | method | prediction | order | abscissa | weights | corrector | noise |
    |---|---|---|---|---|---|---|
    | DPM-Solver++ 2M, its SDE version | data | 2 | log_clock | mean | no | 0, 1 |
    | tAB-DEIS, ρAB-DEIS | noise | 2 to 4 | time, clock | exact | no | 0 |
    | PNDM's linear multistep | noise | 4 (2) | time | mean | no | 0 |
    | UniPC with $B_1(h) = h$, $B_2(h) = e^h - 1$ | data | 1 to 3 | log_clock | B1, B2 | yes | 0 |
    | UniPC with varying coefficients | data | 1 to 3 | log_clock | exact | yes | 0 |
    | SA-Solver | data | 2, 3 | log_clock | exact | yes | any |
    | ER-SDE-Solver | data | 1 to 3 | log_clock | exact | no | a function |

    The difference of the method's result from that of an order less estimates its error, in the first step from no
    step at all, so that an adaptive controller may choose the steps of an ODE; learned weights have no estimate. Dense
    output is the polynomial in $t$ through six points of each step.

    **Arguments:**

    - `order`: $k$, from 1 to 4.
    - `abscissa`: what $\xi$ is: `"log_clock"`, the logarithm of $|s|$ and so of the ratio of signal to noise;
      `"time"`, $t$; `"clock"`, $s$.
    - `weights`: `"exact"`, the integral; `"mean"`, $s_{n+1} - s_n$ times the weights of Adams and Bashforth for the
      $\xi$ of these steps, which is what many authors print, and of order 2 at most; `"B1"`, `"B2"`, the integral but
      where the line through two evaluations is integrated: there $\tfrac12 B$ times its rise over the step, with
      $B_1 = s_{n+1} \log (s_{n+1} / s_n)$ or $B_2 = s_{n+1} - s_n$, which from three evaluations on would cancel; or an
      array of shape `(steps, order)`, to be learned: a row for each step, which multiplies $s_{n+1} - s_n$.
    - `corrector`: whether there is one.
    - `orders`: at most how many evaluations each step uses, a whole number a step, `None` for $k$: where steps are few
      the last ones are long in $\xi$, and the polynomial of past evaluations far from the field, so that `(1, 2, 3, 2,
      1)` may do better than order 3 throughout.

    The terms are one `nde.terms.SemilinearTerm`, as `nde.diffusion_model_term` makes it.

    **Raises:** `ValueError` for another order, orders, abscissa, weights or term, and for an array of weights together
    with a corrector or with orders.

    **Limits:** `"log_clock"` needs a clock that is nowhere zero or infinite. The last row of an array of weights, or of
    the orders, holds for all further steps. The first step is of order 1, so that from order 3 on its error may show:
    it is small where the field hardly changes in $\xi$, as where almost all is noise. A jump of the field is not
    noticed. For an SDE the order is that of the drift; the strong order is 1.

    **Source:** Zhang & Chen, *Fast sampling of diffusion models with exponential integrator* (DEIS), 2022, arXiv
    2204.13902, equations 14 and 15; Lu et al., *DPM-Solver++*, 2022, arXiv 2211.01095, algorithm 2; Liu et al.,
    *Pseudo numerical methods for diffusion models on manifolds*, 2022, arXiv 2202.09778; Zhao et al., *UniPC*, 2023,
    arXiv 2302.04867; Xue et al., *SA-Solver*, 2023, arXiv 2305.14267; Cui et al., *ER-SDE-Solver*, 2023, arXiv
    2309.06169.
    """

    num_steps: int = eqx.field(static=True)
    abscissa: Abscissa = eqx.field(static=True)
    weights: Any
    corrector: bool = eqx.field(static=True)
    orders: tuple[int, ...] | None = eqx.field(static=True)

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = PointsInterpolation  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(
        self,
        order: int = 2,
        abscissa: Abscissa = "log_clock",
        *,
        weights: WeightKind | Any = "exact",
        corrector: bool = False,
        orders: Sequence[int] | None = None,
    ):
        check_abscissa("ExponentialAdams", abscissa)
        orders = None if orders is None else tuple(orders)
        if not 1 <= order <= 4 or not (orders is None or (orders and all(1 <= each <= order for each in orders))):
            raise ValueError(
                f"ExponentialAdams needs an order from 1 to 4, and orders of 1 to that, but got {order=} and {orders=}."
            )
        if isinstance(weights, str):
            if weights not in get_args(WeightKind):
                kinds = ", ".join(get_args(WeightKind))
                raise ValueError(f"ExponentialAdams: weights must be one of {kinds}, or an array, but got {weights!r}.")
        else:
            (weights,) = as_floats(jnp.asarray(weights))
            if weights.ndim != 2 or weights.shape[0] < 1 or weights.shape[1] != order:
                raise ValueError(
                    f"ExponentialAdams: an array of weights has the shape (steps, order), here (steps, {order}), but "
                    f"got {weights.shape}."
                )
            if corrector or orders is not None:
                raise ValueError(
                    "ExponentialAdams: beside an array of weights there is no corrector and are no orders."
                )
        self.num_steps, self.abscissa, self.weights = order, abscissa, weights
        self.corrector, self.orders = corrector, orders

    def traits(self) -> SolverTraits:
        """One evaluation a step; additive noise reads alike in both interpretations."""
        return SolverTraits(1, int(self.corrector), place=partial(place_in, self.abscissa))

    def order(self, terms: Terms):
        """$k$, one more with a corrector, at most 2 with mean weights."""
        del terms
        mean = isinstance(self.weights, str) and self.weights == "mean"
        return min(self.num_steps + self.corrector, 2 if mean else 5)

    def strong_order(self, terms: Terms):
        """1, of additive noise."""
        del terms
        return 1

    def error_order(self, terms: Terms):
        """That of the result that is compared."""
        return self.order(terms)

    def init(self, terms: Terms, t0: ScalarLike, t1: ScalarLike, y0: State, args: Args):
        """No past, and with a corrector the field at the start."""
        new = NewVariables(terms, "ExponentialAdams")
        past = self.num_steps - 1
        now = new.field(t0, y0, args) if self.corrector else None
        like = jax.eval_shape(new.field, t0, y0, args) if now is None else now
        values = jax.tree.map(lambda x: jnp.zeros((past, *x.shape), x.dtype), like)
        times = jnp.broadcast_to(t0, (past,))  # any at which the clock is finite: its derivative is multiplied by zero
        return AdamsState(jnp.zeros((), int), times, values, now)

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
        """One step."""
        del made_jump
        state: AdamsState = solver_state
        new = NewVariables(terms, "ExponentialAdams")
        start = new.into(t0, y0)
        now = new.field(t0, y0, args) if state.now is None else state.now
        past = range(self.num_steps - 1)
        times = [t0, *(state.times[j] for j in past)]
        values = [now, *(jax.tree.map(lambda x, j=j: x[j], state.values) for j in past)]
        count = jnp.minimum(state.steps + 1, self._most(state.steps))

        def weights(t: ScalarLike) -> list:
            return self._weights(new, t0, t, times, count, state.steps)

        following, end = None, weights
        if self.corrector:
            following = new.field(t1, new.out_of(t1, advance(new, t0, t1, start, weights(t1), values)), args)
            lower = [*weights(t1), 0]

            def end(t: ScalarLike) -> list:
                # The field at the step's end comes last: the first time is that whose weight makes up the sum.
                valid = [*self._valid(count), True]
                return lagrange_weights(new, self.abscissa, t0, t, [*times, t1], valid=valid, kind=self.weights)

            values = [*values, following]
        else:  # without any evaluation but one that of an order less is to stand still
            fewer = self._weights(new, t0, t1, times, count - 1, state.steps)
            lower = [jnp.where(count > 1, weight, 0) for weight in fewer]
        final = end(t1)
        y1 = advance(new, t0, t1, start, final, values)
        error = None
        if isinstance(self.weights, str):  # of weights that are learned nobody knows the order
            change = weighted([one - other for one, other in zip(final, lower, strict=True)], values)
            error = new.lengthened(t1, jax.tree.map(lambda x, y: x.astype(y.dtype), change, start))
        shifted = jax.tree.map(lambda x, f: jnp.concatenate([f[None].astype(x.dtype), x])[:-1], state.values, now)
        remembered = jnp.concatenate([jnp.asarray(t0, state.times.dtype)[None], state.times])[:-1]
        state = AdamsState(state.steps + 1, remembered, shifted, following)
        points = points_at(lambda t: new.out_of(t, advance(new, t0, t, start, end(t), values)), t0, t1)
        return new.out_of(t1, y1), error, points, state, diffrax.RESULTS.successful

    def func(self, terms: Terms, t0: ScalarLike, y0: State, args: Args):
        """The field, written out."""
        return terms.vf(t0, y0, args)

    def _most(self, steps: jax.Array) -> Any:
        """How many evaluations the step may use."""
        if self.orders is None:
            return self.num_steps
        return jnp.asarray(self.orders)[jnp.minimum(steps, len(self.orders) - 1)]

    def _valid(self, count: jax.Array) -> list:
        """Which of the evaluations are the latest `count`; the latest one always."""
        return [True, *(count > j for j in range(1, self.num_steps))]

    def _weights(self, new: NewVariables, t0: Any, t: Any, times: list, count: jax.Array, steps: jax.Array) -> list:
        """Those of the latest `count` evaluations, or the row of the step."""
        if isinstance(self.weights, str):
            return lagrange_weights(new, self.abscissa, t0, t, times, valid=self._valid(count), kind=self.weights)
        row = self.weights[jnp.minimum(steps, len(self.weights) - 1)] * (new.clock(t) - new.clock(t0))
        return [row[j] for j in range(self.num_steps)]
