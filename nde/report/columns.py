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
    lines = 3 * len(widths) + 1  # and the spaces beside them
    crowded = sum(widths.values()) + lines > USUAL
    full = sum(max(map(len, [heads[name], *cells])) for name, cells in columns.items())
    table = Table(padding=(0, 0) if crowded else (0, 1), **options)
    for name, head in heads.items():
        # Of a table that has to be narrower Rich takes from its widest columns first, so those of numbers do not give.
        fixed = widths[name] if full + lines > USUAL and name not in text else None
        table.add_column(head, justify="left" if name in text else "right", min_width=widths[name], width=fixed)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


USUAL = 80
"""Columns of a terminal; a table that is wider does without the spaces beside its lines."""
