"""Series of arrays: how they become a panel, and what is said of those that are none."""

from dataclasses import replace

import numpy as np
import pytest

from nde.data import DATASETS, LabelledPanel, Normaliser, panel_of_arrays, remove_at_random, TableError

TIMES = [[5.0, 6.0, 8.0], [1.0, 2.0], [0.0, 1.0, 4.0, 9.0]]
VALUES = [
    [[1.0, np.nan], [2.0, 3.0], [4.0, 5.0]],
    [[6.0, 7.0], [np.nan, 8.0]],
    [[float(i), -float(i)] for i in range(4)],
]


def panel():
    return panel_of_arrays(TIMES, VALUES, ids=["a", "b", "c"], channels=["x", "y"], time_unit="days")


def test_series_of_unequal_lengths_are_padded_by_their_last_time():
    made = panel()
    assert (made.ids, made.channels, made.time_unit) == (("a", "b", "c"), ("x", "y"), "days")
    np.testing.assert_array_equal(made.times, [[0, 1, 3, 3], [0, 1, 1, 1], [0, 1, 4, 9]])
    np.testing.assert_array_equal(made.lengths, [3, 2, 4])
    np.testing.assert_array_equal(made.origin, [5, 1, 0])
    np.testing.assert_array_equal(made.mask[0], [[1, 0], [1, 1], [1, 1], [0, 0]])
    np.testing.assert_array_equal(made.values[1], [[6, 7], [0, 8], [0, 0], [0, 0]])
    np.testing.assert_array_equal(made.table_times()[0], [5, 6, 8, 8])


def test_arrays_of_one_length_and_a_mask_are_taken_too():
    mask = np.array([[[1, 0], [0, 1], [1, 1]]])
    made = panel_of_arrays(np.array([[0, 1, 2]]), np.arange(6).reshape(1, 3, 2), mask)
    assert made.ids == ("0",) and made.channels == ("x0", "x1")
    np.testing.assert_array_equal(made.values[0], [[0, 0], [0, 3], [4, 5]])
    np.testing.assert_array_equal(made.mask, mask == 1)


def changed(place, what, value):
    def change(made):
        array = getattr(made, what).copy()
        array[place] = value
        return replace(made, **{what: array})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            changed((2, 2), "times", 1.0),
            r"series 'c', row 2 \(its rows are 0 … 3\): its time, 1, repeats that of row 1; merge the two rows",
        ),
        (
            changed((2, 2), "times", 0.5),
            r"series 'c', row 2 \(its rows are 0 … 3\): its time, 0.5, lies before that of row 1, 1; sort the rows",
        ),
        (changed((0, 1), "times", np.nan), r"series 'a', row 1 \(its rows are 0 … 2\): the time is nan"),
        (
            changed((1, 1, 1), "values", np.nan),
            r"series 'b', row 1 \(its rows are 0 … 1\), time 1, channel 'y': the value is nan, but marked as observed",
        ),
        (changed((2, 3, 0), "values", np.inf), r"series 'c', row 3 .*, time 9, channel 'x': the value is inf"),
        (changed((1, 3), "times", 2.0), r"series 'b', row 3 \(its rows are 0 … 1\) lies past the series' end"),
        (changed((1, 2, 0), "mask", True), r"series 'b', row 2 .* lies past the series' end, .* hold no observation"),
        (changed(1, "lengths", 0), r"series 'b': its length is 0, but must be in 1 … 4"),
        (lambda p: replace(p, mask=p.mask[..., :1]), r"values \(3, 4, 2\) and the mask \(3, 4, 1\)"),
        (lambda p: replace(p, times=p.times[:, :3]), r"times have shape \(3, 3\), values \(3, 4, 2\)"),
        (lambda p: replace(p, channels=("x",)), r"3 series of 1 channels need"),
        (lambda p: replace(p, mask=p.mask.astype(float)), "its type is float64"),
        (lambda p: replace(p, lengths=p.lengths[:2]), r"lengths of shape \(3,\), but they have shape \(2,\)"),
    ],
)
def test_arrays_that_are_no_series_are_refused_in_one_line_that_says_where(change, message):
    with pytest.raises(TableError, match=message) as caught:
        change(panel())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("times", "values", "more", "message"),
    [
        ([[0.0, 1.0]], [[[1.0]]], {}, r"series '0': times must have shape \(rows,\) .* \(2,\), \(1, 1\) and \(1, 1\)"),
        ([[0.0]], [[[1.0]]], {"mask": [[[True, False]]]}, r"series '0': .* are \(1,\), \(1, 1\) and \(1, 2\)"),
        ([[]], [np.zeros((0, 1))], {}, r"series '0': .* at least one row"),
        ([[0.0], [0.0]], [[[1.0]], [[1.0, 2.0]]], {"ids": ["p", "q"]}, r"series 'q' has 2 channels, but series 'p' 1"),
        ([[0.0], [0.0]], [[[1.0]]], {}, "times are those of 2 series, but there are 1 of values"),
        ([[0.0], [0.0]], np.zeros((2, 1, 1)), {"ids": ["p", "p"]}, "two series are called 'p'; give each a name"),
        ([["a"]], [[[1.0]]], {}, r"series '0': times and values must be arrays of numbers \(.*'a'"),
        ([], [], {}, "0 series, but there are none to read"),
        (
            [[0.0, 1.0]],
            [[[1.0], [np.nan]]],
            {"mask": [[[True], [True]]], "channels": ["x"]},
            r"series '0', row 1 .*, time 1, channel 'x': the value is nan, but marked as observed",
        ),
        ([[2.0, 1.0]], [[[1.0], [1.0]]], {}, "series '0', row 1 .* lies before that of row 0"),
    ],
)
def test_arrays_of_ones_own_are_refused_in_one_line(times, values, more, message):
    with pytest.raises(TableError, match=message):
        panel_of_arrays(times, values, **more)


def test_a_channel_without_any_observation_is_named():
    bare = panel_of_arrays([[0.0, 1.0]], [[[1.0, np.nan], [2.0, np.nan]]], channels=["x", "y"])
    with pytest.raises(TableError, match="channel 'y' has no value among the training series; leave it out"):
        Normaliser.fit(bare)


@pytest.mark.parametrize(
    ("labels", "tested", "message"),
    [
        ([0, 1], [False] * 3, "a panel of 3 series needs as many labels, .* but there are 2 and 3"),
        ([0, 2, 1], [False] * 3, "series 'b': its label is 2, but must be in 0 … 1, the numbers of the 2 classes"),
    ],
)
def test_labels_belong_to_series_and_classes(labels, tested, message):
    with pytest.raises(TableError, match=message):
        LabelledPanel(panel(), np.array(labels), ("u", "v"), np.array(tested))


@pytest.mark.parametrize(
    ("name", "shape", "lengths", "tested", "classes"),
    [
        ("japanese_vowels", (640, 29, 12), (7, 29), 370, 9),
        ("pickup_gesture", (100, 361, 1), (29, 361), 50, 10),
        ("basic_motions", (80, 100, 6), (100, 100), 40, 4),
    ],
)
def test_sets_of_aeon_are_as_published(name, shape, lengths, tested, classes):
    pytest.importorskip("aeon")
    data = DATASETS[name].load()
    assert data.panel.values.shape == shape and len(data.classes) == classes
    assert (data.panel.lengths.min(), data.panel.lengths.max()) == lengths and data.tested.sum() == tested
    assert remove_at_random(data.panel, 0.7, seed=0).mask.sum() == pytest.approx(0.3 * data.panel.mask.sum(), rel=0.05)
