"""A random end of time, and a learned one."""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.regularise.base import AbstractRegulariser, Call, need_key, Plan
from nde.terms import is_sub


class RandomEndTime(AbstractRegulariser):
    r"""STEER: solve to a random end instead, $t_1 + b\,u$ with $u$ uniform on $(-1, 1)$. The penalty is zero.

    With $b = \texttt{spread}\,(t_1 - t_0)$ where `SaveAt` asks for no times. Where it does, each of `ts` moves so, in
    units of the way to the nearer of its neighbours, `t0` counting as one; a time at `t0`, or one that stands twice,
    stays. The end moves with the last of them, and the solution's `ts` say where the states were taken: a loss compares
    them with the data of the times asked for.

    **Arguments:** `spread`, in (0, 1/2]: with it all times keep their order.

    **Raises:** `ValueError` for another spread; in a solve, without a key, and for `diffrax.StepTo`, whose times would
    have to move too.

    **Limits:** where the terms have a path, none moves past `t1`, to which the path may end.

    **Source:** Ghosh, Behl, Dupont, Torr, Namboodiri, *STEER: simple temporal regularization for neural ODEs*, NeurIPS
    2020, arXiv 2006.10711, section 3.
    """

    spread: float = 0.5

    @property
    def changes_call(self) -> bool:
        """Times."""
        return True

    def __check_init__(self):
        if not 0 < self.spread <= 0.5:
            raise ValueError(f"RandomEndTime needs a spread in (0, 1/2], but got spread={self.spread}.")

    def plan(self, call: Call, key) -> Plan:
        key = need_key(key, "RandomEndTime draws at random")
        if isinstance(call.options.get("stepsize_controller"), diffrax.StepTo):
            raise ValueError(
                "RandomEndTime moves the end of time, but got StepTo, whose times are given: take "
                "nde.ConstantStepSize() or an adaptive controller."
            )
        dtype = jnp.result_type(call.t0, call.t1, float)
        t0, t1 = jnp.asarray(call.t0, dtype), jnp.asarray(call.t1, dtype)
        saveat = call.options.get("saveat") or diffrax.SaveAt(t1=True)
        has_path = any(isinstance(x, diffrax.AbstractPath) for x in jax.tree.leaves(call.terms, is_leaf=_is_path))

        def latest(a, b):
            return jnp.where(t0 <= t1, jnp.maximum(a, b), jnp.minimum(a, b))

        def clip(t):
            return jnp.where(t0 <= t1, jnp.minimum(t, t1), jnp.maximum(t, t1)) if has_path else t

        def moved(sub):
            if not is_sub(sub) or sub.ts is None:
                return sub
            ts = jnp.asarray(sub.ts, t0.dtype)
            return eqx.tree_at(lambda s: s.ts, sub, clip(ts + self.spread * _room(ts, t0) * _draw(key, ts)))

        subs = jax.tree.map(moved, saveat.subs, is_leaf=is_sub)
        asked, times = _save_times(saveat.subs), _save_times(subs)
        if times:
            last, end = (functools.reduce(latest, [x[-1] for x in each]) for each in (asked, times))
            # If nothing was asked for at t1 itself, it stays where it is, or gives way to the last time.
            end = jnp.where(last == t1, end, latest(end, t1))
        else:
            end = clip(t1 + self.spread * (t1 - t0) * _draw(key, t1))
        options = call.options | {"saveat": eqx.tree_at(lambda s: s.subs, saveat, subs)}
        return Plan(call._replace(t1=end, options=options), lambda seen: 0.0)


def _save_times(subs: Any) -> list[Any]:
    return [sub.ts for sub in jax.tree.leaves(subs, is_leaf=is_sub) if sub.ts is not None and len(sub.ts)]


def _draw(key, ts) -> Any:
    return jax.random.uniform(key, ts.shape, ts.dtype, -1.0, 1.0)


def _room(ts, t0) -> Any:
    """How far the nearer neighbour of each time is."""
    before = jnp.abs(ts - jnp.concatenate([t0[None], ts[:-1]]))
    after = jnp.concatenate([jnp.abs(ts[1:] - ts[:-1]), jnp.full(1, jnp.inf, ts.dtype)])
    return jnp.minimum(before, after)


def _is_path(x: Any) -> bool:
    return isinstance(x, diffrax.AbstractPath)


class LearnedEndTime(eqx.Module):
    r"""TO-FLOW: a field with a learned span of time, $a\,f\bigl(t_0 + a\,(t - t_0),\ y\bigr)$, $a > 0$.

    Solved from `t0` to $t_1$ it goes where $f$ goes to by $t_0 + a\,(t_1 - t_0)$: a learned end of time, in fields,
    so that it works in any model, in training and after it. `nde.regularise.EndTime` is its penalty.

    **Arguments:** `field`: any callable `f(t, y, args)`; `t0`: the start of time; `start`: $a$ to begin with.

    **Raises:** `ValueError` if `start` is not positive.

    **Source:** Du, Luo, Chen, Xu, Zeng, *TO-FLOW: efficient continuous normalizing flows with temporal optimization
    adjoint with moving speed*, CVPR 2022, arXiv 2203.10335. There network and end of time are optimised in turn; here
    together.
    """

    field: Callable[..., Any]
    log_span: Float[Array, ""]
    t0: float = eqx.field(static=True)

    def __init__(self, field: Callable[..., Any], *, t0: float = 0.0, start: float = 1.0):
        if not start > 0:
            raise ValueError(f"LearnedEndTime needs a start above zero, but got start={start}.")
        self.field, self.t0 = field, t0
        self.log_span = jnp.log(jnp.asarray(start, jnp.result_type(float)))

    @property
    def span(self) -> Float[Array, ""]:
        """$a$, how much longer time is than it seems."""
        return jnp.exp(self.log_span)

    def __call__(self, t, y, args):
        """The field in the time that the solver sees."""
        t = jnp.asarray(t)
        inner = self.field(self.t0 + self.span.astype(t.dtype) * (t - self.t0), y, args)
        return jax.tree.map(lambda x: self.span.astype(x.dtype) * x, inner)


class EndTime(AbstractRegulariser):
    r"""The span of time $a\,|t_1 - t_0|$ of the `nde.regularise.LearnedEndTime` in a solve's terms.

    With several of them it is the sum, one that stands twice counted twice.

    **Raises:** in a solve, `ValueError` if there is none.

    **Source:** as that of `nde.regularise.LearnedEndTime`: its temporal regularisation.
    """

    def plan(self, call: Call, key) -> Plan:
        del key
        fields = [x for x in jax.tree.leaves(call.terms, is_leaf=_is_learned) if _is_learned(x)]
        if not fields:
            raise ValueError(
                "EndTime needs a field with a learned end of time, but the terms have none: wrap the field as "
                "nde.regularise.LearnedEndTime(field)."
            )
        span = sum(field.span for field in fields)
        return Plan(call, lambda seen: span * jnp.abs(call.t1 - call.t0))


def _is_learned(x: Any) -> bool:
    return isinstance(x, LearnedEndTime)
