"""Doses, constants and covariates from a table to their arrays: repeats, clocks, ways to read, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from nde.data import DoseFormat, InputsFormat, load_theophylline, read_panel_with_inputs, TableError, TableFormat

LAYOUT = TableFormat("id", "time")
STATES = ("gut", "central")


def table(**columns):
    rows = {
        "id": ["a", "a", "a", "b", "b"],
        "time": [1.0, 2.0, 4.0, 0.0, 1.0],
        "conc": [None, 3.0, 4.0, 1.0, 2.0],
        "amt": [100.0, None, 0.0, 50.0, None],
    }
    return pl.DataFrame({**rows, **columns}, strict=False)


def read(frame, doses=None, constants=(), covariates=None, *, layout=LAYOUT, **more):
    inputs = InputsFormat(doses, constants, covariates or {})
    return read_panel_with_inputs(frame, layout, inputs, STATES, **more)


def test_a_row_that_is_a_dose_alone_observes_nothing_and_starts_the_clock():
    panel, inputs = read(table(), DoseFormat("amt", "gut"))
    assert panel.channels == ("conc",)
    np.testing.assert_array_equal(panel.times, [[1.0, 3.0], [0.0, 1.0]])  # since the dose of a, at 1
    np.testing.assert_array_equal(panel.origin, [1.0, 0.0])
    np.testing.assert_array_equal(panel.table_times(), [[2.0, 4.0], [0.0, 1.0]])
    np.testing.assert_array_equal(inputs.times, [[0.0], [0.0]])
    np.testing.assert_array_equal(inputs.amounts, [[100.0], [50.0]])
    assert panel.mask.all()


def test_doses_of_a_table_of_their_own_are_those_of_the_rows():
    observed = table().drop("amt").filter(pl.col("conc").is_not_null())
    doses = pl.DataFrame({"who": ["b", "a"], "at": [0.0, 1.0], "amt": [50.0, 100.0], "into": ["1", "gut"]})
    fmt = DoseFormat("amt", "into", path=doses, id="who", time="at")
    (panel, inputs), (other, same) = read(observed, fmt), read(table(), DoseFormat("amt", "gut"))
    for name in ("times", "amounts", "durations", "given"):
        np.testing.assert_array_equal(getattr(inputs, name), getattr(same, name))
    np.testing.assert_array_equal(panel.times, other.times)


def test_repeats_are_written_out_and_padded_by_infinite_times():
    more = {"addl": [2, None, None, None, None], "ii": [0.5, None, None, None, None], "dur": [0.25, 0, 0, 0, 0]}
    _, inputs = read(table(**more), DoseFormat("amt", "gut", additional="addl", interval="ii", duration="dur"))
    np.testing.assert_array_equal(inputs.times, [[0.0, 0.5, 1.0], [0.0, np.inf, np.inf]])
    np.testing.assert_array_equal(inputs.durations, [[0.25] * 3, [0.0] * 3])
    doses = inputs.batched(scale=np.array([10.0, 1.0])).doses
    assert doses is not None
    np.testing.assert_allclose(doses.amounts[:, :, 0], [[10.0, 10.0, 10.0], [5.0, 0.0, 0.0]])


def test_a_rate_is_a_duration_and_times_are_in_the_unit_of_the_panel():
    layout = TableFormat("id", "time", time_scale=2.0)
    panel, inputs = read(table(rate=[50.0, 0, 0, 0, 0]), DoseFormat("amt", "gut", rate="rate"), layout=layout)
    np.testing.assert_array_equal(inputs.durations, [[1.0], [0.0]])  # two units of the table
    np.testing.assert_array_equal(panel.times, [[0.5, 1.5], [0.0, 0.5]])
    np.testing.assert_array_equal(panel.origin, [1.0, 0.0])


def test_a_steady_state_is_doses_before_the_first_that_have_converged():
    more = {"ss": [1, 0, 0, 0, 0], "ii": [2.0, 0, 0, 0, 0]}
    panel, inputs = read(table(**more), DoseFormat("amt", "gut", steady="ss", interval="ii"))
    np.testing.assert_array_equal(inputs.times[0], 2.0 * np.arange(21))
    assert panel.times[0, 0] == 41.0 and panel.origin[0] == -39.0
    rate = np.log(2) / 4.0  # a half-life of two intervals
    left = 100.0 * np.exp(-rate * (40.0 - inputs.times[0])).sum()
    np.testing.assert_allclose(left, 100.0 / (1 - np.exp(-2 * rate)), rtol=1e-3)


def test_a_reset_sets_the_state_and_dates_and_constants_are_read():
    days = ["2020-01-02", "2020-01-03", "2020-01-05", "2020-01-01", "2020-01-02"]
    frame = table(time=days, empty=[0, 1, 0, 0, 0], weight=[None, 70, None, 60, 60], amt=[5.0, None, None, 6.0, None])
    panel, inputs = read(frame, DoseFormat("amt", "gut", reset="empty"), ("weight",))
    np.testing.assert_array_equal(inputs.times, [[0.0, 1.0], [0.0, np.inf]])
    np.testing.assert_array_equal(inputs.resets, [[False, True], [False, False]])
    np.testing.assert_array_equal(inputs.constants["weight"], [70.0, 60.0])
    assert inputs.units([0]) == {"weight": (70.0, 1.0)}
    doses = inputs.batched(np.array([2.0, 0.0]), np.array([4.0, 1.0])).doses
    np.testing.assert_allclose(doses.amounts[0], [[1.25, 0.0], [-0.5, 0.0]])  # set to zero, in standard units
    assert panel.time_unit == "days" and len(inputs[[1]]) == 1


def test_covariates_are_read_over_time_from_all_rows_each_by_its_way():
    frame = table(held=[1, 2, 3, 4, 5], wt=[10.0, None, 40.0, 1, 1], other=[1, 2, 3, 4, 5])
    _, inputs = read(frame, DoseFormat("amt", "gut"), covariates={"held": "held", "wt": "linear", "other": "next"})
    one = inputs.batched()
    first = type(one)(covariates={k: _first(v) for k, v in one.covariates.items()}).at(jnp.asarray(0.5))
    assert {name: float(x) for name, x in first.items()} == {"held": 1.0, "wt": 15.0, "other": 2.0}


def _first(path):
    return jax.tree.map(lambda x: x[0], path)


def test_shipped_theophylline_has_a_dose_and_a_weight_for_each_subject():
    panel, inputs = load_theophylline()
    assert len(panel) == 12 and panel.mask.sum() == 132
    assert (inputs.times == 0).all() and inputs.given.max() == 0
    np.testing.assert_allclose(inputs.amounts[0, 0] / inputs.constants["weight_kg"][0], 4.02, rtol=1e-4)


DOSE = DoseFormat("amt", "gut")
REFUSED = {
    "unknown state": (
        {},
        DoseFormat("amt", "liver"),
        "doses.state = 'liver' is neither a state (gut, central) nor a column",
    ),
    "unknown state of a row": (
        {"cmt": ["gut", "x", "x", "3", "x"]},
        DoseFormat("amt", "cmt"),
        "row 4, the dose of series b at time 0: it is given into '3', but the states are gut, central.",
    ),
    "negative": ({"amt": [100, None, 0, -50, 0]}, DOSE, "the dose of series b at time 0: its amount is -50; where"),
    "negative duration": (
        {"dur": [-1.0, 0, 0, 0, 0]},
        DoseFormat("amt", "gut", duration="dur"),
        "the dose of series a at time 1: its duration in 'dur' is -1, but must not be negative.",
    ),
    "missing amount": (
        {"dur": [1.0, 1.0, 0, 0, 0]},
        DoseFormat("amt", "gut", duration="dur"),
        "the dose of series a at time 2: its amount in 'amt' is missing; give it a number.",
    ),
    "no interval": (
        {"addl": [3, 0, 0, 0, 0], "ii": [0, 0, 0, 0, 0]},
        DoseFormat("amt", "gut", additional="addl", interval="ii"),
        "the dose of series a at time 1: it is repeated, but has no interval in 'ii'.",
    ),
    "half a dose": (
        {"addl": [0.5, 0, 0, 0, 0], "ii": [1, 0, 0, 0, 0]},
        DoseFormat("amt", "gut", additional="addl", interval="ii"),
        "series a at time 1: it has 0.5 additional doses; give a whole number.",
    ),
    "steady later": (
        {"amt": [100, None, 100, 50, None], "ss": [0, 0, 1, 0, 0], "ii": [1] * 5},
        DoseFormat("amt", "gut", steady="ss", interval="ii"),
        "the dose of series a at time 4: it is steady, which stands for doses before it, but is not the first",
    ),
    "steady of another kind": (
        {"ss": [2, 0, 0, 0, 0], "ii": [1] * 5},
        DoseFormat("amt", "gut", steady="ss", interval="ii"),
        "series a at time 1: 'ss' is 2, but must be 0 or 1.",
    ),
    "unknown column": ({}, DoseFormat("amount", "gut"), "no column 'amount'; the columns are id, time, conc, amt."),
    "infinite": ({"amt": ["inf", None, None, None, None]}, DOSE, "row 1, column 'amt': 'inf' is no finite number"),
    "times outside": (
        {"time": [9.0, 2.0, 4.0, 7.0, 1.0], "conc": [None, 3.0, 4.0, None, 2.0]},
        DOSE,
        "the dose of series a at time 9: it lies after the last row, at 4, and so do all others; give doses in",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_given_is_refused_in_a_line_with_series_and_time(case):
    columns, doses, said = REFUSED[case]
    with pytest.raises(TableError) as caught:
        read(table(**columns), doses)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "inputs", "said"),
    [
        ({"w": [1, 1, 2, 3, 3]}, {"constants": ("w",)}, "series a has 2 at time 4, and 1 before; a constant has one"),
        ({"w": [1, 1, 1, None, None]}, {"constants": ("w",)}, "series b has no value in 'w'; a constant needs one for"),
        ({"w": [1, 1, 1, None, None]}, {"covariates": {"w": "held"}}, "series b has no value in 'w'; a covariate"),
        (
            {"w": [1, 2, 1, 1, 1], "time": [2.0, 2.0, 4.0, 0.0, 1.0]},
            {"covariates": {"w": "held"}},
            "series a has 2 and 1 at time 2; keep one.",
        ),
        ({}, {"constants": ("age",)}, "no column 'age'"),
    ],
)
def test_constants_that_change_and_inputs_without_values_are_refused(columns, inputs, said):
    with pytest.raises(TableError) as caught:
        read(table(**columns), **inputs, layout=TableFormat("id", "time", channels=("conc",)))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: InputsFormat(covariates={"w": "cubic"}),
            "'w' is read as 'cubic', but the ways are held, next, linear",
        ),
        (lambda: InputsFormat(constants=("a b",)), "an input is read as p.name, so 'a b' cannot be one"),
        (lambda: InputsFormat(constants=("a", "a")), "'a' is asked for twice"),
        (lambda: DoseFormat("a", "b", duration="d", rate="r"), "either a `duration` or a `rate`"),
        (lambda: DoseFormat("a", "b", steady="s"), "need the column of their `interval`"),
        (lambda: DoseFormat("a", "b", steady_doses=0), "steady_doses must be positive"),
        (lambda: DoseFormat("a", "b", id="x"), "those of a table of their own, with a `path`"),
    ],
)
def test_formats_that_contradict_themselves_are_refused(make, said):
    with pytest.raises(ValueError, match=r".*") as caught:
        make()
    assert said in str(caught.value)


def test_doses_of_their_own_table_without_amounts_or_for_nobody_are_refused():
    observed = table().drop("amt")
    doses = pl.DataFrame({"id": ["a"], "time": [1.5], "amt": [None]}, schema_overrides={"amt": pl.Float64})
    with pytest.raises(TableError, match=r"row 1, the dose of series a at time 1.5: its amount in 'amt' is missing"):
        read(observed, DoseFormat("amt", "gut", path=doses))
    nobody = doses.with_columns(id=pl.lit("z"), amt=pl.lit(1.0))
    with pytest.raises(TableError, match=r"no series of the observations has a dose; they are a, b"):
        read(observed, DoseFormat("amt", "gut", path=nobody))
    with pytest.raises(TableError, match=r"no column 'time'"):
        read(observed, DoseFormat("amt", "gut", path=nobody.drop("time")))
    dated = nobody.with_columns(id=pl.lit("a"), time=pl.lit("2020-01-01"))
    with pytest.raises(TableError, match=r"the times of doses are dates, but those of the observations are numbers"):
        read(observed, DoseFormat("amt", "gut", path=dated))
