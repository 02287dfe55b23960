"""What a regulariser is: what it asks of a solve, and the number that it makes of the answer."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from nde.steppers import Heuristics


class Call(NamedTuple):
    """A call of `nde.diffeqsolve`, as yet not made: its arguments, and its keywords in `options`."""

    terms: Any
    solver: diffrax.AbstractSolver
    t0: Any
    t1: Any
    dt0: Any
    y0: Any
    args: Any
    options: dict[str, Any]


class Seen(NamedTuple):
    """What a regulariser gets to see of a solve.

    - `call`: the one that was made.
    - `solution`: as the caller gets it; its `stats` have everything.
    - `heuristics`: a `nde.Heuristics`, `None` if nobody asked for any.
    - `integrals`: of its own `rates`.
    - `saved`: what its own `subs` saved, a pair `(ts, ys)` each.
    """

    call: Call
    solution: diffrax.Solution
    heuristics: Heuristics | None
    integrals: list[Float[Array, ""]]
    saved: list[tuple[Any, Any]]


class Plan(NamedTuple):
    """What a regulariser asks of a solve.

    - `call`: the call to be made, which it may have changed (its times, say).
    - `penalty`: from a `nde.regularise.Seen` to a number.
    - `heuristics`: names, as `nde.diffeqsolve` takes them.
    - `rates`: functions `rate(field, t, y, args)` to be integrated along the solution, with `field(t, y, args)` the
      drift.
    - `subs`: what more shall be saved.
    """

    call: Call
    penalty: Callable[[Seen], Any]
    heuristics: Sequence[str] = ()
    rates: Sequence[Callable[..., Any]] = ()
    subs: Sequence[diffrax.SubSaveAt] = ()


class AbstractRegulariser(eqx.Module):
    """A number beside a solution, small where the equation is easy to solve."""

    @property
    def changes_call(self) -> bool:
        """Whether it may change the call; such a one plans before others."""
        return False

    @abc.abstractmethod
    def plan(self, call: Call, key: PRNGKeyArray | None) -> Plan:
        """What it asks of a solve. `key` is `None` where the caller gave none."""


class Together(AbstractRegulariser):
    r"""Several regularisers in one solve: $\sum_i w_i R_i$.

    **Arguments:** `regularisers`: in any order, those that move times are asked first; `weights`: as many numbers, ones
    if `None`. A regulariser that draws gets a key of its own.

    **Raises:** `ValueError` if there are not as many weights.
    """

    regularisers: Sequence[AbstractRegulariser]
    weights: Sequence[Any] | None = None

    def __check_init__(self):
        if self.weights is not None and len(self.weights) != len(self.regularisers):
            raise ValueError(
                f"Together needs a weight for each of its {len(self.regularisers)} regularisers, but got "
                f"{len(self.weights)}."
            )

    @property
    def changes_call(self) -> bool:
        """Whether one of them does."""
        return any(each.changes_call for each in self.regularisers)

    def plan(self, call: Call, key: PRNGKeyArray | None) -> Plan:
        count = len(self.regularisers)
        keys = [None] * count if key is None else list(jax.random.split(key, max(count, 1)))
        weights = [1.0] * count if self.weights is None else self.weights
        plans: list[Plan] = []
        order = sorted(range(count), key=lambda i: not self.regularisers[i].changes_call)
        for i in order:
            plans.append(self.regularisers[i].plan(call, keys[i]))
            call = plans[-1].call

        def penalty(seen: Seen):
            rates, subs, total = iter(seen.integrals), iter(seen.saved), 0.0
            for plan, i in zip(plans, order, strict=True):
                own = seen._replace(integrals=[next(rates) for _ in plan.rates], saved=[next(subs) for _ in plan.subs])
                total = total + weights[i] * plan.penalty(own)
            return total

        return Plan(
            call,
            penalty,
            [name for plan in plans for name in plan.heuristics],
            [rate for plan in plans for rate in plan.rates],
            [sub for plan in plans for sub in plan.subs],
        )


def need_key(key: PRNGKeyArray | None, draws: str, way_out: str = "give key=jax.random.key(0)") -> PRNGKeyArray:
    """The key.

    **Raises:** `ValueError` without one: `draws` says who draws what, `way_out` what to do.
    """
    if key is None:
        raise ValueError(f"{draws} and needs a key, but got key=None: {way_out}.")
    return key


def weight_schedule(start: float, end: float | None = None, steps: int = 0) -> optax.Schedule:
    r"""The weight of a penalty at each step of training: constant, or falling from `start` to `end` as

    $$w_n = w_0\,(w_1 / w_0)^{n / N}, \qquad n \le N = \texttt{steps},$$

    and constant after that: the annealing of Pal et al. 2021, section 4 (from 100 to 10 on MNIST).

    **Returns:** a function of the step's number, one of `optax`.

    **Raises:** `ValueError` if `start` is negative, or, with an `end`, one of the two or `steps` is not positive.
    """
    if end is None:
        if start < 0:
            raise ValueError(f"weight_schedule needs a weight of zero or more, but got start={start}.")
        return optax.constant_schedule(start)
    if start <= 0 or end <= 0 or steps < 1:
        raise ValueError(
            f"weight_schedule needs start, end and steps above zero, but got start={start}, end={end}, steps={steps}."
        )
    return optax.exponential_decay(start, steps, end / start, end_value=end)
