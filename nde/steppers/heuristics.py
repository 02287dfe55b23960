"""What a solver knows of its own steps, as outputs of a solve: estimates of their errors and of stiffness."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
from jaxtyping import Array, Float

QUANTITIES = ("error", "unscaled_error", "stiffness")
STEPS = "steps"


class Quantity(eqx.Module):
    r"""One heuristic $q_j$ over the accepted steps $j$, of length $|h_j|$.

    - `total`: $\sum_j q_j$; `integral`: $\sum_j q_j |h_j|$; `squares`: $\sum_j q_j^2$.
    - `steps`: $q_j$, shape `(max_steps,)`, zero past the last step; `None` unless steps were asked for.
    """

    total: Float[Array, ""]
    integral: Float[Array, ""]
    squares: Float[Array, ""]
    steps: Float[Array, " max_steps"] | None


class Heuristics(eqx.Module):
    r"""A solve's `stats["heuristics"]`: what was asked for by `nde.diffeqsolve(..., heuristics=(...))`, else `None`.

    - `error` ($E$): the step-size controller's norm of the estimate of a step's error over its tolerances; a step is
      accepted at $E \le 1$.
    - `unscaled_error`: the same norm of the estimate itself, in units of the state.
    - `stiffness` ($S$): $\|f(t, y_a) - f(t, y_b)\| / \|y_a - y_b\|$ at the method's last two stages with equal
      abscissa, which tends to the size of the field's dominant eigenvalue where that rules; in 1 / time.
    - `ts`, `lengths`: where each accepted step ends, and $|h_j|$, of shape `(max_steps,)`; past the last step infinity
      and zero. Constants, as all accepted times.

    They are differentiated like the state, with the accepted times held fixed. Where an estimate is exactly zero, so is
    its derivative. With an event the step in which it lies counts whole.

    **Limits:** in single precision at tight tolerances `stiffness` is the ratio of two differences that rounding rules.

    **Source:** Pal, Ma, Shah, Rackauckas, *Opening the blackbox*, ICML 2021, arXiv 2105.03918, section 3; the
    stiffness estimate: Shampine, *Stiffness and nonstiff differential equation solvers II*, 1977; Hairer & Wanner,
    *Solving ordinary differential equations II*, section IV.2.
    """

    error: Quantity | None
    unscaled_error: Quantity | None
    stiffness: Quantity | None
    ts: Float[Array, " max_steps"] | None
    lengths: Float[Array, " max_steps"] | None

    def of(self, name: str) -> Quantity:
        """A quantity by its name."""
        return getattr(self, name)


class HeuristicSpec(eqx.Module):
    """What `nde.diffeqsolve` is asked for by `heuristics`, where a sequence of names does not say all of it.

    `names`: of heuristics; `controller`: the step-size controller whose tolerances and norm are the measure of errors,
    the solve's own if `None`: so a solve on a fixed grid has errors too; `norm`: that of the unscaled error and of
    stiffness where no controller has one, the root mean square if `None`.
    """

    names: Sequence[str] = eqx.field(static=True)
    controller: diffrax.AbstractStepSizeController | None = None
    norm: Callable[[Any], Any] | None = None


def check_heuristics(asked: str | Sequence[str] | HeuristicSpec | None) -> HeuristicSpec:
    """What is asked for, each name once.

    **Raises:** `ValueError` for one that is not known.
    """
    asked = asked if isinstance(asked, HeuristicSpec) else HeuristicSpec(asked or ())
    names = (asked.names,) if isinstance(asked.names, str) else tuple(asked.names or ())
    for name in names:
        if name not in (*QUANTITIES, STEPS):
            raise ValueError(
                f"nde.diffeqsolve has no heuristics {name!r}: give some of {', '.join((*QUANTITIES, STEPS))}."
            )
    return HeuristicSpec(tuple(name for name in (*QUANTITIES, STEPS) if name in names), asked.controller, asked.norm)


class StepLog(NamedTuple):
    """Of every accepted step where it ends, its length $|h_j|$ and its heuristics, `(…, max_steps[, quantities])`.

    `quantities`: `None` where the times alone are wanted.
    """

    ts: jax.Array
    lengths: jax.Array
    quantities: jax.Array | None


def make_heuristics(names: Sequence[str], totals: jax.Array | None, log: StepLog | None) -> Heuristics:
    """What the user sees of the totals, `(3, quantities)`, and of the log of a solve of one example."""
    asked = [name for name in QUANTITIES if name in names]
    found: dict[str, Any] = dict.fromkeys((*QUANTITIES, "ts", "lengths"))
    for k, name in enumerate(asked):
        assert totals is not None
        total, integral, squares = totals[:, k]
        steps = None if log is None or log.quantities is None else log.quantities[:, k]
        found[name] = Quantity(total, integral, squares, steps)
    if log is not None:
        found |= {"ts": log.ts, "lengths": log.lengths}
    return Heuristics(**found)
