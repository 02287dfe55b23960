"""What a task of points exports: its models on blocks of points, and the words of the card."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nde.report import counted
from nde.tasks.base import OpenedRun, RunError
from nde.tasks.point_prediction import Asked, BLOCK, Block, models_of, PointModels
from nde.tasks.points import PointUnits
from nde.tasks.portable import ArrayFunction, Portable, Ported, Words
from nde.tasks.tables import table_format_from_plain


def portable_points(
    run: OpenedRun, asks: Asked, until: float | None, rows: int | None, notes: Sequence[str]
) -> Portable:
    """What predicts points without the run: each label's function on a block of points, the one rung.

    **Raises:** `RunError` for `until` and `rows`, which are of series.
    """
    if until is not None or rows is not None:
        raise RunError(
            f"{run.folder}: task = '{run.config.task}' is of points, which have no times and no rows: leave out "
            "--until, --rows."
        )
    this = models_of(run, asks)
    size, words = len(this.units.columns), jax.random.key_data(jax.random.key(0))

    def arguments(rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        return (
            jax.ShapeDtypeStruct((rows, size), jnp.result_type(float)),
            jax.ShapeDtypeStruct((rows,), jnp.int32),
            jax.ShapeDtypeStruct((rows,), jnp.uint32),
            jax.ShapeDtypeStruct(words.shape, words.dtype),
        )

    facts = {name: getattr(this, name) for name in KEPT} | {"layout": asdict(this.layout), "notes": list(notes)}
    functions = {
        label: ArrayFunction(asks.calls[label], models, arguments) for label, models in asks.models(run).items()
    }
    return Portable(facts, this.units.to_plain(), functions, (BLOCK,), None, _words(run, this, asks))


def ported_points(ported: Ported) -> PointModels:
    """What `portable_points` made, read."""

    def members() -> Mapping[str, Sequence[Block]]:
        return {label: [partial(each, BLOCK) for each in found] for label, found in ported.functions.items()}

    kept: dict[str, Any] = {name: ported.facts[name] for name in KEPT}
    kept["classes"] = tuple(kept["classes"])
    return PointModels(
        source=ported.source,
        layout=table_format_from_plain(ported.facts["layout"]),
        units=PointUnits.from_plain(ported.normaliser),
        members=members,
        **kept,
    )


KEPT = ("label", "classes", "begins", "seed", "names", "alone", "count", "probes")
"""The fields of `PointModels` that are plain."""


def _words(run: OpenedRun, this: PointModels, asks: Asked) -> Words:
    data = run.config.data
    source = f"the data set `{data.dataset}` of nde" if data.dataset else f"`{Path(str(data.path)).name}`"
    digest = f"; SHA-256 of its data: `{data.sha256}`" if data.sha256 else f", of seed {data.seed}"
    lines = [
        f"trained on {source}{_size(run)}{digest}",
        f"columns of a point: {this.units.named()}",
        *([] if this.label is None else [f"column of the class: `{this.label}`; classes: {', '.join(this.classes)}"]),
        *([] if this.begins is None else [f"begins at points like those of the data set `{this.begins}`"]),
    ]
    limits = [
        "a point that can not be solved for is an error, by its row; nothing is told of why",
        "of points unlike those of the data above nothing was measured",
    ]
    return Words(asks.use, lines, limits, asks.command)


def _size(run: OpenedRun) -> str:
    try:
        problem = run.problem
    except (ValueError, OSError):  # its table is gone: the card says less
        return ""
    parts = {"train": problem.train, "validate": problem.validation, "test": problem.test}
    counts = ", ".join(f"{len(part)} to {what}" for what, part in parts.items())
    return f": {counted(len(problem.data), 'point')}, {counts}"
