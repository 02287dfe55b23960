"""Checks of values within compiled code that answer with NaN instead of an error."""

from collections.abc import Iterator
from contextlib import contextmanager

from nde.equinox_internals import on_error


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
    with on_error("nan"):
        yield
