"""The series of a fit of dynamics, divided into what is fitted, what chooses and what is scored."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nde.config import DynamicsConfig, ObserveConfig, system_states
from nde.data import Panel, read_panel_with_inputs, refuse_empty_channels, SeriesInputs, split_series
from nde.models import observed_states
from nde.tasks.base import RunError
from nde.tasks.dynamics.limits import within_limits
from nde.tasks.tables import check_unchanged, file_fingerprint, load_series, resolved_table


@dataclass(frozen=True)
class DynamicsProblem:
    """The data of a fit.

    - `panel`: all series, in their own units.
    - `values`: `(series, rows, channels)`; logarithms where the noise is log-normal.
    - `fit`, `choose`, `test`: masks of that shape: what is trained on, chooses the best model, and is scored.
    - `series`: the indices of the series that are trained on.
    - `inputs`: what is given to all series, in own units; `None` if nothing is. A held-out series brings its own.
    """

    panel: Panel
    values: np.ndarray
    fit: np.ndarray
    choose: np.ndarray
    test: np.ndarray
    series: np.ndarray
    inputs: SeriesInputs | None = None

    @property
    def clock(self) -> np.ndarray:
        """The time at which each series starts, `(series,)`: its first row, or zero, the first of rows and doses."""
        return self.panel.times[:, 0] if self.inputs is None else np.zeros(len(self.panel))

    @property
    def train_until(self) -> float:
        """The last time of what is trained on."""
        return float(self.panel.times[self.fit.any(-1)].max())


def load(config: DynamicsConfig) -> DynamicsProblem:
    """Read or make the series of a config, and divide them.

    **Raises:** `ValueError` for a bad table or split, and if nothing is left to fit or to score.
    """
    data = config.data
    panel, inputs = load_with_inputs(config)
    log = config.observe.log_noise
    panel = within_limits(config.observe, panel, data.source())
    is_state = not isinstance(config.observe.observed, str)
    if config.observe.positive and is_state and (panel.values[panel.mask] <= 0).any():
        raise RunError(f"{data.source()}: observe.positive needs positive values, but some are not.")
    values = np.log(np.where(panel.mask, panel.values, 1.0)) if log else panel.values
    if data.test_after is not None:
        fit, choose, test = _by_time(panel, data.validate_after or data.test_after, data.test_after)
        series = np.arange(len(panel))
    else:
        split = split_series(
            len(panel), fold=data.fold, folds=data.folds, validation=data.validation, seed=data.split_seed
        )
        # A first row that is the start is nothing to be predicted.
        is_start = config.observe.start == "first_row"
        later = panel.mask & (panel.times > panel.times[:, :1])[..., None] if is_start else panel.mask
        fit, choose, test = (_of_series(later, part) for part in (split.train, split.validation, split.test))
        series = split.train
    choose = choose if choose.any() else fit
    for name, mask in (("fit", fit), ("score", test)):
        if not mask.any():
            raise RunError(f"{data.source()}: no value is left to {name}; change data.test_after.")
    refuse_empty_channels(panel, fit, source=data.source())
    return DynamicsProblem(panel, values, fit, choose, test, series, inputs)


def load_with_inputs(config: DynamicsConfig) -> tuple[Panel, SeriesInputs | None]:
    """The series of a config, and what is given to them.

    **Raises:** `TableError` for a bad table, `RunError` if one is not that which the run was made from.
    """
    data, layout = config.data, config.data.inputs_format()
    path = data.table_path()
    if not layout or path is None:
        return load_series(data), None
    panel, inputs = read_panel_with_inputs(path, data.table_format(), layout, dose_states(config))
    check_unchanged(data, panel)
    doses = data.doses
    if doses is not None and doses.path is not None and doses.sha256 not in (None, file_fingerprint(doses.path)):
        raise RunError(f"{doses.path}: the table has changed since the run was made; give the run back its table.")
    return panel, inputs


def dose_states(config: DynamicsConfig) -> tuple[str, ...] | None:
    """The names of the states that doses are given into; `None` for the channels."""
    return system_states(config.model) or config.observe.states


def _by_time(panel: Panel, fit_until: float, choose_until: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    times = panel.times[..., None]
    before, after = times <= fit_until, times > choose_until
    return panel.mask & before, panel.mask & ~before & ~after, panel.mask & after


def _of_series(mask: np.ndarray, series: np.ndarray) -> np.ndarray:
    return mask & np.isin(np.arange(len(mask)), series)[:, None, None]


def resolve(config: DynamicsConfig, problem: DynamicsProblem) -> DynamicsConfig:
    """The config with what networks and starts take from the data.

    **Raises:** `RunError` for a channel that observes a state which does not exist or a start that is not observed.
    """
    data, observe, panel = config.data, config.observe, problem.panel
    if config.train.polish and config.train.batch_size < len(problem.series):
        raise RunError(
            f"train.polish lowers the loss of all {len(problem.series)} series at once: set train.batch_size to as "
            f"many (now {config.train.batch_size})."
        )
    states = system_states(config.model) or observe.states or panel.channels
    observed, indices = _observed(observe, panel, states)
    if observe.start == "first_row" and not (set(indices) == set(range(len(states))) and panel.mask[:, 0].all()):
        seen = (
            "a function of them is observed"
            if isinstance(observed, str)
            else (f"the channels observe {', '.join(observed.values())}")
        )
        raise RunError(
            f"observe.start = 'first_row' needs all of the states {', '.join(states)} in the first row of each series, "
            f"but {seen}; take observe.start = 'learned'."
        )
    late = problem.panel.times[:, 0] > problem.clock
    if observe.start == "first_row" and late.any():
        raise RunError(
            f"observe.start = 'first_row', but a dose of series {panel.ids[int(late.argmax())]} lies before its first "
            "row; take observe.start = 'known' or 'learned'."
        )
    if observe.start == "known" and set(observe.known_start or ()) != set(states):
        named = ", ".join(observe.known_start or ())
        raise RunError(
            f"observe.known_start names {named}, but the states are {', '.join(states)}; give each a number."
        )
    location, scale = _units(problem, observe, indices, len(states))
    update = {
        "states": states,
        "observed": observed,
        "channels": panel.channels,
        "location": observe.location or location,
        "scale": observe.scale or scale,
        "noise_unit": observe.noise_unit or _noise_units(problem, observe),
        "input_units": problem.inputs.units(problem.series) if problem.inputs is not None else None,
        "time_scale": observe.time_scale or (problem.train_until or 1.0) / 10,
    }
    resolved = observe.model_copy(update=update)
    if observe.start == "learned" and observe.starts is None:
        resolved = resolved.model_copy(update={"starts": _starts(config, resolved, problem, indices)})
    # The fingerprint is that of the values as they are given, not of those moved onto their limits; a table with inputs
    # has that of its file.
    moved = (observe.below or observe.above) and problem.inputs is None
    found = resolved_table(data, load_series(data) if moved else panel)
    if data.doses is not None and data.doses.path is not None:
        place = {"path": str(Path(data.doses.path).absolute()), "sha256": file_fingerprint(data.doses.path)}
        found["doses"] = data.doses.model_copy(update=place)
    return config.model_copy(update={"data": data.model_copy(update=found), "observe": resolved})


def _observed(observe: ObserveConfig, panel: Panel, states) -> tuple[dict[str, str] | str, tuple[int | None, ...]]:
    """What each channel observes, and the index of that state; `None` for a function of the states.

    A channel of a function that is named like a state is taken for it where the state's unit and start are found.
    """
    if isinstance(observe.observed, str):
        return observe.observed, tuple(states.index(name) if name in states else None for name in panel.channels)
    observed = observe.observed or {channel: channel for channel in panel.channels}
    if set(observed) != set(panel.channels):
        raise RunError(
            f"observe.observed names the channels {', '.join(observed)}, but the data have {', '.join(panel.channels)}."
        )
    observed = {channel: observed[channel] for channel in panel.channels}
    try:
        return observed, observed_states(observed, states)
    except ValueError as error:
        raise RunError(f"observe.observed: {error}") from None


def _units(problem: DynamicsProblem, observe: ObserveConfig, indices, count: int):
    """Mean and standard deviation of each observed state as it is solved for; of others 0, and the mean size of the
    doses into it, else the largest scale of others, 1 where there is none."""
    solved = solved_values(problem, observe)
    location, scale = np.zeros(count), np.full(count, np.nan)
    for channel, state in enumerate(indices):
        if state is None:
            continue
        seen = solved[..., channel][problem.fit[..., channel]]
        location[state], scale[state] = seen.mean(), seen.std()
    if problem.inputs is not None:
        scale = np.where(np.isnan(scale), dose_sizes(problem.inputs), scale)
    scale = np.where(np.isnan(scale), np.nanmax(scale) if np.isfinite(scale).any() else 1.0, scale)
    return tuple(location.tolist()), tuple(scale.tolist())


def dose_sizes(inputs: SeriesInputs) -> np.ndarray:
    """The mean size of the doses into each state, `(state,)`; NaN without any that is not zero."""
    there = np.isfinite(inputs.times) & (inputs.amounts != 0)
    sizes = [np.abs(inputs.amounts[there & (inputs.given == state)]) for state in range(len(inputs.states))]
    return np.array([each.mean() if len(each) else np.nan for each in sizes])


def _noise_units(problem: DynamicsProblem, observe: ObserveConfig) -> tuple[float, ...]:
    """The standard deviation of each channel's fitted values; one for logarithms, whose errors are proportions."""
    channels = range(problem.values.shape[-1])
    if observe.log_noise:
        return (1.0,) * len(channels)
    # Proportions, counts and answers are the same in any unit.
    plain = [
        name not in ("log_normal", "poisson", "bernoulli") for name in observe.noise_of(problem.panel.channels).values()
    ]
    return tuple(float(problem.values[..., c][problem.fit[..., c]].std()) if plain[c] else 1.0 for c in channels)


