"""The loss of a classifier."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nde.objectives.terms import Terms
from nde.regularise import AbstractRegulariser


def cross_entropy(logits: Float[Array, " classes"], label: Int[Array, ""] | int) -> Float[Array, ""]:
    r"""What a classifier pays for one series, $-\log \mathrm{softmax}(\ell)_y$, in nats.

    **Arguments:** `logits`: $\ell$, of shape `(classes,)`; `label`: $y$, the number of the true class. A label outside
    of `0 … classes - 1` is the caller's error and not found: under `jit` it reads the nearest class.
    """
    return -jax.nn.log_softmax(logits)[label]


def classification_loss(
    model: Any,
    *example: Any,
    step: Array | int = 0,
    key: PRNGKeyArray | None = None,
    regulariser: AbstractRegulariser | None = None,
) -> Terms:
    """The cross-entropy of a classifier on one series; reports whether its likeliest class is the true one.

    **Arguments:** `model`: `model(*inputs, key=key)` returns logits, as of a `nde.NeuralCDE`; `example`: the inputs,
    and at last the label; `regulariser`: makes the penalty, of a model that solves an equation (`model.solve`); `key`:
    for a model or a regulariser that draws.

    **Returns:** `nde.objectives.Terms`.
    """
    *inputs, label = example
    penalty = None
    if regulariser is None or not hasattr(model, "solve"):  # a recurrent network has no equation
        logits = model(*inputs, key=key)
    else:
        logits, penalty, _ = model.solve(*inputs, regulariser=regulariser, key=key)
    correct = (jnp.argmax(logits, -1).astype(jnp.asarray(label).dtype) == label).astype(logits.dtype)
    return Terms(loss=cross_entropy(logits, label), reported={"accuracy": correct}, penalty=penalty)
