"""Which columns of a table hold what is given to a series: doses, constants, covariates."""

import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from nde.paths import Between

WAYS: tuple[str, ...] = get_args(Between)
"""How a covariate is read between its rows."""

OPTIONAL = ("duration", "rate", "additional", "interval", "steady", "reset")
"""The columns of doses that need not be there."""


@dataclass(frozen=True)
class DoseFormat:
    """The columns of doses. The same names are keys of `[data.doses]` in a run's config.

    - `amount`: the column of amounts, in the states' own unit. In the table of the observations a row with an amount
      that is not zero is a dose; one without any value observed is then no row of observations. In a table of its own
      every row is one.
    - `state`: what it is given into: the name of a state, or a column that holds names of states, or their numbers
      from 1.
    - `path`: the table of doses, laid out as that of the observations; `None` where that one holds them.
    - `id`, `time`: their columns in a table of its own; as in that of the observations if `None`.
    - `duration`, or `rate`: the column of how long a dose is given, in the unit of the table's times, or how much of it
      in a unit of time; a cell that is empty or zero, as without the column, is a dose that is given at once.
    - `additional`, `interval`: the columns of how many more doses follow (ADDL) and at what interval (II).
    - `steady`: the column that is 1 where the doses have been given at this `interval` for long (SS): each then stands
      for itself and for `steady_doses` before it. It must be the first that a series has. What is left out of a state
      with half-life $h$ is the share $2^{-n \\tau / h}$ for $n$ doses at the interval $\\tau$: a thousandth for the
      twenty of the default and a half-life of two intervals. A long half-life asks for more.
    - `reset`: the column that is 1 where the state is set to the amount instead, zero where there is none.
    - `negative`: whether amounts may be negative, as of blood that is taken.
    """

    amount: str
    state: str
    path: Any = None
    id: str | None = None
    time: str | None = None
    duration: str | None = None
    rate: str | None = None
    additional: str | None = None
    interval: str | None = None
    steady: str | None = None
    reset: str | None = None
    steady_doses: int = 20
    negative: bool = False

    def __post_init__(self):
        if self.duration is not None and self.rate is not None:
            raise ValueError("doses have either a `duration` or a `rate`, and not both")
        if self.interval is None and (self.additional is not None or self.steady is not None):
            raise ValueError("doses that are additional or steady need the column of their `interval`")
        if self.steady_doses < 1:
            raise ValueError(f"steady_doses must be positive, but is {self.steady_doses}")
        if self.path is None and (self.id is not None or self.time is not None):
            raise ValueError("the columns `id` and `time` of doses are those of a table of their own, with a `path`")

    def columns(self) -> list[str]:
        """The columns that must be there; that of `state` may be a column or not."""
        return [self.amount, *(name for option in OPTIONAL if (name := getattr(self, option)) is not None)]


@dataclass(frozen=True)
class InputsFormat:
    """What of a table is given to its series, beside what is observed.

    - `doses`: a `nde.data.DoseFormat`, or `None`.
    - `constants`: columns with one value for each series; a cell may be empty where another has it.
    - `covariates`: columns that are read over time, each by its way: the last value `held`, the `next` one, or
      `linear`. All rows of the table count, those of doses too.

    A field reads them as `p.name`.
    """

    doses: DoseFormat | None = None
    constants: tuple[str, ...] = ()
    covariates: Mapping[str, Between] = field(default_factory=dict)

    def __post_init__(self):
        for name, way in self.covariates.items():
            if way not in WAYS:
                raise ValueError(f"covariates: '{name}' is read as '{way}', but the ways are {', '.join(WAYS)}")
        for name in self.names():
            if not name.isidentifier() or keyword.iskeyword(name):
                raise ValueError(f"an input is read as p.name, so '{name}' cannot be one; rename the column")
        twice = [name for name in self.names() if self.names().count(name) > 1]
        if twice:
            raise ValueError(f"'{twice[0]}' is asked for twice among the constants and covariates; name it once")

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return self.doses is not None or bool(self.names())

    def names(self) -> tuple[str, ...]:
        """Constants and covariates, by name."""
        return (*self.constants, *self.covariates)

    def beside(self, states: Sequence[str]) -> set[str]:
        """Columns of the observations' table that are no channels; a channel may be called like a state."""
        doses = self.doses
        own = set() if doses is None or doses.path is not None else {*doses.columns(), *({doses.state} - set(states))}
        return {*self.names(), *own}
