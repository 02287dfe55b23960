"""Tables as people have them: dates, dialects of CSV, marks of missing values, and keys that come back as they were."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from nde.data import as_frame, read_panel, TableError, TableFormat

WIDE = TableFormat("id", "t")


def written(folder, text, name="t.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def values(panel):
    return [panel.values[i][panel.mask[i]].tolist() for i in range(len(panel))]


@pytest.mark.parametrize(
    ("cells", "unit", "times"),
    [
        (["2024-02-28", "2024-03-01"], "days", [0, 2]),
        (["2024-02-28T00:00:00", "2024-02-28T12:00:00"], "days", [0, 0.5]),
        (["2024-01-01T00:00:00+02:00", "2023-12-31T23:30:00Z"], "days", [0, 1.5 / 24]),
        (["2024-01-01 00:00", "2024-01-01 00:30"], "hours", [0, 0.5]),
    ],
)
def test_iso_dates_are_times_in_a_unit_that_is_said(tmp_path, cells, unit, times):
    path = written(tmp_path, "id,t,x\n" + "".join(f"a,{cell},{i}\n" for i, cell in enumerate(cells)))
    panel = read_panel(path, TableFormat("id", "t", date_unit=unit))
    assert panel.time_unit == unit
    np.testing.assert_allclose(panel.times[0], times, rtol=1e-15)


def test_dates_of_parquet_and_other_formats_are_those_of_iso_text(tmp_path):
    days = [dt.date(2024, 1, 1), dt.date(2024, 1, 31)]
    pl.DataFrame({"id": ["a", "a"], "t": days, "x": [1.0, 2.0]}).write_parquet(tmp_path / "t.parquet")
    text = written(tmp_path, "id,t,x\na,01.01.2024,1\na,31.01.2024,2\n")
    for panel in (
        read_panel(tmp_path / "t.parquet", WIDE),
        read_panel(text, TableFormat("id", "t", time_format="%d.%m.%Y")),
    ):
        np.testing.assert_array_equal(panel.times, [[0.0, 30.0]])
    with pytest.raises(TableError, match=r"row 2, column 't': '01\.01\.2024' is .*data\.time_format"):
        read_panel(text, WIDE)


def test_a_mixture_of_zoned_and_zoneless_times_is_refused(tmp_path):
    path = written(tmp_path, "id,t,x\na,2024-01-01T00:00:00Z,1\na,2024-01-02T00:00:00,2\n")
    with pytest.raises(TableError, match=r"row 3, column 't'.*time zone where others"):
        read_panel(path, WIDE)


@pytest.mark.parametrize("start", [1_700_000_000.0, 2_460_000.5, 2020.0, 1e-9])
def test_times_come_back_bit_for_bit(tmp_path, start):
    times = start + np.array([0.0, 0.1, 1 / 3, 86_400.001])
    frame = pl.DataFrame({"id": ["a", "a", "b", "b"], "t": times, "x": [1.0, 2.0, 3.0, 4.0]})
    frame.write_parquet(tmp_path / "t.parquet")
    panel = read_panel(tmp_path / "t.parquet", WIDE)
    ids, back = panel.keys(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    assert back.dtype == pl.Float64 and back.to_list() == times.tolist() and ids.to_list() == ["a", "a", "b", "b"]
    # Differences are taken of doubles, before anything is rounded: no digit of an epoch is lost.
    np.testing.assert_array_equal(panel.times[:, 1], [times[1] - times[0], times[3] - times[2]])


def test_dates_come_back_as_dates_and_move_ahead_by_days(tmp_path):
    path = written(tmp_path, "id,t,x\na,2024-02-28,1\na,2024-02-29,2\nb,2023-12-31,3\n")
    panel = read_panel(path, WIDE).asked_ahead([1.0])
    ids, times = panel.keys(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1]))
    assert times.to_list() == [
        dt.date(2024, 2, 28), dt.date(2024, 2, 29), dt.date(2024, 3, 1), dt.date(2023, 12, 31), dt.date(2024, 1, 1),
    ]  # fmt: skip
    _, text = panel.keys(np.array([0]), np.array([2]), as_text=True)
    assert text.to_list() == ["2024-03-01"]
    assert not panel.mask[0, 2].any() and panel.lengths.tolist() == [3, 2]
    with pytest.raises(ValueError, match="two of the steps 0.6, 1.4 days are one time to the resolution"):
        read_panel(path, WIDE).asked_ahead([0.6, 1.4])


@pytest.mark.parametrize("times", ["0", "0.5", "2024-02-29", "2024-02-29 10:00"])
def test_no_time_is_beyond_what_its_type_holds(tmp_path, times):
    path = written(tmp_path, f"id,t,x\na,{times},1\n")
    far = 1e309 if times == "0.5" else 1e30 if times == "0" else 3e6  # in days, the year 10 000 is near
    with pytest.raises(ValueError, match=r"goes beyond what its times, .*, can hold"):
        read_panel(path, WIDE).asked_ahead([1.0, far])


@pytest.mark.parametrize(
    ("text", "options", "encoding"),
    [
        ("id;t;x;y\na;0;1,5;2\na;1;2,5;\n", {"separator": ";", "decimal": ","}, "utf-8"),
        ("id\tt\tx\ty\na\t0\t1.5\t2\na\t1\t2.5\t\n", {"separator": "\t"}, "utf-8"),
        ("id,t,x,größe\na,0,1.5,2\na,1,2.5,\n", {"encoding": "latin-1"}, "latin-1"),
        ("id,t,x,y\na,0,1.5,2\na,1,2.5,-999\n\n,,,\n", {"missing": (-999,)}, "utf-8"),
        ("\n \r\n,,\nid,t,x,y\na,0,1.5,2\na,1,2.5,\n", {}, "utf-8"),
        ("id,t,x,y\na,0,1.5,2\na,1,2.5,n.d.\n", {"missing": ("n.d.",)}, "utf-8"),
    ],
)
def test_dialects_of_csv_are_read_by_their_options(tmp_path, text, options, encoding):
    panel = read_panel(written(tmp_path, text, encoding=encoding), TableFormat("id", "t", **options))
    assert values(panel) == [[1.5, 2.0, 2.5]]


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("id;t;x\na;0;1\n", "utf-8", r"data\.separator = ';'"),
        ('id,t,x\na,0,"1,5"\n', "utf-8", r"data\.decimal = ','"),
        (
            'id,t,x\na,"0,5",1\na,"1,5",2\n',
            "utf-8",
            r"row 2, column 't': '0,5' is no finite number; set data\.decimal = ','",
        ),
        (
            'id,t,x\na,0,1\na,"1,5",2\n',
            "utf-8",
            r"row 3, column 't': '1,5' .* other times are; set data\.decimal = ','",
        ),
        ("id;t;x\na;0,5;1,5\n", "utf-8", r"separated by ';': set data\.separator = ';' and, .* data\.decimal = ','"),
        ("id\tt\tx\na\t0,5\t1,5\n", "utf-8", r"separated by '\\t': set data\.separator = '\\t' and"),
        ("\n\nid,t,x\na,0,?\n", "utf-8", r"row 4, column 'x'"),
        ("\nid,t,x\na,0,1\na,1,2,3\n", "utf-8", r"row 4 has 4 cells, the header 3\); numbers"),
        ("id,t,größe\na,0,1\n", "latin-1", r"row 1 is not text in utf-8; set data\.encoding"),
        ("id,t,x\na,0,1\n", "utf-16", r"data\.encoding = 'utf-16'"),
        ("id,t,x\na,0,1\na,0,2\na,1,3\na,1,4\n", "utf-8", r"rows 2 and 3.*; rows 4 and 5.*data\.duplicates = 'mean'"),
    ],
)
def test_refusals_name_the_option(tmp_path, text, encoding, message):
    with pytest.raises(TableError, match=message):
        read_panel(written(tmp_path, text, encoding=encoding), WIDE)


@pytest.mark.parametrize(
    ("cell", "message"),
    [("01.03.2024", r"neither a number nor a date .*data\.time_format"), ("0.5", r"data\.decimal = '\.'.*time_format")],
)
def test_times_with_points_beside_decimal_commas_are_dates_or_said_to_have_points(tmp_path, cell, message):
    path = written(tmp_path, f"id;t;x\na;{cell};1,5\n")
    with pytest.raises(TableError, match=message):
        read_panel(path, TableFormat("id", "t", separator=";", decimal=","))


@pytest.mark.parametrize(("how", "value"), [("mean", 1.5), ("last", 2.0)])
def test_duplicates_by_their_option(tmp_path, how, value):
    path = written(tmp_path, "id,t,x\na,0,1\na,0,2\na,1,3\n")
    assert values(read_panel(path, TableFormat("id", "t", duplicates=how))) == [[value, 3.0]]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_marks_of_missing_values_belong_to_values_alone(tmp_path, kind):
    frame = pl.DataFrame(
        {"id": ["NA", "NA", "None"], "t": ["0", "1", "0"], "x": ["1", "NA", "."], "y": ["2", "nan", "3"]}
    )
    path = tmp_path / f"t.{kind}"
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    panel = read_panel(path, WIDE)
    assert panel.ids == ("NA", "None") and values(panel) == [[1.0, 2.0], [3.0]]


def test_sodium_is_a_channel_and_other_tests_are_left_alone(tmp_path):
    path = written(tmp_path, "id,t,test,x\na,0,NA,139\na,0,K,4\na,1,culture,positive\na,2,CRP,1\na,2,CRP,2\n")
    panel = read_panel(path, TableFormat("id", "t", channels=("NA", "K"), channel="test", value="x"))
    assert panel.channels == ("NA", "K") and values(panel) == [[139.0, 4.0]]


def test_columns_of_row_numbers_are_no_channels_and_odd_ones_are_said(tmp_path):
    rows = "".join(f"{i},{'ab'[i // 6]},{i % 6},{i * i % 7},{5 + i // 6},{100 + i}\n" for i in range(12))
    panel = read_panel(written(tmp_path, ",id,t,x,dose,visit\n" + rows), WIDE)
    assert panel.channels == ("x", "dose", "visit")
    said = "\n".join(panel.notes)
    assert "'Unnamed: 0' is taken for row numbers" in said
    assert "'dose' never changes within a series" in said and "'visit' counts rows" in said and "'x'" not in said


def test_categories_are_numbers_and_not_their_codes(tmp_path):
    frame = pl.DataFrame({"id": ["a", "a"], "t": [0, 1], "x": pl.Series(["7.5", "0.5"], dtype=pl.Categorical)})
    frame.write_parquet(tmp_path / "t.parquet")
    assert values(read_panel(tmp_path / "t.parquet", WIDE)) == [[7.5, 0.5]]


def test_rows_in_any_order_are_series_in_order_of_appearance(tmp_path):
    draw = np.random.default_rng(0)
    ids, t = np.repeat(np.arange(50), 7), np.tile(np.arange(7.0), 50)
    x = draw.normal(size=350)
    order = draw.permutation(350)
    pl.DataFrame({"id": ids[order], "t": t[order], "x": x[order]}).write_parquet(tmp_path / "t.parquet")
    panel = read_panel(tmp_path / "t.parquet", WIDE)
    assert panel.ids == tuple(str(i) for i in dict.fromkeys(ids[order].tolist()))
    np.testing.assert_array_equal(panel.values[..., 0], x.reshape(50, 7)[[int(i) for i in panel.ids]])


def test_a_frame_of_any_types_is_a_table_or_one_line(tmp_path):
    pandas = pytest.importorskip("pandas")
    days = pandas.period_range("2024-01-01", periods=2, freq="D")
    frame = pandas.DataFrame({"id": [1, "b"], "t": days, "x": [0.5, "1.5"]}, dtype=object)
    read = as_frame(frame)
    assert read.rows() == [("1", "2024-01-01", "0.5"), ("b", "2024-01-02", "1.5")]
    assert values(read_panel(frame, WIDE)) == [[0.5], [1.5]]
    objects = pl.DataFrame({"id": ["a", "a"], "t": [0, 1], "x": pl.Series([1, 2.5], dtype=pl.Object)})
    assert values(read_panel(objects, WIDE)) == [[1.0, 2.5]]
    with pytest.raises(TableError, match=r"^data: two columns have the name 'x'; rename one\.$"):
        as_frame(pandas.concat([frame, frame[["x"]]], axis=1))
    with pytest.raises(TableError, match=r"^data: column 'x' holds Struct.*; it must hold numbers\.$"):
        read_panel(pl.DataFrame({"id": ["a"], "t": [0], "x": [{"y": 1}]}), WIDE)
