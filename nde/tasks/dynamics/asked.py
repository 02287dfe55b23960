"""A table that asks for predictions by an equation: how it is read, for a run or for what was exported of one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nde.config import DynamicsConfig, ObserveConfig
from nde.data import DoseFormat, InputsFormat, Panel, read_panel_with_inputs, SeriesInputs, TableFormat
from nde.tasks.base import chosen_label, OpenedRun, predicting, Prediction, RunError
from nde.tasks.dynamics.limits import within_limits
from nde.tasks.dynamics.problem import dose_states, DynamicsProblem
from nde.tasks.predictions import prediction_columns
from nde.tasks.tables import read_asked, refuse_other_times, refuse_taken, table_format_from_plain


@dataclass(frozen=True)
class Asking:
    """What is kept of a run to read a table, and to say which model predicts it.

    - `source`: what messages call the run, or the file; `seed`: the run's.
    - `names`: of each `[[model]]`, by its label; `alone`: the label of that which validated best.
    - `layout`: of the table, its channels among it.
    - `inputs`: what of the table is given to its series; `states`: the names of those that doses are given into.
    - `observe`: of the run, resolved; where a function of the user's own says what is observed, without its name.
    """

    source: str
    seed: int
    names: Mapping[str, str]
    alone: str
    layout: TableFormat
    inputs: InputsFormat
    states: tuple[str, ...] | None
    observe: ObserveConfig

    def label(self, asked: Prediction) -> str:
        """Of the model that predicts.

        **Raises:** `RunError` for one that there is not.
        """
        return self.alone if asked.model is None else chosen_label(self.names, asked.model, self.source)

    def read(self, asked: Prediction) -> DynamicsProblem:
        """The series of the table, and what is given to them, as those of the run were read.

        **Raises:** `RunError` or `TableError` for a table that can not be used.
        """
        refuse_taken(self.layout, asked, prediction_columns())
        panel, inputs = self._series(asked)
        try:
            panel = panel.asked_ahead(asked.ahead)
        except ValueError as error:
            raise RunError(f"{asked.source}: --ahead: {str(error).rstrip('.')}.") from None
        panel = within_limits(self.observe, panel, asked.source)
        log = self.observe.log_noise
        if log and (panel.values[panel.mask] <= 0).any():
            raise RunError(f"{asked.source}: the noise of the run is log-normal, but some values are not positive.")
        values = np.log(np.where(panel.mask, panel.values, 1.0)) if log else panel.values
        if self.observe.positive and not log and (panel.values[panel.mask] <= 0).any():
            raise RunError(f"{asked.source}: observe.positive needs positive values, but some are not.")
        if self.observe.start == "first_row":
            _refuse_no_start(panel, inputs, asked)
        none = np.zeros_like(panel.mask)
        return DynamicsProblem(panel, values, panel.mask, none, none, np.arange(len(panel)), inputs)

    def _series(self, asked: Prediction) -> tuple[Panel, SeriesInputs | None]:
        channels = self.layout.channels or ()
        if not self.inputs:
            return read_asked(self.layout, asked, channels), None
        form, doses = replace(self.layout, min_observations=0), self.inputs.doses
        panel, inputs = read_panel_with_inputs(asked.data, form, self.inputs, self.states, require_values=False)
        refuse_other_times(self.layout, asked, panel)
        if doses is not None and doses.reset is not None and inputs.resets is None:
            # How a model with resets is solved must not hang on whether this table has one.
            inputs = replace(inputs, resets=np.zeros(inputs.times.shape, bool))
        return panel, inputs

    def to_plain(self) -> dict[str, Any]:
        """What JSON can hold of it; all but its source."""
        observe, own = self.observe, {"starts", "observed_sha256"}
        dropped = own if isinstance(observe.observed, dict) else {*own, "observed"}
        return {
            "seed": self.seed,
            "names": dict(self.names),
            "alone": self.alone,
            "layout": asdict(self.layout),
            "inputs": asdict(self.inputs),
            "states": self.states,
            "observe": observe.model_dump(mode="json", exclude=dropped, exclude_none=True),
        }


def _refuse_no_start(panel: Panel, inputs: SeriesInputs | None, asked: Prediction) -> None:
    """Refuse series that do not start in their first row, or of which a channel is not observed there."""
    if inputs is not None and (panel.times[:, 0] > 0).any():
        name = panel.ids[int((panel.times[:, 0] > 0).argmax())]
        raise RunError(f"{asked.source}: a dose of series {name} lies before its first row, in which it starts.")
    if not panel.mask[:, 0].all():
        name = panel.ids[int((~panel.mask[:, 0].all(-1)).argmax())]
        raise RunError(
            f"{asked.source}: series {name} starts in its first row, which must have a value of each channel."
        )


def asking_of(run: OpenedRun) -> Asking:
    """What a run reads a table by.

    **Raises:** `RunError` for a run whose doses stand in a table of their own.
    """
    config: DynamicsConfig = run.config
    data = config.data
    if data.doses is not None and data.doses.path is not None:
        raise RunError(
            f"{run.folder}: the run read its doses from {data.doses.path}; to predict, or to export, make a run whose "
            "doses stand in the table itself."
        )
    return Asking(
        source=str(run.folder),
        seed=config.seed,
        names={section.called(): section.name for section in config.model},
        alone=predicting(run, None),
        layout=replace(data.table_format(), channels=config.observe.channels),
        inputs=data.inputs_format(),
        states=dose_states(config),
        observe=config.observe,
    )


def asking_from_plain(source: str, plain: Mapping[str, Any]) -> Asking:
    """What `Asking.to_plain` wrote; other keys are not read."""
    if not isinstance(plain["observe"].get("observed", {}), dict):  # which would be looked for on this machine
        raise RunError(f"{source}: names code in 'observed', which `nde export` leaves out; it was changed.")
    inputs = dict(plain["inputs"])
    doses = None if inputs["doses"] is None else DoseFormat(**inputs["doses"])
    return Asking(
        source=source,
        **{name: plain[name] for name in ("seed", "names", "alone")},
        layout=table_format_from_plain(plain["layout"]),
        inputs=InputsFormat(doses, tuple(inputs["constants"]), inputs["covariates"]),
        states=None if plain["states"] is None else tuple(plain["states"]),
        observe=ObserveConfig.model_validate(plain["observe"]),
    )
