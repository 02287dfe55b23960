"""Forecasts of irregular series that were not seen: `task = "forecast"`."""

from typing import ClassVar, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nde.config.run import RunConfig
from nde.config.sections import Section, TrainConfig
from nde.config.table import TableData
from nde.objectives import ContextELBO, ELBO, SDEMatching


class ForecastData(TableData):
    """`[data]`: series, as of `nde.config.table.TableData`, and what a forecast makes of their values and times.

    `log` names channels that are put on a log scale, `units` are for figures. Without a `time_scale` the longest series
    is made ten units of time long, which suits the rates that a model starts from; figures then count in the table's
    own unit. Written by `nde fit`: `horizon`, the last time of a series; `span`, the last time of the series that are
    learned from; `observations`, how often these observe a channel, in the mean; and `table_unit`, what the time column
    counts in, where figures are drawn in it.
    """

    log: tuple[str, ...] = ()
    units: dict[str, str] = Field(default_factory=dict)
    horizon: PositiveFloat | None = None
    span: NonNegativeFloat | None = None
    observations: PositiveFloat | None = None
    table_unit: str | None = None


class ELBOConfig(Section):
    """`[objective]`: the bound of `nde.objectives.ContextELBO`, its contexts and the annealing of its KL terms.

    - `name`: `elbo`, by simulated paths, or `sde_matching`, without simulation, of models with
      `posterior = "marginals"`.
    - `samples`: paths a series, or states an observation and times a series.
    - `predictive`: how far the values after the context are scored by their marginal predictive density, see `nde.ELBO`
      and `nde.SDEMatching`; at 0 matching leaves them out.
    - `rows`: of `nde.SDEMatching`: how many rows of a series are drawn; all if left out.
    - `whole`: the share of series shown whole.
    """

    name: Literal["elbo", "sde_matching"] = "elbo"

    samples: PositiveInt = 4
    rows: PositiveInt | None = None
    predictive: float = Field(default=0.0, ge=0, le=1)
    whole: float = Field(default=0.3, ge=0, le=1)
    kl_weight: NonNegativeFloat = 1.0
    anneal_steps: NonNegativeInt = 300

    def build(self) -> ContextELBO:
        """The objective."""
        bound: ELBO | SDEMatching = ELBO(samples=self.samples, predictive=self.predictive)
        if self.name == "sde_matching":
            bound = SDEMatching(samples=self.samples, rows=self.rows, predictive=self.predictive)
        return ContextELBO(bound, whole=self.whole, kl_weight=self.kl_weight, anneal_steps=self.anneal_steps)


class ForecastTrain(TrainConfig):
    """`[train]`: the loop, the optimiser, and the samples that validation takes.

    `validation_series`: on how many of the validation series, chosen by `data.split_seed`; 0 for all of them.
    """

    validation_samples: int = Field(default=100, ge=2)
    validation_series: NonNegativeInt = 200


class ForecastEvaluate(Section):
    """`[evaluate]`: where held-out series are cut into what is given and what is forecast, and with how many samples.

    A landmark forecasts from `at` up to `until`, counted from each series' first row in the unit of the table's time
    column. `landmark_at` and `landmark_until` say the same in the model's unit of time (`data.time_unit`), and hold
    where `at` or `until` is left out. `series`: on how many of the test series, chosen by `data.split_seed`; 0 for all
    of them. `stack`: whether forecasts are those of a pool of the models and the baselines, weighted by how each did on
    the validation series, rather than one model's alone; the table of results shows both.
    """

    cut: Literal["second_half", "landmark"] = "second_half"
    series: NonNegativeInt = 1000
    stack: bool = True
    at: NonNegativeFloat | None = None
    until: PositiveFloat | None = None
    landmark_at: NonNegativeFloat = 2.0
    landmark_until: PositiveFloat = 5.0
    samples: int = Field(default=200, ge=2)

    def landmark(self, time_scale: float | None) -> tuple[float, float]:
        """From when and up to when a landmark forecasts, in the model's unit of time.

        `time_scale`: units of the table's time column in one of the model's.
        """
        scale = time_scale or 1.0
        at = self.landmark_at if self.at is None else self.at / scale
        until = self.landmark_until if self.until is None else self.until / scale
        if not at < until:
            raise ValueError(
                f"evaluate.at must lie before evaluate.until, but they are {at * scale:g} and {until * scale:g} in the "
                "table's unit of time; give both."
            )
        return at, until


class ForecastConfig(RunConfig):
    """A whole run of forecasts. What is left out has its default."""

    task: Literal["forecast"] = "forecast"
    data: ForecastData
    objective: ELBOConfig = ELBOConfig()
    train: ForecastTrain = ForecastTrain()
    evaluate: ForecastEvaluate = ForecastEvaluate()

    default_model: ClassVar[str] = "latent_sde"

    @pydantic.model_validator(mode="after")
    def _check_samples(self) -> "ForecastConfig":
        if self.evaluate.samples < self.train.members:
            members, samples = self.train.members, self.evaluate.samples
            raise ValueError(f"evaluate.samples must be at least train.members = {members}, but is {samples}")
        return self

    @pydantic.model_validator(mode="after")
    def _check_matching(self) -> "ForecastConfig":
        if self.objective.name != "sde_matching":
            if self.objective.rows is not None:
                raise ValueError("objective.rows is of objective.name = 'sde_matching'; the elbo scores all rows")
            return self
        for section in self.model:
            if not section.has_marginals:
                raise ValueError(
                    f"objective.name = 'sde_matching' trains models with marginals, and the {section.called()} has "
                    "none: give a latent_sde with posterior = 'marginals'"
                )
        if not self.regularise.is_empty and self.objective.predictive == 0:
            raise ValueError("objective.name = 'sde_matching' solves nothing that [regularise] could make cheaper")
        return self
