"""The classes of a table's series, by the models of a run or by what was exported of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
import polars as pl

from nde.config import ClassifyConfig
from nde.data import Normaliser, TableFormat
from nde.report import class_logits, log_softmax, logits_block
from nde.tasks.base import chosen_label, member_key, OpenedRun, predicting, Prediction, RunError, Seeded
from nde.tasks.portable import (
    ArrayFunction,
    BEYOND,
    key_arguments,
    Portable,
    Ported,
    PortedLogits,
    series_arguments,
)
from nde.tasks.series_export import described_channels, series_rungs, series_words
from nde.tasks.tables import (
    normaliser_from_plain,
    normaliser_to_plain,
    read_asked,
    read_normaliser,
    refuse_taken,
    table_format_from_plain,
)


@dataclass(frozen=True)
class Classes:
    """All that classes of a table are made of, whether it is that of a run or was exported from one.

    - `source`: what messages call it; `layout`: of the table; `seed`: the run's.
    - `samples`: how many probabilities are averaged, of a model that draws noise.
    - `names`: of each `[[model]]`, by its label; `alone`: the label of that which validated best.
    - `models`: the members of each, by its label, for times up to the one given.
    """

    source: str
    layout: TableFormat
    classes: Sequence[str]
    seed: int
    samples: int
    normaliser: Normaliser
    names: Mapping[str, str]
    alone: str
    models: Callable[[float], Mapping[str, Sequence[Any]]]

    def predict(self, asked: Prediction) -> pl.DataFrame:
        """The classes that are asked for."""
        if asked.ahead or asked.keep_samples:
            raise RunError("a classifier gives each series one class: leave out --ahead and --keep-samples.")
        layout, classes = self.layout, np.array(self.classes)
        refuse_taken(layout, asked, {"class", *(f"p_{name}" for name in classes)})
        panel = read_asked(layout, asked, self.normaliser.channels)
        values = self.normaliser.apply(panel)
        label = self.alone if asked.model is None else chosen_label(self.names, asked.model, self.source)
        models = self.models(float(panel.times.max()))[label]
        ids = [str(one) for one in panel.ids]
        logits = member_logits(self, self.samples, models, (panel.times, values, panel.mask), ids)
        probabilities = np.exp(log_softmax(logits)).mean(0)
        series = np.arange(len(panel))
        names, _ = panel.keys(series, np.zeros_like(series), as_text=asked.as_text)
        columns = {layout.id: names, "class": classes[probabilities.argmax(-1)]}
        return pl.DataFrame(columns | {f"p_{name}": p for name, p in zip(classes, probabilities.T, strict=True)})


def predictor_of(run: OpenedRun) -> Classes:
    """That of a run."""
    config: ClassifyConfig = run.config
    return Classes(
        source=str(run.folder),
        layout=config.data.table_format(),
        classes=config.data.classes or (),
        seed=config.seed,
        samples=config.evaluate.samples,
        normaliser=read_normaliser(run.folder),
        names={section.called(): section.name for section in config.model},
        alone=predicting(run, None),
        models=lambda until: run.models(until=until),
    )


def member_logits(
    seeded: Seeded, samples: int, models: Sequence[Any], arrays: Sequence[np.ndarray], ids: list[str]
) -> np.ndarray:
    """Of each seed's model, `(seeds, series, classes)`: what `nde evaluate` scores and `nde predict` reports."""
    keys = [member_key(seeded, seed, "classes") for seed in range(len(models))]
    each = [
        class_logits(model, *arrays, series=ids, samples=samples, key=key)
        for model, key in zip(models, keys, strict=True)
    ]
    return np.stack(each)


def portable(run: OpenedRun, until: float | None, rows: int | None, notes: Sequence[str]) -> Portable:
    """What classifies a table without the run: the logits of its models by lowered functions."""
    this, data = predictor_of(run), run.config.data
    scale, channels = data.time_scale or 1.0, len(this.normaliser.channels)
    far, rungs = BEYOND * data.horizon if until is None else until / scale, series_rungs(run, rows)

    def logits(model, times, values, mask, codes, words):
        return logits_block(model, this.samples, times, values, mask, codes, jax.random.wrap_key_data(words))

    def arguments(rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        return *series_arguments(rows, channels), *key_arguments()

    facts = {name: getattr(this, name) for name in KEPT} | {"layout": asdict(this.layout), "notes": list(notes)}
    functions = {label: ArrayFunction(logits, models, arguments) for label, models in this.models(far).items()}
    normaliser = normaliser_to_plain(this.normaliser)
    more = [*described_channels(normaliser), f"classes: {', '.join(this.classes)}"]
    words = series_words(run, USE, facts["layout"], more, rungs, far * scale)
    return Portable(facts, normaliser, functions, rungs, far * scale, words)


USE = (
    "The class of each of a table's series, with the probability of every class, for series like those that it was "
    "trained on."
)


def predict_portable(ported: Ported, asked: Prediction) -> pl.DataFrame:
    """The classes of what `portable` made, equal to those of the run but for rounding."""
    layout = table_format_from_plain(ported.facts["layout"])

    def models(until: float) -> Mapping[str, Sequence[Any]]:
        ported.check_until(until, layout.time_scale or 1.0)
        return {label: [PortedLogits(each) for each in members] for label, members in ported.functions.items()}

    kept = {name: ported.facts[name] for name in KEPT}
    normaliser = normaliser_from_plain(ported.normaliser)
    own = Classes(source=ported.source, layout=layout, normaliser=normaliser, models=models, **kept)
    return own.predict(asked)


KEPT = ("classes", "seed", "samples", "names", "alone")
"""The fields of `Classes` that are plain."""
