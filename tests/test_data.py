"""Tables in, batches out."""

import numpy as np
import polars as pl
import pytest

from nde.data import (
    index_batches,
    load_lynx_hare,
    load_pbc,
    Normaliser,
    PBC_LABS,
    PBC_LOG,
    pbc_path,
    read_panel,
    split_series,
    TableError,
    TableFormat,
)

WIDE = TableFormat(id="id", time="t")
LONG = TableFormat(id="id", time="t", channel="name", value="x")


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_pbc_has_the_published_size():
    panel = load_pbc()
    raw = pl.read_csv(pbc_path(), null_values=["", "NA"])
    assert len(panel) == 312
    assert panel.lengths.sum() == 1945
    assert panel.channels == PBC_LABS
    assert panel.mask.sum() == sum(raw[name].count() for name in PBC_LABS)
    missing = 1 - panel.mask.sum((0, 1)) / 1945
    assert missing.min() == 0
    assert round(100 * missing.max()) == 42
    assert panel.times.max() == pytest.approx(5152 / 365.25)


def test_wide_table_is_sorted_padded_and_masked(tmp_path):
    path = write(tmp_path, "id,t,a,b\nx,3,1,\nx,1,2,5\ny,7,,4\n")
    panel = read_panel(path, WIDE)
    assert panel.ids == ("x", "y")
    np.testing.assert_array_equal(panel.times, [[0, 2], [0, 0]])
    np.testing.assert_array_equal(panel.origin, [1, 7])
    np.testing.assert_array_equal(panel.values, [[[2, 5], [1, 0]], [[0, 4], [0, 0]]])
    np.testing.assert_array_equal(panel.mask, [[[1, 1], [1, 0]], [[0, 1], [0, 0]]])
    np.testing.assert_array_equal(panel.table_times()[0], [1, 3])
    assert panel.notes == ("1 of 2 series have a single observation and are kept.",)


def test_long_and_wide_tables_give_the_same_panel(tmp_path):
    wide = read_panel(write(tmp_path, "id,t,a,b\nx,0,1,\nx,1,2,5\ny,0,,4\n"), WIDE)
    text = "id,t,name,x\nx,1,b,5\nx,0,a,1\nx,1,a,2\ny,0,b,4\n"
    long = read_panel(write(tmp_path, text, "long.csv"), TableFormat(**{**vars(LONG), "channels": ("a", "b")}))
    np.testing.assert_array_equal(wide.values, long.values)
    np.testing.assert_array_equal(wide.mask, long.mask)
    np.testing.assert_array_equal(wide.times, long.times)


def test_parquet_reads_as_csv(tmp_path):
    frame = pl.DataFrame({"id": [1, 1, 2], "t": [0.0, 1.5, 0.0], "a": [1.0, None, float("nan")], "b": [1, 2, 3]})
    frame.write_parquet(tmp_path / "table.parquet")
    frame.write_csv(tmp_path / "table.csv")
    parquet, csv = (read_panel(tmp_path / f"table.{kind}", WIDE) for kind in ("parquet", "csv"))
    np.testing.assert_array_equal(parquet.values, csv.values)
    np.testing.assert_array_equal(parquet.mask, csv.mask)
    assert parquet.ids == csv.ids == ("1", "2")


def test_rows_of_equal_time_are_merged_where_they_agree(tmp_path):
    panel = read_panel(write(tmp_path, "id,t,a,b\nx,1,2,\nx,1,2,5\nx,0,1,1\n"), WIDE)
    np.testing.assert_array_equal(panel.values[0], [[1, 1], [2, 5]])
    assert panel.mask.all()


def test_time_scale_turns_days_into_years(tmp_path):
    layout = TableFormat(id="id", time="t", time_scale=365.25, time_unit="years")
    panel = read_panel(write(tmp_path, "id,t,a\nx,100,1\nx,465.25,2\n"), layout)
    np.testing.assert_allclose(panel.times[0], [0, 1])
    np.testing.assert_allclose(panel.table_times()[0], [100, 465.25])


def test_short_series_are_left_out_and_said(tmp_path):
    layout = TableFormat(id="id", time="t", min_observations=2)
    panel = read_panel(write(tmp_path, "id,t,a\nx,0,1\nx,1,1\ny,0,1\n"), layout)
    assert panel.ids == ("x",)
    assert panel.notes == ("1 of 2 series have fewer than 2 observations and are left out.",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,t,a\nx,0,1.2x\n", r"row 2, column 'a': '1.2x' is no finite number"),
        ("id,t,a\nx,0,1\nx,1,inf\n", r"row 3, column 'a': 'inf' is no finite number"),
        ("id,t,a\nx,0,1\nx,,1\n", r"row 3, column 't': no time"),
        ("id,t,a\nx,inf,1\n", r"row 2, column 't': 'inf' is no finite number"),
        ("id,t,a\nx,0,1\nx,1,2\nx,0,3\n", r"rows 2 and 4 both give 'a' of id x at t 0, as 1 and 3"),
        ("id,t,a,b\nx,0,1,\nx,1,1,NA\n", r"channel 'b' has no value at all"),
        ("id,when,a\nx,0,1\n", r"no column 't'; the columns are id, when, a"),
        ("id,t,a\n,0,1\n", r"row 2, column 'id' is empty"),
        ("id,t,a\n", r"no rows"),
        ("id,t\nx,0\n", r"one column a channel"),
        ("", r"not a readable .csv table"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(TableError, match=message) as caught:
        read_panel(path, WIDE)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_file_and_unknown_kind_are_refused(tmp_path):
    with pytest.raises(TableError, match=r"nowhere.csv: no such file"):
        read_panel(tmp_path / "nowhere.csv", WIDE)
    with pytest.raises(TableError, match=r"unknown kind of table '.xlsx'; use .csv or .parquet"):
        read_panel(write(tmp_path, "", "table.xlsx"), WIDE)


def test_long_table_without_a_named_channel_is_refused(tmp_path):
    path = write(tmp_path, "id,t,name,x\nx,0,a,1\n")
    with pytest.raises(TableError, match=r"column 'name' never says 'c'; its names are a"):
        read_panel(path, TableFormat(id="id", time="t", channel="name", value="x", channels=("a", "c")))
    with pytest.raises(ValueError, match=r"needs both `channel` and `value`"):
        TableFormat(id="id", time="t", channel="name")


def test_each_series_is_tested_once_over_the_folds():
    splits = [split_series(23, fold=fold, folds=5, seed=4) for fold in range(5)]
    tested = np.sort(np.concatenate([split.test for split in splits]))
    np.testing.assert_array_equal(tested, np.arange(23))
    for split in splits:
        parts = np.concatenate([split.train, split.validation, split.test])
        np.testing.assert_array_equal(np.sort(parts), np.arange(23))
        np.testing.assert_array_equal(split.fold, np.setdiff1d(np.arange(23), split.test))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_series": 3, "folds": 5, "fold": 4}, r"leave the test part empty"),
        ({"num_series": 2, "folds": 2, "validation": 0.5}, r"leave the training part empty"),
        ({"num_series": 9, "fold": 5}, r"fold must be in 0 … 4"),
        ({"num_series": 9, "validation": 1.0}, r"validation must be a share"),
    ],
)
def test_empty_splits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_series(**arguments)


