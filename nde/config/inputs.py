"""`[data]` of what is given to the series: `doses`, `constants`, `covariates`."""

import pydantic
from pydantic import PositiveInt

from nde.config.sections import Section
from nde.data import DoseFormat


class DosesConfig(Section):
    """`[data.doses]`: the columns of doses, in the table of the observations or, by `path`, in one of their own.

    The keys are those of `nde.data.DoseFormat`, where they are explained. `nde fit` writes `sha256`, which where
    present must be that of the table at `path`.
    """

    amount: str
    state: str
    path: str | None = None
    id: str | None = None
    time: str | None = None
    duration: str | None = None
    rate: str | None = None
    additional: str | None = None
    interval: str | None = None
    steady: str | None = None
    reset: str | None = None
    steady_doses: PositiveInt = 20
    negative: bool = False
    sha256: str | None = None

    @pydantic.model_validator(mode="after")
    def _check_columns(self) -> "DosesConfig":
        self.dose_format()
        return self

    def dose_format(self) -> DoseFormat:
        """How doses are read."""
        return DoseFormat(**self.model_dump(exclude={"sha256"}))
