"""Brownian motion on a fixed grid of times."""

from typing import ClassVar

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class BrownianGrid(diffrax.AbstractBrownianPath):
    r"""Brownian motion known on `num_steps` equal steps from `t0` to `t1`: $W_{n+1} - W_n \sim \mathcal N(0, h I)$.

    All increments are drawn at once from the key, so that the same key gives the same path in every pass, forward or
    backward, and a step only reads one row.

    **Arguments of the constructor:** `t0`, `t1`: the ends, floats; `num_steps`: how many equal steps lie between them;
    `shape`: of one increment, a tuple of integers; `key`: a JAX random key; `dtype`: of the increments.

    **Call:** `path.evaluate(t0, t1)` gives the increment over one step of the grid.

    **Limits:** it answers for whole steps of its own grid only; use it with a solver that takes just those, and
    `diffrax.VirtualBrownianTree` elsewhere. Memory is that of all the increments.

    **Raises:** `ValueError` if `num_steps` is not positive or `t1` does not lie after `t0`.
    """

    t0: float
    t1: float
    num_steps: int
    increments: Float[Array, "steps ..."]
    levy_area: ClassVar = diffrax.BrownianIncrement

    def __init__(
        self,
        t0: float,
        t1: float,
        num_steps: int,
        shape: tuple[int, ...],
        key: PRNGKeyArray,
        *,
        dtype: jnp.dtype | None = None,
    ):
        if num_steps < 1 or not t0 < t1:
            raise ValueError(f"BrownianGrid needs t0 < t1 and num_steps > 0, but got {t0}, {t1} and {num_steps}.")
        self.t0, self.t1, self.num_steps = float(t0), float(t1), num_steps
        scale = ((self.t1 - self.t0) / num_steps) ** 0.5
        self.increments = scale * jax.random.normal(key, (num_steps, *shape), dtype)

    def evaluate(self, t0, t1=None, left: bool = True, use_levy: bool = False):
        """The increment over the step that starts at `t0`; `t1` is that step's end.

        With `use_levy` it comes as a `diffrax.BrownianIncrement`, with the step's length.
        """
        place = (t0 - self.t0) * (self.num_steps / (self.t1 - self.t0))
        increment = self.increments[jnp.round(place).astype(jnp.int32)]
        length = jnp.asarray((self.t1 - self.t0) / self.num_steps, increment.dtype)
        return diffrax.BrownianIncrement(dt=length, W=increment) if use_levy else increment
