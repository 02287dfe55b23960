"""Equations and populations as one file that predicts without their run: equal predictions, and what is refused."""

import json
import zipfile
from dataclasses import replace

import jax
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import nde
from nde.tasks import Prediction, RunError
from nde.tasks.dynamics import asking_from_plain
from nde.tasks.population.training import individuals
from nde.train import FailedExamples

DRUG = """STATES = ("gut", "blood")
PARAMETERS = {"k": 0.3}


def field(t, y, p):
    flow = p.k * p.fast * y[0]
    return [-flow, flow - 0.1 * p.warm * y[1]]


def observe(t, y, p):
    return {"seen": y[1] + 0.0 * p.warm}
"""

DOSES = {
    "task": "dynamics",
    "data": {
        "id": "id",
        "time": "hour",
        "time_scale": 2.0,
        "constants": ["fast"],
        "covariates": {"warm": "held"},
        "doses": {"amount": "amt", "state": "into", "duration": "over", "additional": "more", "interval": "every"},
    },
    "solver": {"rtol": 1e-6, "atol": 1e-6, "max_steps": 300},
    "train": {"steps": 2, "validate_every": 2},
}


def given(series, rows=4, generator=None):
    """A table of doses, one an infusion that is repeated, a constant and a covariate."""
    generator, found = np.random.default_rng(0), []
    for i, name in enumerate(series):
        for row in range(rows):
            dose = (20.0, "gut", 0.0, 0, 0.0) if row == 0 else (6.0, "blood", 1.0, 1, 0.7) if row == 2 else (None,) * 5
            value = None if row == 0 else 3 + generator.random()
            found.append((name, row + 0.25 * (i % 2), *dose, value, 1 + 0.1 * (i % 7), 1.0 + 0.2 * (row % 2)))
    columns = ["id", "hour", "amt", "into", "over", "more", "every", "seen", "fast", "warm"]
    return pl.DataFrame(found, schema=columns, orient="row")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def dosed(folder):
    """A run of an equation in a file, exported, and the file taken away; the run keeps a copy of it."""
    (folder / "drug.py").write_text(DRUG)
    known = {"name": "hybrid", "known": f"{folder / 'drug.py'}:field", "width": 2, "residual_states": ["blood"]}
    observe = {
        "observed": f"{folder / 'drug.py'}:observe",
        "start": "known",
        "known_start": {"gut": 0.0, "blood": 0.0},
        "noise": "combined",
        "below": {"seen": 0.5},
    }
    run = nde.fit(
        {**DOSES, "model": [known], "observe": observe}, data=given("abcdefgh"), out=folder / "dosed", progress=False
    )
    nde.export_run(run, folder / "dosed.nde", until=20.0)
    (folder / "drug.py").unlink()
    return run, nde.load_exported(folder / "dosed.nde")


def close(one, other):
    assert_frame_equal(one, other, rel_tol=1e-6, abs_tol=1e-8)


def blank(table):
    """The table without values and doses."""
    return table.with_columns(seen=pl.lit(None, pl.Float64), amt=0.0)


def test_a_file_predicts_what_its_run_does_from_doses_a_covariate_and_an_equation_that_is_gone(dosed):
    run, exported = dosed
    asked = {"ahead": [1.0, 2.5], "samples": 25, "keep_samples": True}
    names = [f"s{i}" for i in range(40)]  # two blocks of series
    table = pl.concat([given(names[:30]), blank(given(names[30:]))])
    close(exported.predict(table, **asked), run.predict(table, **asked))
    content = exported.path.read_bytes()
    assert b"drug.py:field" in content and str(run.folder.parent).encode() not in content


def test_a_table_without_any_dose_is_predicted_as_its_series_among_others_are(dosed):
    alone = dosed[1].predict(blank(given("xy")), samples=30)
    among = dosed[1].predict(pl.concat([blank(given("xy")), given("z")]), samples=30)
    close(alone, among.filter(pl.col("id") != "z"))
    assert set(alone["q50"]) == {0.5}  # the limit of quantification


