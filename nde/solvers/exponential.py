"""Exponential one-step solvers of semilinear equations: the linear part exact, the rest by polynomials of stages."""

from functools import partial
from typing import ClassVar, NamedTuple

import diffrax
import equinox as eqx

from nde.solvers.lagrange import Abscissa, abscissa_of, check_abscissa, lagrange_weights, place_in, time_of
from nde.solvers.new_variables import NewVariables, points_at, PointsInterpolation
from nde.solvers.semilinear_step import advance
from nde.solvers.traits import SolverTraits
from nde.types import Args, ScalarLike, SolverState, State, Terms


class ExponentialTableau(NamedTuple):
    r"""The stages of a `nde.Exponential`.

    - `places`: where they lie in a step, as shares of it in $\xi$; the first is zero.
    - `nodes`: for each stage but the first, and for the step's end, through which earlier stages the polynomial goes.
    - `order`: of the method. `mean`: whether weights are those of `mean`, see `nde.solvers.lagrange_weights`.
    """

    places: tuple[float, ...]
    nodes: tuple[tuple[int, ...], ...]
    order: int
    mean: bool = False


TABLEAUS = {
    1: ExponentialTableau((0.0,), ((0,),), 1),
    2: ExponentialTableau((0.0, 0.5), ((0,), (0, 1)), 2, mean=True),
    3: ExponentialTableau((0.0, 1 / 3, 2 / 3), ((0,), (0, 1), (0, 2)), 3),
}


class Exponential(diffrax.AbstractItoSolver, diffrax.AbstractStratonovichSolver):
    r"""A one-step exponential method for equations $\mathrm d(x / m) = f\,\mathrm ds\;(+\,\mathrm dW)$.

    With $y = x / m(t)$, stages $f_j = f(t_j, x_j)$ and Lagrange's polynomials $\ell_j$ in a variable $\xi$,

    $$y_i = y_0 + \sum_{j < i} w_{ij} f_j\;(+\,W_i - W_0), \qquad w_{ij} = \int_{s_0}^{s_i} \ell_j(\xi(s))\,ds,$$

    so that the linear part, the integrals of what is known and the noise are exact. By the noise prediction of a
    diffusion model it is DPM-Solver-1 (which is DDIM), -2 and -3, by the data prediction DPM-Solver++ 1, 2S and 3S.
    Dense output is the polynomial in $t$ through six points of each step.

    **Arguments:** `order`: 1, 2 or 3, or an `nde.solvers.ExponentialTableau`; `abscissa`: what $\xi$ is, in which the
    stages lie and the field is taken for a polynomial: `"log_clock"`, the logarithm of $|s|$ and so of the ratio of
    signal to noise; `"time"`, $t$; `"clock"`, $s$. The terms are one `nde.terms.SemilinearTerm`, as
    `nde.diffusion_model_term` makes it.

    **Raises:** `ValueError` for another order, abscissa or term.

    **Limits:** no estimate of its error, so steps are given: `nde.diffusion.log_snr_times` by `diffrax.StepTo`.
    `"log_clock"` needs a clock that is nowhere zero or infinite. Order 2 takes the weights of the authors, which are
    those of the integral up to the next order. For an SDE the order is that of the drift; of the noise stages see the
    increment alone, and the strong order is 1.

    **Source:** Lu et al., *DPM-Solver*, 2022, arXiv 2206.00927, algorithms 1 and 2 and equation 3.7; *DPM-Solver++*,
    2022, arXiv 2211.01095.
    """

    tableau: ExponentialTableau = eqx.field(static=True)
    abscissa: Abscissa = eqx.field(static=True)

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = PointsInterpolation  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, order: int | ExponentialTableau = 2, abscissa: Abscissa = "log_clock"):
        check_abscissa("Exponential", abscissa)
        if isinstance(order, int) and order not in TABLEAUS:
            raise ValueError(f"Exponential has the orders 1, 2 and 3, or takes an ExponentialTableau, but got {order}.")
        self.tableau = order if isinstance(order, ExponentialTableau) else TABLEAUS[order]
        self.abscissa = abscissa

    def traits(self) -> SolverTraits:
        """An evaluation a stage; additive noise reads alike in both interpretations."""
        return SolverTraits(len(self.tableau.places), place=partial(place_in, self.abscissa))

    def order(self, terms: Terms):
        """The tableau's."""
        del terms
        return self.tableau.order

    def strong_order(self, terms: Terms):
        """1, of additive noise."""
        del terms
        return 1

    def init(self, terms: Terms, t0: ScalarLike, t1: ScalarLike, y0: State, args: Args):
        """No state."""
        del t0, t1, y0, args
        NewVariables(terms, "Exponential")

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
        del solver_state, made_jump
        new = NewVariables(terms, "Exponential")
        start, xi0 = new.into(t0, y0), abscissa_of(new, self.abscissa, t0)
        span = abscissa_of(new, self.abscissa, t1) - xi0
        times, values = [t0], [new.field(t0, y0, args)]

        def reach(t: ScalarLike, nodes: tuple[int, ...]):
            known, fields = [times[j] for j in nodes], [values[j] for j in nodes]
            weights = lagrange_weights(new, self.abscissa, t0, t, known, kind="mean" if self.tableau.mean else "exact")
            return new.out_of(t, advance(new, t0, t, start, weights, fields))

        for place, nodes in zip(self.tableau.places[1:], self.tableau.nodes[:-1], strict=True):
            t = time_of(new, self.abscissa, xi0 + place * span, t0)
            times.append(t)
            values.append(new.field(t, reach(t, nodes), args))
        last = self.tableau.nodes[-1]
        return reach(t1, last), None, points_at(lambda t: reach(t, last), t0, t1), None, diffrax.RESULTS.successful

    def func(self, terms: Terms, t0: ScalarLike, y0: State, args: Args):
        """The field, written out."""
        return terms.vf(t0, y0, args)
