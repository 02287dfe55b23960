"""Classifiers of irregular series as a kind of run: a neural CDE, and a GRU with time gaps beside it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import PRNGKeyArray, PyTree
from matplotlib.figure import Figure

from nde.config import build_regulariser, build_share
from nde.config.cde_classifier import build_cde_classifier, build_gru_classifier, CDEClassifierConfig, steps_needed
from nde.data import (
    LabelledPanel,
    load_basic_motions,
    Normaliser,
    Panel,
    read_panel,
    remove_at_random,
    Split,
    split_published,
    TableFormat,
)
from nde.models import series_path
from nde.objectives import cross_entropy
from nde.report import (
    accuracy_rows,
    brier_score,
    confusion,
    counted,
    log_softmax,
    plot_confusion,
    plot_seen_series,
    plot_training,
    SeenSeries,
)
from nde.runs.interface import AbstractKind, Examples, OpenedRun, Prediction, RunError, TableEvaluation
from nde.runs.kinds.normaliser_file import read_normaliser, write_normaliser
from nde.runs.kinds.penalty import with_penalty
from nde.train import BatchLoss, blame, LossFunction, read_metrics

SORTS = ("neural CDE", "GRU-Δt")
MAX_STEPS = 100_000


@dataclass(frozen=True)
class MotionsProblem:
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
        return [self.panel.ids[i] for i in series]

    def arrays(self, series: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Times, standardised values, mask and labels of some series."""
        return self.panel.times[series], self.values[series], self.panel.mask[series], self.data.labels[series]


