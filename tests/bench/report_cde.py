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
    return f"""## A training step of a neural CDE

`python tests/bench/cde_step.py`: a state of 32, a field of one hidden layer of 64, two channels, batch 32, one midpoint
step a knot. Milliseconds, and in brackets over the faster scan by hand; the machine's load went from {loads[0]:.1f} to
{loads[-1]:.1f}, its own included. **The ratios are too kind**: the ways were timed in rotation, with torchcde between
them, as the machine came to rest. Timed right after the scan, all of nde's stood at 1.07 to 1.21 of it, in a
measurement that is not stored. At most 1.08 was asked: it is missed. NeuralCDE and `nde fit` make the path in each
call, the others find it ready.

{table(["by", *(f"{rows} knots" for rows in found)], lines)}"""