def solved_values(problem: DynamicsProblem, observe: ObserveConfig) -> np.ndarray:
    """The values in the coordinates that are solved: logarithms for positive states."""
    mask, values = problem.panel.mask, problem.panel.values
    return np.log(np.where(mask & (values > 0), values, 1.0)) if observe.positive else values


def knots(config: DynamicsConfig, problem: DynamicsProblem) -> np.ndarray:
    """The times at which the segments of each series start: `(series, segments)`, of equal length."""
    fitted = problem.fit.any(-1)
    first = problem.clock
    last = np.where(fitted, problem.panel.times, first[:, None]).max(1)
    segments = config.objective.segments if config.objective.shooting == "multiple" else 1
    return first[:, None] + (last - first)[:, None] * np.arange(segments) / segments


def _starts(config: DynamicsConfig, observe: ObserveConfig, problem: DynamicsProblem, indices):
    """Start states from the data: each observed state interpolated at the knots, its mean for one that is not."""
    assert observe.location is not None
    times = knots(config, problem)
    solved, mask = solved_values(problem, observe), problem.fit
    starts = np.tile(np.array(observe.location), (*times.shape, 1))
    for channel, state in enumerate(indices):
        for series in range(len(times)):
            seen = mask[series, :, channel]
            if state is not None and seen.any():
                rows, values = problem.panel.times[series][seen], solved[series, seen, channel]
                starts[series, :, state] = np.interp(times[series], rows, values)
    return tuple(tuple(tuple(start) for start in one) for one in starts.tolist())


