"""Checks of values within compiled code that answer with NaN instead of an error."""

from collections.abc import Iterator
from contextlib import contextmanager

import equinox._errors as equinox_errors
import jax

# Part of the key of each compiled program: one that was traced with its checks as errors is not taken for one without.
_ACTIVE = jax.make_user_context(False)
NAME = "EQX_ON_ERROR"  # where Equinox reads what a check does, as it traces it; its environment variable sets it


@contextmanager
def checks_as_nan() -> Iterator[None]:
    """What is traced within answers a failed check (`equinox.error_if`, a solve of too many steps) by NaN.

    A check that raises is a call back from the device to Python, and that costs three things: a device that raises
    never comes to the sum over all devices, and the others wait for it for ever; JAX keeps no program with such a call
    in its cache on disk; and the call is there at each step. A training step whose loss is not finite is made once more
    with its checks as errors, which say what failed.

    **Limits:** a check of whole numbers alone answers with the largest of them, and of booleans with true: such a check
    belongs on a float beside them. It holds for the whole process while it is active, not for a thread.
    """
    before = getattr(equinox_errors, NAME)
    with _ACTIVE(True):
        setattr(equinox_errors, NAME, "nan" if before == "raise" else before)
        try:
            yield
        finally:
            setattr(equinox_errors, NAME, before)
