"""What `nde export` wrote, opened: `nde predict FILE`. Of what the file holds and guards against: `nde.runs.export`."""

import hashlib
import json
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pydantic

from nde.runs.export import CARD, FACTS, first_line, FORMAT, MANIFEST, NORMALISER
from nde.tasks import (
    LoweredFunction,
    Ported,
    Prediction,
    RunError,
    Rung,
    TASKS,
)


@dataclass(frozen=True)
class ExportedModel:
    """What `nde export` wrote, opened by `nde.load_exported`: it predicts, and holds nothing else of the run.

    - `path`: the file; `sha256`: its digest; `card`: its model card, Markdown.
    - `task`: what it is for; `ported`: its functions and facts; `versions`: of what exported it, by package.
    """

    path: Path
    sha256: str
    card: str
    task: str
    ported: Ported
    versions: Mapping[str, str]

    def prediction_notes(self, model: str | None = None) -> Sequence[str]:
        """What there is to say of what it predicts by, a line each; `model`: the one that was asked for."""
        with _one_line(self.path, MALFORMED):
            return TASKS[self.task].portable_notes(self.ported, model)

    def predict(
        self,
        data: Any = None,
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
        task, asked = TASKS[self.task], Prediction(data, ahead, samples, keep_samples, as_text, model)
        task.refuse_no_table(asked, self.path)
        try:
            with _one_line(self.path, MALFORMED):
                return task.predict_portable(self.ported, asked)
        except jax.errors.JaxRuntimeError as error:  # of another version's StableHLO, or a device's memory
            raise RunError(
                f"{self.path}: was exported by jax {self.versions.get('jax')}, and jax {jax.__version__} can not run "
                f"it here ({first_line(error)})."
            ) from error


MALFORMED = (
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    UnicodeError,
    struct.error,
    pydantic.ValidationError,
)
"""What comes of facts of another type, weights of another shape, or bytes that are no StableHLO."""


@contextmanager
def _one_line(path: Path, malformed: Any) -> Iterator[None]:
    """One line for what `nde export` does not write: digests that were computed anew tell nothing of it.

    **Raises:** `RunError`; its cause is the error itself.
    """
    try:
        yield
    except RunError:
        raise
    except malformed as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        raise RunError(f"{path}: holds what `nde export` does not write ({said}).") from error


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
    with _one_line(path, Exception):  # nothing of the user's has been read yet
        manifest = _manifest(path, members)
        _check_members(path, manifest, members)
        functions = {
            each["label"]: _functions(path, number, each, members) for number, each in enumerate(manifest["functions"])
        }
        facts, normaliser = (json.loads(members[name]) for name in (FACTS, NORMALISER))
        if not isinstance(facts["notes"], list) or not all(isinstance(note, str) for note in facts["notes"]):
            raise TypeError("notes are no list of sentences")
        ported = Ported(str(path), facts, normaliser, functions, manifest["until"])
        versions = dict(manifest["versions"])
        return ExportedModel(path, found, members[CARD].decode(), manifest["task"], ported, versions)


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
        raise RunError(f"{refused} ({first_line(error)}); give a file that `nde export` wrote.") from None


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
    if not said["rows"] or any(type(rows) is not int for rows in said["rows"]) or said["members"] < 1:
        raise RunError(f"{path}: {said['label']} is a function of no rows, or has no members; it was not exported so.")
    rungs = {rows: Rung(members[f"functions/{number}/{rows}.stablehlo"]) for rows in said["rows"]}
    weights = [_weights(members[f"functions/{number}/weights.{i}"], said["weights"]) for i in range(said["members"])]
    return [LoweredFunction(str(path), each, rungs) for each in weights]


def _weights(content: bytes, said: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    arrays, first = [], 0
    for each in said:
        dtype = np.dtype(each["dtype"]).newbyteorder("<")
        number = jnp.issubdtype(dtype, jnp.number) or dtype.kind == "b"
        if not number or any(type(size) is not int or size < 0 for size in each["shape"]):
            raise TypeError(f"no array has the shape {each['shape']} of {each['dtype']}")
        count = int(np.prod(each["shape"], dtype=int))
        part = np.frombuffer(content, dtype, count, first).reshape(each["shape"])
        arrays.append(part.astype(dtype.newbyteorder("=")))
        first += count * dtype.itemsize
    return arrays
