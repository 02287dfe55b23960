"""Laws as plain lists and numbers, for a JSON file, and back."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nde.objectives.likelihoods.base import AbstractLikelihood
from nde.objectives.likelihoods.location import GaussianLikelihood, StudentTLikelihood

SAVED = {law.__name__: law for law in (GaussianLikelihood, StudentTLikelihood)}


def likelihood_to_plain(likelihood: AbstractLikelihood) -> dict[str, Any]:
    """What JSON can hold of a law: the name of its class and its numbers, to the last bit.

    **Raises:** `ValueError` for a law that is not one of `SAVED`.
    """
    name = type(likelihood).__name__
    if SAVED.get(name) is not type(likelihood):
        raise ValueError(f"a {name} can not be written as plain numbers; these can: {', '.join(SAVED)}")
    arrays = [np.asarray(x) for x in jax.tree.leaves(eqx.filter(likelihood, eqx.is_array))]
    return {"class": name, "dtype": arrays[0].dtype.name, "numbers": [x.tolist() for x in arrays]}


def likelihood_from_plain(plain: Mapping[str, Any]) -> AbstractLikelihood:
    """The law that `likelihood_to_plain` wrote.

    **Raises:** `ValueError` for one that it did not write.
    """
    if plain.get("class") not in SAVED:
        raise ValueError(f"'{plain.get('class')}' is no law; the laws are {', '.join(SAVED)}")
    arrays = [jnp.asarray(np.array(x, plain["dtype"])) for x in plain["numbers"]]
    structure = jax.tree.structure(SAVED[plain["class"]](len(arrays[0])))
    return jax.tree.unflatten(structure, arrays)
