"""Let Ctrl-C and SIGTERM end a training run between two steps, not within one."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """A context in which the first Ctrl-C or SIGTERM only asks to stop; a second one interrupts at once.

        with Interrupt() as interrupt:
            while not interrupt.asked:
                ...

    **Limits:** Python delivers signals to the main thread only; elsewhere the context does nothing.
    """

    def __init__(self):
        self.asked = False
        self._previous = {}

    def __enter__(self) -> "Interrupt":
        with contextlib.suppress(ValueError):  # not the main thread
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        print("\nstopping after this step; Ctrl-C again to stop at once", file=sys.stderr, flush=True)
        for each in SIGNALS:
            signal.signal(each, signal.default_int_handler)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """A context in which SIGTERM raises `KeyboardInterrupt`, as Ctrl-C does; it does nothing off the main thread."""
    try:
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
