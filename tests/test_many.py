"""Many series: what of a table is read, and that it becomes what plain loops make of it."""

import hashlib
import json

import numpy as np
import polars as pl
import polars.testing
import pytest

import nde
from nde.config import load_config
from nde.data import read_labelled_panel, read_panel, read_table, TableError, TableFormat
from nde.runs.folder import prepare
from nde.tasks import RunError
from nde.tasks.forecast import problem as forecast_problem, stack as forecast_stack
from nde.tasks.forecast.stack import fit_baselines
from nde.tasks.forecast.validation import validation_score

CHANNELS = ("a", "b", "c")
LAYOUTS = {
    "wide": TableFormat("id", "t", channels=CHANNELS),
    "long": TableFormat("id", "t", channels=CHANNELS, channel="name", value="x"),
}


def random_rows(seed, *, ids, rows=200):
    """Rows in no order, of series and times that often come again, with gaps."""
    generator = np.random.default_rng(seed)
    values = np.where(generator.random((rows, 3)) < 0.4, np.nan, generator.integers(0, 5, (rows, 3)) + 0.5)
    columns = {"id": np.array(ids)[generator.integers(0, len(ids), rows)], "t": generator.integers(-6, 6, rows)}
    columns |= {name: values[:, c] for c, name in enumerate(CHANNELS)}
    return pl.DataFrame(columns).with_columns(pl.col(CHANNELS).fill_nan(None))


def as_long(frame):
    """The same in one row a value, those without one too, the channels in another order and with one more."""
    frame = frame.with_row_index("row").with_columns(other=pl.lit(7.0, pl.Float32))
    long = frame.unpivot(["c", "other", "a", "b"], index=["row", "id", "t"], variable_name="name", value_name="x")
    return long.sort("row", maintain_order=True).drop("row")


def by_loops(rows, duplicates):
    """`(id, times, {(time, channel): value})` of each series with a value; rows are `(id, time, channel, value)`."""
    series = {}
    for name, time, channel, value in rows:
        times, given = series.setdefault(name, (set(), {}))
        times.add(time)
        if value is not None:
            given.setdefault((time, channel), []).append(value)
    rule = {"first": lambda x: x[0], "last": lambda x: x[-1], "mean": lambda x: sum(x) / len(x)}[duplicates]
    return [
        (str(name), sorted(times), {place: rule(found) for place, found in given.items()})
        for name, (times, given) in series.items()
        if given
    ]


def in_loops(panel):
    """The same of a panel."""
    found = []
    times = panel.table_times()
    for i, name in enumerate(panel.ids):
        own = times[i, : panel.lengths[i]].tolist()
        given = {(own[row], panel.channels[c]): float(panel.values[i, row, c]) for row, c in np.argwhere(panel.mask[i])}
        found.append((name, own, given))
    return found


@pytest.mark.parametrize("duplicates", ["mean", "first", "last"])
@pytest.mark.parametrize("form", ["wide", "long"])
@pytest.mark.parametrize("kind", ["frame", "lazy", "parquet", "single"])
def test_a_table_becomes_what_plain_loops_make_of_it(tmp_path, form, kind, duplicates):
    layout = TableFormat(**{**vars(LAYOUTS[form]), "duplicates": duplicates})
    for seed, ids in enumerate([[3, 1, 2], ["b", "a", "d", "é"], list(range(90)), [0.5, -1.5]]):
        frame = random_rows(seed, ids=ids)
        if kind == "single":  # halves and their means of few are exact in it
            frame = frame.with_columns(pl.col(CHANNELS).cast(pl.Float32))
        if form == "wide":
            rows = [(r["id"], r["t"], c, r[c]) for r in frame.iter_rows(named=True) for c in CHANNELS]
        else:
            frame = as_long(frame)
            rows = [row for row in frame.iter_rows() if row[2] in CHANNELS]
        data = {"lazy": frame.lazy(), "parquet": tmp_path / f"{seed}.parquet"}.get(kind, frame)
        if kind == "parquet":
            frame.write_parquet(data)
        panel = read_panel(data, layout)
        assert panel.values.dtype == (np.float32 if kind == "single" else np.float64)
        expected = by_loops(rows, duplicates)
        assert [one[:2] for one in in_loops(panel)] == [one[:2] for one in expected]
        for (_, _, found), (_, _, values) in zip(in_loops(panel), expected, strict=True):
            assert found.keys() == values.keys()
            np.testing.assert_allclose(list(found.values()), [values[key] for key in found], rtol=2e-7)


@pytest.mark.parametrize("form", ["wide", "long"])
def test_values_that_differ_at_one_time_are_refused_by_their_rows(tmp_path, form):
    frame = pl.DataFrame({"id": [1, 2, 1], "t": [0, 0, 0], "a": [1.0, 5.0, 2.0], "b": [3.0, 3.0, 3.0], "c": [4.0] * 3})
    (frame if form == "wide" else as_long(frame)).write_parquet(tmp_path / "t.parquet")
    numbers = "1 and 3" if form == "wide" else "3 and 11"
    said = rf"rows {numbers} both give 'a' of id 1 at t 0, as 1 and 2; .*data\.duplicates = 'mean', 'first' or 'last'"
    with pytest.raises(TableError, match=said):
        read_panel(tmp_path / "t.parquet", LAYOUTS[form])
    with pytest.raises(ValueError, match="duplicates must be 'error', 'mean', 'first' or 'last', but is 'any'"):
        TableFormat("id", "t", duplicates="any")


