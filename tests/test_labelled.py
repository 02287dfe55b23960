"""Series with classes, and densities in the plane."""

import importlib
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

import nde
from nde.data import (
    DATASETS,
    DENSITIES,
    LabelledPanel,
    load_basic_motions,
    load_japanese_vowels,
    load_pickup_gesture,
    make_labelled_spirals,
    make_stochastic_lorenz,
    Panel,
    read_labelled_panel,
    remove_at_random,
    sample_density,
    split_labelled,
    TableError,
    TableFormat,
)
from nde.data.datasets.basic_motions import labelled_panel


def made_up(each=5, rows=4):
    """Two classes, `each` series of either in both parts."""
    values = np.random.default_rng(0).standard_normal((2 * each, rows, 6))
    names = np.array(["walk", "rest"] * each)
    return labelled_panel(values, names, values + 1, names)


def test_labelled_panel_keeps_the_published_parts():
    data = made_up()
    assert len(data) == len(data.panel) == 20
    assert data.classes == ("rest", "walk")
    np.testing.assert_array_equal(data.labels[:4], [1, 0, 1, 0])
    np.testing.assert_array_equal(np.flatnonzero(data.tested), np.arange(10, 20))
    assert data.panel.ids[9:11] == ("train 10", "test 1")
    np.testing.assert_allclose(data.panel.times[3], [0, 0.1, 0.2, 0.3])


def test_motions_come_from_aeon(monkeypatch):
    def load(split):
        return np.full((3, 6, 100), {"train": 1.0, "test": 2.0}[split]), np.array(["a", "b", "a"])

    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(load_basic_motions=load))
    data = load_basic_motions()
    assert data.panel.values.shape == (6, 100, 6)
    np.testing.assert_array_equal(data.panel.values[:, 0, 0], [1, 1, 1, 2, 2, 2])
    assert data.panel.times[0, -1] == pytest.approx(9.9)


@pytest.mark.parametrize(
    ("load_set", "loader", "step"),
    [(load_japanese_vowels, "load_japanese_vowels", 6.4), (load_pickup_gesture, "load_pickup_gesture_wiimoteZ", 1.0)],
)
def test_series_of_unequal_lengths_come_from_aeon(load_set, loader, step, monkeypatch):
    channels = 12 if step == 6.4 else 1

    def load(split):
        return [np.full((channels, rows), float(rows)) for rows in (3, 2)], np.array(["10", "2"])

    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(**{loader: load}))
    data = load_set()
    assert data.classes == ("2", "10") and data.labels.tolist() == [1, 0, 1, 0]
    assert data.panel.ids == ("train 1", "train 2", "test 1", "test 2") and len(data.panel.channels) == channels
    np.testing.assert_allclose(data.panel.times[:2], [[0, step, 2 * step], [0, step, step]])
    np.testing.assert_array_equal(data.panel.values[1, :, 0], [2, 2, 0])
    np.testing.assert_array_equal(data.panel.mask[1, :, 0], [True, True, False])


