"""What the sections of the page of measurements share: stored results, tables and ratios."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def stored(name: str) -> Any:
    """What a benchmark has stored: one JSON value, or the list of a file that holds one a line."""
    text = (HERE / "results" / f"{name}.json").read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def times(ratio: float) -> str:
    """A ratio with two to three digits: `4.3 ×`."""
    return f"{ratio:.0f} ×" if ratio >= 30 else f"{ratio:.1f} ×" if ratio >= 1 else f"{ratio:.2f} ×"
