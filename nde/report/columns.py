"""Tables for a terminal that may be narrow."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


def fitted_table(columns: Mapping[str, Sequence[str]], *, text: Sequence[str], **options: Any) -> Table:
    """A table whose heads and texts wrap at spaces where the terminal is narrow, and whose numbers are shown whole.

    **Arguments:** `columns`: cells by head; `text`: the heads of the columns of text, the others are of numbers, to the
    right; `options`: of the table, as `title` and `caption`.
    """
    heads = {name: name.replace("_", " ") for name in columns}
    widths = {}
    for name, cells in columns.items():
        words = [*heads[name].split(), *(word for cell in cells for word in (cell.split() if name in text else [cell]))]
        widths[name] = max(map(len, words))
    crowded = sum(widths.values()) + 3 * len(widths) + 1 > USUAL
    table = Table(padding=(0, 0) if crowded else (0, 1), **options)
    for name, head in heads.items():
        table.add_column(head, justify="left" if name in text else "right", min_width=widths[name])
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


USUAL = 80
"""Columns of a terminal; a table that is wider does without the spaces beside its lines."""
