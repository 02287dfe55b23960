"""Files that are whole or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def in_one_piece(out: Path) -> Iterator[Path]:
    """A file beside `out` to write into: it becomes `out` when it is whole, and goes where its writing is stopped.

    A file that is at `out` stays as it was until then.
    """
    part = out.with_name(f"{out.name}.part")
    try:
        yield part
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
