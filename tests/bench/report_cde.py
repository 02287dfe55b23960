"""The section on a training step of a neural CDE."""

from report_format import stored, table


def cde_step() -> str:
    """Loss and gradient of a batch, beside a scan by hand and other packages."""
    found = stored("cde_step")["rows"]
    ways = list(next(iter(found.values()))["ways"])
    lines = [
        [way, *(f"{row['ways'][way]['ms']:.0f} ({row['ways'][way]['over_scan']:.2f})" for row in found.values())]
        for way in ways
    ]
    loads = [load for row in found.values() for load in row["load"]]
    own = [row["ways"][way]["over_scan"] for row in found.values() for way in ("NeuralCDE", "nde fit")]
    lowest, highest = min(own), max(own)
    return f"""## A training step of a neural CDE

`python tests/bench/cde_step.py`: a state of 32, a field of one hidden layer of 64, two channels, batch 32, one midpoint
step a knot. Milliseconds, and in brackets the ratio to the scan by hand, recomputed, that ran just before; load
{loads[0]:.1f} to {loads[-1]:.1f}, its own included. At most 1.08 of the scan was asked. **It is not reached safely**:
NeuralCDE and `nde fit` stand at {lowest:.2f} to {highest:.2f} here, and at 1.11 to 1.21 in two more measurements of
this kind that are not stored; on 100 knots the scan that stores its steps is faster still. The two make the path in
each call, which the others find ready.

{table(["by", *(f"{rows} knots" for rows in found)], lines)}"""
