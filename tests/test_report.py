"""Scores, tasks, tables, figures and forecasts by samples; the baselines have a file of their own."""

import csv
from dataclasses import replace
from io import BytesIO, StringIO

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from matplotlib.colors import to_hex
from rich.console import Console
from scipy import integrate, stats

from nde.objectives import AbstractLikelihood, GaussianLikelihood, StudentTLikelihood
from nde.report import (
    compare,
    counted,
    coverage,
    fitted_table,
    forecast_marks,
    Landmark,
    NormalForecast,
    paired_difference,
    plot_calibration,
    plot_forecasts,
    plot_training,
    render,
    Row,
    sample_forecast,
    SampleForecast,
    score,
    Scores,
    SecondHalf,
    Story,
    verdict,
    warning_of,
    write_table,
)
from nde.report.figures import BLUE, FAN_LEVELS, GREY, ORANGE
from nde.report.forecast import PATHS, SERIES
from nde.report.samples import crps_of_samples, mixture_log_density, quantiles_of_samples

# --- scores: one value ---


@pytest.fixture
def laws():
    """Normal laws of a small panel, with its values from the centre to the far tails."""
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(3, 4, 2)), rng.uniform(0.2, 3.0, (3, 4, 2))
    return NormalForecast(mean, std), mean + std * np.linspace(-6.0, 6.0, 24).reshape(3, 4, 2)


def crps_by_integration(x: float, cdf) -> float:
    """The integral of (F(y) - 1{y >= x})^2, which is the score's definition."""
    below, _ = integrate.quad(lambda y: cdf(y) ** 2, -np.inf, x, epsabs=1e-11)
    above, _ = integrate.quad(lambda y: (1.0 - cdf(y)) ** 2, x, np.inf, epsabs=1e-11)
    return below + above


def test_normal_crps_is_the_integral_of_its_definition(laws):
    law, values = laws
    rows = zip(values.flat, law.mean.flat, law.std.flat, strict=True)
    expected = [crps_by_integration(x, stats.norm(mean, std).cdf) for x, mean, std in rows]
    np.testing.assert_allclose(law.crps(values).ravel(), expected, rtol=1e-7)


def test_normal_log_density_is_the_formula(laws):
    law, values = laws
    expected = -0.5 * ((values - law.mean) / law.std) ** 2 - np.log(law.std) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(law.log_density(values), expected, rtol=1e-13)


def test_normal_quantiles_have_their_levels_below_them(laws):
    law, _ = laws
    levels = [0.05, 0.5, 0.9]
    quantiles = law.quantiles(levels)
    assert quantiles.shape == (3, 3, 4, 2)
    for level, quantile in zip(levels, quantiles, strict=True):
        np.testing.assert_allclose(stats.norm.cdf(quantile, law.mean, law.std), level, rtol=1e-12)


def test_sample_crps_is_the_double_sum():
    rng = np.random.default_rng(1)
    draws, values = rng.normal(size=(7, 3, 2)), rng.normal(size=(3, 2))
    draws[3] = draws[5]  # ties
    first = np.abs(draws - values).mean(0)
    second = np.abs(draws[:, None] - draws).sum((0, 1)) / (2 * 7 * 6)
    np.testing.assert_allclose(crps_of_samples(draws, values), first - second, rtol=1e-13)


def test_sample_crps_converges_to_the_closed_form():
    # Standard error at most 0.01 for these values: that of the mean of |x_s - x|.
    values = np.array([-2.0, 0.4, 1.0, 5.0])
    draws = np.random.default_rng(2).normal(0.5, 1.3, (20_000, 4))
    exact = NormalForecast(np.full(4, 0.5), np.full(4, 1.3)).crps(values)
    np.testing.assert_allclose(crps_of_samples(draws, values), exact, atol=0.03)


def test_sample_crps_is_without_bias_at_two_samples():
    # Dividing by the square of the number of samples would add 0.28; the standard error is 0.003.
    draws = np.random.default_rng(3).normal(size=(2, 40_000))
    exact = NormalForecast(np.zeros(1), np.ones(1)).crps(np.array([0.3]))
    np.testing.assert_allclose(crps_of_samples(draws, np.full(40_000, 0.3)).mean(), exact, atol=0.012)


def test_sample_crps_is_in_double_precision():
    draws = np.random.default_rng(4).normal(size=(500, 3)).astype(np.float32)
    values = np.array([-1.0, 0.5, 8.0], np.float32)
    exact = crps_of_samples(draws.astype(np.float64), values.astype(np.float64))
    found = crps_of_samples(draws, values)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=1e-7)


