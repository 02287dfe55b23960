"""A table of methods and their scores."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from nde.report.columns import fitted_table
from nde.report.scores import paired_difference, Scores
from nde.report.wording import counted, with_error


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


def verdict(scores: dict[str, Scores], models: Sequence[str], pool: str | None = None) -> str:
    """Which forecast to use, in a sentence: the best of `models`, or the best baseline; with a `pool` of them, two.

    Best is the lowest NLL. The difference is that of the NLL per value, in nats, with its standard error over series.
    Below two standard errors the sentence says that these series do not tell. With a single scored series there is no
    error, and it says so. Without a baseline there is nothing to compare, and the sentence says that. The second
    sentence is how the pool, one of `scores`, stands to the best model alone and to the best baseline.
    """
    method = min(models, key=lambda name: scores[name].mean("nll"))
    others = [name for name in scores if name not in (*models, pool)]
    if not others:
        return f"no baseline could be fitted, so nothing says whether the {method} is worth its cost."
    best = min(others, key=lambda name: scores[name].mean("nll"))
    if pool is None:
        return _which(scores, method, best)
    return f"{_which(scores, method, best, alone=True)} {_of_pool(scores, method, best, pool)}"


MORE = "nde fit --folds or more series would tell"


def _which(scores: dict[str, Scores], method: str, best: str, alone: bool = False) -> str:
    """Whether the method or the best baseline is ahead; `alone`: the method is not all that there is to be used."""
    difference, error = paired_difference(scores[method], scores[best], "nll")
    ahead = f"is ahead by {with_error(abs(difference), error, digits=2, sign='')} nats per value"
    scored = int((scores[method].count > 0).sum())
    if scored < 2:
        leader = method if difference < 0 else best
        return f"verdict: the {leader} {ahead}, on a single series, which proves nothing; {MORE}."
    if difference < 0:
        doubt = "" if -difference > 2 * error else f"; {counted(scored, 'series', 'series')} do not prove it: {MORE}"
        return f"verdict: the {method} {ahead} of the best baseline, {best}{doubt}."
    doubt = "" if difference > 2 * error else f" (within two standard errors: {MORE})"
    if alone:
        return f"verdict: the {best} {ahead} of the {method} alone{doubt}."
    return (
        f"verdict: the {best} {ahead}{doubt}; use it, or give the {method} more series, fewer states "
        "(model.state_size) or more members (train.members)."
    )


def _of_pool(scores: dict[str, Scores], method: str, best: str, pool: str) -> str:
    parts, worse = [], False
    for name in (method, best):
        difference, error = paired_difference(scores[pool], scores[name], "nll")
        side = "ahead of" if difference < 0 else "behind"
        parts.append(f"{with_error(abs(difference), error, digits=2, sign='')} {side} the {name}")
        worse = difference > 2 * error
    advice = f"; here the {best} is the better forecast" if worse else ""
    return f"Their pool, which nde predict draws from, is {' and '.join(parts)}{advice}."


def write_table(path: Path, rows: list[Row]) -> None:
    """Write the rows as CSV, six decimals a number."""
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in asdict(row).items()})


def render(rows: list[Row], method: str, title: str) -> Table:
    """The rows as a table for the terminal."""

    def differences(kind: str) -> list[str]:
        return [
            ""
            if row.method == method
            else with_error(getattr(row, f"{kind}_difference"), getattr(row, f"{kind}_error"))
            for row in rows
        ]

    columns = {
        "method": [row.method for row in rows],
        "NLL": [f"{row.nll:.4f}" for row in rows],
        "CRPS": [f"{row.crps:.4f}" for row in rows],
        "Δ NLL": differences("nll"),
        "Δ CRPS": differences("crps"),
    }
    caption = f"per value, lower is better; Δ = {method} − method ± standard error"
    return fitted_table(columns, text=["method"], title=title, caption=caption)
