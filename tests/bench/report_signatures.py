"""The section on regression on signatures."""

import statistics
from itertools import groupby

from report_format import stored, table


def signatures() -> str:
    """Signature regression beside a neural CDE, on targets that a controlled equation made."""
    found, lines, ratios = stored("signatures"), [], []
    for (spread, series), group in groupby(found["rows"], key=lambda row: (row["spread"], row["series"])):
        rows = list(group)
        errors = [[row[name]["error"] for row in rows] for name in ("signature", "neural CDE")]
        times = [statistics.median(row[name]["fit_s"] for row in rows) for name in ("signature", "neural CDE")]
        better = sum(a < b for a, b in zip(*errors, strict=True))
        each = [f"{statistics.median(x):.2f} ({min(x):.2f} to {max(x):.2f})" for x in errors]
        lines.append(
            [f"{spread:g}", f"{series}", *each, f"{better} of {len(rows)}", *(f"{x:.2f}" for x in times)]
            + [f"{times[1] / times[0]:.0f}"]
        )
        ratios.append(times[1] / times[0])
    head = ["spread", "series", "error, signature", "neural CDE", "better", "fit, s", "neural CDE", "ratio"]
    loads = [row["load"] for row in found["rows"]]
    return f"""## Regression on signatures beside a neural CDE

`python tests/bench/signatures.py`: targets are made by a CDE with a random field along two smooth channels, of a spread
of about 1 or 0.3; errors over the targets' standard deviation on 256 other series, medians and ranges of the seeds;
`better` counts the seeds in which the signature's is the smaller one. The neural CDE takes {found["steps"]} steps of
Adam, and its time is a fifth of that of five models in one `vmap`. The machine was busy (a load of {min(loads):.0f} to
{max(loads):.0f} on two cores), so that times are large and their ratios rough.

{table(head, lines)}

Along short paths the closed form has the smaller error, and the more so the more series there are; along long ones
the network has the smaller median at every size; that words of more than four letters are missing is a guess. The fit
was asked to be 100 times as fast, and is {min(ratios):.0f} to {max(ratios):.0f} times here."""