NAMED = 3


def unfitted_starts(problem: DynamicsProblem) -> list[str]:
    """Series without a value of a channel to fit, whose learned start begins at the mean: one line, or none."""
    parts = []
    for channel, name in enumerate(problem.panel.channels):
        without = np.flatnonzero(~problem.fit[..., channel].any(1))
        if len(without):
            named = [str(problem.panel.ids[i]) for i in without[:NAMED]]
            more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
            parts.append(f"'{name}' of {', '.join(named)}{more}")
    return [f"no value to fit, so that the start is the mean over all series: {'; '.join(parts)}"] if parts else []


def describe_inputs(problem: DynamicsProblem) -> list[str]:
    """What is given to the series, in a line, and what reading had to say of it."""
    inputs = problem.inputs
    if inputs is None:
        return []
    there = np.isfinite(inputs.times)
    into = [name for i, name in enumerate(inputs.states) if (there & (inputs.given == i)).any()]
    parts = [f"{there.sum()} doses into {', '.join(into)}"] if there.any() else []
    parts += [f"constants {', '.join(inputs.constants)}"] if inputs.constants else []
    parts += [f"covariates {', '.join(inputs.covariates)}"] if inputs.covariates else []
    return [f"given: {'; '.join(parts)}", *inputs.notes] if parts else list(inputs.notes)
