"""Where an ODE carries a point, and how the log-density changes on the way."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from nde.models.numerics import Numerics, Solved
from nde.regularise import AbstractRegulariser, need_key
from nde.terms import WithIntegrals


class Divergence(eqx.Module):
    r"""A field and its divergence, the sum of $v^T J v$ over `directions`, from one linearisation."""

    directions: Float[Array, "directions size"]

    def __call__(self, field, t, y, args):
        velocity, push = jax.linearize(lambda y: field(t, y, args), y)
        return velocity, jnp.sum(self.directions * jax.vmap(push)(self.directions))


def trace_directions(
    model: str, size: int, probes: int | None, dtype: Any, key: PRNGKeyArray | None
) -> tuple[Float[Array, "directions size"], PRNGKeyArray | None]:
    """Vectors `v` such that the sum of all `v^T J v` is the trace of `J`, or with `probes` on average so; another key.

    **Raises:** `ValueError`, naming `model`, for probes without a key.
    """
    other = None if key is None else jax.random.fold_in(key, 1)
    if probes is None:
        return jnp.eye(size, dtype=dtype), other
    draws = f"{model} with probes={probes} draws them"
    key = need_key(key, draws, "call log_prob(x, key=jax.random.key(0)), or make it exact by probes=None")
    return jax.random.rademacher(key, (probes, size), dtype) / math.sqrt(probes), other


def carried(
    numerics: Numerics,
    field: Callable[..., Any],
    x: Float[Array, " size"],
    ends: tuple[Any, Any],
    args: PyTree[Any] = None,
    *,
    backward: bool = False,
    directions: Float[Array, "directions size"] | None = None,
    regulariser: AbstractRegulariser | None = None,
    key: PRNGKeyArray | None = None,
) -> Solved:
    r"""Where $dx = f(t, x)\,dt$ carries a point from `ends[0]` to `ends[1]`, and the log-densities' difference.

    **Arguments:** `backward`: whether time runs backward; `directions`: of `trace_directions`; without them no
    log-density is carried; `regulariser`, `key`: as for `nde.Numerics.solve`.

    **Returns:** `ys` is the pair of the point at `ends[1]` and $\log p(x(t_0)) - \log p(x(t_1))$, which has no part in
    the control of the error.
    """
    t0, t1 = (jnp.asarray(t, x.dtype) for t in ends)
    saveat = diffrax.SaveAt(t1=True)
    options = {"saveat": saveat, "backward": backward, "regulariser": regulariser, "key": key}
    if directions is None:
        solved = numerics.solve(diffrax.ODETerm(field), t0, t1, x, args, **options)
        return solved._replace(ys=(solved.ys[0], jnp.zeros((), x.dtype)))
    pair = WithIntegrals(diffrax.ODETerm(field), joint=Divergence(directions))
    numerics = dataclasses.replace(numerics, controller=pair.controller(numerics.controller))
    solved = numerics.solve(pair.terms, t0, t1, pair.state(x), args, **options)
    return solved._replace(ys=(solved.ys[0][0], solved.ys[1][0][0]))


def normal_log_prob(z: Float[Array, " size"], std: Any = 1.0) -> Float[Array, ""]:
    r"""$\log \mathcal N(z; 0, \sigma^2 I)$."""
    std = jnp.asarray(std, z.dtype)
    return -0.5 * jnp.sum((z / std) ** 2) - z.size * (jnp.log(std) + 0.5 * math.log(2 * math.pi))
