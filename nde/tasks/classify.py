"""Which class an irregular series belongs to, as a task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, PRNGKeyArray, PyTree
from matplotlib.figure import Figure

from nde.config import build_loss, ClassifyConfig, Member, SeriesFacts
from nde.data import (
    LabelledPanel,
    Normaliser,
    Panel,
    read_labelled_panel,
    remove_at_random,
    Split,
    split_labelled,
)
from nde.models import series_path
from nde.objectives import classification_loss
from nde.report import (
    accuracy_rows,
    brier_score,
    class_logits,
    confusion,
    counted,
    log_softmax,
    plot_confusion,
    plot_seen_series,
    SeenSeries,
)
from nde.tasks.base import AbstractTask, Examples, member_key, OpenedRun, predicting, Prediction, RunError
from nde.tasks.class_prediction import member_logits, portable, predict_portable, predictor_of
from nde.tasks.portable import Portable, Ported
from nde.tasks.scores import AbstractEvaluation, TableEvaluation
from nde.tasks.tables import (
    check_unchanged,
    describe_table,
    resolved_table,
    with_channels,
    write_normaliser,
)
from nde.train import LossFunction


class Classifier(Protocol):
    """What this task knows of a model; `nde.models.NeuralCDE` and `nde.models.GRUDeltaT` are two.

    One that draws noise says so by an attribute `draws_noise = True`, as `nde.models.ControlledSDE` does: its classes
    are those of its mean probabilities over `evaluate.samples` keys.
    """

    def __call__(self, times: Array, values: Array, mask: Array, /, *, key: PRNGKeyArray | None = None) -> Array:
        """The logits of the classes, of one series: `(rows,)`, `(rows, channels)` and what of them was observed."""
        ...


@dataclass(frozen=True)
class ClassifyProblem:
    """The series of a config, ready for a classifier.

    - `data`: complete, in their own units.
    - `panel`: the same with values removed.
    - `split`: which of them train, stop the training and are scored.
    - `normaliser`: fitted on what is left of `split.fold`.
    - `values`: `(series, rows, channels)`, of `panel`, standardised.
    """

    data: LabelledPanel
    panel: Panel
    split: Split
    normaliser: Normaliser
    values: np.ndarray

    def ids(self, series: np.ndarray) -> list[str]:
        """The names of some series."""
        return [str(self.panel.ids[i]) for i in series]

    def arrays(self, series: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Times, standardised values, mask and labels of some series."""
        return self.panel.times[series], self.values[series], self.panel.mask[series], self.data.labels[series]


@dataclass(frozen=True)
class Classified:
    """What a table of accuracies is made of.

    - `logits`: of each model, `(seeds, series, classes)`.
    - `labels`: `(series,)`; `classes`: their names; `commonest`: the class that is it in what was learned from.
    - `removed`: the share of values that was removed.
    """

    logits: dict[str, np.ndarray]
    labels: np.ndarray
    classes: tuple[str, ...]
    commonest: int
    removed: float


class ClassifyEvaluation(TableEvaluation):
    """Accuracies of each model; those of several folds are those of all their series."""

    def pooled(self, others: Sequence[AbstractEvaluation]) -> TableEvaluation:
        parts: list[Classified] = [self.details, *(each.details for each in others if isinstance(each, type(self)))]
        logits = {name: np.concatenate([part.logits[name] for part in parts], axis=1) for name in parts[0].logits}
        labels = np.concatenate([part.labels for part in parts])
        return classified(logits, labels, parts[0].classes, parts[0].commonest, parts[0].removed)


