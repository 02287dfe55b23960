"""The floor of a gradient: a replay of the accepted steps by hand, which decides nothing.

The gradient of an adaptive solve needs the forward solve, and then the pullback of one accepted step after another.
`replay_of` writes the second by hand: a scan, backward over recorded times, lengths and states, whose body evaluates
the stages of Tsit5 again and pulls a cotangent back through them. The cotangents of saved values enter as those of a
step's start and stages, weighted by the polynomials of the dense output; no field is evaluated for them. The floor is
the time of the forward solve and of this replay together. Only a backward pass that is parallel in time, or one that
stores what is recomputed here, can be below it.

Fixed steps need no record: `grid_floors` differentiates a scan of the same steps by JAX, with the inside of each step
recomputed, or stored.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import nde

TABLEAU = diffrax.Tsit5.tableau
LOWER = [np.asarray(row).tolist() for row in TABLEAU.a_lower]  # of stages 2 to 7; the last is the solution's weights
TIMES = [0.0, *np.asarray(TABLEAU.c).tolist()]
STAGES = 6  # the seventh is the first of the next step


def tsit5(field: Callable, t: Any, h: Any, y: Any, parameters: Any) -> tuple[Any, tuple[Any, ...]]:
    """One step: the next state, and the field's six values in it."""
    values = [field(t, y, parameters)]
    for row, c in zip(LOWER[:-1], TIMES[1:], strict=False):
        inside = y + h * sum(a * k for a, k in zip(row, values, strict=True))
        values.append(field(t + c * h, inside, parameters))
    return y + h * sum(b * k for b, k in zip(LOWER[-1], values, strict=True) if b), tuple(values)


class Steps(NamedTuple):
    """Accepted steps, a row each, and what is saved in them; an axis of the batch follows the first.

    Beyond the end of a shorter solve there are steps of length zero, at least one: the seventh stage of the last
    step is its first.
    """

    t: jax.Array
    h: jax.Array
    y: jax.Array
    inside: jax.Array  # (…, m): which saved values lie in the step, m the most in any step
    weights: jax.Array  # (…, m, 7): of them, the polynomials of the dense output times the length; zero where none is
    start: jax.Array  # (…, m): one, or zero where none is
    saved: jax.Array  # the saved values, the batch's axis first


def recorded(row: Any) -> Steps:
    """The accepted steps of an `engine.Row`, and the values at its save times, by `nde.diffeqsolve`."""
    saveat = diffrax.SaveAt(
        subs=[diffrax.SubSaveAt(ts=row.ts), diffrax.SubSaveAt(t0=True, steps=True)],
    )

    def one(y0):
        solution = nde.diffeqsolve(
            diffrax.ODETerm(row.field), diffrax.Tsit5(), 0.0, row.end, 0.01, y0, row.parameters, saveat=saveat,
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6), max_steps=min(row.max_steps, 4096),
        )  # fmt: skip
        last = solution.stats["num_accepted_steps"]
        return solution.ts[1], solution.ys[1], solution.ys[0], last

    ts, ys, saved, last = (np.asarray(x) for x in jax.jit(jax.vmap(one))(jnp.atleast_2d(row.y0)))
    known = np.minimum(np.arange(last.max() + 2), last[:, None])  # beyond the end the last state again
    ts, ys = np.take_along_axis(ts, known, 1), np.take_along_axis(ys, known[..., None], 1)
    arrays = (ts[:, :-1], np.diff(ts), ys[:, :-1], *_saves(ts, last, np.asarray(row.ts)))
    steps = [jnp.asarray(np.swapaxes(x, 0, 1)) for x in arrays]
    if row.y0.ndim == 1:
        return Steps(*(x[:, 0] for x in steps), jnp.asarray(saved[0]))
    return Steps(*steps, jnp.asarray(saved))


