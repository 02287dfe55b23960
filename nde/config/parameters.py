"""`parameters` of a `[[model]]`: what each starts from, or a table with its bounds, unit, scale and prior."""

from typing import Any, Literal

import pydantic
from pydantic import PositiveFloat

from nde.config.sections import Section
from nde.fields import AbstractPrior, LogNormalPrior, NormalPrior, Parameter

PRIORS: dict[str, type[NormalPrior] | type[LogNormalPrior]] = {"normal": NormalPrior, "log_normal": LogNormalPrior}


class PriorConfig(Section):
    """What is believed of a parameter: see `nde.fields.NormalPrior` and `nde.fields.LogNormalPrior`."""

    name: Literal["normal", "log_normal"]
    location: float
    scale: PositiveFloat

    def build(self) -> AbstractPrior:
        """The prior."""
        return PRIORS[self.name](self.location, self.scale)


class ParameterConfig(Section):
    """A parameter, as `{ start = 1.5, lower = 0.1, unit = "1/h" }`; a number alone is its start.

    The keys are those of `nde.fields.Parameter`, and what is left out is as the named system or the file of the
    equation has it; without either a parameter has no bounds. A prior counts in the loss as the term `prior`:
    -log p(θ) / N beside the mean negative log likelihood per value, with N the values that are fitted, so that the
    fit is that of largest posterior density.

    `random`, of `task = "population"`: the parameter varies from individual to individual, with a standard deviation
    that is learned and starts here: of its logarithm where `log` (0.3 is some 30 %), else in the coordinate of
    `nde.fields.Parameter`.
    """

    start: float | None = None
    lower: float | None = None
    upper: float | None = None
    unit: str | None = None
    log: bool | None = None
    fixed: bool | None = None
    prior: PriorConfig | None = None
    random: PositiveFloat | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_number(cls, given: Any) -> Any:
        if isinstance(given, int | float) and not isinstance(given, bool):
            return {"start": given}
        return given

    def build(self, name: str, base: Parameter | None) -> Parameter:
        """The parameter of this name, over what it is without the config.

        **Raises:** `ValueError` for one without a start, or a start out of its bounds.
        """
        start = self.start if self.start is not None else None if base is None else base.value
        if start is None:
            raise ValueError(f"the parameter '{name}' has no start; write {name} = 1.0, or {name} = {{ start = 1.0 }}")

        def or_base(option: str) -> Any:
            own = getattr(self, option)
            return own if own is not None or base is None else getattr(base, option)

        return Parameter(
            start,
            lower=or_base("lower"),
            upper=or_base("upper"),
            unit=or_base("unit"),
            log=bool(or_base("log")),
            fixed=bool(or_base("fixed")),
            prior=or_base("prior") if self.prior is None else self.prior.build(),
            name=name,
        )
