"""A trained run as one file of lowered functions, `nde export`, and predictions by it, `nde predict FILE`.

A zip file, whose members are stored and not compressed, so that no more is read than the file holds:

    manifest.json             format, versions, task, functions, and size and SHA-256 of every other member
    card.md                   the model card, for whoever is given the file
    normaliser.json           with what the series or points are standardised
    facts.json                the layout of the table, the law of values, the baselines and their weights, the classes,
                              where series start
    functions/N/ROWS.stablehlo  the N-th function for series of so many rows, or so many points, of `jax.export`
    functions/N/weights.M     the arrays of its M-th member, one after another

The file needs nothing else of the run: no config, no checkpoint, no code of the models, no equations of one's own.
StableHLO is read by flatbuffers, the rest is JSON and plain numbers; nothing is unpickled.

**What the digests guard against:** those in the manifest tell a damaged file and a member that was exchanged by itself,
not a file made anew as a whole. For that `nde export` prints the file's own SHA-256: pass it on by another way than the
file, and give it to `nde predict FILE --sha256 …`.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from nde.runs.card import model_card
from nde.runs.folder import Run
from nde.tasks import ArrayFunction, RunError
from nde.train import checks_as_nan, in_one_piece

FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")
MANIFEST, CARD, NORMALISER, FACTS = "manifest.json", "card.md", "normaliser.json", "facts.json"


def export_run(run: Run, out: str | Path, *, until: float | None = None, rows: int | None = None) -> str:
    """Write a trained run as one file that predicts without it; see `nde.runs.export` for what it holds.

    **Arguments:**

    - `out`: a new file.
    - `until`: how far after its first row a series may be predicted, in the table's unit of time; half as far again as
      the longest series of the run if `None`. All that is solved goes so far.
    - `rows`: how many rows a series may have, those to be forecast included; those of the run's longest and a few more
      if `None`. It is rounded up to a power of two, and each one up to it adds a function to the file.

    **Returns:** the SHA-256 of the file.

    **Raises:** `RunError` for a file that is there already, a task or a model that can not be exported, and for `rows`
    that are left out where the run's table is gone.
    """
    out = Path(out)
    if out.exists():
        raise RunError(f"{out}: exists already, and nothing is written over; give another --out.")
    if not out.parent.is_dir():
        raise RunError(f"{out}: no folder {out.parent} is there; make it, or give another --out.")
    for name, value in (("until", until), ("rows", rows)):
        if value is not None and not value > 0:
            raise RunError(f"--{name} must be above zero, but is {value:g}.")
    portable = run.task.portable(run, until=until, rows=rows)
    members: dict[str, bytes] = {}
    functions, refused = [], []
    for number, (label, function) in enumerate(portable.functions.items()):
        lowered, platforms, why = _lower(run, label, function, portable.rungs)
        refused += why
        members |= {f"functions/{number}/{count}.stablehlo": code for count, code in lowered.items()}
        members |= {f"functions/{number}/weights.{i}": _bytes(model) for i, model in enumerate(function.members)}
        functions.append(_described(label, function, platforms, portable.rungs))
    members[NORMALISER] = _json(portable.normaliser)
    members[FACTS] = _json(portable.facts)
    members[CARD] = model_card(run, portable, functions, refused, FORMAT).encode()
    manifest = {
        "format": FORMAT,
        "versions": {name: version(name) for name in ("nde", "jax", "jaxlib")},
        "task": run.config.task,
        "until": portable.until,
        "functions": functions,
        "members": {name: {"size": len(x), "sha256": hashlib.sha256(x).hexdigest()} for name, x in members.items()},
    }
    return _write(out, {MANIFEST: _json(manifest), **members})


def _lower(
    run: Run, label: str, function: ArrayFunction, rungs: Sequence[int]
) -> tuple[dict[int, bytes], tuple[str, ...], list[str]]:
    """The function by its rows, for which platforms, and why not for others."""
    arrays, static = eqx.partition(function.members[0], eqx.is_array)
    if any(not eqx.tree_equal(static, eqx.partition(each, eqx.is_array)[1]) for each in function.members[1:]):
        raise RunError(f"{run.folder}: the members of {label} differ in more than numbers, and share no function.")
    leaves, structure = jax.tree.flatten(arrays)

    def call(weights: list[Any], *arguments: Any) -> Any:
        return function.call(eqx.combine(jax.tree.unflatten(structure, weights), static), *arguments)

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]

    def lowered(rows: int, platforms: Sequence[str]) -> bytes:
        with checks_as_nan(), _no_places():  # a check that raises is a call to Python, which no file can hold
            exported = jax.export.export(jax.jit(call), platforms=list(platforms))(shapes, *function.arguments(rows))
        return bytes(exported.serialize())

    able, why = PLATFORMS, []
    try:
        first = lowered(rungs[0], able)
    except Exception as together:  # JAX raises a type of its own for each thing that it can not lower
        able, why = _alone(label, partial(lowered, rungs[0]))
        if not able:
            raise RunError(f"{run.folder}: {label} can not be exported: {first_line(together)}.") from None
        first = lowered(rungs[0], able)
    return {rungs[0]: first, **{rows: lowered(rows, able) for rows in rungs[1:]}}, tuple(able), why


@contextmanager
def _no_places() -> Iterator[None]:
    """Lower without the files and lines of Python: they are paths of this machine, and differ from call to call."""
    before = getattr(jax.config, PLACES)
    jax.config.update(PLACES, 0)
    try:
        yield
    finally:
        jax.config.update(PLACES, before)


PLACES = "jax_traceback_in_locations_limit"


def _alone(label: str, lowered: Any) -> tuple[tuple[str, ...], list[str]]:
    able, why = [], []
    for platform in PLATFORMS:
        try:
            lowered((platform,))
            able.append(platform)
        except Exception as error:  # as above
            why.append(f"{label} is not lowered for {platform}: {first_line(error)}")
    return tuple(able), why


def first_line(error: Exception) -> str:
    """Its first line, without a stop."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".")


def _described(label: str, function: ArrayFunction, platforms: Sequence[str], rungs: Sequence[int]) -> dict[str, Any]:
    weights = [{"shape": list(x.shape), "dtype": x.dtype.name} for x in _arrays(function.members[0])]
    return {
        "label": label,
        "model": function.model or label,
        "rows": list(rungs),
        "members": len(function.members),
        "platforms": list(platforms),
        "precision": jnp.result_type(float).name,
        "weights": weights,
    }


def _arrays(model: Any) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(model, eqx.is_array))]


def _bytes(model: Any) -> bytes:
    return b"".join(np.ascontiguousarray(x, x.dtype.newbyteorder("<")).tobytes() for x in _arrays(model))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _write(out: Path, members: Mapping[str, bytes]) -> str:
    """The same members make the same bytes: none carries the time at which it was written."""
    held = BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    with in_one_piece(out) as part:
        part.write_bytes(held.getvalue())
    return hashlib.sha256(held.getvalue()).hexdigest()
