"""A table of methods and their scores."""

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from nde.report.scores import paired_difference, Scores


@dataclass(frozen=True)
class Row:
    """One method's scores per target value, and how they differ from those of the method that is compared.

    - `nll`, `crps`: mean negative log predictive density and mean CRPS; lower is better.
    - `nll_difference`, `crps_difference`: those of the compared method minus these; negative where it is better.
    - `nll_error`, `crps_error`: standard errors of the differences, over series.
    """

    method: str
    nll: float
    crps: float
    nll_difference: float
    nll_error: float
    crps_difference: float
    crps_error: float


def compare(scores: dict[str, Scores], method: str) -> list[Row]:
    """A row for each method, in the order given, with the differences of `method` from it."""
    rows = []
    for name, other in scores.items():
        nll = paired_difference(scores[method], other, "nll")
        crps = paired_difference(scores[method], other, "crps")
        rows.append(Row(name, other.mean("nll"), other.mean("crps"), *nll, *crps))
    return rows


def write_table(path: Path, rows: list[Row]) -> None:
    """Write the rows as CSV, six decimals a number."""
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in asdict(row).items()})


def render(rows: list[Row], method: str, title: str) -> Table:
    """The rows as a table for the terminal."""
    table = Table(title=title, caption=f"per value, lower is better; Δ = {method} − method ± standard error")
    for name in ("method", "NLL", "CRPS", "Δ NLL", "Δ CRPS"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for row in rows:
        same = row.method == method
        differences = (
            ("", "")
            if same
            else (
                f"{row.nll_difference:+.3f} ± {row.nll_error:.3f}",
                f"{row.crps_difference:+.3f} ± {row.crps_error:.3f}",
            )
        )
        table.add_row(row.method, f"{row.nll:.4f}", f"{row.crps:.4f}", *differences)
    return table