@pytest.mark.parametrize(
    ("table", "ahead", "said"),
    [
        (
            lambda: given("x", rows=20),
            [],
            "a series has 19 rows, those to be forecast included, .* --rows 19",
        ),
        (
            lambda: given("x").with_columns(more=pl.col("more") * 20, into=pl.lit("gut")),
            [],
            "a series has 22 doses, with their repeats, and it was exported for at most 16; .* --rows 22",
        ),
        (lambda: given("x"), [30.0], "up to 20 after a series' first row or dose, but 33 is asked for; .* --until 33"),
        (lambda: given("x").drop("fast"), [], "no column 'fast'"),
    ],
)
def test_tables_that_an_exported_equation_can_not_serve_are_refused(dosed, table, ahead, said):
    with pytest.raises(ValueError, match=said):
        dosed[1].predict(table(), ahead=ahead)


@pytest.mark.parametrize("code", ["code.py:observe", "python:observe"])
def test_code_that_a_file_names_is_not_even_looked_for(dosed, code):
    _, exported = dosed
    facts = {**exported.ported.facts, "observe": {**exported.ported.facts["observe"], "observed": code}}
    changed = replace(exported, ported=replace(exported.ported, facts=facts))
    with pytest.raises(RunError, match="dosed.nde: names code in 'observed', which `nde export` leaves out"):
        changed.predict(given("x"))


def test_a_series_that_can_not_be_solved_is_named(dosed):
    table = given(["good", "bad"]).with_columns(fast=pl.when(pl.col("id") == "bad").then(1e9).otherwise(1.0))
    with pytest.raises(FailedExamples, match="^bad: a check of the exported model failed"):
        dosed[1].predict(table)


@pytest.mark.parametrize(
    ("given", "missing"), [({"until": 20.0}, "--rows, how many"), ({"rows": 9}, "--until, how far")]
)
def test_an_export_without_the_table_of_its_run_says_what_to_give(dosed, folder, given, missing):
    kept = (dosed[0].folder / "data.parquet").rename(folder / "elsewhere.parquet")
    try:
        with pytest.raises(RunError, match=f"no such file.*; without the run's table give {missing}"):
            nde.export_run(nde.open_run(dosed[0].folder), folder / "none.nde", **given)
    finally:
        kept.rename(dosed[0].folder / "data.parquet")


def test_the_card_of_an_equation_says_what_a_table_holds(dosed):
    card = dosed[1].card
    said = (
        "doses: amount `amt`, state `into`", "constants of each series: fast", "covariates over time: warm (held)",
        "a series starts at gut = 0, blood = 0", "noise: seen combined", "on which values beyond count: seen 0.5",
        "doses of a series, with their repeats and those before a steady",
        'known = "drug.py:field"', "times up to 20 after a series' first row or dose",
    )  # fmt: skip
    assert [text for text in said if text not in card] == []


LEARNED = {
    "task": "dynamics",
    "data": {"id": "who", "time": "day", "test_after": 3.0},
    "model": [{"name": "known", "known": "lotka_volterra"}],
    "observe": {"start": "learned", "positive": True, "noise": "log_normal"},
    "solver": {"dt0": 0.5},
    "train": {"steps": 2, "validate_every": 2},
}


def test_series_whose_starts_were_learned_are_those_of_the_run_and_others_are_refused(folder):
    days = pl.datetime_range(pl.datetime(2020, 1, 1), pl.datetime(2020, 1, 6), eager=True).dt.date()
    counts = np.exp(np.random.default_rng(1).standard_normal((18, 2)))
    table = pl.DataFrame(
        {"who": np.repeat(["a", "b", "c"], 6), "day": [*days] * 3, "prey": counts[:, 0], "predator": counts[:, 1]}
    )
    run = nde.fit(LEARNED, data=table, out=folder / "learned", progress=False)
    nde.export_run(run, folder / "learned.nde")
    exported = nde.load_exported(folder / "learned.nde")
    some = table.filter(pl.col("who") != "b").reverse()
    asked = {"ahead": [1.0], "samples": 30, "keep_samples": True}
    close(exported.predict(some, **asked), run.predict(some, **asked))
    first = table.filter(pl.col("day") == days[0])  # a row a series: nothing to solve
    close(exported.predict(first, samples=30), run.predict(first, samples=30))
    late = table.filter(pl.col("day") > days[0])
    with pytest.raises(
        RunError, match="series a begins at 2020-01-02, but the run learned where it starts at 2020-01-01"
    ):
        exported.predict(late)
    with pytest.raises(RunError, match="the start of series d was not learned; those of the run are a, b, c"):
        exported.predict(table.with_columns(who=pl.lit("d")).unique("day"))


