"""Let Ctrl-C end a training run between two steps, not within one."""

import signal
import sys
from types import FrameType


class Interrupt:
    """A context in which the first Ctrl-C only asks to stop; a second one interrupts at once.

        with Interrupt() as interrupt:
            while not interrupt.asked:
                ...

    **Limits:** Python delivers signals to the main thread only; elsewhere the context does nothing.
    """

    def __init__(self):
        self.asked = False
        self._previous = None

    def __enter__(self) -> "Interrupt":
        try:
            self._previous = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not the main thread
            self._previous = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        print("\nstopping after this step; Ctrl-C again to stop at once", file=sys.stderr, flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
