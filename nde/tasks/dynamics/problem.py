"""The series of a fit of dynamics, divided into what is fitted, what chooses and what is scored."""

from dataclasses import dataclass

import numpy as np

from nde.config import DynamicsConfig, ObserveConfig, system_states
from nde.data import Panel, refuse_empty_channels, split_series
from nde.models import observed_states
from nde.tasks.base import RunError
from nde.tasks.dynamics.limits import within_limits
from nde.tasks.tables import load_series, resolved_table


@dataclass(frozen=True)
class DynamicsProblem:
    """The data of a fit.

    - `panel`: all series, in their own units.
    - `values`: `(series, rows, channels)`; logarithms where the noise is log-normal.
    - `fit`, `choose`, `test`: masks of that shape: what is trained on, chooses the best model, and is scored.
    - `series`: the indices of the series that are trained on.
    """

    panel: Panel
    values: np.ndarray
    fit: np.ndarray
    choose: np.ndarray
    test: np.ndarray
    series: np.ndarray

    @property
    def train_until(self) -> float:
        """The last time of what is trained on."""
        return float(self.panel.times[self.fit.any(-1)].max())


def load(config: DynamicsConfig) -> DynamicsProblem:
    """Read or make the series of a config, and divide them.

    **Raises:** `ValueError` for a bad table or split, and if nothing is left to fit or to score.
    """
    data = config.data
    panel = load_series(data)
    log = config.observe.log_noise
    panel = within_limits(config, panel)
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
        later = panel.mask & (panel.times > panel.times[:, :1])[..., None]
        fit, choose, test = (_of_series(later, part) for part in (split.train, split.validation, split.test))
        series = split.train
    choose = choose if choose.any() else fit
    for name, mask in (("fit", fit), ("score", test)):
        if not mask.any():
            raise RunError(f"{data.source()}: no value is left to {name}; change data.test_after.")
    refuse_empty_channels(panel, fit, source=data.source())
    return DynamicsProblem(panel, values, fit, choose, test, series)


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
    location, scale = _units(problem, observe, indices, len(states))
    update = {
        "states": states,
        "observed": observed,
        "channels": panel.channels,
        "location": observe.location or location,
        "scale": observe.scale or scale,
        "noise_unit": observe.noise_unit or _noise_units(problem, observe),
        "time_scale": observe.time_scale or (problem.train_until or 1.0) / 10,
    }
    resolved = observe.model_copy(update=update)
    if observe.start == "learned" and observe.starts is None:
        resolved = resolved.model_copy(update={"starts": _starts(config, resolved, problem, indices)})
    # The fingerprint is that of the values as they are given, not of those moved onto their limits.
    found = resolved_table(data, load_series(data) if observe.below or observe.above else panel)
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
    """Mean and standard deviation of each observed state as it is solved for; 0 and the largest scale of others, 1
    where none is observed."""
    solved = solved_values(problem, observe)
    location, scale = np.zeros(count), np.full(count, np.nan)
    for channel, state in enumerate(indices):
        if state is None:
            continue
        seen = solved[..., channel][problem.fit[..., channel]]
        location[state], scale[state] = seen.mean(), seen.std()
    scale = np.where(np.isnan(scale), np.nanmax(scale) if np.isfinite(scale).any() else 1.0, scale)
    return tuple(location.tolist()), tuple(scale.tolist())


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
    first = problem.panel.times[:, 0]
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
