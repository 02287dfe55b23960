"""The pool of a run's models and the baselines: learned once after training, kept in the folder, used for forecasts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nde import config as configs
from nde.config import LatentSDEConfig
from nde.report import (
    AbstractForecast,
    baseline_forecast,
    BASELINES,
    counted,
    NormalForecast,
    pool_weights,
    PooledForecast,
    sample_forecast,
)
from nde.report.baselines import Baseline, baseline_from_plain, baseline_to_plain
from nde.runs.interface import member_key, OpenedRun, RunError
from nde.runs.kinds.latent_sde.problem import Problem, sample_series

FILE = "stack.json"

POOLED = ("last value", "mixed model", "mixed model + OU")
"""The baselines that a pool may hold. `population` knows nothing of the series that it forecasts: it is a mark to be
passed, and each series that the prior of the weights grants it would be lost."""

FITTED = 500
"""Training series, at most, on which the baselines are fitted that the weights are learned from: their eight numbers a
channel are known by then, and the fits on all series, which are the ones that are pooled, cost as much again."""

MODEL = "model"


@dataclass(frozen=True)
class Stack:
    """Baselines, and what each law of the pool weighs.

    - `baselines`: each that could be fitted on the series that a run learned from, by name.
    - `notes`: those that could not, a sentence each.
    - `weights`: of the run's models, under `MODEL`, and of the pooled baselines; empty if there is no pool.
    - `series`: how many validation series the weights were learned from.
    """

    baselines: Mapping[str, Baseline]
    notes: tuple[str, ...] = ()
    weights: Mapping[str, float] | None = None
    series: int = 0

    def forecasts(
        self, times: np.ndarray, values: np.ndarray, context: np.ndarray, ts: np.ndarray
    ) -> dict[str, NormalForecast]:
        """The law of each baseline at times `ts`, of arrays as `nde.report.sample_forecast` takes them."""
        return {name: baseline_forecast(one, times, values, context, ts) for name, one in self.baselines.items()}

    def pool(
        self,
        law: AbstractForecast,
        others: Mapping[str, AbstractForecast],
        samples: int,
        config: LatentSDEConfig,
        *,
        series: Sequence[str],
    ) -> AbstractForecast:
        """The pool of the models' law and the baselines', or the models' alone if there is none; `series`: the ids."""
        if not self.weights:
            return law
        laws = {name: law if name == MODEL else others[name] for name in self.weights}
        return PooledForecast.of(laws, self.weights, samples, series=series, key=member_key(config, 0, "pool"))

    def line(self, model: str) -> str:
        """What the pool consists of, in a line."""
        assert self.weights is not None
        parts = [f"{weight:.2f} {model if name == MODEL else name}" for name, weight in self.weights.items()]
        return (
            f"pool: {', '.join(parts)} (weights from {counted(self.series, 'validation series', 'validation series')})"
        )


def fit_baselines(problem: Problem, series: np.ndarray) -> Stack:
    """The baselines fitted on some series; those that the data do not determine are left out, with a note."""
    fold = problem.arrays(series)
    fitted, notes = {}, []
    for name, fit in BASELINES.items():
        try:
            fitted[name] = fit(*fold)
        except ValueError as error:
            notes.append(f"baseline '{name}' is left out: {error}.")
    return Stack(fitted, tuple(notes))


def learn_stack(run: OpenedRun, problem: Problem) -> Stack:
    """The pool of a trained run.

    The weights are those of `nde.report.pool_weights` on the validation series, in the config's own task: of the
    models, which were trained on the training series, and of baselines fitted on the same. The baselines that are then
    pooled, and stand in the table of results, are fitted on the validation series too.

    **Limits:** the validation series also chose each member's best step, which makes the models look a little better
    there than they are. The weights are learned where the future is forecast, and hold between observations as well.
    """
    config: LatentSDEConfig = run.config
    split, seed = problem.split, config.data.split_seed
    whole = fit_baselines(problem, split.fold)
    trial = fit_baselines(problem, sample_series(split.train, FITTED, seed))
    names = [name for name in POOLED if name in whole.baselines and name in trial.baselines]
    if not names:
        return whole
    series = sample_series(split.validation, config.train.validation_series, seed)
    times, values, mask = problem.arrays(series)
    cut = configs.build_task(config.evaluate, problem.panel.time_scale).cut(times, mask)
    given = times, values, cut.context, times
    samples, key = config.evaluate.samples, member_key(config, 0, "pool")
    forecast = sample_forecast(run.models(), *given, series=problem.ids(series), samples=samples, key=key)
    others = trial.forecasts(*given)
    laws = {MODEL: forecast.law, **{name: others[name] for name in names}}
    densities = np.stack([law.log_density(values)[cut.targets] for law in laws.values()])
    scored = np.nonzero(cut.targets)[0]
    weights = pool_weights(densities, scored)
    return Stack(whole.baselines, whole.notes, dict(zip(laws, weights.tolist(), strict=True)), len(np.unique(scored)))


def write_stack(folder: Path, stack: Stack) -> None:
    """Keep a pool as `stack.json`."""
    plain = {
        "weights": stack.weights,
        "validation_series": stack.series,
        "notes": stack.notes,
        "baselines": {name: baseline_to_plain(one) for name, one in stack.baselines.items()},
    }
    part = folder / f"{FILE}.part"
    part.write_text(json.dumps(plain, indent=1) + "\n")
    part.replace(folder / FILE)


def read_stack(run: OpenedRun) -> Stack | None:
    """The pool that a run keeps; `None` if it has none, or its config wants none.

    **Raises:** `RunError` for a file that is no pool.
    """
    path = run.folder / FILE
    if not run.config.evaluate.stack or not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text())
        baselines = {name: baseline_from_plain(one) for name, one in saved["baselines"].items()}
        return Stack(baselines, tuple(saved["notes"]), saved["weights"], saved["validation_series"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: no pool is here ({error}); `nde fit --resume {run.folder}` makes it anew.") from None


def model_name(config: LatentSDEConfig) -> str:
    """What a run's models are called in a table."""
    members = config.train.members
    return _kind_name(config) if members == 1 else f"{_kind_name(config)}, {members} members"


def pool_name(config: LatentSDEConfig) -> str:
    """What their pool with the baselines is called."""
    return f"{_kind_name(config)} + baselines"


def no_stack(run: OpenedRun) -> str:
    """What to say of a run whose config wants a pool and whose folder has none."""
    return f"no {FILE} in {run.folder}, so no pool with the baselines; `nde fit --resume {run.folder}` makes it."


def _kind_name(config: LatentSDEConfig) -> str:
    return "latent SDE" if config.model.diffusion_scale else "latent ODE"
