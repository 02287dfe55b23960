"""The vector field of a liquid time-constant network, and its fused step."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.dtypes import default_float
from nde.fields.checks import check_sizes
from nde.fields.parameter import inverse_softplus


class LTCField(eqx.Module):
    r"""A leaky state pulled to `A` by a gate: $\dot x = -\bigl(1/\tau + f(x, I)\bigr) \odot x + f(x, I) \odot A$.

    The gate is $f(x, I) = W \odot \mathrm{sigmoid}(\Gamma_r x + \Gamma I + \mu)$ with $W, \tau > 0$, so that each state
    has a time constant that hangs on state and input, $\tau / (1 + \tau f)$, between $\tau / (1 + \tau W)$ and $\tau$
    (theorem 1), and never leaves the interval between 0 and its `A` (theorem 2).

    **Arguments of the constructor:**

    - `state_size`: length of `x`; `input_size`: of the input `I`.
    - `time_constants`: the shortest and the longest $\tau$ to start from, spread evenly on a log scale over the states,
      in units of time. `W` starts at one over the shortest, so that an open gate is as fast.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, x, input)` with `x` of shape `(state_size,)`, `input` of shape `(input_size,)`; returns the rate
    of change of `x`. `t` is not used. `field.step(x, input, dt)` is the fused step instead of a solver.

    **Raises:** `ValueError` for a size below one, or if not `0 < shortest <= longest`.

    **Limits:** the bounds ask for a gate that is never negative. The paper's algorithm 1 prints tanh in its place, for
    which neither holds; its theorems, its proofs and its authors' code have a sigmoid.

    **Source:** Hasani, Lechner, Amini, Rus, Grosu, *Liquid Time-constant Networks*, AAAI 2021, arXiv 2006.04439,
    equation 1; its fused solver; theorems 1 and 2.
    """

    recurrent: Float[Array, "state state"]
    sensory: eqx.nn.Linear
    target: Float[Array, " state"]
    raw_strength: Float[Array, " state"]
    raw_leak: Float[Array, " state"]

    def __init__(
        self,
        state_size: int,
        input_size: int,
        *,
        time_constants: tuple[float, float] = (0.05, 1.0),
        key: PRNGKeyArray,
    ):
        check_sizes("LTCField", state_size=state_size, input_size=input_size)
        shortest, longest = time_constants
        if not 0 < shortest <= longest < math.inf:
            raise ValueError(f"LTCField needs time_constants 0 < shortest <= longest, but got {time_constants}.")
        recurrent_key, sensory_key, target_key = jax.random.split(key, 3)
        bound = 1 / math.sqrt(state_size)
        self.recurrent = jax.random.uniform(recurrent_key, (state_size, state_size), minval=-bound, maxval=bound)
        self.sensory = eqx.nn.Linear(input_size, state_size, key=sensory_key)
        self.target = jax.random.rademacher(target_key, (state_size,), self.recurrent.dtype)
        leak = 1 / np.geomspace(shortest, longest, state_size)
        self.raw_leak = jnp.asarray(inverse_softplus(leak), default_float())
        self.raw_strength = jnp.full(state_size, inverse_softplus(1 / shortest), default_float())

    @property
    def leak(self) -> Float[Array, " state"]:
        r"""$1 / \tau$, above zero."""
        return jax.nn.softplus(self.raw_leak)

    @property
    def strength(self) -> Float[Array, " state"]:
        """`W`, above zero."""
        return jax.nn.softplus(self.raw_strength)

    def gate(self, x: Float[Array, " state"], drive: Float[Array, " state"]) -> Float[Array, " state"]:
        r"""$f$, from the state and from what the input gives, `drive = field.sensory(input)`."""
        return self.strength * jax.nn.sigmoid(self.recurrent @ x + drive)

    def __call__(self, t: Any, y: Float[Array, " state"], args: Float[Array, " input"]) -> Float[Array, " state"]:
        f = self.gate(y, self.sensory(args))
        return -(self.leak + f) * y + f * self.target

    def time_constant(self, x: Float[Array, " state"], args: Float[Array, " input"]) -> Float[Array, " state"]:
        r"""$\tau / (1 + \tau f)$ of each state, in units of time."""
        return 1 / (self.leak + self.gate(x, self.sensory(args)))

    def step(self, x: Float[Array, " state"], args: Float[Array, " input"], dt: ArrayLike) -> Float[Array, " state"]:
        r"""The fused step over `dt`, explicit in the gate and implicit in the state it multiplies:

        $$x(t + \Delta t) = \frac{x + \Delta t\, f(x, I) \odot A}{1 + \Delta t\,\bigl(1/\tau + f(x, I)\bigr)}.$$

        It is the mean of `x`, `A` and 0 with weights $1$, $\Delta t f$ and $\Delta t / \tau$: it keeps the bounds of
        the state and is stable for every `dt`, where explicit Euler is not beyond twice the time constant. It is of
        order one, and does nothing over `dt = 0`.
        """
        return self.step_driven(x, self.sensory(args), dt)

    def step_driven(
        self, x: Float[Array, " state"], drive: Float[Array, " state"], dt: ArrayLike
    ) -> Float[Array, " state"]:
        """The fused step from `drive = field.sensory(input)`, which is one product for many inputs."""
        f = self.gate(x, drive)
        return (x + dt * f * self.target) / (1 + dt * (self.leak + f))
