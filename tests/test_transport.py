"""Distances between samples against closed forms, their floors, moments and masses of modes."""

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import sqrtm

from nde.report import (
    bures_wasserstein,
    DISTANCES,
    energy_distance,
    gaussian_wasserstein,
    mode_masses,
    moments,
    sliced_wasserstein,
    transport_distance,
    wasserstein,
)

A = np.array([[1.0, 0.4], [0.4, 0.5]])
B = np.array([[0.3, -0.2], [-0.2, 2.0]])


def normal(count, seed, size=2):
    return np.random.default_rng(seed).normal(size=(count, size))


def test_wasserstein_of_a_translate_is_its_length_and_in_one_dimension_that_of_the_order():
    x, v = normal(200, 0), np.array([0.3, -0.4])
    np.testing.assert_allclose(wasserstein(x, np.flip(x + v, axis=0)), 0.5, rtol=1e-12)
    one, other = normal(300, 1, 1), 2 * normal(300, 2, 1) + 1
    by_order = np.sqrt(((np.sort(one, 0) - np.sort(other, 0)) ** 2).mean())
    np.testing.assert_allclose(wasserstein(one, other), by_order, rtol=1e-12)
    np.testing.assert_allclose(sliced_wasserstein(one, other), by_order, rtol=1e-12)


def test_wasserstein_of_a_monotone_image_is_the_distance_along_the_map():
    """Of a linear map by a symmetric positive matrix no assignment is better (Brenier)."""
    x = normal(150, 0)
    image = x @ A + 1.0
    np.testing.assert_allclose(wasserstein(x, image), np.sqrt(((x - image) ** 2).sum(1).mean()), rtol=1e-12)


def test_sliced_wasserstein_of_a_translate_is_the_mean_of_the_projections():
    x, v = normal(100, 0, 3), np.array([1.0, 2.0, -2.0])
    found = sliced_wasserstein(x, x + v, directions=20_000)
    np.testing.assert_allclose(found, 3 / np.sqrt(3), rtol=0.01)


def test_sliced_wasserstein_takes_samples_of_two_counts():
    x, y = normal(60, 0, 1), normal(40, 1, 1) + 1
    same = sliced_wasserstein(np.repeat(x, 2, 0), np.repeat(y, 3, 0))  # 120 points each of the same two laws
    np.testing.assert_allclose(sliced_wasserstein(x, y), same, rtol=1e-12)


def test_distance_of_two_gaussians_is_the_formula():
    trace = np.trace(A + B - 2 * sqrtm(sqrtm(A) @ B @ sqrtm(A)).real)
    m, n = np.array([1.0, 0.0]), np.array([0.0, 2.0])
    np.testing.assert_allclose(bures_wasserstein(m, A, n, B), np.sqrt(5 + trace), rtol=1e-12)
    flat = np.diag([4.0, 0.0]), np.diag([1.0, 9.0])  # of rank one, and diagonal
    np.testing.assert_allclose(bures_wasserstein(m, flat[0], m, flat[1]), np.sqrt(1 + 9), rtol=1e-12)
    assert bures_wasserstein(m, A, m, A) < 1e-14  # where the formula gives the root of a rounding error