@pytest.mark.parametrize("load_set", [load_basic_motions, load_japanese_vowels, load_pickup_gesture])
def test_without_aeon_one_line_says_what_to_install(load_set, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(TableError, match=r"comes with the package aeon; .*pip install 'aeon>=1\.0'"):
        load_set()


def test_removal_is_per_value_seeded_and_leaves_the_rest():
    panel = made_up(each=50, rows=20).panel
    thinned = remove_at_random(panel, 0.5, seed=3)
    assert thinned.mask.mean() == pytest.approx(0.5, abs=0.01)
    assert np.std(thinned.mask.mean((0, 1))) < 0.02
    assert (thinned.mask.any(-1) & ~thinned.mask.all(-1)).mean() > 0.9  # values, not rows
    np.testing.assert_array_equal(thinned.values, np.where(thinned.mask, panel.values, 0))
    np.testing.assert_array_equal(thinned.times, panel.times)
    np.testing.assert_array_equal(thinned.mask, remove_at_random(panel, 0.5, seed=3).mask)
    assert (thinned.mask != remove_at_random(panel, 0.5, seed=4).mask).any()
    np.testing.assert_array_equal(remove_at_random(panel, 0.0, seed=0).mask, panel.mask)
    with pytest.raises(ValueError, match=r"\[0, 1\), but is 1.0"):
        remove_at_random(panel, 1.0, seed=0)


def test_split_takes_the_same_share_of_each_class_and_never_the_test_part():
    data = made_up(each=10)
    split = split_labelled(data, validation=0.2, seed=1)
    np.testing.assert_array_equal(np.bincount(data.labels[split.validation]), [2, 2])
    np.testing.assert_array_equal(np.bincount(data.labels[split.train]), [8, 8])
    np.testing.assert_array_equal(split.fold, np.flatnonzero(~data.tested))
    np.testing.assert_array_equal(split.test, np.flatnonzero(data.tested))


def unpublished(data):
    return LabelledPanel(data.panel, data.labels, data.classes, np.zeros(len(data), bool))


def test_folds_of_a_table_without_a_test_part_hold_out_each_series_once_and_all_classes():
    data = unpublished(made_up(each=10))
    splits = [split_labelled(data, fold=fold, folds=4, seed=3) for fold in range(4)]
    np.testing.assert_array_equal(np.sort(np.concatenate([split.test for split in splits])), np.arange(len(data)))
    for split in splits:
        assert not set(split.test) & set(split.fold) and not set(split.train) & set(split.validation)
        for part in (split.train, split.validation, split.test):
            assert set(data.labels[part]) == {0, 1}


WIDE = "who,day,a,b,kind\nx,0,1,,sick\nx,1,2,3,sick\ny,0,1,1,well\nz,5,,4,sick\nz,7,2,1,sick\n"


@pytest.mark.parametrize("form", ["csv", "polars", "pandas", "long"])
def test_labelled_table_is_read_from_a_file_or_a_frame_wide_or_long(form, tmp_path):
    path, layout = tmp_path / "t.csv", TableFormat(id="who", time="day")
    path.write_text(WIDE)
    source = path
    if form == "polars":
        source = pl.read_csv(path)
    if form == "pandas":
        source = pytest.importorskip("pandas").read_csv(path)
    if form == "long":
        long = pl.read_csv(path).unpivot(index=["who", "day", "kind"], variable_name="test", value_name="result")
        long.drop_nulls().write_csv(path)
        layout = TableFormat(id="who", time="day", channel="test", value="result")
    data = read_labelled_panel(source, layout, "kind")
    assert (data.panel.ids, data.panel.channels, data.classes) == (("x", "y", "z"), ("a", "b"), ("sick", "well"))
    np.testing.assert_array_equal(data.labels, [0, 1, 0])
    assert not data.tested.any()
    np.testing.assert_array_equal(data.panel.mask.sum((1, 2)), [3, 2, 3])


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (WIDE, "sort", r"no column 'sort' of labels; the columns are who, day, a, b, kind"),
        (WIDE, "day", r"the label 'day' is also asked for as a column"),
        (
            WIDE.replace("3,sick", "3,well"),
            "kind",
            r"series 'x' has the labels 'sick' and 'well'; give each series one",
        ),
        (WIDE.replace("well", "sick"), "kind", r"all series have the label 'sick'; a classifier needs two classes"),
        (WIDE.replace("1,1,well", "1,1,"), "kind", r"row 4, column 'kind' is empty"),
    ],
)
def test_bad_labels_are_refused_in_one_line(text, label, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(TableError, match=message) as caught:
        read_labelled_panel(tmp_path / "t.csv", TableFormat(id="who", time="day"), label)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_loads_in_its_shape(name):
    dataset = DATASETS[name]
    if name in ("basic_motions", "japanese_vowels", "pickup_gesture"):
        pytest.importorskip("aeon")
    if name == "digits":
        pytest.importorskip("sklearn")
    data = dataset.load(seed=1) if dataset.made else dataset.load()
    kinds = {"series": Panel, "labelled": LabelledPanel, "points": np.ndarray | nde.data.PointSet}
    assert isinstance(data, kinds[dataset.shape])
    if dataset.path is not None:
        assert dataset.path().is_file() and {"id", "time"} <= set(dataset.defaults)


def test_ornstein_uhlenbeck_paths_have_their_law():
    panel = DATASETS["ornstein_uhlenbeck"].load(seed=0, size=4000)
    x, gaps = panel.values[..., 0], np.diff(panel.times)
    assert (gaps >= 0).all() and panel.times.max() <= 10
    assert x[:, 0].var() == pytest.approx(1.01, rel=0.06) and x[:, -1].var() == pytest.approx(1.01, rel=0.06)
    # the noise of an observation has no part in the covariance of two
    covariance = (x[:, 1:] * x[:, :-1]).mean()
    assert covariance == pytest.approx(np.exp(-0.5 * gaps).mean(), rel=0.03)


def test_labelled_spirals_turn_as_their_labels_say_and_neither_coordinate_tells():
    data = make_labelled_spirals(series=400, noise=0.0, seed=3)
    panel = data.panel
    assert data.classes == ("anticlockwise", "clockwise") and not data.tested.any()
    np.testing.assert_array_equal(np.bincount(data.labels), [200, 200])
    assert (panel.lengths.min(), panel.lengths.max()) == (8, 20) and 5 < panel.times.max() < 6
    x, y = panel.values[..., 0], panel.values[..., 1]
    close = (np.diff(panel.times) < 0.6) & panel.mask[:, 1:, 0]
    turn = np.where(close, x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1], 0.0).sum(1)  # twice the area swept
    assert np.mean((turn < 0) == (data.labels == 1)) > 0.97
    # the law of each coordinate, and of two rows of it, is that of the other class
    swept = np.where(close, x[:, :-1] * x[:, 1:], 0.0).sum(1)
    means = [swept[data.labels == k].mean() for k in (0, 1)]
    assert abs(means[0] - means[1]) < 4 * swept.std() / 200**0.5
    again = make_labelled_spirals(series=400, noise=0.0, seed=3).panel
    np.testing.assert_array_equal(again.values, panel.values)
    with pytest.raises(ValueError, match="two series or more .* but series=1"):
        make_labelled_spirals(series=1)