def classified(
    logits: dict[str, np.ndarray], labels: np.ndarray, classes: tuple[str, ...], commonest: int, removed: float
) -> ClassifyEvaluation:
    """The table of how series were classified: the arguments are those of `Classified`."""
    rows = accuracy_rows(logits, labels)
    places = labels[None, :, None]
    nll = {name: -float(np.take_along_axis(log_softmax(x), places, -1).mean()) for name, x in logits.items()}
    best = max(float(row["accuracy"]) for row in rows)
    spread = np.sqrt(max(best * (1 - best), 1 / len(labels)) / len(labels))
    return ClassifyEvaluation(
        title=f"accuracy on {counted(len(labels), 'test series', 'test series')}"
        + (f", {100 * removed:g} % of the values removed" if removed else ""),
        caption="share of series; sd over seeds",
        scores=rows,
        notes=[
            f"the commonest class, {classes[commonest]}: {(labels == commonest).mean():.3f} of them.",
            f"sd is the spread of training alone; {len(labels)} test series leave a standard error of about "
            f"{spread:.3f} on each accuracy.",
            f"nll in nats per series: {', '.join(f'{name} {value:.3f}' for name, value in nll.items())}.",
        ],
        summary={"series_scored": len(labels), "nll": nll, "classes": list(classes)},
        details=Classified(logits, labels, classes, commonest, removed),
    )


class ClassifyTask(AbstractTask):
    """Which class a series belongs to, by `train.members` seeds of each model."""

    loss_name = "loss (nats per series)"
    score_name = "validation Brier score"

    def load(self, config: ClassifyConfig) -> ClassifyProblem:
        settings = config.data
        data = _load(config)
        panel = remove_at_random(data.panel, settings.removed, seed=settings.removed_seed)
        split = split_labelled(
            data, fold=settings.fold, folds=settings.folds, validation=settings.validation, seed=settings.split_seed
        )
        normaliser = Normaliser.fit(panel, series=split.fold)
        return ClassifyProblem(data, panel, split, normaliser, normaliser.apply(panel))

    def resolve(self, config: ClassifyConfig, problem: ClassifyProblem) -> ClassifyConfig:
        panel, data = problem.panel, config.data
        found = resolved_table(data, problem.data.panel) | {
            "classes": problem.data.classes,
            "horizon": data.horizon or float(panel.times.max()) or 1.0,
            "observations": data.observations or float(panel.mask.sum(1).mean()),
        }
        return config.model_copy(update={"data": data.model_copy(update=found)})

    def facts(self, config: ClassifyConfig, *, until: float = 0.0) -> SeriesFacts:
        data = config.data
        assert data.channels is not None and data.classes is not None
        assert data.horizon is not None and data.observations is not None
        far = max(until, data.horizon)
        return SeriesFacts(len(data.channels), data.horizon, far, data.observations, len(data.classes))

    def describe(self, config: ClassifyConfig, problem: ClassifyProblem) -> list[str]:
        panel, split = problem.panel, problem.split
        removed = 100 * (1 - panel.mask.sum() / problem.data.panel.mask.sum())
        without = f", {removed:.1f} % of the values removed" if config.data.removed else ""
        return [
            *describe_table(config.data, panel),
            f"{len(panel)} series of {len(problem.data.classes)} classes, {counted(len(panel.channels), 'channel')}"
            f"{without}: {len(split.train)} train, {len(split.validation)} validate, {len(split.test)} test",
        ]

    def save(self, folder: Path, config: ClassifyConfig, problem: ClassifyProblem) -> None:
        write_normaliser(folder, problem.normaliser)

    def examples(self, config: ClassifyConfig, problem: ClassifyProblem, member: Member) -> Examples:
        series = problem.split.train
        lengths, in_rows = problem.panel.lengths[series], (True, True, True, False)
        return Examples(problem.arrays(series), problem.ids(series), lengths, in_rows)

    def loss(self, config: ClassifyConfig, problem: ClassifyProblem) -> LossFunction:
        return build_loss(config.regularise, config.train, classification_loss)

    def validation(self, config: ClassifyConfig, problem: ClassifyProblem) -> Callable[[Any], float]:
        *series, labels = problem.arrays(problem.split.validation)
        ids, key = problem.ids(problem.split.validation), member_key(config, 0, "validation")

        def score(model: PyTree) -> float:
            # The likelihood of eight series hangs on the one that is surely wrong, and would choose the first steps.
            logits = class_logits(model, *series, series=ids, samples=config.evaluate.samples, key=key)
            return float(brier_score(logits, labels))

        return score

    def evaluate(self, run: OpenedRun, problem: ClassifyProblem) -> TableEvaluation:
        *series, labels = problem.arrays(problem.split.test)
        ids = problem.ids(problem.split.test)
        config = run.config
        samples, found = config.evaluate.samples, run.models()
        logits = {label: member_logits(config, samples, models, series, ids) for label, models in found.items()}
        commonest = int(np.bincount(problem.data.labels[problem.split.fold]).argmax())
        return classified(logits, labels, problem.data.classes, commonest, run.config.data.removed)

    def figures(self, run: OpenedRun, problem: ClassifyProblem, evaluation: TableEvaluation) -> dict[str, Figure]:
        labels = problem.data.labels[problem.split.test]
        classes = problem.data.classes
        every = evaluation.details.logits
        tables = {method: confusion(logits.argmax(-1), labels, len(classes)) for method, logits in every.items()}
        return {"confusion": plot_confusion(tables, classes), "series": _seen(problem, evaluation)}

    def predict(self, run: OpenedRun, asked: Prediction) -> pl.DataFrame:
        """The class of each series of a table, by one model's probabilities, averaged over its seeds.

        The model is the one asked for, else the one that validated best. What is missing in the table is missing;
        nothing more is removed. A column of labels, if there is one, is not read.

        **Raises:** `RunError` for times ahead, which a class does not have; `TableError` for a bad table.
        """
        return predictor_of(run).predict(asked)

    def portable(self, run: OpenedRun, *, until: float | None, rows: int | None) -> Portable:
        return portable(run, until, rows, self.prediction_notes(run))

    def predict_portable(self, portable: Ported, asked: Prediction) -> pl.DataFrame:
        return predict_portable(portable, asked)

    def prediction_notes(self, run: OpenedRun, model: str | None = None) -> Sequence[str]:
        """Which model it is, where there are several and none was asked for."""
        return [f"classes by the {predicting(run, None)}"] if model is None and len(run.config.model) > 1 else []


