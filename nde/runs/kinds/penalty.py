"""A regulariser's penalty in a training loss."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from nde.train import BatchLoss


def with_penalty(result: BatchLoss, penalties: Array, share: Any) -> BatchLoss:
    """A batch's loss with the mean of its examples' penalties added, of which a share counts; reported whole."""
    penalty = jnp.mean(penalties)
    loss = result.loss + jnp.asarray(share, result.loss.dtype) * penalty
    return dataclasses.replace(result, loss=loss, parts=result.parts | {"penalty": penalty})
