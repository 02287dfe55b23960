"""Candidate functions of a state, with names: what a closed form is put together from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Candidate:
    """A function of states with a name: `function(x)` of `(..., inputs)` returns `(...)`.

    It is given arrays of NumPy by a regression, in double precision, and arrays of JAX by a solve.
    """

    name: str
    function: Callable[[Any], Any]


@dataclass(frozen=True)
class Library:
    r"""Candidate functions of named inputs, in a row: $\Theta(x) = [\theta_1(x), \dots, \theta_K(x)]$.

    ```python
    >>> import numpy as np, nde
    >>> library = nde.fields.library(["prey", "predator"], degree=2)
    >>> library.names
    ('1', 'prey', 'predator', 'prey^2', 'prey * predator', 'predator^2')
    >>> library(np.array([2.0, 3.0])).tolist()
    [1.0, 2.0, 3.0, 4.0, 6.0, 9.0]

    ```

    **Arguments of the constructor:** `inputs`: a name for each entry of `x`; `candidates`: a `nde.fields.Candidate`
    each. `nde.fields.library` makes the usual ones.

    **Call:** `library(x)` with `x` of shape `(..., inputs)`, of NumPy or of JAX; returns `(..., candidates)`.

    **Raises:** `ValueError` for no candidate, or two of one name; when called, for another number of inputs.
    """

    inputs: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    def __post_init__(self):
        if not self.candidates or len(set(self.names)) != len(self.names):
            raise ValueError(f"A Library needs candidates with a name of its own each, but got {self.names}.")

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each candidate."""
        return tuple(candidate.name for candidate in self.candidates)

    def of_logarithms(self, count: int) -> "Library":
        """The same candidates where the first `count` inputs are given as logarithms, as states solved for by them."""
        made = tuple(Candidate(each.name, _OfLogarithms(each.function, count)) for each in self.candidates)
        return Library(self.inputs, made)

    def __call__(self, x: Any) -> Any:
        if x.shape[-1] != len(self.inputs):
            raise ValueError(
                f"The library is of the inputs {', '.join(self.inputs)}, but x has {x.shape[-1]} entries, its shape "
                f"being {x.shape}."
            )
        columns = [candidate.function(x) for candidate in self.candidates]
        return _of(x).stack(columns, axis=-1)


def library(
    inputs: Sequence[str],
    *,
    degree: int = 2,
    constant: bool = True,
    sin_cos: bool = False,
    exp: bool = False,
    half_saturations: Sequence[float] = (),
) -> Library:
    r"""The usual candidates of named inputs.

    **Arguments:**

    - `inputs`: a name for each entry of the state that the candidates see.
    - `degree`: all monomials up to it; `constant`: whether 1 is one of them.
    - `sin_cos`, `exp`: $\sin x_i$ and $\cos x_i$, $e^{x_i}$ of each input.
    - `half_saturations`: values of $K$, in the unit of the inputs, for Michaelis–Menten terms $x_i / (K + x_i)$ of each
      input, and for these times each other input, as of a predator that is sated (Holling's second response).

    **Returns:** a `nde.fields.Library`.

    **Raises:** `ValueError` for no input, one named twice, a negative degree, a half saturation that is not positive,
    or where no candidate is asked for.
    """
    names = tuple(inputs)
    if isinstance(inputs, str) or not names or len(set(names)) != len(names) or degree < 0:
        raise ValueError(f"library needs distinct names of inputs and degree >= 0, but got {inputs!r} and {degree}.")
    if not all(half > 0 for half in half_saturations):
        raise ValueError(f"library needs positive half_saturations, but got {list(half_saturations)}.")
    places = range(len(names))
    found = [Candidate("1", _Monomial((0,) * len(names)))] if constant else []
    for order in range(1, degree + 1):
        for chosen in combinations_with_replacement(places, order):
            powers = tuple(chosen.count(i) for i in places)
            found.append(Candidate(_monomial_name(names, powers), _Monomial(powers)))
    if sin_cos:
        found += [Candidate(f"{kind}({names[i]})", _Elementary(kind, i)) for i in places for kind in ("sin", "cos")]
    if exp:
        found += [Candidate(f"exp({names[i]})", _Elementary("exp", i)) for i in places]
    for half in half_saturations:
        for i in places:
            sated = f"{names[i]} / ({half:g} + {names[i]})"
            found.append(Candidate(sated, _Saturation(i, float(half), None)))
            found += [Candidate(f"{names[j]} * {sated}", _Saturation(i, float(half), j)) for j in places if j != i]
    return Library(names, tuple(found))


# Classes rather than lambdas, since they compare by what they hold: a field of them compiles once, however often made.
@dataclass(frozen=True)
class _Monomial:
    powers: tuple[int, ...]

    def __call__(self, x: Any) -> Any:
        result = _of(x).ones_like(x[..., 0])
        for i, power in enumerate(self.powers):
            for _ in range(power):  # products, whose derivatives at zero are exact
                result = result * x[..., i]
        return result


@dataclass(frozen=True)
class _Elementary:
    kind: str
    place: int

    def __call__(self, x: Any) -> Any:
        return getattr(_of(x), self.kind)(x[..., self.place])


@dataclass(frozen=True)
class _Saturation:
    place: int
    half: float
    times: int | None

    def __call__(self, x: Any) -> Any:
        share = x[..., self.place] / (self.half + x[..., self.place])
        return share if self.times is None else share * x[..., self.times]


@dataclass(frozen=True)
class _OfLogarithms:
    function: Callable[[Any], Any]
    count: int

    def __call__(self, x: Any) -> Any:
        like = _of(x)
        return self.function(like.concatenate([like.exp(x[..., : self.count]), x[..., self.count :]], axis=-1))


def _of(x: Any) -> Any:
    """The namespace of an array: a regression keeps NumPy's double precision, whatever JAX's is."""
    return jnp if isinstance(x, jax.Array) else np


def _monomial_name(names: Sequence[str], powers: Sequence[int]) -> str:
    parts = [name if power == 1 else f"{name}^{power}" for name, power in zip(names, powers, strict=True) if power]
    return " * ".join(parts)