POPULATION = {
    "task": "population",
    "data": {"id": "id", "time": "t", "doses": {"amount": "amt", "state": "size"}},
    "observe": {"start": "known", "known_start": {"size": 0.0}, "noise_scale": 0.3},
    "solver": {"name": "midpoint", "steps_per_row": 2},
    "objective": {"curvature": "expected"},
    "train": {"steps": 2, "validate_every": 2, "members": 2},
}


@pytest.fixture(scope="module")
def population(folder):
    (folder / "line.py").write_text(
        'STATES = ("size",)\n\n\ndef field(t, y, p):\n    return [p.rate - p.loss * y[0]]\n'
    )
    generator, rows = np.random.default_rng(0), []
    for i in range(10):
        for t in range(4):
            dose = 2.0 if t == 1 else None
            rows.append((f"i{i}", float(t), dose, None if t == 1 else t * (1.3 + 0.4 * generator.standard_normal())))
    table = pl.DataFrame(rows, schema=["id", "t", "amt", "size"], orient="row")
    parameters = {"rate": {"start": 1.3, "random": 0.5}, "loss": {"start": 0.1, "random": 0.3, "log": True}}
    model = {"name": "mixed", "label": "line", "known": f"{folder / 'line.py'}:field", "parameters": parameters}
    run = nde.fit({**POPULATION, "model": [model]}, data=table, out=folder / "population", progress=False)
    nde.export_run(run, folder / "population.nde")
    (folder / "line.py").unlink()
    return run, nde.load_exported(folder / "population.nde"), table


def test_a_file_predicts_individuals_of_few_values_or_none_as_its_run_does(population):
    run, exported, table = population
    few = pl.concat(
        [
            table.with_columns(size=pl.when(pl.col("t") == last).then("size")).with_columns(
                id=pl.col("id") + f"-{last}"
            )
            for last in (0.0, 2.0, 3.0, 9.0)
        ]
    )
    assert few["id"].n_unique() == 40  # two blocks, the last ten without any value
    asked = {"ahead": [1.0], "samples": 110, "keep_samples": True}  # 55 draws a member are two blocks of them
    close(exported.predict(few, **asked), run.predict(few, **asked))
    with zipfile.ZipFile(exported.path) as archive:
        functions = json.loads(archive.read("manifest.json"))["functions"]
    assert [(each["label"], each["model"]) for each in functions] == [
        ("line: search for effects", "line"),
        ("line: solutions", "line"),
    ]


def test_an_individual_of_whom_no_draw_can_be_solved_is_named(population):
    table = population[2].with_columns(amt=pl.when(pl.col("id") == "i3").then(1e308).otherwise("amt"))
    with pytest.raises(FailedExamples, match="^i3: every solve of an individual failed"):
        population[1].predict(table, samples=20)


def test_a_value_beyond_single_precision_is_infinite_without_a_warning(population):
    table = population[2].with_columns(size=pl.when(pl.col("id") == "i3").then(1e300).otherwise("size"))
    asking = asking_from_plain("file", population[1].ported.facts)
    problem = asking.read(Prediction(table))
    with jax.enable_x64(False):
        values = individuals(asking, problem, problem.panel.mask)[1]
    assert [name for name, x in zip(problem.panel.ids, values, strict=True) if np.isinf(x).any()] == ["i3"]