def broken_beside(path, frame):
    """A Parquet file whose last column can not be decompressed."""
    noise = np.random.default_rng(0).bytes(5_000 * len(frame)).hex()  # which is compressed to half
    cells = [noise[10_000 * i : 10_000 * (i + 1)] for i in range(len(frame))]
    frame.with_columns(scan=pl.Series(cells)).write_parquet(path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : 2 * len(data) // 3] = bytes(2 * len(data) // 3 - len(data) // 3)
    path.write_bytes(data)
    with pytest.raises(pl.exceptions.PolarsError):
        pl.read_parquet(path)


@pytest.mark.parametrize("form", ["wide", "long"])
def test_columns_that_are_not_asked_for_are_not_read(tmp_path, form):
    frame = random_rows(0, ids=[1, 2, 3], rows=40).unique(["id", "t"], maintain_order=True)
    frame = frame if form == "wide" else as_long(frame)
    broken_beside(tmp_path / "t.parquet", frame)
    panel, other = (read_panel(data, LAYOUTS[form]) for data in (tmp_path / "t.parquet", frame))
    for name in ("times", "values", "mask", "lengths", "origin"):
        np.testing.assert_array_equal(getattr(panel, name), getattr(other, name))
    assert (panel.ids, panel.notes) == (other.ids, other.notes)
    with pytest.raises(TableError, match=r"t\.parquet: not a readable \.parquet table"):
        read_table(tmp_path / "t.parquet", LAYOUTS[form], None)


def test_a_query_of_polars_is_run_for_what_is_asked_for():
    def fails(column):
        raise AssertionError("read")

    frame = random_rows(1, ids=["u", "v"]).unique(["id", "t"], maintain_order=True)
    lazy = frame.lazy().with_columns(other=pl.col("a").map_batches(fails, return_dtype=pl.Float64))
    np.testing.assert_array_equal(read_panel(lazy, LAYOUTS["wide"]).values, read_panel(frame, LAYOUTS["wide"]).values)
    with pytest.raises(TableError, match=r"^data: no column 'd'; the columns are id, t, a, b, c, other\.$"):
        read_panel(lazy, TableFormat("id", "t", channels=("d",)))


def test_rows_of_other_channels_are_left_in_the_file_and_counted(tmp_path):
    frame = pl.DataFrame(
        {"id": ["p", "p", "q", "p"], "t": [0, 0, 0, 1], "name": ["z", "a", "z", "a"], "x": [9.0, 1.0, 9.0, 2.0]}
    )
    frame.write_parquet(tmp_path / "t.parquet")
    layout = TableFormat("id", "t", channels=("a",), channel="name", value="x")
    table = read_table(tmp_path / "t.parquet", layout)
    assert table.frame["x"].to_list() == [1.0, 2.0] and table.numbers.tolist() == [2, 4]
    panel = read_panel(tmp_path / "t.parquet", layout)
    assert panel.ids == ("p",) and panel.notes == read_panel(frame, layout).notes
    assert panel.notes[0] == "1 series have no row of the channels a and are left out."
    with pytest.raises(TableError, match=r"column 'name' never says 'k'; its names are z, a\."):
        read_panel(tmp_path / "t.parquet", TableFormat("id", "t", channels=("k",), channel="name", value="x"))
    frame.with_columns(name=pl.Series(["z", "a", None, "a"])).write_parquet(tmp_path / "gap.parquet")
    with pytest.raises(TableError, match=r"row 3, column 'name' is empty"):
        read_panel(tmp_path / "gap.parquet", layout)
    with pytest.raises(TableError, match=r"a channel is asked for twice among a, a; name each once"):
        read_panel(frame, TableFormat("id", "t", channels=("a", "a"), channel="name", value="x"))


def test_a_folder_or_a_pattern_of_files_is_one_table(tmp_path):
    frame = random_rows(2, ids=[1, 2, 3]).unique(["id", "t"], maintain_order=True)
    (tmp_path / "parts").mkdir()
    frame[:50].write_parquet(tmp_path / "parts" / "0.parquet")
    frame[50:].write_parquet(tmp_path / "parts" / "1.parquet")
    for path in (tmp_path / "parts", f"{tmp_path}/parts/*.parquet", f"{tmp_path}/pa*/?.parquet"):
        np.testing.assert_array_equal(
            read_panel(path, LAYOUTS["wide"]).values, read_panel(frame, LAYOUTS["wide"]).values
        )
    for path in (tmp_path, f"{tmp_path}/none*.parquet"):
        with pytest.raises(
            TableError, match=r"no \.parquet file is there; give the path of a \.csv or \.parquet table"
        ):
            read_panel(path, LAYOUTS["wide"])


def test_labels_and_all_columns_of_a_file_are_read(tmp_path):
    frame = random_rows(3, ids=[1, 2, 3, 4]).unique(["id", "t"], maintain_order=True)
    frame.with_columns(kind=pl.col("id") % 2).write_parquet(tmp_path / "t.parquet")
    for layout in (LAYOUTS["wide"], TableFormat("id", "t")):
        labelled = read_labelled_panel(tmp_path / "t.parquet", layout, "kind")
        assert labelled.panel.channels == CHANNELS
        assert [labelled.classes[k] for k in labelled.labels] == [str(int(name) % 2) for name in labelled.panel.ids]


def series_of_unequal_lengths():
    generator = np.random.default_rng(0)
    lengths = np.where(np.arange(40) % 5 == 0, 20, generator.integers(4, 7, 40))
    size = int(lengths.sum())
    return pl.DataFrame(
        {
            "id": np.repeat(np.arange(40), lengths),
            "t": np.concatenate([np.arange(n) for n in lengths]) * 1.0,
            "x": generator.normal(size=size).cumsum().astype(np.float32),
            "y": generator.normal(size=size).astype(np.float32),
        }
    )


CONFIG = {
    "task": "forecast",
    "data": {"id": "id", "time": "t", "channels": ["x", "y"]},
    "model": [{"name": "encoder_decoder", "encoder": "gru", "decoder": "ode", "state_size": 2, "width": 4}],
    "train": {"steps": 1, "batch_size": 4, "validation_samples": 2},
    "evaluate": {"samples": 4},
}


def test_a_run_of_several_files_is_of_them_all_and_a_query_that_fails_leaves_none(tmp_path):
    frame = series_of_unequal_lengths()
    (tmp_path / "parts").mkdir()
    frame[:70].write_parquet(tmp_path / "parts" / "a.parquet")
    frame[70:].write_parquet(tmp_path / "parts" / "b.parquet")
    resolved, problem = prepare(load_config(CONFIG, [f"data.path={tmp_path}/parts/*.parquet"]))
    files = [(tmp_path / "parts" / f"{name}.parquet").read_bytes() for name in "ab"]
    assert resolved.data.sha256 == hashlib.sha256(b"".join(files)).hexdigest()
    np.testing.assert_array_equal(problem.panel.values, read_panel(frame, TableFormat("id", "t")).values)
    frame[70:71].write_parquet(tmp_path / "parts" / "c.parquet")
    with pytest.raises(RunError, match=r"\*\.parquet: the table has changed since the run was made"):
        prepare(resolved)
    failing = frame.lazy().with_columns(x=pl.col("x").cast(pl.String) + "!").cast({"x": pl.Float64})
    with pytest.raises(TableError, match="^data: not a readable lazy table"):
        nde.fit(CONFIG, data=failing, out=tmp_path / "failing", progress=False)
    assert not (tmp_path / "failing").exists()


def test_forecasts_in_blocks_of_like_lengths_are_those_of_all_at_once(tmp_path, monkeypatch):
    frame = series_of_unequal_lengths()
    run = nde.fit(CONFIG, data=frame.lazy(), out=tmp_path / "run", progress=False)
    assert pl.read_parquet(run.folder / "data.parquet").equals(frame)
    assert run.problem.values.dtype == np.float32
    whole, asked = run.evaluate(), run.predict(frame.lazy(), samples=4)
    stack = (run.folder / "stack.json").read_text()
    score = validation_score(run.config, run.problem)(run.models()["GRU-Δt to ODE"][0])
    monkeypatch.setattr(forecast_problem, "MANY", 10)
    monkeypatch.setattr(forecast_problem, "MULTIPLE", 3)
    monkeypatch.setattr(forecast_problem, "NUMBERS", 4 * 2 * 20 * 3)
    blocks = list(run.problem.blocks(run.problem.split.train, 4))
    assert len({rows for _, rows in blocks}) > 1 and len(blocks) > 4
    assert sorted(np.concatenate([places for places, _ in blocks])) == list(range(len(run.problem.split.train)))
    parts, pieces = run.evaluate(), run.predict(frame, samples=4)
    for one, other in zip(whole.rows(), parts.rows(), strict=True):
        assert one.pop("method") == other.pop("method")
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(whole.covered, parts.covered, rtol=1e-9)
    polars.testing.assert_frame_equal(asked, pieces, rel_tol=1e-9, abs_tol=1e-9)
    run.task.finish(run, run.problem)
    new, old = (json.loads(text)["weights"] for text in ((run.folder / "stack.json").read_text(), stack))
    np.testing.assert_allclose(list(new.values()), list(old.values()), rtol=1e-6)
    again = validation_score(run.config, run.problem)(run.models()["GRU-Δt to ODE"][0])
    assert again == pytest.approx(score, rel=1e-12)
    monkeypatch.setattr(forecast_stack, "MOST_FITTED", 5)
    noted = fit_baselines(run.problem, run.problem.split.fold, 0).notes
    assert noted[0] == "baselines are fitted on 5 of the 32 series to learn from, at random."
