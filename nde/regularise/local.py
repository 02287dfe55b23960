"""The solver's estimate of its error at one random step."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from nde.engine import diffeqsolve
from nde.regularise.base import AbstractRegulariser, Call, need_key, Plan, Seen
from nde.steppers import check_heuristics, HeuristicSpec


class LocalErrorEstimate(AbstractRegulariser):
    r"""The error that the solver estimates for one step more, from one saved state $y(t)$,

    $$R = (t_1 - t_0)\,E(t, h) \quad\text{(unbiased)}, \qquad R = n\,E(t_j, h_j)\,|h_j| \quad\text{(biased)}.$$

    Unbiased: $t$ is uniform over the solve, $h$ the length of the accepted step that holds it (less at the end).
    Biased, towards where the steps are many: $(t_j, h_j)$ is one of the $n$ accepted steps, all alike. Both estimate
    the sum of `nde.regularise.ErrorEstimate`; the second is that in expectation. Times and lengths are constants.

    **Arguments:** `biased`; `detached`: whether $y(t)$ is a constant too, so that the gradient is the field's in that
    step alone.

    **Raises:** in a solve, `ValueError` without a key, as `nde.regularise.ErrorEstimate` does, for a
    `nde.BrownianGrid`, which is known at the solve's own times only, and, unbiased, for an event, before which no
    uniform time can be drawn.

    **Limits:** any adjoint of nde will do. The biased one keeps every accepted state: memory of `max_steps` of them.

    **Source:** Pal, Edelman, Rackauckas, *Locally regularized neural differential equations: some black boxes were
    meant to remain closed!*, ICML 2023, arXiv 2303.02262, section 3. There $h$ is the one that a solver started afresh
    at $t$ would choose, the penalty is $E\,|h|$ without the factor, and the state is a constant.
    """

    biased: bool = eqx.field(default=False, static=True)
    detached: bool = eqx.field(default=False, static=True)

    def plan(self, call: Call, key) -> Plan:
        key = need_key(key, "LocalErrorEstimate draws at random")
        if call.options.get("event") is not None and not self.biased:
            raise ValueError(
                "LocalErrorEstimate draws a time before the end, but with an event this is not known: give biased=True."
            )
        t0, t1 = call.t0, call.t1
        share = jax.random.uniform(key, (), jnp.result_type(t0, t1, float))
        t = jnp.clip(t0 + share * (t1 - t0), min=jnp.minimum(t0, t1), max=jnp.maximum(t0, t1))
        t = jax.lax.stop_gradient(t)
        sub = diffrax.SubSaveAt(t0=True, steps=True) if self.biased else diffrax.SubSaveAt(ts=t[None])

        def penalty(seen: Seen):
            steps, count = seen.heuristics, seen.solution.stats["num_accepted_steps"]
            assert steps is not None and steps.ts is not None and steps.lengths is not None
            sign = jnp.where(t0 <= t1, 1, -1)
            ts, ys = seen.saved[0]
            if self.biased:
                number = jnp.minimum((share * count.astype(share.dtype)).astype(count.dtype), jnp.maximum(count - 1, 0))
                start, length = ts[number], steps.lengths[number]
                factor = count.astype(length.dtype) * length
            else:
                number = jnp.sum((steps.ts * sign < t * sign) & (steps.lengths > 0), dtype=count.dtype)
                number = jnp.minimum(number, jnp.maximum(count - 1, 0))
                start, length, factor = t, steps.lengths[number], jnp.abs(t1 - t0)
            start = jax.lax.stop_gradient(start)
            end = jnp.where(length >= jnp.abs(t1 - start), t1, start + sign * length)
            y = jax.tree.map(lambda x: x[number if self.biased else 0], ys)
            y = jax.lax.stop_gradient(y) if self.detached else y
            return jax.lax.stop_gradient(factor) * _error(seen.call, start, jax.lax.stop_gradient(end), y)

        return Plan(call, penalty, heuristics=("steps",), subs=(sub,))


def _error(call: Call, start, end, y):
    """The estimate of the error of one step; zero over no time, NaN where the solve had failed before."""
    nothing = start == end
    controller = call.options.get("stepsize_controller", diffrax.ConstantStepSize())
    some = jnp.where(call.t0 == call.t1, call.t0 + 1, call.t1)
    start, end = jnp.where(nothing, call.t0, start), jnp.where(nothing, some, end)
    asked = check_heuristics(call.options.get("heuristics", ()))
    solution = diffeqsolve(
        call.terms,
        call.solver,
        start,
        end,
        None,
        y,
        call.args,
        stepsize_controller=diffrax.StepTo(ts=jnp.stack([start, end])),
        heuristics=HeuristicSpec(("error",), asked.controller or controller, asked.norm),
        max_steps=1,
        throw=False,
    )
    error = jnp.where(solution.result == diffrax.RESULTS.successful, solution.stats["heuristics"].error.total, jnp.nan)
    return jnp.where(nothing, 0, error)