def _load(config: ClassifyConfig) -> LabelledPanel:
    """The labelled series of a config: a table, or a data set."""
    settings = config.data
    dataset, path = settings.made(), settings.table_path()
    if dataset is not None:
        data = dataset.load(seed=settings.seed) if dataset.made else dataset.load()
        data = replace(data, panel=with_channels(data.panel, settings))
    else:
        assert path is not None and settings.label is not None
        data = read_labelled_panel(path, settings.table_format(), settings.label)
    check_unchanged(settings, data.panel)
    if settings.classes not in (None, data.classes):
        raise RunError(f"{settings.source()}: the classes are {', '.join(data.classes)}, not those of the run.")
    return data


SHOWN_CLASSES = 8


def _seen(problem: ClassifyProblem, evaluation: TableEvaluation) -> Figure:
    """One test series of each class as the first model saw it, and what its seeds made of it."""
    test, classes, panel = problem.split.test, problem.data.classes, problem.panel
    logits = next(iter(evaluation.details.logits.values()))
    labels = problem.data.labels[test]
    stories = []
    for label in np.unique(labels)[:SHOWN_CLASSES]:
        place = int(np.flatnonzero(labels == label)[0])
        right = int((logits[:, place].argmax(-1) == label).sum())
        verdict = f"recognised by {right} of {len(logits)}"
        stories.append(_story(problem, int(test[place]), classes[label], verdict))
    shown = _shown(problem)
    return plot_seen_series(stories, [panel.channels[c] for c in shown], f"time ({panel.time_unit})")


def _shown(problem: ClassifyProblem) -> list[int]:
    """The first channel and the last: as unlike as the order of a table tells."""
    return sorted({0, len(problem.panel.channels) - 1})


def _story(problem: ClassifyProblem, series: int, name: str, verdict: str) -> SeenSeries:
    panel, chosen = problem.panel, _shown(problem)
    times, values, mask, _ = problem.arrays(np.array(series))
    path = series_path(times, values, mask)
    ts = np.linspace(times[0], times[-1], 800)
    points = np.asarray(jax.vmap(path.evaluate)(jnp.asarray(ts)))[:, 1 : 1 + len(panel.channels)]
    rows = problem.data.panel.mask[series][:, chosen]
    return SeenSeries(
        name=f"{panel.ids[series]}, {name}",
        times=times,
        values=np.where(rows, problem.data.panel.values[series][:, chosen], np.nan),
        mask=mask[:, chosen],
        ts=ts,
        path=problem.normaliser.undo(points)[:, chosen],
        verdict=verdict,
    )
