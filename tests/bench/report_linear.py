"""The section on linear equations solved by scan."""

from report_format import stored, table, times


def linear() -> str:
    """Linear CDEs and a state space by scan, against their solve."""
    found = stored("linear_cde")
    lines, exact = [], "nde, Tsit5"
    for row in found["rows"]:
        for name in row["ms"]["forward"]:
            if name == exact:
                continue
            place = [row["structure"], str(row["rows"]), name]
            for kind in ("forward", "gradient"):
                own = row["ms"][kind]
                place += [f"{own[name]:.1f}", times(own[exact] / own[name])]
            memory = row["temporary_MiB"]["gradient"]
            lines.append([*place, f"{memory[name]:.1f}, {memory[exact]:.1f}", f"{row['distance'][name]:.0e}"])
    head = [
        "structure",
        "rows",
        "by",
        "forward, ms",
        "the solve's time / this",
        "gradient, ms",
        "the solve's time / this",
    ]
    head += ["memory of the gradient and of the solve's, MiB", "distance"]
    return f"""## Linear equations by scan

`python tests/bench/linear_cde.py`: a linear CDE of 32 states on a path of 13 channels, and a state space of 64 real
states, by scan or convolution, against the solve of the same equation by nde's engine with Tsit5, one step a row;
single precision. The distance is that of the last state, relative to the largest. The load of two cores was
{", ".join(f"{row['load']:.0f} ({row['structure']})" for row in found["rows"])}; where it is high, ratios are rough.
Twenty times was asked: a state space's scan gets there forward, and nothing else does. Of blocks the exponentials,
one for each row and block, are what takes the time: a solve needs only products with vectors.

{table(head, lines)}"""