class CDEClassifierKind(AbstractKind):
    """Which class a series belongs to, by a neural CDE and by a GRU with time gaps, `train.members` seeds of each."""

    def load(self, config: CDEClassifierConfig) -> MotionsProblem:
        settings = config.data
        data = load_basic_motions()
        if settings.sha256 is not None and settings.sha256 != _sha256(data):
            raise RunError("BasicMotions is not what the run was made from; install the aeon of then.")
        panel = remove_at_random(data.panel, settings.missing, seed=settings.missing_seed)
        split = split_published(data, validation=settings.validation, seed=settings.split_seed)
        normaliser = Normaliser.fit(panel[split.fold])
        return MotionsProblem(data, panel, split, normaliser, normaliser.apply(panel))

    def resolve(self, config: CDEClassifierConfig, problem: MotionsProblem) -> CDEClassifierConfig:
        panel = problem.panel
        update = {
            "horizon": config.model.horizon or float(panel.times.max()),
            "observations": config.model.observations or float(panel.mask.sum(1).mean()),
        }
        model = config.model.model_copy(update=update)
        if steps_needed(model) > MAX_STEPS:
            raise RunError(f"model.dt0 = {model.dt0:g} makes more than {MAX_STEPS} steps of a series; raise it.")
        found = {"channels": panel.channels, "classes": problem.data.classes, "sha256": _sha256(problem.data)}
        data = config.data.model_copy(update=found)
        return config.model_copy(update={"data": data, "model": model})

    def describe(self, config: CDEClassifierConfig, problem: MotionsProblem) -> list[str]:
        panel, split = problem.panel, problem.split
        removed = 100 * (1 - panel.mask.sum() / problem.data.panel.mask.sum())
        return [
            f"{len(panel)} series of {len(problem.data.classes)} classes, {counted(len(panel.channels), 'channel')}, "
            f"{removed:.1f} % of the values removed: {len(split.train)} train, {len(split.validation)} validate, "
            f"{len(split.test)} test"
        ]

    def save(self, folder: Path, config: CDEClassifierConfig, problem: MotionsProblem) -> None:
        write_normaliser(folder / "normaliser.json", problem.normaliser)

    def members(self, config: CDEClassifierConfig) -> list[str]:
        count = config.train.members
        return [f"{sort}, seed {i + 1}/{count}" for sort in SORTS for i in range(count)]

    def new_model(self, config: CDEClassifierConfig, member: int, *, key: PRNGKeyArray, horizon: float = 0.0) -> PyTree:
        channels, classes = config.data.channels, config.data.classes
        assert channels is not None and classes is not None
        build = (build_cde_classifier, build_gru_classifier)[member // config.train.members]
        return build(config.model, len(channels), len(classes), horizon=horizon, key=key)

    def examples(self, config: CDEClassifierConfig, problem: MotionsProblem, member: int) -> Examples:
        series = problem.split.train
        return Examples(problem.arrays(series), [problem.panel.ids[i] for i in series])

    def loss(self, config: CDEClassifierConfig, problem: MotionsProblem) -> LossFunction:
        regulariser, share = build_regulariser(config.regularise), build_share(config.regularise, config.train)

        def loss(model: PyTree, batch: PyTree, step: jax.Array, key: jax.Array) -> BatchLoss:
            times, values, mask, labels = batch
            if regulariser is None or not hasattr(model, "penalised"):  # the GRU has no equation
                logits, penalties = jax.vmap(model)(times, values, mask), None
            else:
                keys = jax.random.split(key, len(times))
                penalised = jax.vmap(lambda *series, key: model.penalised(regulariser, *series, key=key))
                logits, penalties = penalised(times, values, mask, key=keys)
            losses = jax.vmap(cross_entropy)(logits, labels)
            accuracy = jnp.mean(jnp.argmax(logits, -1) == labels, dtype=losses.dtype)
            result = BatchLoss(jnp.mean(losses), {"accuracy": accuracy}, losses)
            return result if penalties is None else with_penalty(result, penalties, share(step))

        return loss

    def validation(self, config: CDEClassifierConfig, problem: MotionsProblem) -> Callable[[Any], float]:
        times, values, mask, labels = problem.arrays(problem.split.validation)
        ids = problem.ids(problem.split.validation)

        def score(model: PyTree) -> float:
            # The likelihood of eight series hangs on the one that is surely wrong, and would choose the first steps.
            return float(brier_score(_logits(model, times, values, mask, ids), labels))

        return score

    def remedies(self, config: CDEClassifierConfig) -> list[str]:
        return [f"lower model.dt0 (now {config.model.dt0:g})"]

    def evaluate(self, run: OpenedRun, problem: MotionsProblem) -> TableEvaluation:
        times, values, mask, labels = problem.arrays(problem.split.test)
        ids = problem.ids(problem.split.test)
        every = np.stack([_logits(model, times, values, mask, ids) for model in run.models()])
        logits: dict[str, np.ndarray] = dict(zip(SORTS, np.split(every, len(SORTS)), strict=True))
        rows = accuracy_rows(logits, labels)
        places = labels[None, :, None]
        nll = {name: -float(np.take_along_axis(log_softmax(x), places, -1).mean()) for name, x in logits.items()}
        best = max(float(row["accuracy"]) for row in rows)
        spread = np.sqrt(max(best * (1 - best), 1 / len(labels)) / len(labels))
        missing = 100 * run.config.data.missing
        return TableEvaluation(
            title=f"accuracy on {len(labels)} test series, {missing:g} % of the values removed",
            caption="share of series; sd over seeds",
            rows=rows,
            notes=[
                f"sd is the spread of training alone; {len(labels)} test series leave a standard error of about "
                f"{spread:.3f} on each accuracy.",
                f"nll in nats per series: {', '.join(f'{name} {value:.3f}' for name, value in nll.items())}.",
            ],
            summary={"series_scored": len(labels), "nll": nll, "classes": list(problem.data.classes)},
            details=logits,
        )

    def figures(self, run: OpenedRun, problem: MotionsProblem, evaluation: TableEvaluation) -> dict[str, Figure]:
        labels = problem.data.labels[problem.split.test]
        classes = problem.data.classes
        tables = {
            method: confusion(logits.argmax(-1), labels, len(classes)) for method, logits in evaluation.details.items()
        }
        training = plot_training(
            read_metrics(run.folder / "metrics.jsonl"),
            loss_name="loss (nats per series)",
            score_name="validation Brier score",
            names=[sort for sort in SORTS for _ in range(run.config.train.members)],
        )
        return {
            "training": training,
            "confusion": plot_confusion(tables, classes),
            "series": _seen(problem, evaluation),
        }

    def predict(self, run: OpenedRun, asked: Prediction) -> pl.DataFrame:
        """The class of each series of a wide table: the neural CDEs' probabilities, averaged over the seeds.

        What is missing in the table is missing; nothing more is removed.

        **Raises:** `RunError` for times ahead, which a class does not have; `TableError` for a bad table.
        """
        if asked.ahead or asked.keep_samples:
            raise RunError("a classifier gives each series one class: leave out --ahead and --keep-samples.")
        settings = run.config.data
        layout = TableFormat(id=settings.id, time=settings.time, channels=settings.channels)
        panel = read_panel(asked.data, layout)
        values = read_normaliser(run.folder / "normaliser.json").apply(panel)
        models = run.models(horizon=float(panel.times.max()))[: run.config.train.members]
        logits = np.stack([_logits(model, panel.times, values, panel.mask, panel.ids) for model in models])
        probabilities = np.exp(log_softmax(logits)).mean(0)
        classes = np.array(settings.classes)
        columns = {settings.id: panel.ids, "class": classes[probabilities.argmax(-1)]}
        return pl.DataFrame(columns | {f"p_{name}": p for name, p in zip(classes, probabilities.T, strict=True)})


@eqx.filter_jit
def _batch_logits(model: PyTree, times: jax.Array, values: jax.Array, mask: jax.Array) -> jax.Array:
    return jax.vmap(model)(times, values, mask)


def _logits(model: PyTree, times: np.ndarray, values: np.ndarray, mask: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """Logits of series, `(series, classes)`, in double precision from here on."""
    data = [jnp.asarray(x) for x in (times, values, mask)]
    every = np.arange(len(times))
    return np.asarray(blame(lambda rows: _batch_logits(model, *(x[rows] for x in data)), every, ids), np.float64)


def _seen(problem: MotionsProblem, evaluation: TableEvaluation) -> Figure:
    """One test series of each class as the neural CDE saw it, and what its seeds made of it."""
    test, classes = problem.split.test, problem.data.classes
    logits = evaluation.details[SORTS[0]]
    labels = problem.data.labels[test]
    stories = []
    for label, name in enumerate(classes):
        place = int(np.flatnonzero(labels == label)[0])
        series = int(test[place])
        right = int((logits[:, place].argmax(-1) == label).sum())
        stories.append(_story(problem, series, name, f"recognised by {right} of {len(logits)}"))
    panel = problem.panel
    return plot_seen_series(stories, [panel.channels[c] for c in SHOWN], f"time ({panel.time_unit})")


SHOWN = (0, 5)


def _story(problem: MotionsProblem, series: int, name: str, verdict: str) -> SeenSeries:
    panel, chosen = problem.panel, list(SHOWN)
    times, values, mask, _ = problem.arrays(np.array(series))
    path = series_path(times, values, mask)
    ts = np.linspace(times[0], times[-1], 800)
    points = np.asarray(jax.vmap(path.evaluate)(jnp.asarray(ts)))[:, 1 : 1 + len(panel.channels)]
    return SeenSeries(
        name=f"{panel.ids[series]}, {name}",
        times=times,
        values=problem.data.panel.values[series][:, chosen],
        mask=mask[:, chosen],
        ts=ts,
        path=problem.normaliser.undo(points)[:, chosen],
        verdict=verdict,
    )


def _sha256(data: LabelledPanel) -> str:
    return hashlib.sha256(np.ascontiguousarray(data.panel.values).tobytes()).hexdigest()
