"""The loss of a classifier."""

import jax
from jaxtyping import Array, Float, Int


def cross_entropy(logits: Float[Array, " classes"], label: Int[Array, ""] | int) -> Float[Array, ""]:
    r"""What a classifier pays for one series, $-\log \mathrm{softmax}(\ell)_y$, in nats.

    **Arguments:** `logits`: $\ell$, of shape `(classes,)`; `label`: $y$, the number of the true class. A label outside
    of `0 … classes - 1` is the caller's error and not found: under `jit` it reads the nearest class.
    """
    return -jax.nn.log_softmax(logits)[label]
