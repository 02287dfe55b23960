"""The solver's own estimates, over all of its steps."""

from typing import Literal

import equinox as eqx

from nde.regularise.base import AbstractRegulariser, Call, Plan, Seen


class ErrorEstimate(AbstractRegulariser):
    r"""ERNODE: the error that the solver estimates, over its accepted steps,

    $$R_E = \sum_j E_j\,|h_j| \qquad\text{or}\qquad R_{E^2} = \sum_j E_j^2,$$

    with $E_j$ the controller's norm of the estimate over its tolerances, and the accepted times constants.

    **Arguments:** `form`: `"integral"` for the first, `"squares"` for the second.

    **Raises:** in a solve, `ValueError` for a solver without an estimate of its error, or a controller without
    tolerances; with `nde.ContinuousAdjoint` when it is differentiated.

    **Limits:** it costs nothing but the sums, forward; it has a gradient only by adjoints of the discrete solve
    (`nde.CheckpointAdjoint`; `nde.ReversibleAdjoint` at one step more a step). It is in units of the tolerance:
    its weight goes with that.

    **Source:** Pal, Ma, Shah, Rackauckas, *Opening the blackbox: accelerating neural differential equations by
    regularizing internal solver heuristics*, ICML 2021, arXiv 2105.03918, section 3.1.
    """

    form: Literal["integral", "squares"] = eqx.field(default="integral", static=True)

    def __check_init__(self):
        if self.form not in ("integral", "squares"):
            raise ValueError(f"ErrorEstimate: form must be 'integral' or 'squares', not {self.form!r}.")

    def plan(self, call: Call, key) -> Plan:
        del key

        def penalty(seen: Seen):
            assert seen.heuristics is not None
            return getattr(seen.heuristics.of("error"), self.form)

        return Plan(call, penalty, heuristics=("error",))


class StiffnessEstimate(AbstractRegulariser):
    r"""SRNODE: the stiffness that the solver estimates, over its accepted steps,

    $$R_S = \sum_j S_j, \qquad S_j = \frac{\|f(t, y_a) - f(t, y_b)\|}{\|y_a - y_b\|},$$

    of the method's last two stages $y_a, y_b$ at the same time $t$ of step $j$. In 1 / time.

    **Raises:** in a solve, `ValueError` for an SDE, and for a solver without two such stages; `nde.Tsit5`, `nde.Dopri5`
    and `nde.Dopri8` have them.

    **Limits:** as those of `nde.regularise.ErrorEstimate`. In single precision at tight tolerances the ratio is one
    of rounding errors.

    **Source:** Pal et al. 2021, arXiv 2105.03918, section 3.2.
    """

    def plan(self, call: Call, key) -> Plan:
        del key

        def penalty(seen: Seen):
            assert seen.heuristics is not None
            return seen.heuristics.of("stiffness").total

        return Plan(call, penalty, heuristics=("stiffness",))
