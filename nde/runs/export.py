"""A trained run as one file of lowered functions, `nde export`, and predictions by it, `nde predict FILE`.

A zip file, whose members are stored and not compressed, so that no more is read than the file holds:

    manifest.json             format, versions, task, functions, and size and SHA-256 of every other member
    card.md                   the model card, for whoever is given the file
    normaliser.json           with what the series are standardised
    facts.json                the layout of the table, the law of values, the baselines and their weights, the classes
    functions/N/ROWS.stablehlo  the N-th model for series of so many rows, of `jax.export`
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
from dataclasses import dataclass
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
import polars as pl

from nde.runs.card import model_card
from nde.runs.folder import Run
from nde.tasks import (
    ArrayFunction,
    LoweredFunction,
    Ported,
    Prediction,
    refuse_ahead,
    RunError,
    Rung,
    SHORTEST,
    TASKS,
)
from nde.train import checks_as_nan

FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")
MANIFEST, CARD, NORMALISER, FACTS = "manifest.json", "card.md", "normaliser.json", "facts.json"
SPARE = 8
"""Rows beyond those of the run's longest series, for times ahead."""


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
    portable = run.task.portable(run, until=until)
    ladder = _ladder(_rows(run) if rows is None else rows)
    members: dict[str, bytes] = {}
    functions, refused = [], []
    for number, (label, function) in enumerate(portable.functions.items()):
        lowered, platforms, why = _lower(run, label, function, ladder)
        refused += why
        members |= {f"functions/{number}/{count}.stablehlo": code for count, code in lowered.items()}
        members |= {f"functions/{number}/weights.{i}": _bytes(model) for i, model in enumerate(function.members)}
        functions.append(_described(label, function, platforms, ladder))
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


def _rows(run: Run) -> int:
    try:
        return run.problem.panel.times.shape[1] + SPARE
    except (ValueError, OSError) as error:
        text = str(error).rstrip(".")
        raise RunError(f"{text}; without the run's table give --rows, how many a series may have.") from None


def _ladder(rows: int) -> list[int]:
    ladder = [SHORTEST]
    while ladder[-1] < rows:
        ladder.append(2 * ladder[-1])
    return ladder


def _lower(
    run: Run, label: str, function: ArrayFunction, ladder: Sequence[int]
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
        first = lowered(ladder[0], able)
    except Exception as together:  # JAX raises a type of its own for each thing that it can not lower
        able, why = _alone(label, partial(lowered, ladder[0]))
        if not able:
            raise RunError(f"{run.folder}: {label} can not be exported: {_line(together)}.") from None
        first = lowered(ladder[0], able)
    return {ladder[0]: first, **{rows: lowered(rows, able) for rows in ladder[1:]}}, tuple(able), why


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
            why.append(f"{label} is not lowered for {platform}: {_line(error)}")
    return tuple(able), why


def _line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".")


