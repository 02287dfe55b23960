"""How a model that forecasts is validated."""

from collections.abc import Callable

from jaxtyping import PyTree

from nde.config import ForecastConfig
from nde.report import sample_forecast
from nde.tasks.base import member_key
from nde.tasks.forecast.problem import build_cut, Problem, sample_series


def validation_score(config: ForecastConfig, problem: Problem) -> Callable[[PyTree], float]:
    """The mean negative log predictive density per value on the validation series, in the config's cut.

    They are a sample of `train.validation_series` of them, the same at every validation.
    """
    series = sample_series(problem.split.validation, config.train.validation_series, config.data.split_seed)
    times, values, mask = problem.arrays(series)
    cut = build_cut(config.evaluate, problem.panel.time_scale).cut(times, mask)
    key, ids = member_key(config, 0, "validation"), problem.ids(series)

    def score(model: PyTree) -> float:
        samples = config.train.validation_samples
        given = times, values, cut.context, times
        forecast = sample_forecast([model], *given, series=ids, samples=samples, key=key)
        return float(-forecast.law.log_density(values)[cut.targets].mean())

    return score