def test_samples_are_scored_in_blocks_as_in_one(monkeypatch):
    rng = np.random.default_rng(7)
    draws, values = rng.normal(size=(6, 7, 3, 2)), rng.normal(size=(7, 3, 2))
    levels, law = [0.0, 0.3, 0.5, 1.0], GaussianLikelihood(2, scale=0.7)
    odd = draws.copy()
    odd[2, 1, 1], odd[4, 2, 0], odd[:5, 3, 1] = np.nan, np.inf, -np.inf

    def all_of_them():
        scores = crps_of_samples(draws, values), mixture_log_density(law, draws, values)
        return *scores, quantiles_of_samples(odd, levels)

    whole = all_of_them()
    monkeypatch.setattr("nde.report.samples.NUMBERS", 2 * 36)  # blocks of 2 series, the last by overlap; of 12 values
    for one, other in zip(whole, all_of_them(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    quantiles, finite = whole[2], np.isfinite(odd).all(0)
    np.testing.assert_allclose(quantiles[:, finite], np.quantile(draws, levels, axis=0)[:, finite], rtol=1e-12)
    assert np.isnan(quantiles[:, 1, 1]).all()
    np.testing.assert_array_equal(quantiles[3, 2, 0], np.inf)
    np.testing.assert_array_equal(quantiles[:3, 3, 1], -np.inf)


@pytest.mark.parametrize("levels, samples", [([0.5, 1.2], 3), ([-0.1], 3), ([np.nan], 3), ([0.5], 0)])
def test_quantiles_need_levels_from_zero_to_one_and_a_sample(levels, samples):
    with pytest.raises(ValueError, match=f"levels from 0 to 1 and a sample, but got .* and {samples} samples"):
        quantiles_of_samples(np.zeros((samples, 2)), levels)


def test_sample_crps_needs_two_samples():
    with pytest.raises(ValueError, match="needs at least two samples, but got 1"):
        crps_of_samples(np.zeros((1, 3)), np.zeros(3))


def with_scale(likelihood: AbstractLikelihood, raw_scale: list[float]) -> AbstractLikelihood:
    return eqx.tree_at(lambda one: one.raw_scale, likelihood, jnp.asarray(raw_scale))


@pytest.fixture
def mixture():
    """Three samples of a Gaussian model and two of a Student's t model, for a panel of shape (2, 4, 2)."""
    rng = np.random.default_rng(5)
    gaussian = with_scale(GaussianLikelihood(2), [-1.0, 0.5])
    student = with_scale(StudentTLikelihood(2, degrees=3.5), [0.2, -0.4])
    locations = rng.normal(size=(3, 2, 4, 2)), 1.0 + rng.normal(size=(2, 2, 4, 2))
    members = tuple(zip((gaussian, student), locations, strict=True))
    return SampleForecast(members, rng.normal(size=(5, 2, 4, 2))), rng.normal(size=(2, 4, 2))


def test_mixture_density_is_the_mean_of_its_samples(mixture):
    law, values = mixture
    (gaussian, centres), (student, others) = law.members
    densities = [stats.norm.pdf(values, loc, np.asarray(gaussian.scale)) for loc in centres]
    densities += [stats.t.pdf(values, np.asarray(student.degrees), loc, np.asarray(student.scale)) for loc in others]
    np.testing.assert_allclose(law.log_density(values), np.log(np.mean(densities, axis=0)), rtol=1e-11)


def test_mixture_density_is_finite_far_away(mixture):
    # Every density underflows there; the nearest sample's is all that counts.
    law, _ = mixture
    gaussian, locations = law.members[0]
    values = np.full((2, 4, 2), 1e3)
    assert stats.norm.pdf(values, locations, np.asarray(gaussian.scale)).max() == 0.0
    nearest = stats.norm.logpdf(values, locations, np.asarray(gaussian.scale)).max(0)
    only = replace(law, members=law.members[:1])
    np.testing.assert_allclose(only.log_density(values), nearest - np.log(3), rtol=1e-12)


def test_sample_forecast_scores_its_draws(mixture):
    law, values = mixture
    np.testing.assert_array_equal(law.crps(values), crps_of_samples(law.draws, values))


def test_sample_quantiles_are_those_of_the_draws():
    ordered = np.broadcast_to(np.arange(5.0)[:, None, None, None], (5, 2, 3, 1))
    draws = np.random.default_rng(6).permuted(ordered, axis=0)
    quantiles = SampleForecast((), draws + 10.0 * np.arange(3)[:, None]).quantiles([0.0, 0.25, 0.6, 1.0])
    expected = np.array([0.0, 1.0, 2.4, 4.0])[:, None, None, None] + 10.0 * np.arange(3)[:, None]
    np.testing.assert_allclose(quantiles, np.broadcast_to(expected, (4, 2, 3, 1)), rtol=1e-14)


def test_redrawn_forecast_has_more_draws_around_the_same_samples(mixture):
    law, _ = mixture
    redrawn = law.redrawn(400, series=["a", "b"], key=jax.random.key(3))
    assert redrawn.draws.shape == (400 * 5, 2, 4, 2)
    assert np.unique(redrawn.draws).size == redrawn.draws.size
    assert redrawn.members == law.members
    # Against the mixture's own distribution function; standard error of a channel's mean at most 0.004.
    (gaussian, centres), (student, others) = law.members
    for level, quantile in zip((0.1, 0.6), redrawn.quantiles((0.1, 0.6)), strict=True):
        below = [stats.norm.cdf(quantile, loc, np.asarray(gaussian.scale)) for loc in centres]
        below += [stats.t.cdf(quantile, np.asarray(student.degrees), loc, np.asarray(student.scale)) for loc in others]
        np.testing.assert_allclose(np.mean(below, axis=(0, 1, 2)), level, atol=0.016)


# --- scores: a panel ---


def test_score_sums_over_the_targets_of_each_series(laws):
    law, values = laws
    targets = np.zeros(values.shape, bool)
    targets[0, 1, 0] = targets[0, 3, 1] = targets[2, 2, 1] = True
    hidden = np.where(targets, values, np.nan)
    scores = score(law, hidden, targets)
    nll, crps = -law.log_density(values), law.crps(values)
    np.testing.assert_allclose(scores.nll, [nll[0, 1, 0] + nll[0, 3, 1], 0.0, nll[2, 2, 1]], rtol=1e-14)
    np.testing.assert_allclose(scores.crps, [crps[0, 1, 0] + crps[0, 3, 1], 0.0, crps[2, 2, 1]], rtol=1e-14)
    np.testing.assert_array_equal(scores.count, [2.0, 0.0, 1.0])
    np.testing.assert_allclose(scores.mean("nll"), (nll[0, 1, 0] + nll[0, 3, 1] + nll[2, 2, 1]) / 3, rtol=1e-14)


def test_score_of_samples_ignores_what_is_no_target(mixture):
    law, values = mixture
    targets = np.arange(16).reshape(2, 4, 2) % 3 == 0
    whole, hidden = score(law, values, targets), score(law, np.where(targets, values, np.nan), targets)
    for name in ("nll", "crps", "count"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(hidden, name))


def test_score_without_targets_is_refused(laws):
    law, values = laws
    with pytest.raises(ValueError, match="no value to score: no series has an observation after its cut-off"):
        score(law, values, np.zeros(values.shape, bool))


def test_folds_pool_to_the_mean_over_values():
    one = Scores(np.array([2.0, 4.0]), np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    other = Scores(np.array([10.0]), np.array([3.0]), np.array([5.0]))
    pooled = Scores.concatenate([one, other])
    np.testing.assert_array_equal(pooled.nll, [2.0, 4.0, 10.0])
    np.testing.assert_array_equal(pooled.crps, [1.0, 1.0, 3.0])
    np.testing.assert_array_equal(pooled.count, [1.0, 2.0, 5.0])
    assert pooled.mean("nll") == 2.0
    assert pooled.mean("crps") == 5.0 / 8.0


def test_paired_difference_of_a_small_case():
    # d = (3, 1) over n = (2, 1) values: D = 4/3, residuals (1/3, -1/3), error sqrt(2 * 2/9) / 3 = 2/9.
    one = Scores(np.array([5.0, 9.0, 3.0]), np.array([0.0, 0.0, 1.0]), np.array([2.0, 0.0, 1.0]))
    other = Scores(np.array([2.0, 7.0, 2.0]), np.array([0.0, 0.0, 4.0]), np.array([2.0, 0.0, 1.0]))
    np.testing.assert_allclose(paired_difference(one, other, "nll"), (4 / 3, 2 / 9), rtol=1e-14)
    np.testing.assert_allclose(paired_difference(other, one, "nll"), (-4 / 3, 2 / 9), rtol=1e-14)
    assert paired_difference(one, other, "crps")[0] == -1.0
    assert paired_difference(one, one, "nll") == (0.0, 0.0)


def test_paired_error_is_the_spread_over_samples_of_series():
    """Values of a series share an effect and their number varies: an error over values would be a third of this."""
    rng, repeats, series = np.random.default_rng(7), 2000, 60
    counts = rng.integers(1, 12, (repeats, series)).astype(float)
    effect = 0.3 + rng.normal(size=counts.shape) + 0.2 * (counts - 6)
    differences = counts * effect + np.sqrt(counts) * 0.5 * rng.normal(size=counts.shape)
    common = rng.normal(0.0, 50.0, counts.shape)  # what both methods find hard
    found = np.array(
        [
            paired_difference(Scores(c + d, d, n), Scores(c, 0 * d, n), "nll")
            for c, d, n in zip(common, differences, counts, strict=True)
        ]
    )
    exact = 0.3 + 0.2 * (np.mean(np.arange(1, 12) ** 2) / 6 - 6)  # E[n effect] / E[n]
    error = found[:, 0].std()
    np.testing.assert_allclose(found[:, 0].mean(), exact, atol=5 * error / np.sqrt(repeats))
    # The spread is known to 1.6 %; the estimate's bias at 60 series is of the order of 1 / 60.
    np.testing.assert_allclose(found[:, 1].mean(), error, rtol=0.07)


LEVELS = (0.5, 0.8, 0.95)


@pytest.fixture(scope="module")
def normal_panel():
    """Values of their own laws, a scale a channel; half are targets, of the last channel none."""
    rng = np.random.default_rng(8)
    mean = rng.normal(size=(4000, 10, 3))
    std = np.broadcast_to([0.2, 1.0, 5.0], mean.shape)
    targets = (rng.random(mean.shape) < 0.5) & np.array([True, True, False])
    values = rng.normal(mean, std)
    values[:100] = np.where(targets[:100], values[:100], np.nan)
    return NormalForecast(mean, std), values, targets


def test_coverage_of_the_right_law_is_nominal(normal_panel):
    found = coverage(*normal_panel, LEVELS)
    assert found.shape == (3, 3)
    # Standard errors 0.0035 or less, with 20 000 targets a channel.
    np.testing.assert_allclose(found[:, :2], np.broadcast_to(np.array(LEVELS)[:, None], (3, 2)), atol=0.014)
    assert np.isnan(found[:, 2]).all()


def test_coverage_of_the_wrong_law_is_what_the_normal_law_says(normal_panel):
    law, values, targets = normal_panel
    wide = NormalForecast(law.mean + [0.0, 1.0, 0.0], law.std * [2.0, 1.0, 1.0])
    half = stats.norm.ppf(0.5 + np.array(LEVELS) / 2)
    twice = stats.norm.cdf(2 * half) - stats.norm.cdf(-2 * half)
    shifted = stats.norm.cdf(half + 1) - stats.norm.cdf(1 - half)
    np.testing.assert_allclose(
        coverage(wide, values, targets, LEVELS)[:, :2], np.stack([twice, shifted], -1), atol=0.014
    )


# --- tasks ---


def test_second_half_lies_after_the_middle_of_what_was_observed():
    # First row unobserved: the middle of 3 and 10 is 6.5. The second series' middle is 4, at a row of its own.
    times = np.array([[1.0, 3.0, 6.0, 7.0, 10.0, 10.0], [0.0, 4.0, 8.0, 8.0, 8.0, 8.0]])
    mask = np.zeros((2, 6, 2), bool)
    mask[0, [1, 2, 4], 0] = mask[0, [2, 3], 1] = True
    mask[1, [0, 1, 2], 0] = mask[1, 1, 1] = True
    cut = SecondHalf().cut(times, mask)
    np.testing.assert_array_equal(cut.cutoff, [6.5, 4.0])
    context, targets = np.zeros_like(mask), np.zeros_like(mask)
    context[0, [1, 2], 0] = context[0, 2, 1] = context[1, [0, 1], 0] = context[1, 1, 1] = True
    targets[0, 4, 0] = targets[0, 3, 1] = targets[1, 2, 0] = True
    np.testing.assert_array_equal(cut.context, context)
    np.testing.assert_array_equal(cut.targets, targets)


def test_series_of_one_observation_has_no_target():
    mask = np.zeros((2, 3, 2), bool)
    mask[0, 0] = mask[1, 2, 1] = True
    cut = SecondHalf().cut(np.array([[5.0, 5.0, 5.0], [0.1, 0.2, 0.3]]), mask)
    np.testing.assert_array_equal(cut.cutoff, [5.0, 0.3])
    np.testing.assert_array_equal(cut.context, mask)
    assert not cut.targets.any()


def test_series_without_observations_has_no_context_and_no_target():
    mask = np.ones((2, 3, 1), bool) & np.array([True, False])[:, None, None]
    cut = SecondHalf().cut(np.tile([1.0, 2.0, 4.0], (2, 1)), mask)
    np.testing.assert_array_equal(cut.cutoff, [2.5, 0.0])
    assert not (cut.context | cut.targets)[1].any()


@pytest.mark.parametrize("task", [SecondHalf(), Landmark(0.7, 50.0)])
def test_entries_are_context_or_target_and_padding_is_neither(task):
    rng = np.random.default_rng(9)
    length = rng.integers(1, 9, 40)[:, None]
    real = np.arange(8) < length
    times = 3.0 + np.cumsum(np.where(real, rng.exponential(0.5, (40, 8)), 0.0), axis=1)
    mask = real[..., None] & (rng.random((40, 8, 2)) < 0.7)
    mask[:, 0, 0] = True
    cut = task.cut(times, mask)
    np.testing.assert_array_equal(cut.context | cut.targets, mask)
    assert not (cut.context & cut.targets).any()
    assert times[cut.context.any(-1)].min() < times[cut.targets.any(-1)].max()
    assert np.where(cut.context.any(-1), times, -np.inf).max(-1) == pytest.approx(
        np.where(mask.any(-1) & (times <= cut.cutoff[:, None]), times, -np.inf).max(-1), abs=0
    )


def test_landmark_counts_from_the_first_row_and_includes_its_ends():
    times = np.array([[10.0, 11.0, 12.0, 14.0, 14.5], [0.0, 0.5, 2.5, 3.0, 3.0]])
    mask = np.ones((2, 5, 1), bool)
    mask[0, 0] = mask[1, 4] = False  # the first row counts, observed or not
    cut = Landmark(at=2.0, until=4.0).cut(times, mask)
    np.testing.assert_array_equal(cut.cutoff, [12.0, 2.0])
    np.testing.assert_array_equal(cut.context[..., 0], [[0, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(cut.targets[..., 0], [[0, 0, 0, 1, 0], [0, 0, 1, 1, 0]])


@pytest.mark.parametrize("at, until", [(-1.0, 2.0), (2.0, 2.0), (3.0, 1.0), (np.nan, 1.0)])
def test_landmark_refuses_empty_windows(at, until):
    with pytest.raises(ValueError, match=f"needs 0 <= at < until, but got at={at} and until={until}"):
        Landmark(at, until)


# --- compare ---


@pytest.fixture
def rows():
    """`ours` is better by 4/3 a value in NLL and worse by 1 in CRPS; see the small case above."""
    count = np.array([2.0, 0.0, 1.0])
    ours = Scores(np.array([2.0, 0.0, 2.0]), np.array([4.0, 0.0, 5.0]), count)
    theirs = Scores(np.array([5.0, 0.0, 3.0]), np.array([2.0, 0.0, 4.0]), count)
    return compare({"theirs": theirs, "ours": ours}, "ours")


def test_compare_takes_the_named_method_minus_each(rows):
    theirs, ours = rows
    assert (theirs.method, ours.method) == ("theirs", "ours")
    np.testing.assert_allclose([theirs.nll, ours.nll, theirs.crps, ours.crps], [8 / 3, 4 / 3, 2.0, 3.0])
    np.testing.assert_allclose([theirs.nll_difference, theirs.nll_error], [-4 / 3, 2 / 9])
    np.testing.assert_allclose([theirs.crps_difference, theirs.crps_error], [1.0, 0.0], atol=1e-15)
    assert (ours.nll_difference, ours.nll_error, ours.crps_difference, ours.crps_error) == (0.0, 0.0, 0.0, 0.0)


def test_table_on_disk_holds_the_rows(rows, tmp_path):
    write_table(tmp_path / "table.csv", rows)
    with (tmp_path / "table.csv").open(newline="") as file:
        theirs, ours = csv.DictReader(file)
    assert list(theirs) == [
        "method", "nll", "crps", "nll_difference", "nll_error", "crps_difference", "crps_error"
    ]  # fmt: skip
    assert list(theirs.values()) == [
        "theirs", "2.666667", "2.000000", "-1.333333", "0.222222", "1.000000", "0.000000"
    ]  # fmt: skip
    assert (ours["method"], ours["nll"]) == ("ours", "1.333333")


def test_table_on_screen_shows_differences_from_the_others_only(rows):
    console = Console(width=100, record=True, file=StringIO())
    console.print(render(rows, "ours", "A title"))
    text = console.export_text()
    assert "A title" in text
    assert "Δ = ours − method" in text
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert cells == [
        ["theirs", "2.6667", "2.0000", "-1.333 ± 0.222", "+1.000 ± 0.000"],
        ["ours", "1.3333", "3.0000", "", ""],
    ]


def test_verdict_names_the_best_and_says_how_sure_it_is():
    count = np.ones(4)
    ours = Scores(np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4), count)
    scores = {
        "far": Scores(ours.nll + 9, ours.crps, count),
        "near": Scores(ours.nll - [1.0, 1.2, 0.8, 1.0], ours.crps, count),
    }
    said = verdict({**scores, "ours": ours}, ["ours"])
    assert said.startswith("verdict: the near is ahead by 1.00 ± 0.08 nats per value; use it, or give the ours more")
    noisy = Scores(ours.nll - [3.0, -2.0, 1.0, 0.0], ours.crps, count)
    assert "ahead by 0.50 ± 1.04 nats per value (within two standard errors" in verdict({"b": noisy, "a": ours}, ["a"])
    ahead = verdict({"far": scores["far"], "ours": ours}, ["ours"])
    assert ahead == "verdict: the ours is ahead by 9.00 ± 0.00 nats per value of the best baseline, far."
    one = {name: Scores(x.nll[:1], x.crps[:1], count[:1]) for name, x in {**scores, "ours": ours}.items()}
    assert "on a single series" in verdict(one, ["ours"]) and "nan" not in verdict(one, ["ours"])
    assert "no baseline" in verdict({"ours": ours}, ["ours"])
    pool = Scores(ours.nll - [0.4, 0.6, 0.5, 0.5], ours.crps, count)
    both = verdict({**scores, "ours": ours, "pool": pool}, ["ours"], "pool")
    assert both.startswith("verdict: the near is ahead by 1.00 ± 0.08 nats per value of the ours alone. Their pool")
    assert "is 0.50 ± 0.04 ahead of the ours and 0.50 ± 0.07 behind the near; here the near is the better" in both
    better = verdict({"far": scores["far"], "ours": ours, "pool": pool}, ["ours"], "pool")
    assert better.endswith("is 0.50 ± 0.04 ahead of the ours and 9.50 ± 0.04 ahead of the far.")
    console = Console(width=100, record=True, file=StringIO())
    console.print(render(compare(one, "ours"), "ours", "one series"))
    assert "nan" not in console.export_text()


def test_counts_agree_with_their_nouns():
    assert [counted(1, "channel"), counted(2, "channel"), counted(1, "series", "series")] == [
        "1 channel", "2 channels", "1 series"
    ]  # fmt: skip


def test_forecasts_beyond_what_was_seen_are_marked():
    times = np.array([[0.0, 5.0, 10.0, 10.1]])
    values = np.zeros((1, 4, 3))
    values[0, 1, 0], values[0, :3, 1] = 6.9, [3.5, 3.1, 3.3]
    mask = np.zeros((1, 4, 3), bool)
    mask[0, :3] = True
    centre = np.zeros((1, 4, 3))
    centre[0, 2, 2] = -12.0
    marks = forecast_marks(times, values, mask, centre, span=10.0)
    far, value = "forecast far from training", "value far from training"
    unit, beyond = "channel far from training, another unit?", "beyond the training span"
    expected = [["", unit, ""], [value, unit, ""], ["", unit, far], [beyond, f"{beyond}; {unit}", beyond]]
    assert marks[0].tolist() == [[mark or "" for mark in row] for row in expected]
    line = warning_of(marks.ravel().tolist())
    assert line == (
        f"8 of 12 forecasts stand on little (3 {beyond}, 1 {value}, 1 {far}, 4 {unit}); the column 'mark' says which."
    )
    assert warning_of(["", None]) is None


# --- figures ---


def saved(figure):
    """The figure, drawn once: a warning would be an error."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")
    return figure


def drawn(axes, colour: str) -> list[np.ndarray]:
    """Points `(n, 2)` of each line of one colour."""
    return [line.get_xydata() for line in axes.lines if to_hex(line.get_color()) == to_hex(colour)]


def legend_texts(figure_or_axes) -> list[str]:
    legends = getattr(figure_or_axes, "legends", None) or [figure_or_axes.get_legend()]
    return [text.get_text() for text in legends[0].get_texts()]


def test_training_figure_of_one_member():
    rows = [{"member": 0, "step": s, "loss": 1.0 / s, "kl_path": 0.1 * s} for s in (1, 2, 4)]
    rows.append({"member": 0, "step": 4, "validation": 0.7})
    figure = saved(plot_training(rows, score_name="held-out NLL"))
    loss, validation, kl = figure.axes
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["loss (nats per value)", "held-out NLL", "path KL (nats per series)"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"step"}
    np.testing.assert_array_equal(drawn(loss, BLUE), [[[1, 1.0], [2, 0.5], [4, 0.25]]])
    np.testing.assert_array_equal(drawn(validation, BLUE), [[[4, 0.7]]])
    assert validation.lines[0].get_marker() == "."  # a single score would be no line
    assert validation.get_xlim() == loss.get_xlim() == (0.88, 4.12)
    np.testing.assert_allclose(drawn(kl, BLUE), [[[1, 0.1], [2, 0.2], [4, 0.4]]])
    assert figure.legends == []


def test_training_figure_of_an_ensemble_has_a_line_a_member():
    rows = [{"member": m, "step": s, "loss": m + s} for s in (1, 2) for m in (3, 0)]
    rows.append({"member": 3, "step": 2, "validation": 5.0})
    figure = saved(plot_training(rows))
    loss, validation = figure.axes
    np.testing.assert_array_equal(drawn(loss, "C0"), [[[1, 1], [2, 2]]])
    np.testing.assert_array_equal(drawn(loss, "C1"), [[[1, 4], [2, 5]]])
    np.testing.assert_array_equal(drawn(validation, "C1"), [[[2, 5.0]]])
    assert len(validation.lines) == 1
    assert legend_texts(figure) == ["member 1", "member 4"]
    assert [to_hex(line.get_color()) for line in figure.legends[0].get_lines()] == [to_hex("C0"), to_hex("C1")]


def test_members_of_one_name_share_a_colour_and_the_titles_are_given():
    rows = [{"member": m, "step": 1, "loss": float(m)} for m in (0, 1, 2)]
    figure = saved(plot_training(rows, loss_name="the loss", score_name="the score", names=["a", "b", "b"]))
    assert [axes.get_title() for axes in figure.axes] == ["the loss", "the score"]
    np.testing.assert_array_equal(drawn(figure.axes[0], "C1"), [[[1, 1]], [[1, 2]]])
    assert legend_texts(figure) == ["a", "b"]


def test_training_figure_breaks_into_lines_of_three():
    parts = dict.fromkeys(("loss", "log_likelihood", "kl_path", "kl_initial"), 1.0)
    figure = saved(plot_training([{"member": 0, "step": 1, **parts}, {"member": 0, "step": 2, **parts}]))
    assert [axes.get_title().split(" (")[0] for axes in figure.axes] == [
        "loss", "validation NLL per value", "log-likelihood", "path KL", "initial KL"
    ]  # fmt: skip
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


@pytest.fixture(scope="module")
def stories():
    """Two series of two channels; the second channel is positive, and misses its second value."""
    times, ts = np.array([0.0, 1.0, 2.0, 3.0]), np.linspace(0.0, 3.0, 5)
    values = np.stack([times - 1.5, np.exp(times)], -1)
    mask = np.array([[True, True], [True, False], [True, True], [True, True]])
    spread = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None] * np.linspace(0.1, 1.0, 5)
    bands = np.stack([ts - 1.5 + spread, np.exp(ts + spread)], -1)
    one = Story("one", times, values, mask, 1.0, ts, bands)
    return [one, replace(one, name="two", times=10.0 + times, ts=10.0 + ts, cutoff=12.0)]


@pytest.fixture(scope="module")
def forecast_figure(stories):
    return saved(plot_forecasts(stories, ("A", "B"), ("A (g)", "B (U/l)"), (False, True), "time (years)"))


def test_forecast_figure_draws_given_and_held_out_points_where_they_were_observed(stories, forecast_figure):
    a, b, c, d = forecast_figure.axes
    first, second = stories
    np.testing.assert_array_equal(drawn(a, "black"), [np.stack([[0.0, 1.0], [-1.5, -0.5]], -1)])
    np.testing.assert_array_equal(drawn(a, ORANGE), [np.stack([[2.0, 3.0], [0.5, 1.5]], -1)])
    np.testing.assert_array_equal(drawn(b, "black"), [[[0.0, 1.0]]])
    np.testing.assert_array_equal(drawn(b, ORANGE), [np.stack([[2.0, 3.0], np.exp([2.0, 3.0])], -1)])
    np.testing.assert_array_equal(drawn(c, "black"), [np.stack([second.times[:3], second.values[:3, 0]], -1)])
    np.testing.assert_array_equal(drawn(d, "black"), [np.stack([[10.0, 12.0], np.exp([0.0, 2.0])], -1)])
    for axes, story in zip((a, b, c, d), (first, first, second, second), strict=True):
        (cutoff,) = drawn(axes, GREY)
        np.testing.assert_array_equal(cutoff[:, 0], [story.cutoff] * 2)


def test_forecast_figure_draws_the_median_inside_both_bands(stories, forecast_figure):
    axes = forecast_figure.axes
    assert FAN_LEVELS == (0.05, 0.25, 0.5, 0.75, 0.95)
    for place, (story, c) in enumerate((story, c) for story in stories for c in range(2)):
        low, lower, middle, upper, high = story.bands[:, :, c]
        np.testing.assert_array_equal(drawn(axes[place], BLUE), [np.stack([story.ts, middle], -1)])
        outer, inner = (fill.get_paths()[0].vertices for fill in axes[place].collections)
        for vertices, below, above in ((outer, low, high), (inner, lower, upper)):
            edges = {tuple(point) for point in np.stack([np.tile(story.ts, 2), np.concatenate([below, above])], -1)}
            assert edges == {tuple(point) for point in vertices}


def test_forecast_figure_says_what_it_shows(forecast_figure):
    figure = forecast_figure
    a, b, c, d = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["A", "B", "", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "time (years)", "time (years)"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["one\nA (g)", "B (U/l)", "two\nA (g)", "B (U/l)"]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log", "linear", "log"]
    assert legend_texts(figure) == ["90 % band", "50 % band", "median", "given", "held out", "cut-off"]
    handles = dict(zip(legend_texts(figure), figure.legends[0].legend_handles, strict=True))
    colours = [to_hex(handles[name].get_color()) for name in ("median", "given", "held out", "cut-off")]
    assert colours == [to_hex(colour) for colour in (BLUE, "black", ORANGE, GREY)]
    assert {"1", "2", "5", "10"} <= {label.get_text() for label in b.get_yticklabels()}
    # A series has one time axis, a channel one scale of values.
    assert a.get_xlim() == b.get_xlim() != c.get_xlim()
    assert a.get_ylim() == c.get_ylim() != b.get_ylim()
    assert b.get_ylim() == d.get_ylim()


def test_forecast_figure_of_one_panel(stories):
    note = "not drawn: " + ", ".join(f"channel {i}" for i in range(9))
    figure = saved(plot_forecasts(stories[:1], ("A",), ("A (g)",), (False,), "time", note=note))
    (axes,) = figure.axes
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width  # not cut off
    assert figure.get_supxlabel().replace("\n", " ") == note
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("A", "time", "one\nA (g)")


def test_calibration_figure_is_in_per_cent():
    observed = np.array([[0.4, np.nan], [0.85, np.nan]])
    figure = saved(plot_calibration((0.5, 0.9), observed, ("A", "B"), pooled=np.array([0.45, 0.8])))
    (axes,) = figure.axes
    assert legend_texts(axes) == ["ideal", "A", "B", "all channels"]
    ideal, a, b, pooled = (line.get_xydata() for line in axes.lines)
    np.testing.assert_allclose(ideal, [[0, 0], [100, 100]])
    np.testing.assert_allclose(a, [[50, 40], [90, 85]])
    np.testing.assert_allclose(b, [[50, np.nan], [90, np.nan]])
    np.testing.assert_allclose(pooled, [[50, 45], [90, 80]])
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 100), (0, 100))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("nominal coverage (%)", "observed coverage (%)")


# --- forecasts by samples ---


class Path(eqx.Module):
    zs: Array
    kl_initial: Array
    kl_path: Array


class Line(eqx.Module):
    r"""A line of known intercept and random slope, so that every number of a forecast tells where it came from.

    $z(t) = \text{level} + \text{mean of the context} + s\,(t - t_0)$ with $s \sim \mathcal N(0, I)$; locations are
    $2 z$; the path KL is $s_0 + \text{sum of the context} + t_\text{last} - t_0$.
    """

    likelihood: AbstractLikelihood
    level: Float[Array, ""]

    def posterior(self, times, values, mask, ts, *, key, regulariser=None):
        traced.append(ts.shape)
        seen = jnp.where(mask, values, 0.0)
        mean = jnp.sum(seen, 0) / jnp.maximum(jnp.sum(mask, 0, dtype=seen.dtype), 1)
        slope = jax.random.normal(key, mean.shape)
        zs = self.level + mean[None] + slope[None] * (ts - times[0])[:, None]
        return Path(zs, jnp.zeros(()), slope[0] + jnp.sum(seen) + ts[-1] - times[0])

    def decode(self, zs):
        return 2.0 * zs


traced = []  # one entry each time that JAX traces the model
ROWS, COUNT, SAMPLES = 3, SERIES + 5, PATHS + 7
LIKELIHOOD = GaussianLikelihood(2, scale=jnp.array([0.3, 1.5]))
MODELS = [Line(LIKELIHOOD, jnp.asarray(level)) for level in (0.0, 100.0, 200.0)]


@pytest.fixture(scope="module")
def panel():
    """Times, values and context of more series than a block holds; what the context hides is NaN."""
    rng = np.random.default_rng(10)
    times = 5.0 + rng.exponential(size=(COUNT, 1)) + np.cumsum(rng.exponential(1.0, (COUNT, ROWS)), axis=1)
    context = rng.random((COUNT, ROWS, 2)) < 0.6
    return times, np.where(context, rng.normal(size=context.shape), np.nan), context


IDS = [f"patient {i}" for i in range(COUNT)]


def forecast(models, times, values, context, ts, *, series=None, samples, key=jax.random.key(0)):  # noqa: B008  (a key is a constant)
    """A forecast of the first series of the panel, if not of those that are named."""
    series = IDS[: len(times)] if series is None else series
    return sample_forecast(models, times, values, context, ts, series=series, samples=samples, key=key)


@pytest.fixture(scope="module")
def whole(panel):
    """The forecast of an ensemble at a series' own times, of more series and samples than a block holds."""
    return forecast(MODELS[:2], *panel, panel[0], samples=2 * SAMPLES)


def slopes(locations: np.ndarray, ts: np.ndarray) -> np.ndarray:
    """The slopes between the first time and each later one, shape `(samples, series, asked - 1, channels)`."""
    return np.diff(locations, axis=2).cumsum(2) / 2 / (ts[:, 1:] - ts[:, :1])[..., None]


def test_forecast_gives_each_series_its_own_context(panel, whole):
    times, values, context = panel
    mean = np.where(context, values, 0.0).sum(1) / np.maximum(context.sum(1), 1)
    for level, (_, locations) in zip((0.0, 100.0), whole.law.members, strict=True):
        assert locations.shape == (SAMPLES, COUNT, ROWS, 2)
        first = np.broadcast_to(2 * (level + mean), (SAMPLES, COUNT, 2))
        np.testing.assert_allclose(locations[:, :, 0], first, rtol=1e-13, atol=1e-13)


def test_forecast_draws_a_path_of_its_own_for_each_sample_series_and_member(panel, whole):
    found = np.stack([slopes(locations, panel[0]) for _, locations in whole.law.members])
    np.testing.assert_allclose(found[..., 0, :], found[..., 1, :], rtol=1e-9, atol=1e-10)  # one path, all times
    assert np.unique(found[..., 0, :].round(9)).size == 2 * SAMPLES * COUNT * 2
    # The slopes' law: 8436 of them, standard errors 0.011 and 0.008.
    np.testing.assert_allclose(found[..., 0, :].mean(), 0.0, atol=0.045)
    np.testing.assert_allclose(found[..., 0, :].std(), 1.0, atol=0.035)


def test_forecast_draws_values_around_their_locations(whole):
    locations = np.concatenate([locations for _, locations in whole.law.members])
    noise = (whole.law.draws - locations) / np.asarray(LIKELIHOOD.scale)
    # 12 654 draws a channel: standard errors 0.009 and 0.006.
    np.testing.assert_allclose(noise.mean((0, 1, 2)), 0.0, atol=0.04)
    np.testing.assert_allclose(noise.std((0, 1, 2)), 1.0, atol=0.03)
    assert np.unique(noise.round(12)).size == noise.size


def test_forecast_averages_the_path_kl_over_samples_and_members(panel, whole):
    times, values, context = panel
    seen = np.where(context, values, 0.0).sum((1, 2))
    slope = np.mean([slopes(locations, times)[:, :, 0, 0] for _, locations in whole.law.members], axis=(0, 1))
    assert whole.kl_path.shape == (COUNT,)
    np.testing.assert_allclose(whole.kl_path, slope + seen + times[:, -1] - times[:, 0], rtol=1e-10, atol=1e-10)


def test_ensemble_shares_out_the_samples(panel):
    times, values, context = (array[:2] for array in panel)
    law = forecast(MODELS, times, values, context, times, samples=7).law
    assert [locations.shape for _, locations in law.members] == [(count, 2, ROWS, 2) for count in (3, 2, 2)]
    assert law.draws.shape == (7, 2, ROWS, 2)
    np.testing.assert_array_equal((law.draws / 200).round().mean((1, 2, 3)), [0, 0, 0, 1, 1, 2, 2])


def test_series_has_the_same_forecast_in_any_table_that_holds_it(panel, whole):
    """Whoever stands beside it, wherever it stands, and whatever is asked for later on."""
    chosen = [COUNT - 1, 4, 0, SERIES]
    later = panel[0][chosen][:, -1:] + [1.0, 5.0]
    ts = np.concatenate([panel[0][chosen], later], axis=1)
    series = [IDS[i] for i in chosen]
    few = forecast(MODELS[:2], *(array[chosen] for array in panel), ts, series=series, samples=2 * SAMPLES)
    for (_, one), (_, other) in zip(few.law.members, whole.law.members, strict=True):
        np.testing.assert_array_equal(one[:, :, :ROWS], other[:, chosen])
    np.testing.assert_array_equal(few.law.draws[:, :, :ROWS], whole.law.draws[:, chosen])
    redrawn = [
        law.law.redrawn(2, series=ids, key=jax.random.key(1)).draws for law, ids in ((few, series), (whole, IDS))
    ]
    np.testing.assert_array_equal(redrawn[0][:, :, :ROWS], redrawn[1][:, chosen])
    alone = forecast(MODELS[:2], *(array[chosen] for array in panel), ts[:, :ROWS], series=series, samples=2 * SAMPLES)
    np.testing.assert_array_equal(alone.kl_path, whole.kl_path[chosen])


def test_each_series_needs_an_id(panel):
    with pytest.raises(ValueError, match="one id for each of the 2 series, but has 3"):
        forecast(MODELS[:1], *(array[:2] for array in panel), panel[0][:2], series="abc", samples=4)


def test_more_times_than_rows_are_the_same_numbers(panel):
    panel = tuple(array[:4] for array in panel)
    ts = panel[0][:, :1] + np.linspace(0.0, 7.0, 8)
    some = [0, 3, 7]
    long = forecast(MODELS[:1], *panel, ts, samples=4)
    alone = forecast(MODELS[:1], *panel, ts[:, some], samples=4)
    one = forecast(MODELS[:1], *panel, ts[:, 7:], samples=4)
    assert long.law.draws.shape == (4, 4, 8, 2)
    (_, locations), (_, expected), (_, last) = (found.law.members[0] for found in (long, alone, one))
    np.testing.assert_array_equal(locations[:, :, some], expected)
    np.testing.assert_array_equal(locations[:, :, 7:], last)
    np.testing.assert_array_equal(long.kl_path, alone.kl_path)  # both reach the same time
    np.testing.assert_array_equal(long.kl_path, one.kl_path)


def test_forecast_is_repeatable_and_depends_on_its_key(panel):
    arguments = (MODELS[:1], *(array[:2] for array in panel), panel[0][:2])
    one, again, other = (forecast(*arguments, samples=3, key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.law.draws, again.law.draws)
    assert (one.law.draws != other.law.draws).all()


def test_one_compiled_block_serves_every_request(panel, whole):
    times, values, context = panel
    forecast(MODELS, times[:2], values[:2], context[:2], times[:2, :1], samples=3 * SAMPLES)
    forecast(MODELS[:1], *panel, np.repeat(times, 2, axis=1), samples=5)
    assert traced == [(ROWS,)]  # whatever this and other tests have asked for


@pytest.mark.parametrize("samples, members, least", [(1, 1, 2), (2, 3, 3)])
def test_too_few_samples_are_refused(panel, samples, members, least):
    with pytest.raises(ValueError, match=f"at least {least} for {members} models, but is {samples}"):
        forecast(MODELS[:members], *panel, panel[0], samples=samples)


def test_paired_difference_needs_the_same_targets_and_two_series():
    one = Scores(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    other = Scores(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    with pytest.raises(ValueError, match=r"scored on different values"):
        paired_difference(one, other, "nll")
    single = Scores(np.array([1.0]), np.array([1.0]), np.array([2.0]))
    assert np.isnan(paired_difference(single, single, "nll")[1])


def test_a_table_shows_its_numbers_whole_beside_a_long_name():
    names = ["latent SDE", "latent SDE + latent ODE + ODE-RNN to SDE + CDE to ODE + GRU-Δt to SDE + baselines"]
    rows = [Row(name, 1.2345, 0.4321, -0.1234, 0.0123, -0.0456, 0.0078) for name in names]
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(rows, names[0], "held out"))
    text = console.export_text()
    assert text.count("1.2345") == 2 and text.count("0.4321") == 2 and "-0.123 ± 0.012" in text


def test_a_table_of_many_numbers_shows_its_names_too():
    """Seven columns of numbers left nothing of the methods' names on a terminal of 80 columns."""
    names = ["W2", "sliced", "energy", "log_likelihood", "se", "bits/dim", "evaluations"]
    columns = {"method": ["flow matching", "floor: held-out points"]} | dict.fromkeys(names, ["46.3318", "–"])
    console = Console(width=80, record=True, file=StringIO())
    console.print(fitted_table(columns, text=["method"]))
    text = console.export_text()
    assert text.count("46.3318") == 7 and "matching" in text and "likelihood" in text
    assert max(map(len, text.splitlines())) <= 80
