"""Code of the user's own that a config names, `"my_model.py:field"`: found, run, and kept with the run.

**A config can name code that is run:** to load one that names a Python file runs that file, like `import`. Read the
files of a config that was written by somebody else before you fit it, or open its run.

Nothing is ever unpickled. A run's folder keeps a copy of the file, and its config the copy's SHA-256: opened again, the
run takes the copy, whatever has become of the original. One file is copied: what it imports must be there when the run
is opened. An object that was given in Python, in place of a name, is kept likewise where it can be imported by its name
from a file; any other is not kept, and has to be given again to `nde.open_run`.
"""

import hashlib
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pydantic

GIVEN = "python:"
"""Before the name of an object that was given in Python and is in no file."""

_modules: dict[str, ModuleType] = {}
_sources: dict[str, bytes] = {}
_given: dict[str, Any] = {}


@dataclass(frozen=True)
class OwnCode:
    """What a config names: `reference`, `FILE:NAME` or `python:NAME`, and the SHA-256 of the file."""

    reference: str
    sha256: str | None

    @property
    def name(self) -> str:
        """The name of the object."""
        return self.reference.rpartition(":")[2]

    @property
    def path(self) -> Path | None:
        """The file that the config names, `None` for an object that was given."""
        return None if self.reference.startswith(GIVEN) else Path(self.reference.rpartition(":")[0])

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.name if self.path is None else f"{self.path.name}:{self.name}"

    def load(self) -> Any:
        """The object.

        **Raises:** `ValueError` in one line for a file that can not be run, or has nothing of this name.
        """
        if self.path is None:
            if self.name not in _given:
                raise ValueError(
                    f"'{self.reference}' was given in Python and is not kept; give it again as "
                    f"nde.open_run(folder, given={{'{self.name}': …}})"
                )
            return _given[self.name]
        found: Any = self.module()
        for part in self.name.split("."):
            if not hasattr(found, part):
                own = [name for name, each in vars(self.module()).items() if _is_own(name, each, self.module())]
                raise ValueError(f"{self.path.name} has no '{self.name}'; it defines {', '.join(own) or 'nothing'}")
            found = getattr(found, part)
        return found

    def constant(self, name: str) -> Any:
        """What the file assigns to a name such as `STATES`; `None` if nothing, or if there is no file."""
        return None if self.path is None else getattr(self.module(), name, None)

    def module(self) -> ModuleType:
        """The file, run once for each content that it has had."""
        assert self.path is not None and self.sha256 is not None
        if self.sha256 not in _modules:
            _modules[self.sha256] = _run(self.path, _sources[self.sha256], self.sha256)
        return _modules[self.sha256]

    def keep(self, folder: Path) -> None:
        """Write the copy of the file into a run's folder.

        **Raises:** `ValueError` if another file of this name has been.
        """
        if self.path is None or self.sha256 is None:
            return
        copy, source = folder / self.path.name, _sources[self.sha256]
        if copy.exists() and copy.read_bytes() != source:
            raise ValueError(f"{self.path}: two files of a run are called {self.path.name}; rename one of them")
        copy.write_bytes(source)

    def said(self) -> str:
        """What there is to say of it: what is kept, and whether the original has changed."""
        if self.path is None:
            return (
                f"{self.name}: given in Python and in no file, so the run can be opened only with it given again: "
                f"nde.open_run(folder, given={{'{self.name}': …}})"
            )
        if self.path.is_file() and digest(self.path.read_bytes()) != self.sha256:
            return f"{self.title}: {self.path} has changed since; the run goes on with the copy in its folder"
        return f"{self.title}: code of your own, a copy of which is in the run's folder"


def find(given: Any, sha256: str | None, folder: Path | None) -> OwnCode:
    """Where code is that a config names or was given.

    **Arguments:** `given`: `FILE:NAME`, a file relative to `folder`, that of the config, or to the working directory;
    or an object. `sha256`: what the file must be, of a resolved config.

    **Raises:** `ValueError` in one line, for a file that is missing or has changed.
    """
    if not isinstance(given, str):
        return _of_object(given)
    name, place = given.rpartition(":")[2], given.rpartition(":")[0]
    if given.startswith(GIVEN) or (sha256 is not None and sha256 in _sources):
        return OwnCode(given, sha256)
    if not name or not place.endswith(".py"):
        raise ValueError(f"write code of your own as 'FILE.py:NAME', not '{given}'")
    within = [] if folder is None else [folder / Path(place).name, folder / place] if sha256 else [folder / place]
    paths = [path for path in (*within, Path(place)) if path.is_file()]
    if not paths:
        where = f"{folder} or {Path.cwd()}" if folder is not None and not Path(place).is_absolute() else "there"
        raise ValueError(f"{place}: no such file in {where}" if where != "there" else f"{place}: no such file")
    for path in paths:
        source = path.read_bytes()
        if sha256 in (None, digest(source)):
            _sources[digest(source)] = source
            return OwnCode(f"{path.absolute() if sha256 is None else place}:{name}", digest(source))
    raise ValueError(f"{paths[0]}: has changed since the run was made (its sha256 is not {str(sha256)[:12]}…)")


def resolved(data: Any, key: str, info: pydantic.ValidationInfo) -> Any:
    """The raw keys of a section, with the code named or given at `key` found, and its hash at `KEY_sha256`."""
    given = data.get(key) if isinstance(data, Mapping) else None
    if given is None or not (callable(given) or (isinstance(given, str) and is_code(given))):
        return data
    folder = (info.context or {}).get("folder")
    try:
        code = find(given, data.get(f"{key}_sha256"), folder)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    return {**data, key: code.reference, **({f"{key}_sha256": code.sha256} if code.sha256 else {})}


def is_code(text: str) -> bool:
    """Whether a value names code, not a row of a table."""
    return ":" in text or text.endswith(".py")


def give_again(given: Mapping[str, Any]) -> None:
    """Objects for the names under which a run knows them that was made with objects in no file."""
    _given.update(given)


def digest(source: bytes) -> str:
    """The SHA-256 of a file's bytes."""
    return hashlib.sha256(source).hexdigest()


def _of_object(given: Any) -> OwnCode:
    module, name = sys.modules.get(getattr(given, "__module__", None) or ""), getattr(given, "__qualname__", "")
    path = Path(getattr(module, "__file__", None) or "")
    # A script that is run would be run once more by opening its run.
    if module is not None and module.__name__ != "__main__" and path.suffix == ".py" and path.is_file():
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is given:
            source = path.read_bytes()
            _sources[digest(source)], _modules[digest(source)] = source, module
            return OwnCode(f"{path.absolute()}:{name}", digest(source))
    for known, each in _given.items():
        if each is given:
            return OwnCode(GIVEN + known, None)
    # Part of the name is drawn, so that another process never takes another object for it.
    label = (getattr(given, "__name__", None) or type(given).__name__).strip("<>")
    known = f"{label}-{secrets.token_hex(3)}"
    _given[known] = given
    return OwnCode(GIVEN + known, None)


def _run(path: Path, source: bytes, sha256: str) -> ModuleType:
    module = ModuleType(f"nde_own_{sha256[:12]}_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look for the names in annotations
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[module.__name__]
        raise ValueError(f"{path}: can not be run ({first_line(error)})") from error
    return module


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _is_own(name: str, each: Any, module: ModuleType) -> bool:
    made_there = getattr(each, "__module__", module.__name__) == module.__name__
    return not name.startswith("_") and callable(each) and made_there
