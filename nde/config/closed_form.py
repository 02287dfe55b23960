"""`[evaluate] closed_form`: the equation of what a model has learned."""

from collections.abc import Sequence

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from nde.config.sections import Section
from nde.fields import Library, library


class ClosedFormConfig(Section):
    """`[evaluate.closed_form]`: candidates of the term that a hybrid, or of the rates that a neural ODE, has learned.

    Which of them there are the data decide: terms are dropped, added and exchanged, each set of them fitted through the
    solve, for as long as an information criterion falls (`nde.report.stepwise`).

    - `degree`, `constant`, `sin_cos`, `exp`, `half_saturations`: as of `nde.fields.library`.
    - `gamma`: 0 for Schwarz's criterion, 1 for the extended one, which takes in fewer terms by chance.
    """

    degree: NonNegativeInt = Field(default=2, le=5)
    constant: bool = True
    sin_cos: bool = False
    exp: bool = False
    half_saturations: tuple[PositiveFloat, ...] = ()
    gamma: NonNegativeFloat = 1.0

    def library(self, inputs: Sequence[str]) -> Library:
        """The candidates of named inputs."""
        return library(
            inputs, degree=self.degree, constant=self.constant, sin_cos=self.sin_cos, exp=self.exp,
            half_saturations=self.half_saturations,
        )  # fmt: skip
