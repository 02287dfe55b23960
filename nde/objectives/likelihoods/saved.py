"""Laws as plain lists and numbers, for a JSON file, and back."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nde.objectives.likelihoods.base import AbstractLikelihood
from nde.objectives.likelihoods.discrete import BernoulliLikelihood, PoissonLikelihood
from nde.objectives.likelihoods.location import GaussianLikelihood, StudentTLikelihood
from nde.objectives.likelihoods.relative import CombinedLikelihood, LogNormalLikelihood
from nde.objectives.likelihoods.wrapped import CensoredLikelihood, ChannelLikelihood, ScaledLikelihood

Arrays = Sequence[np.ndarray]


def _combined(arrays: Arrays) -> CombinedLikelihood:
    return CombinedLikelihood(len(arrays[0]), additive=None if len(arrays) == 1 else 0.1)


LEAVES: dict[type[AbstractLikelihood], Callable[[Arrays], AbstractLikelihood]] = {
    GaussianLikelihood: lambda arrays: GaussianLikelihood(len(arrays[0])),
    StudentTLikelihood: lambda arrays: StudentTLikelihood(len(arrays[0])),
    CombinedLikelihood: _combined,
    LogNormalLikelihood: lambda arrays: LogNormalLikelihood(len(arrays[0])),
    PoissonLikelihood: lambda arrays: PoissonLikelihood(),
    BernoulliLikelihood: lambda arrays: BernoulliLikelihood(),
}
"""Laws of arrays alone, and how one is made that has as many."""

WRAPPERS: dict[type[AbstractLikelihood], Callable[..., AbstractLikelihood]] = {
    ScaledLikelihood: ScaledLikelihood,
    ChannelLikelihood: ChannelLikelihood,
    CensoredLikelihood: CensoredLikelihood,
}
"""Laws of other laws and of numbers, which are the arguments of their constructors."""

SAVED = {law.__name__: law for law in (*LEAVES, *WRAPPERS)}


def likelihood_to_plain(likelihood: AbstractLikelihood) -> dict[str, Any]:
    """What JSON can hold of a law: the name of its class and its numbers, to the last bit, and the laws within it.

    **Raises:** `ValueError` for a law that is not one of `SAVED`.
    """
    kind = type(likelihood)
    if SAVED.get(kind.__name__) is not kind:
        raise ValueError(f"a {kind.__name__} can not be written as plain numbers; these can: {', '.join(SAVED)}")
    if kind in WRAPPERS:
        return {"class": kind.__name__, **{name: _plain(value) for name, value in vars(likelihood).items()}}
    arrays = [np.asarray(x) for x in jax.tree.leaves(eqx.filter(likelihood, eqx.is_array))]
    dtype = {"dtype": arrays[0].dtype.name} if arrays else {}
    return {"class": kind.__name__, **dtype, "numbers": [x.tolist() for x in arrays]}


def _plain(value: Any) -> Any:
    """A law, several, or numbers of which one that is infinite is no limit."""
    if isinstance(value, AbstractLikelihood):
        return likelihood_to_plain(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return [_plain(one) for one in value]


def likelihood_from_plain(plain: Mapping[str, Any]) -> AbstractLikelihood:
    """The law that `likelihood_to_plain` wrote.

    **Raises:** `ValueError` for one that it did not write.
    """
    kind = SAVED.get(plain.get("class", ""))
    if kind is None:
        raise ValueError(f"'{plain.get('class')}' is no law; the laws are {', '.join(SAVED)}")
    if kind in WRAPPERS:
        return WRAPPERS[kind](**{name: _law(value) for name, value in plain.items() if name != "class"})
    arrays = [np.array(x, plain["dtype"]) for x in plain["numbers"]]
    return jax.tree.unflatten(jax.tree.structure(LEAVES[kind](arrays)), [jnp.asarray(x) for x in arrays])


def _law(value: Any) -> Any:
    if isinstance(value, Mapping):
        return likelihood_from_plain(value)
    return [likelihood_from_plain(one) if isinstance(one, Mapping) else one for one in value]