def test_stochastic_lorenz_moves_by_its_drift_and_noise():
    """dx = 10 (y - x) dt + 0.15 x dW: over a short time from a normal start, a regression on x, y and a constant."""
    step = 1e-4
    values = make_stochastic_lorenz(series=4000, span=step, rows=2, noise=0.0).values
    first, moved = values[:, 0] - values[:, 0].mean(0), values[:, 1, 0] - values[:, 0, 0]
    design = np.column_stack([first[:, :2], np.ones(4000)])
    (own, *_), *_ = np.linalg.lstsq(design, moved)
    assert own / step == pytest.approx(-10, rel=0.1)
    assert np.sum((moved - design @ np.linalg.lstsq(design, moved)[0]) ** 2) / np.sum(first[:, 0] ** 2) / step == (
        pytest.approx(0.15**2, rel=0.08)
    )


def test_stochastic_lorenz_has_a_standard_scale_and_the_noise_that_is_asked_for():
    panel, clean = (make_stochastic_lorenz(series=50, noise=noise) for noise in (0.01, 0.0))
    np.testing.assert_allclose(clean.values.std((0, 1)), 1, rtol=1e-12)
    assert np.std(panel.values - clean.values) == pytest.approx(0.01, rel=0.05)
    longer = make_stochastic_lorenz(series=50, span=2.0, rows=81, noise=0.0)
    np.testing.assert_allclose(longer.values[:, :41], clean.values, rtol=1e-12)


def test_split_refuses_what_leaves_a_part_empty():
    data = made_up(each=1)
    with pytest.raises(ValueError, match="class 'rest' has 1 series outside of the test part"):
        split_labelled(data, validation=0.2)
    with pytest.raises(ValueError, match="4 series in 9 folds leave the test part empty"):
        split_labelled(unpublished(data), folds=9, fold=8)
    with pytest.raises(ValueError, match=r"fold must be in 0 … 4 for 5 folds, but is 5"):
        split_labelled(unpublished(data), fold=5)
    with pytest.raises(ValueError, match=r"\(0, 1\), but is 1"):
        split_labelled(data, validation=1.0)


@pytest.mark.parametrize("name", DENSITIES)
def test_points_are_seeded_and_of_the_size_of_the_plane_that_is_drawn(name):
    points = sample_density(name, 4000, seed=0)
    assert points.shape == (4000, 2)
    np.testing.assert_array_equal(points, sample_density(name, 4000, seed=0))
    assert (points != sample_density(name, 4000, seed=1)).any()
    assert np.abs(points).max() < 5
    assert np.abs(points.mean(0)).max() < 0.1
    assert 0.7 < points.std() < 2.4


@pytest.mark.parametrize("name", ["two_moons", "eight_gaussians", "checkerboard"])
def test_log_densities_integrate_to_one_and_are_those_of_the_points(name):
    axis = (np.arange(120) + 0.5) / 10 - 6
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    density = np.exp(DENSITIES[name].log_prob(grid))
    assert density.sum() / 10**2 == pytest.approx(1.0, abs=1e-6)
    # The mean of the density over points is the integral of its square, and that of the height likewise.
    points = sample_density(name, 5000, seed=5)
    assert np.exp(DENSITIES[name].log_prob(points)).mean() == pytest.approx((density**2).sum() / 10**2, rel=0.03)
    height = points[:, 1] ** 2
    assert height.mean() == pytest.approx((density * grid[:, 1] ** 2).sum() / 10**2, abs=4 * height.std() / 5000**0.5)


def test_densities_refuse_an_unknown_name_and_no_points():
    with pytest.raises(ValueError, match="two_moons, eight_gaussians, checkerboard, pinwheel, but the name is 'star'"):
        sample_density("star", 3, seed=0)
    with pytest.raises(ValueError, match="at least one, but is 0"):
        sample_density("pinwheel", 0, seed=0)


def test_spaces_about_a_label_make_no_other_class(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,t,x,c\na,0,1,rest\na,1,1,rest \nb,0,2, walk\n")
    assert read_labelled_panel(path, TableFormat("id", "t"), "c").classes == ("rest", "walk")
