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
    samples, key = config.train.validation_samples, member_key(config, 0, "validation")
    cut = build_cut(config.evaluate, problem.panel.time_scale)
    blocks = []
    for places, rows in problem.blocks(series, samples):
        chosen = series[places]
        times, values, mask = problem.arrays(chosen, rows)
        parts = cut.cut(times, mask)
        blocks.append((problem.ids(chosen), (times, values, parts.context, times), parts.targets))

    def score(model: PyTree) -> float:
        total, count = 0.0, 0
        for ids, given, targets in blocks:
            law = sample_forecast([model], *given, series=ids, samples=samples, key=key).law
            total += law.log_density(given[1])[targets].sum()
            count += targets.sum()
        return float(-total / count)

    return score