def _described(label: str, function: ArrayFunction, platforms: Sequence[str], ladder: Sequence[int]) -> dict[str, Any]:
    weights = [{"shape": list(x.shape), "dtype": x.dtype.name} for x in _arrays(function.members[0])]
    return {
        "label": label,
        "rows": list(ladder),
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
    part = out.with_name(f"{out.name}.part")
    part.write_bytes(held.getvalue())
    part.replace(out)
    return hashlib.sha256(held.getvalue()).hexdigest()


@dataclass(frozen=True)
class ExportedModel:
    """What `nde export` wrote, opened by `nde.load_exported`: it predicts, and holds nothing else of the run.

    - `path`: the file; `sha256`: its digest; `card`: its model card, Markdown.
    - `task`: what it is for; `ported`: its functions and facts.
    """

    path: Path
    sha256: str
    card: str
    task: str
    ported: Ported

    def prediction_notes(self) -> Sequence[str]:
        """What there is to say of the law that it predicts by, a line each."""
        return self.ported.facts["notes"]

    def predict(
        self,
        data: Any,
        *,
        ahead: Sequence[float] = (),
        samples: int = 200,
        keep_samples: bool = False,
        as_text: bool = False,
        model: str | None = None,
    ) -> pl.DataFrame:
        """The predictions of `nde.Run.predict`, which see, equal to them but for rounding.

        A solver that chooses its steps meets the end of what was exported where that of the run meets the end of what
        it is asked for: their forecasts agree to its tolerance.

        **Raises:** `ValueError` in one line for a bad table, for series of more rows than were exported, or times
        further on; `nde.train.FailedExamples`, by name, for series that can not be solved.
        """
        refuse_ahead(ahead)
        asked = Prediction(data, ahead, samples, keep_samples, as_text, model)
        return TASKS[self.task].predict_portable(self.ported, asked)


def load_exported(path: str | Path, *, sha256: str | None = None) -> ExportedModel:
    """Open a file of `nde export`. Every member is checked against its digest before any is used.

    **Arguments:** `sha256`: what `nde export` printed, which the file must have.

    **Raises:** `RunError` for a file that is none of these, is damaged or was changed, is of a newer format, or was
    exported in double precision where JAX is set to single.
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path}: no such file; give one that `nde export` wrote, or the folder of a run.")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.strip().lower():
        raise RunError(f"{path}: its SHA-256 is {found}, not the one given; it is not the file that was exported.")
    members = _members(path, content)
    try:
        manifest = _manifest(path, members)
        _check_members(path, manifest, members)
        functions = {
            each["label"]: _functions(path, number, each, members) for number, each in enumerate(manifest["functions"])
        }
        facts, normaliser = (json.loads(members[name]) for name in (FACTS, NORMALISER))
        ported = Ported(str(path), facts, normaliser, functions, manifest["until"])
        return ExportedModel(path, found, members[CARD].decode(), manifest["task"], ported)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: its manifest is not one of `nde export` ({error}).") from None


def _members(path: Path, content: bytes) -> dict[str, bytes]:
    """The members of the file, of each name one, none compressed."""
    refused = f"{path}: no exported model, or a damaged one"
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if len(set(names)) < len(names) or MANIFEST not in names:
                raise RunError(f"{refused}; give a file that `nde export` wrote.")
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise RunError(f"{refused}: a member is compressed, which those of `nde export` are not.")
            if sum(info.file_size for info in infos) > len(content):
                raise RunError(f"{refused}: its members say that they are larger than the file.")
            return {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise RunError(f"{refused} ({_line(error)}); give a file that `nde export` wrote.") from None


def _manifest(path: Path, members: Mapping[str, bytes]) -> dict[str, Any]:
    manifest = json.loads(members[MANIFEST])
    if not isinstance(manifest.get("format"), int) or manifest["format"] > FORMAT:
        newer = manifest.get("versions", {}).get("nde", "a newer version")
        raise RunError(
            f"{path}: is of format {manifest.get('format')}, and this nde reads up to {FORMAT}; it was written by nde "
            f"{newer}: install that."
        )
    if manifest["task"] not in TASKS:
        raise RunError(f"{path}: is of the task '{manifest['task']}'; those of this nde are {', '.join(TASKS)}.")
    return manifest


def _check_members(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """All that the manifest names is there as it says, and nothing else is."""
    known = manifest["members"]
    missing, more = sorted(set(known) - set(members)), sorted(set(members) - set(known) - {MANIFEST})
    if missing or more:
        what = f"lacks its member {missing[0]}" if missing else f"holds {more[0]}, which its manifest does not name"
        raise RunError(f"{path}: {what}; it was changed since it was exported.")
    for name, said in known.items():
        content = members[name]
        if len(content) != said["size"] or hashlib.sha256(content).hexdigest() != said["sha256"]:
            raise RunError(f"{path}: its member {name} is not what was exported; the file was damaged or changed.")


def _functions(path: Path, number: int, said: Mapping[str, Any], members: Mapping[str, bytes]) -> list[LoweredFunction]:
    if said["precision"] == "float64" and jnp.result_type(float) != jnp.float64:
        raise RunError(f"{path}: was exported in double precision; set JAX_ENABLE_X64=1 to predict with it.")
    backend = jax.default_backend()
    platform = {"gpu": "cuda"}.get(backend, backend)
    if platform not in said["platforms"]:
        raise RunError(
            f"{path}: {said['label']} was exported for {', '.join(said['platforms'])}, and JAX runs on {platform}; "
            f"set JAX_PLATFORMS={said['platforms'][0]}."
        )
    rungs = {rows: Rung(members[f"functions/{number}/{rows}.stablehlo"]) for rows in said["rows"]}
    weights = [_weights(members[f"functions/{number}/weights.{i}"], said["weights"]) for i in range(said["members"])]
    return [LoweredFunction(str(path), each, rungs) for each in weights]


def _weights(content: bytes, said: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    arrays, first = [], 0
    for each in said:
        dtype = np.dtype(each["dtype"]).newbyteorder("<")
        count = int(np.prod(each["shape"], dtype=int))
        part = np.frombuffer(content, dtype, count, first).reshape(each["shape"])
        arrays.append(part.astype(dtype.newbyteorder("=")))
        first += count * dtype.itemsize
    return arrays
