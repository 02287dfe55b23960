"""Numbers in sentences: counts with their nouns, differences with their errors."""

import math


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 channel`, `4 channels`, `2 series`: a count and its noun, whose plural adds an s unless given."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def with_error(difference: float, error: float, *, digits: int = 3, sign: str = "+") -> str:
    """`-1.333 ± 0.222`, or the difference alone where its error is unknown, as of a single series."""
    shown = f"{difference:{sign}.{digits}f}"
    return shown if math.isnan(error) else f"{shown} ± {error:.{digits}f}"