def _saves(ts: np.ndarray, last: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`inside`, `weights` and `start` of `Steps`, the batch's axis first."""
    batch, save = np.arange(len(ts))[:, None], np.arange(len(times))
    step = np.stack([np.searchsorted(x, times) for x in ts]) - 1
    step = np.clip(step, 0, last[:, None] - 1)
    place = save - np.stack([np.searchsorted(x, x) for x in step])  # among those of its step
    h = np.diff(ts)[batch, step]
    basis = diffrax.Tsit5.interpolation_cls(
        t0=0.0, t1=1.0, y0=jnp.zeros(STAGES + 1), y1=jnp.zeros(STAGES + 1), k=jnp.eye(STAGES + 1)
    )
    polynomials = jax.vmap(jax.vmap(basis.evaluate))(jnp.asarray((times - ts[batch, step]) / h))
    shape = (len(ts), ts.shape[1] - 1, place.max() + 1)
    inside, start = np.zeros(shape, int), np.zeros(shape, np.float32)
    weights = np.zeros((*shape, STAGES + 1), np.float32)
    inside[batch, step, place] = save
    weights[batch, step, place] = h[..., None] * np.asarray(polynomials)
    start[batch, step, place] = 1.0
    return inside, weights, start


def replay_of(row: Any) -> Callable[[], Any]:
    """The backward pass of the mean square of what an `engine.Row` saves, in its parameters, by hand."""

    def step(t, h, y, parameters):
        return tsit5(row.field, t, h, y, parameters)

    batched = row.y0.ndim == 2
    step = jax.vmap(step, (0, 0, 0, None)) if batched else step

    def from_saved(steps: Steps) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Cotangents of the steps' starts and of their stages."""
        cotangent = 2.0 * steps.saved / steps.saved.size
        chosen = cotangent[jnp.arange(len(cotangent))[:, None], steps.inside] if batched else cotangent[steps.inside]
        stages = [jnp.sum(steps.weights[..., i, None] * chosen, -2) for i in range(STAGES + 1)]
        first = stages[0].at[1:].add(stages[-1][:-1])  # a seventh stage is the next step's first
        start = jnp.sum(steps.start[..., None] * chosen, -2)
        return start, (first, *stages[1:-1])

    def backward(parameters, steps: Steps):
        def body(carry, x):
            later, gradient = carry
            t, h, y, start, stages = x
            (_, _), pull = jax.vjp(lambda y, p: step(t, h, y, p), y, parameters)
            earlier, more = pull((later, stages))
            return (earlier + start, jax.tree.map(jnp.add, gradient, more)), None

        zeros = jnp.zeros_like(steps.y[0]), jax.tree.map(jnp.zeros_like, parameters)
        rows = (steps.t, steps.h, steps.y, *from_saved(steps))
        return jax.lax.scan(body, zeros, rows, reverse=True)[0][1]

    steps, compiled = recorded(row), jax.jit(backward)
    return lambda: compiled(row.parameters, steps)


def grid_floors(row: Any) -> dict[str, Callable[[], Any]]:
    """Gradients of a `peers.Grid` by hand: a scan over its steps, the inside of each recomputed, or stored."""
    h = 1.0 / row.steps

    def one(parameters, y0, key):
        def step(y, x):
            t, noise = x
            if row.diffusion is None:
                return tsit5(row.drift, t, h, y, parameters)[0], None
            return y + h * row.drift(t, y, parameters) + row.diffusion(t, y, parameters) * noise, None

        noise = jnp.zeros(row.steps) if row.diffusion is None else h**0.5 * jax.random.normal(key, (row.steps,))
        return y0, step, (h * jnp.arange(row.steps), noise)

    def loss(wrap, parameters, y0, keys):
        def end(y0, key):
            start, step, xs = one(parameters, y0, key)
            return jax.lax.scan(wrap(step), start, xs)[0] ** 2

        return jnp.mean(jax.vmap(end)(y0, keys)) if row.y0.ndim else end(y0, keys)

    ways = {"recomputed": jax.checkpoint, "stored": lambda step: step}
    gradients = {name: jax.jit(jax.grad(lambda *a, w=wrap: loss(w, *a))) for name, wrap in ways.items()}
    return {name: lambda f=f: f(row.parameters, row.y0, row.keys) for name, f in gradients.items()}
