"""A closed form: terms, coefficients, intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from nde.fields import Library, LibraryField

Z90 = 1.6448536269514722
"""Half the width of a central interval of 90 % of a normal law, in standard deviations."""


@dataclass(frozen=True, eq=False)
class ClosedForm:
    r"""Rates as sums of a few candidates: $r_i(x) = \sum_j \xi_{ji}\,\theta_j(x)$, with standard errors.

    - `library`: the `nde.fields.Library` that was searched.
    - `outputs`: a name for each rate.
    - `coefficients`, `errors`: `(candidates, outputs)`, in the units of the data; zero for a term that is not in it.
    - `explained`: `(outputs,)`; the share of the rates' squares that it explains.
    - `condition`: the condition number of the library's columns, each of length one, where it was seen. Above some
      1000, candidates nearly agree there, and which of them is in the form is uncertain.

    **Call:** `form(x)` with `x` of shape `(..., inputs)`; returns `(..., outputs)`.
    """

    library: Library
    outputs: tuple[str, ...]
    coefficients: Float[np.ndarray, "candidates outputs"]
    errors: Float[np.ndarray, "candidates outputs"]
    explained: Float[np.ndarray, " outputs"]
    condition: float

    @property
    def active(self) -> Bool[np.ndarray, "candidates outputs"]:
        """Which candidates are in it."""
        return self.coefficients != 0

    def terms(self, output: str) -> dict[str, float]:
        """The coefficients of the terms of an output's rate, by the candidates' names."""
        column = self.coefficients[:, self.outputs.index(output)]
        return {name: float(value) for name, value in zip(self.library.names, column, strict=True) if value}

    def __call__(self, x: Any) -> Any:
        found = self.library(x)
        like = jnp if isinstance(found, jax.Array) else np
        return found @ like.asarray(self.coefficients, found.dtype)

    def equations(self, prefix: str = "") -> list[str]:
        """A line for each rate: `predator: +0.0241 (0.0232 to 0.0250) prey * predator`, with intervals of 90 %."""
        return [f"{prefix}{output}: {self._sum(i)}" for i, output in enumerate(self.outputs)]

    def _sum(self, output: int) -> str:
        parts = []
        for name, value, error in zip(
            self.library.names, self.coefficients[:, output], self.errors[:, output], strict=True
        ):
            if value:
                low, high = value - Z90 * error, value + Z90 * error
                number = f"{value:+.3g} ({low:.3g} to {high:.3g})"
                parts.append(number if name == "1" else f"{number} {name}")
        return " ".join(parts) or "0"

    def field(self) -> LibraryField:
        """The form with learnable coefficients, to stand in the place of the network: `nde.fields.LibraryField`."""
        return LibraryField(self.library, self.coefficients, active=self.active, outputs=self.outputs)

    def __str__(self) -> str:
        return "\n".join(self.equations())


def of_members(forms: Sequence[ClosedForm]) -> ClosedForm:
    """One form from those of the members of an ensemble, of the same terms: their mean, and both kinds of error.

    The variance of a coefficient is the mean of the members' own plus the variance between them.
    """
    coefficients = np.stack([form.coefficients for form in forms])
    between = coefficients.var(axis=0, ddof=1) if len(forms) > 1 else 0.0
    errors = np.sqrt(np.mean([form.errors**2 for form in forms], axis=0) + between)
    explained = np.mean([form.explained for form in forms], axis=0)
    first = forms[0]
    worst = max(form.condition for form in forms)
    return ClosedForm(first.library, first.outputs, coefficients.mean(0), errors, explained, worst)