def test_distance_of_two_gaussians_is_that_of_their_moments():
    x, y = normal(50, 0), normal(70, 1) @ A + 1
    expected = bures_wasserstein(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    np.testing.assert_allclose(gaussian_wasserstein(x, y), expected, rtol=1e-12)
    assert gaussian_wasserstein(x[:, :1], y[:, :1]) > 0


def test_energy_distance_is_scipys_in_one_dimension_and_that_of_points():
    x, y = normal(300, 0, 1), normal(200, 1, 1) + 0.5
    np.testing.assert_allclose(energy_distance(x, y), stats.energy_distance(x[:, 0], y[:, 0]), rtol=1e-10)
    np.testing.assert_allclose(energy_distance([[0.0, 0.0]], [[3.0, 4.0]]), np.sqrt(10.0), rtol=1e-12)
    assert energy_distance(x, x) < 1e-7


@pytest.mark.parametrize("name", DISTANCES)
def test_samples_of_the_law_lie_at_the_floor_and_others_above_it(name):
    def sampler(count, seed):
        return normal(count, seed)

    held_out = normal(400, 100)
    for given in (sampler, None):
        same = transport_distance(normal(400, 101), held_out, name, sampler=given)
        other = transport_distance(normal(400, 102) + 0.5, held_out, name, sampler=given)
        assert abs(same.excess) < 4
        assert other.excess > 4
        assert same.value_sd == 0 or given is None
        np.testing.assert_allclose(same.excess, (same.value - same.floor) / same.floor_sd)


def test_a_floor_is_the_distance_of_fresh_pairs_of_samples():
    seeds = []

    def sampler(count, seed):
        seeds.append((count, seed))
        return normal(count, seed, 1)

    found = transport_distance(normal(30, 0, 1), normal(50, 1, 1), "energy", sampler=sampler, repeats=3)
    pairs = [(normal(30, seeds[2 * i][1], 1), normal(50, seeds[2 * i + 1][1], 1)) for i in range(3)]
    floors = [energy_distance(x, y) for x, y in pairs]
    assert [count for count, _ in seeds] == [30, 50] * 3
    assert len({seed for _, seed in seeds}) == 6
    np.testing.assert_allclose([found.floor, found.floor_sd], [np.mean(floors), np.std(floors, ddof=1)])


def test_moments_have_the_errors_that_they_spread_by():
    found = [moments(normal(400, seed) @ A + 2.0) for seed in range(300)]
    np.testing.assert_allclose(np.mean([m.mean for m in found], 0), [2.0, 2.0], atol=0.01)
    np.testing.assert_allclose(np.mean([m.covariance for m in found], 0), A @ A, atol=0.01)
    for name in ("mean", "covariance"):
        spread = np.std([getattr(m, name) for m in found], axis=0)
        np.testing.assert_allclose(np.mean([getattr(m, f"{name}_error") for m in found], 0), spread, rtol=0.15)


def test_masses_of_modes_are_the_shares_of_the_nearest_centre():
    shares, errors = mode_masses([[0.1], [0.2], [0.9], [5.0]], [[0.0], [1.0], [-3.0]])
    np.testing.assert_allclose(shares, [0.5, 0.5, 0.0])
    np.testing.assert_allclose(errors, [0.25, 0.25, 0.0])


@pytest.mark.parametrize("name", DISTANCES)
def test_what_is_no_pair_of_samples_is_refused(name):
    measure, x = DISTANCES[name], normal(10, 0)
    for wrong, message in [
        (x[:, 0], r"needs samples of shape \(points, size\), none of them zero, but got \(10,\)"),
        (x[:0], r"none of them zero, but got \(0, 2\)"),
        (np.where(np.arange(20).reshape(10, 2) < 3, np.nan, x), "2 of 10 points are not finite"),
        (normal(10, 0, 3), "needs points of one size, but got sizes 2 and 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            measure(x, wrong)


def test_what_a_distance_can_not_do_is_refused():
    x = normal(10, 0)
    with pytest.raises(ValueError, match="wasserstein assigns points one to one, but got 10 and 4"):
        wasserstein(x, x[:4])
    with pytest.raises(ValueError, match="at least one direction, but got 0"):
        sliced_wasserstein(x, x, directions=0)
    with pytest.raises(ValueError, match="two points or more, but one has a single point"):
        gaussian_wasserstein(x, x[:1])
    with pytest.raises(ValueError, match="moments needs a sample of two points or more, but got one"):
        moments(x[:1])
    with pytest.raises(ValueError, match="moments needs samples of shape"):
        moments(x[:, 0])
    with pytest.raises(ValueError, match="mode_masses needs points of one size"):
        mode_masses(x, normal(3, 0, 1))


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (np.zeros(3), A, r"needs means \(size,\) and covariances \(size, size\)"),
        (np.zeros(2), np.eye(3), r"needs means \(size,\) and covariances \(size, size\)"),
        (np.array([0.0, np.inf]), A, "means must be finite"),
        (np.zeros(2), A * np.nan, "covariances must be finite"),
        (np.zeros(2), np.ones(2), r"a covariance must be a matrix \(size, size\), but one is \(2,\)"),
        (np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]), "symmetric and positive semidefinite"),
        (np.zeros(2), -A, "symmetric and positive semidefinite"),
    ],
)
def test_what_is_no_gaussian_is_refused(mean, covariance, message):
    with pytest.raises(ValueError, match=message):
        bures_wasserstein(np.zeros(2), A, mean, covariance)


def test_a_floor_that_can_not_be_had_is_refused():
    x = normal(10, 0)
    with pytest.raises(ValueError, match="the distances are wasserstein, sliced_wasserstein, .* but got 'w2'"):
        transport_distance(x, x, "w2")
    with pytest.raises(ValueError, match="two repeats or more to show the floor's spread, but got 1"):
        transport_distance(x, x, repeats=1)
    with pytest.raises(
        ValueError, match="needs four points of the reference and half as many samples, but got 10 and 3"
    ):
        transport_distance(x[:3], x)