def test_normaliser_uses_what_it_is_given_and_undoes_itself():
    panel = load_pbc()
    fold = split_series(len(panel)).fold
    normaliser = Normaliser.fit(panel[fold], PBC_LOG)
    values = normaliser.apply(panel)
    part, mask = values[fold], panel.mask[fold]
    for c in range(7):
        assert part[..., c][mask[..., c]].mean() == pytest.approx(0, abs=1e-12)
        assert part[..., c][mask[..., c]].std() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(normaliser.undo(values)[panel.mask], panel.values[panel.mask], rtol=1e-12)
    assert (values[~panel.mask] == 0).all()
    bili = np.log(panel.values[fold][..., 0][mask[..., 0]])
    assert normaliser.mean[0] == pytest.approx(bili.mean())


def test_normaliser_refuses_what_it_can_not_scale(tmp_path):
    panel = read_panel(write(tmp_path, "id,t,a,b\nx,5,1,2\nx,9,0,2\ny,0,,3\n"), WIDE)
    with pytest.raises(TableError, match=r"series x, time 9: channel 'a' is 0, which is not positive, as a log scale"):
        Normaliser.fit(panel, ("a",))
    with pytest.raises(TableError, match=r"log names the channel 'c'; the channels are a, b"):
        Normaliser.fit(panel, ("c",))
    with pytest.raises(TableError, match=r"channel 'a' has no value among the training series"):
        Normaliser.fit(panel[[1]])
    constant = Normaliser.fit(panel[[0]])
    assert constant.std[1] == 1


def test_batches_are_a_function_of_seed_and_step():
    batches = index_batches(10, 4, 100, seed=3)
    again = index_batches(10, 4, 100, seed=3)
    np.testing.assert_array_equal(batches[57], again[57])
    epoch = np.concatenate([batches[0], batches[1]])
    assert len(np.unique(epoch)) == 8
    assert any((batches[i] != index_batches(10, 4, 100, seed=4)[i]).any() for i in range(5))
    assert len(batches) == 100
    with pytest.raises(ValueError, match=r"batch_size must be in 1 … 10"):
        index_batches(10, 11, 100, seed=0)


def test_lynx_and_hare_are_the_published_years():
    years, pelts = load_lynx_hare()
    np.testing.assert_array_equal(years, np.arange(21))
    np.testing.assert_array_equal(pelts[[0, 20]], [[30.0, 4.0], [24.7, 8.6]])
    assert (pelts > 0).all()


@pytest.mark.parametrize(
    ("header", "message"),
    [("id,t,a,a\n", r"two columns have the name 'a'; rename one"), ("id,id,t,a\n", r"two columns have the name 'id'")],
)
def test_columns_of_one_name_are_refused(tmp_path, header, message):
    with pytest.raises(TableError, match=message):
        read_panel(write(tmp_path, header + "x,1,2,3\n"), WIDE)


def test_doubled_channels_are_refused(tmp_path):
    with pytest.raises(TableError, match=r"asked for twice among id, t, a, a"):
        read_panel(write(tmp_path, "id,t,a\nx,0,1\n"), TableFormat(id="id", time="t", channels=("a", "a")))


def test_long_table_to_forecast_may_lack_a_channel(tmp_path):
    layout = TableFormat(id="id", time="t", channel="name", value="x", channels=("a", "b"))
    panel = read_panel(write(tmp_path, "id,t,name,x\nx,0,a,1\n"), layout, require_values=False)
    np.testing.assert_array_equal(panel.mask[0], [[True, False]])


def test_table_times_come_back_as_they_were():
    panel = load_pbc()
    times = panel.table_times()
    np.testing.assert_array_equal(times, np.round(times))


def test_values_that_overflow_and_constants_are_handled(tmp_path):
    panel = read_panel(write(tmp_path, "id,t,a,b\nx,0,0.1,1\nx,1,0.1,2\nx,2,0.1,3\ny,0,0.1,1e45\n"), WIDE)
    normaliser = Normaliser.fit(panel[[0]])
    assert normaliser.std[0] == 1
    with pytest.raises(
        TableError, match=r"series y, time 0: channel 'b' is 1e\+45, which lies more than 1e\+15 standard"
    ):
        normaliser.apply(panel)
