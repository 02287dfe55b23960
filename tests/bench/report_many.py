"""The section on many series."""

from report_format import stored, table


def many_series() -> str:
    """Loading, training and forecasting as the number of series grows."""
    found = stored("many_series")
    most = found["load"]["found"]["50000"]
    read, floor = most["read"], most["floor"]
    busy = ", ".join(f"{part['load_of_the_machine']:g} ({name})" for name, part in found.items())
    ratio = (
        f"{read['cpu_s'] / floor['cpu_s']:.1f} times its CPU time and {read['peak_mb'] / floor['peak_mb']:.2f} times"
    )
    return f"""## Many series

`python tests/bench/many_series.py`: each measurement in a process of its own. Where the machine did other things too,
CPU time says more than the clock's; its load on two cores was {busy}. The best of
three readings of one Parquet file of 40 rows of 5 channels a series, 30 % missing, sorted; memory is the peak beyond
that of the imports. Beside it the floor: polars reads and sorts the file, and its columns are scattered into one padded
array, without a check. Of 50 000 series reading takes {ratio} its memory.

{_load(found["load"]["found"])}

Of files of which a tenth is asked for, by columns or by rows, the rest is not held: memory is that of a file without
it.

{_lazy(found["lazy"]["found"])}

Training steps of a small encoder-decoder, a GRU that an ODE follows, on batches of 64 series of 2 to 64 rows, with
every length compiled; rows are those that the series have, and memory is that of the whole process.

{_steps(found["steps"]["found"])}

{_nafld(found["nafld"]["found"])}"""


def _load(found) -> str:
    lines = [
        [
            f"{int(series):,}".replace(",", " "),
            f"{one['file_mb']:g} MB",
            f"{one['read']['cpu_s']:.2f} s ({one['read']['wall_s']:.2f} s)",
            f"{one['read']['rows_per_cpu_s'] / 1e6:.1f} million",
            f"{one['read']['peak_mb']:.0f} MB",
            f"{one['read']['panel_mb']:.0f} MB",
            f"{one['floor']['cpu_s']:.2f} s, {one['floor']['peak_mb']:.0f} MB",
        ]
        for series, one in found.items()
    ]
    return table(["series", "file", "CPU (clock)", "rows a second of CPU", "memory", "of it the panel", "floor"], lines)


def _lazy(found) -> str:
    names = {"wide": "wide, 45 columns more", "long": "long, nine rows of other channels for each"}
    lines = [
        [
            names[form],
            f"{one['file_mb']:.0f} MB, {one['in_memory_mb']:.0f} MB in memory",
            f"{one['read']['cpu_s']:.2f} s, {one['read']['peak_mb']:.0f} MB",
            f"{one['alone']['cpu_s']:.2f} s, {one['alone']['peak_mb']:.0f} MB",
        ]
        for form, one in found.items()
    ]
    return table(["20 000 series", "file", "read", "what is asked for, in a file of its own"], lines)


def _steps(found) -> str:
    lines = [
        [
            f"{int(series):,}".replace(",", " "),
            *(
                text
                for way in ("off", "on")
                for text in (
                    f"{one[way]['rows_per_s'] / 1e3:.0f} 000 ({one[way]['rows_per_cpu_s'] / 1e3:.0f} 000)",
                    f"{one[way]['padding']:.2f}",
                    f"{one[way]['peak_mb']:.0f} MB",
                )
            ),
            str(one["on"]["shapes"]),
        ]
        for series, one in found.items()
    ]
    head = ["series"]
    head += [f"{what}{way}" for way in ("", ", by length") for what in ("rows a second (of CPU)", "padding", "memory")]
    return table([*head, "shapes compiled"], lines)


def _nafld(found) -> str:
    fit, predict, read = found["fit"], found["predict"], found["read"]
    lines = [[row["method"], f"{row['nll']:.4f}", f"{row['crps']:.4f}", _difference(row)] for row in found["methods"]]
    padding = f"{found['padding_of_the_panel']:g} times as long as its rows"
    return f"""Laboratory values of fatty liver disease (`nafld1`, `nafld2`): {found["subjects"]} subjects, of whom
{found["series"]} have values, {found["values"]} of six tests in {found["rows"]} rows, {found["mean_rows"]:g} a subject
and {found["longest"]} at most. Reading all takes {read["cpu_s"]:.2f} s of CPU and {read["peak_mb"]:.0f} MB. The panel
is {padding}, batches by length, of {found["shapes"]} lengths, {found["padding_of_batches"]:.2f} times.
`nde fit` on four of the tests, {found["steps"]} steps of 64 subjects and the scores of {found["series_scored"]} held
out: {fit["wall_s"]:.0f} s ({fit["cpu_s"]:.0f} s of CPU), {fit["peak_mb"] / 1024:.1f} GB. `nde
predict` for all subjects, {found["forecasts"]} forecasts: {predict["wall_s"]:.0f} s ({predict["cpu_s"]:.0f} s),
{predict["peak_mb"] / 1024:.1f} GB. {_sentence(found["notes"][0])}
Scores are per value, of {found["values_scored"]} in the second half of each series, given the first.
{_sentence(found["verdict"].removeprefix("verdict: "))}

{table(["method", "NLL", "CRPS", "Δ NLL"], lines)}"""


def _difference(row) -> str:
    return "" if row["nll_error"] == 0 else f"{row['nll_difference']:+.3f} ± {row['nll_error']:.3f}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
