"""Normal variables by counter: each is a function of a key, a node and a lane, in any order, with no state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)

NOISE = "nde.paths: noise"
"""What `jax.checkpoint` policies know an increment by: to draw it again costs more than to hold it."""


def named(increment: Any) -> Any:
    """An increment by the name that policies know."""
    return jax.tree.map(lambda x: checkpoint_name(x, NOISE), increment)


def key_words(key: PRNGKeyArray) -> UInt32[Array, "2"]:
    """Two words that stand for a JAX random key, of any implementation; `ValueError` for what is no single key."""
    try:
        return jax.random.bits(key, (2,), jnp.uint32)
    except (TypeError, ValueError) as error:
        found = f"an array of shape {jnp.shape(key)}" if isinstance(key, jax.Array | np.ndarray) else repr(key)
        raise ValueError(f"A Brownian path needs one JAX random key, as jax.random.key(0), but got {found}.") from error


def threefry(
    words: tuple[UInt32[Array, "*#shape"], UInt32[Array, "*#shape"]],
    node: UInt32[Array, "*#shape"],
    lane: UInt32[Array, "*#shape"],
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Threefry-2x32 with 20 rounds: two words of noise for a key of two words and a counter of two words.

    Written out so that it fuses with what is made of the noise: JAX's own is a loop of kernels on the CPU, four times
    slower for what one step of a solve needs.

    **Source:** Salmon, Moraes, Dror, Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011.
    """
    schedule = (*words, words[0] ^ words[1] ^ PARITY)
    x, y = node + schedule[0], lane + schedule[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x = x + y
            y = ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))) ^ x
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def normals(
    words: tuple[UInt32[Array, "*#shape"], UInt32[Array, "*#shape"]],
    node: UInt32[Array, "*#shape"],
    lane: UInt32[Array, "*#shape"],
    dtype: Any,
) -> Float[Array, "*shape"]:
    r"""Standard normals for nodes and lanes; `words`: the two of the key.

    One block of threefry makes one normal, by $\sqrt 2\,\mathrm{erf}^{-1}(u)$ of a uniform $u$ on an even grid in
    $(-1, 1)$ without the ends: 24 bits in single precision and below, 53 in double. (Single precision throws half of
    the block away. Keeping it costs more, because then the noise no longer fuses into one kernel.)
    """
    x, y = threefry(words, node, lane)
    if jnp.finfo(dtype).bits == 64:
        high = lax.bitcast_convert_type(x, jnp.int32).astype(dtype)
        u = (high + ((y >> np.uint32(11)).astype(dtype) + 0.5) * 2.0**-21) * 2.0**-31
        return np.sqrt(2) * lax.erf_inv(u)
    high = lax.shift_right_arithmetic(lax.bitcast_convert_type(x, jnp.int32), np.int32(8))
    u = (high.astype(jnp.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    return (np.float32(np.sqrt(2)) * lax.erf_inv(u)).astype(dtype)
