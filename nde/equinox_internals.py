"""All that nde knows of Equinox's private parts, and nothing of it stands elsewhere.

Equinox asks the environment, once, what a failed check does: raise, or answer with NaN. nde asks for the one and the
other within a process (`nde.train.checks`). `missing_parts` says what a version lacks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import equinox as eqx
import equinox._errors as errors
import jax

ON_ERROR = "EQX_ON_ERROR"
"""Where Equinox reads what a check does, as it traces it; its environment variable of this name sets it."""


# Part of the key of each compiled program: one that was traced with its checks as errors is not taken for one without.
_ACTIVE = jax.make_user_context(False)


@contextmanager
def on_error(instead_of_raise: Literal["nan"]) -> Iterator[None]:
    """Checks that would raise do this instead; those of whom the environment asks for anything else stay."""
    before = getattr(errors, ON_ERROR)
    with _ACTIVE(True):
        setattr(errors, ON_ERROR, instead_of_raise if before == "raise" else before)
        try:
            yield
        finally:
            setattr(errors, ON_ERROR, before)


def missing_parts() -> list[str]:
    """What the installed Equinox lacks of what is used here, in words; empty if nothing."""
    found = getattr(errors, ON_ERROR, None)
    known = ("raise", "nan", "breakpoint", "off")
    return [] if found in known else [f"equinox {eqx.__version__} has equinox._errors.{ON_ERROR} = {found!r}"]
