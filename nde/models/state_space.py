"""Linear state spaces in continuous time: one layer, and a stack of them with networks between."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from nde.dtypes import default_float
from nde.models.recurrence import linear_recurrence, Scan


class StateSpace(eqx.Module):
    r"""A linear ODE per channel, $\dot x = \Lambda x + b\,u(t)$, $y = 2\,\mathrm{Re}\,c^\top x + d\,u$, of modes $x$.

    $\Lambda$ is diagonal and complex, with real parts below zero: $\lambda_n = (-e^{a_n} + i \omega_n) / \tau$. Where
    the input is held over a gap $\Delta$, the step is exact by variation of constants, whatever the gap,

    $$x \leftarrow e^{\lambda \Delta} x + \frac{e^{\lambda \Delta} - 1}{\lambda}\,b\,u,$$

    and three ways of many steps agree to rounding: one at a time (`step`), a scan over uneven gaps (the call), and a
    convolution on an even grid (`convolve`), which no state is needed for.

    **Arguments of the constructor:**

    - `channels`: $H$, each with its own modes.
    - `modes`: $N$ of each channel: complex ones, that stand for their conjugates too.
    - `shortest`, `longest`: the time scales $\tau$ to start from, drawn evenly in the logarithm.
    - `key`: a JAX random key.

    Modes start as $\lambda_n \tau = -\tfrac12 + i \pi n$, and $b = 1 / \tau$ with $c$ normal.

    **Raises:** `ValueError` unless $0 <$ `shortest` $\le$ `longest`.

    **Source:** Gu, Goel, Gupta, Ré, *On the Parameterization and Initialization of Diagonal State Space Models*,
    NeurIPS 2022, arXiv 2206.11893 (S4D-Lin, zero-order hold).
    """

    log_decay: Float[Array, "channels modes"]
    frequency: Float[Array, "channels modes"]
    real: Float[Array, "channels modes"]
    imaginary: Float[Array, "channels modes"]
    skip: Float[Array, " channels"]
    log_time_scale: Float[Array, " channels"]

    def __init__(self, channels: int, modes: int, *, shortest: float, longest: float, key: PRNGKeyArray):
        if not 0 < shortest <= longest:
            raise ValueError(f"StateSpace needs 0 < shortest <= longest, but got {shortest=} and {longest=}.")
        real_key, imaginary_key, skip_key, scale_key = jax.random.split(key, 4)
        shape, dtype = (channels, modes), default_float()
        self.log_decay = jnp.full(shape, math.log(0.5), dtype)
        self.frequency = jnp.broadcast_to(math.pi * jnp.arange(modes, dtype=dtype)[None], shape)
        self.real = jax.random.normal(real_key, shape, dtype) / math.sqrt(2)
        self.imaginary = jax.random.normal(imaginary_key, shape, dtype) / math.sqrt(2)
        self.skip = jax.random.normal(skip_key, (channels,), dtype)
        low, high = math.log(shortest), math.log(longest)
        self.log_time_scale = jax.random.uniform(scale_key, (channels,), dtype, low, max(high, low + 1e-6))

    @property
    def rates(self) -> Complex[Array, "channels modes"]:
        r"""$\lambda$, per unit of time."""
        return _times(jax.lax.complex(-jnp.exp(self.log_decay), self.frequency), self._speed)

    @property
    def _speed(self) -> Float[Array, "channels one"]:
        return jnp.exp(-self.log_time_scale)[:, None]

    @property
    def weights(self) -> Complex[Array, "channels modes"]:
        """$c$."""
        return jax.lax.complex(self.real, self.imaginary)

    @property
    def start(self) -> Complex[Array, "channels modes"]:
        """The state before anything was read: zero."""
        return jnp.zeros_like(self.rates)

    def maps(self, gaps: Float[Array, "*rows"]) -> tuple[Array, Array]:
        r"""What gaps make of the state, $e^{\lambda \Delta}$, and of their inputs; `(*rows, channels, modes)` each."""
        rates = jnp.broadcast_to(self.rates, (*gaps.shape, *self.rates.shape))
        exponents = _times(rates, gaps[..., None, None])
        speed = jnp.broadcast_to(self._speed, (*gaps.shape, *self._speed.shape))
        return jnp.exp(exponents), _times(jnp.expm1(exponents) / rates, speed)

    def step(
        self, state: Complex[Array, "channels modes"], inputs: Float[Array, " channels"], gap: Float[Array, ""]
    ) -> tuple[Complex[Array, "channels modes"], Float[Array, " channels"]]:
        """The state and the output at the end of a gap over which the input is held."""
        decay, gain = self.maps(gap)
        state = decay * state + _times(gain, inputs[:, None])
        return state, self.read(state, inputs)

    def read(self, states: Complex[Array, "*rows channels modes"], inputs: Float[Array, "*rows channels"]) -> Array:
        """The outputs of states."""
        weights = jnp.broadcast_to(self.weights, states.shape)
        return 2 * jnp.sum(weights * states, -1).real + jnp.broadcast_to(self.skip, inputs.shape) * inputs

    def __call__(
        self, inputs: Float[Array, "rows channels"], gaps: Float[Array, " rows"], scan: Scan = "auto"
    ) -> tuple[Float[Array, "rows channels"], Complex[Array, "rows channels modes"]]:
        """The outputs and the states at the ends of all gaps, over each of which its row of the inputs is held."""
        decay, gain = self.maps(gaps)
        offsets = _times(gain, inputs[:, :, None])
        rows = gaps.shape[0]
        states = linear_recurrence(
            decay.reshape(rows, -1, 1, 1), offsets.reshape(rows, -1, 1), self.start.reshape(-1, 1), scan
        ).reshape(decay.shape)
        return self.read(states, inputs), states

    def convolve(self, inputs: Float[Array, "rows channels"], gap: Float[Array, ""]) -> Float[Array, "rows channels"]:
        r"""The outputs of the call where all gaps are one: $y = k * u + d\,u$, by Fourier transforms.

        $k_j = 2\,\mathrm{Re} \sum_n c_n\,\bar b_n e^{\lambda_n \Delta j}$, $\bar b$ what one gap makes of an input.
        """
        rows = inputs.shape[0]
        _, gain = self.maps(gap)
        # powers of e^(λΔ) as products of two tables of some square root of the rows: complex exponentials are the
        # costliest part of a convolution on a CPU
        part = math.isqrt(max(rows - 1, 0)) + 1
        count = jnp.arange(part, dtype=inputs.dtype)[:, None, None]
        fine = jnp.exp(_times(self.rates[None], gap * count))
        coarse = jnp.exp(_times(self.rates[None], gap * part * count)) * (self.weights * gain)[None]
        kernel = 2 * jnp.einsum("ahn,bhn->abh", coarse, fine).real.reshape(part * part, -1)[:rows]
        spectrum = jnp.fft.rfft(kernel, 2 * rows, axis=0) * jnp.fft.rfft(inputs, 2 * rows, axis=0)
        return jnp.fft.irfft(spectrum, 2 * rows, axis=0)[:rows] + self.skip[None] * inputs


def _times(z: Complex[Array, "*shape"], x: Float[Array, "*shape"]) -> Complex[Array, "*shape"]:
    """A complex and a real array multiplied, also where their types are not to be mixed."""
    return jax.lax.complex(z.real * x, z.imag * x)


class StateSpaceStack(eqx.Module):
    r"""Layers of `nde.models.StateSpace`, each $h \leftarrow h + W\,\mathrm{gelu}(\mathrm{SSM}(\mathrm{norm}(h)))$.

    **Arguments of the constructor:** `in_size`, `out_size`: of its first and last linear layer; `width`: channels of
    the layers between, each with `modes`; `depth`: how many; `shortest`, `longest`: as of a `nde.models.StateSpace`;
    `key`. The output starts at zero.

    **Call:** `stack(inputs, gaps)` with inputs `(rows, in_size)` and gaps `(rows,)` returns the outputs
    `(rows, out_size)` and each layer's states. `stack.step(states, inputs, gap)` makes one row of it.
    """

    first: eqx.nn.Linear
    norms: tuple[eqx.nn.LayerNorm, ...]
    layers: tuple[StateSpace, ...]
    mixes: tuple[eqx.nn.Linear, ...]
    last: eqx.nn.Linear

    def __init__(
        self,
        in_size: int,
        out_size: int,
        width: int,
        modes: int,
        depth: int,
        *,
        shortest: float,
        longest: float,
        key: PRNGKeyArray,
    ):
        first_key, last_key, *keys = jax.random.split(key, 2 + 2 * depth)
        self.first = eqx.nn.Linear(in_size, width, key=first_key)
        self.norms = tuple(eqx.nn.LayerNorm(width) for _ in range(depth))
        self.layers = tuple(
            StateSpace(width, modes, shortest=shortest, longest=longest, key=each) for each in keys[:depth]
        )
        self.mixes = tuple(eqx.nn.Linear(width, width, key=each) for each in keys[depth:])
        last = eqx.nn.Linear(width, out_size, key=last_key)
        self.last = jax.tree.map(jnp.zeros_like, last)

    @property
    def start(self) -> tuple[Array, ...]:
        """The states of its layers before anything was read."""
        return tuple(layer.start for layer in self.layers)

    def __call__(
        self, inputs: Float[Array, "rows in_size"], gaps: Float[Array, " rows"]
    ) -> tuple[Float[Array, "rows out_size"], tuple[Array, ...]]:
        hidden, states = jax.vmap(self.first)(inputs), []
        for norm, layer, mix in zip(self.norms, self.layers, self.mixes, strict=True):
            outputs, found = layer(jax.vmap(norm)(hidden), gaps)
            hidden = hidden + jax.vmap(mix)(jax.nn.gelu(outputs))
            states.append(found)
        return jax.vmap(self.last)(hidden), tuple(states)

    def step(
        self, states: tuple[Array, ...], inputs: Float[Array, " in_size"], gap: Float[Array, ""]
    ) -> tuple[Float[Array, " out_size"], tuple[Array, ...]]:
        """One row: the outputs and the states at the end of a gap, from the states before it."""
        hidden, after = self.first(inputs), []
        for norm, layer, mix, state in zip(self.norms, self.layers, self.mixes, states, strict=True):
            state, outputs = layer.step(state, norm(hidden), gap)
            hidden = hidden + mix(jax.nn.gelu(outputs))
            after.append(state)
        return self.last(hidden), tuple(after)
