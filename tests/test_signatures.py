"""Signatures: against iterated integrals of polynomials, and the identities of their algebra, to rounding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from numpy.polynomial import Polynomial

from nde import paths
from nde.paths.lyndon import bracket

POINTS = np.random.default_rng(0).standard_normal((7, 3))
DEPTH = 4
signature = jax.jit(paths.signature, static_argnums=1)


def integral(points, word):
    """The iterated integral of a word along straight lines: of polynomials, line by line."""
    steps = np.diff(points, axis=0)
    inner = [Polynomial([1.0])] * len(steps)  # on each line a polynomial in its share from 0 to 1
    for letter in word:
        total, outer = 0.0, []
        for step, each in zip(steps, inner, strict=True):
            grown = (each * step[letter]).integ() + total
            outer.append(grown)
            total = grown(1.0)
        inner = outer
    return total


def test_it_has_the_iterated_integrals():
    found = paths.flatten_levels(signature(POINTS, DEPTH))
    expected = [integral(POINTS, word) for word in paths.words(3, DEPTH)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_the_logarithm_has_the_area_between_a_path_and_its_chord():
    log = paths.log_signature(POINTS, 2)
    np.testing.assert_allclose(log[0], POINTS[-1] - POINTS[0], rtol=1e-12)
    x, y = (POINTS - POINTS[0])[:, :2].T  # the shoelace formula; the chord closes the polygon
    area = 0.5 * np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])
    np.testing.assert_allclose(log[1][0, 1], area, rtol=1e-10)
    np.testing.assert_allclose(log[1], -log[1].T, atol=1e-12)


def test_of_a_line_it_is_the_exponential_and_the_logarithm_is_the_line():
    step = POINTS[1] - POINTS[0]
    nothing = tuple(jnp.zeros((3,) * k) for k in (2, 3, 4))
    line = signature(POINTS[:2], DEPTH)
    assert_trees_all_close(line, paths.exp_tensor((jnp.asarray(step), *nothing)), rtol=1e-12, atol=1e-14)
    assert_trees_all_close(paths.log_tensor(line), (step, *nothing), atol=1e-13)


def test_chens_identity():
    whole = signature(POINTS, DEPTH)
    assert_trees_all_close(
        paths.chen_product(signature(POINTS[:4], DEPTH), signature(POINTS[3:], DEPTH)), whole, atol=1e-12
    )


def test_a_path_run_back_undoes_it():
    both = paths.chen_product(signature(POINTS, DEPTH), signature(POINTS[::-1], DEPTH))
    assert_trees_all_close(both, jax.tree.map(np.zeros_like, both), atol=1e-11)


def shuffles(u, v):
    """All words that keep the order of the letters of each of two words."""
    for places in itertools.combinations(range(len(u) + len(v)), len(u)):
        letters = iter(u), iter(v)
        yield tuple(next(letters[k not in places]) for k in range(len(u) + len(v)))


def test_the_shuffle_identity():
    levels = signature(POINTS, DEPTH)
    for u, v in [((0,), (1,)), ((0, 1), (2,)), ((2, 0), (1, 1)), ((1,), (0, 2, 2))]:
        both = levels[len(u) - 1][u] * levels[len(v) - 1][v]
        assert float(sum(levels[len(w) - 1][w] for w in shuffles(u, v))) == pytest.approx(float(both), rel=1e-10)


def test_exponential_and_logarithm_undo_each_other_and_lyndon_coordinates_make_the_logarithm():
    levels = signature(POINTS, DEPTH)
    log = paths.log_tensor(levels)
    assert_trees_all_close(paths.exp_tensor(log), levels, atol=1e-11)
    chosen, coordinates = paths.lyndon_words(3, DEPTH), paths.lyndon_coordinates(log)
    assert [sum(len(w) == k for w in chosen) for k in (1, 2, 3, 4)] == [3, 3, 8, 18]  # Witt's formula
    made = dict.fromkeys(paths.words(3, DEPTH), 0.0)
    for word, coordinate in zip(chosen, coordinates, strict=True):
        for each, factor in bracket(word).items():
            made[each] += factor * float(coordinate)
    np.testing.assert_allclose(list(made.values()), paths.flatten_levels(log), atol=1e-11)


def test_windows_multiply_to_the_whole_and_are_the_signatures_of_their_rows():
    windows = jax.jit(paths.window_signatures, static_argnums=(1, 2))(POINTS, 4, DEPTH)
    parts = [signature(POINTS[:5], DEPTH), signature(POINTS[4:], DEPTH)]
    assert_trees_all_close(windows, jax.tree.map(lambda *x: jnp.stack(x), *parts), atol=1e-13)
    # the same by one scan that begins anew with the fifth line
    running = jax.jit(paths.running_signatures, static_argnums=1)(POINTS, DEPTH, np.arange(6) == 4)
    assert_trees_all_close(jax.tree.map(lambda x: x[jnp.array([3, 5])], running), windows, atol=1e-11)
    assert_trees_all_close(jax.tree.map(lambda x: x[2], running), signature(POINTS[:4], DEPTH), atol=1e-12)


def test_repeated_points_leave_no_bit():
    padded = np.concatenate([POINTS, np.repeat(POINTS[-1:], 3, axis=0)])
    assert_trees_all_equal(signature(padded, DEPTH), signature(POINTS, DEPTH))
    windows = [paths.window_signatures(points, 4, 2) for points in (POINTS, padded)]
    assert_trees_all_equal(windows[0], jax.tree.map(lambda x: x[:2], windows[1]))
    np.testing.assert_array_equal(windows[1][1][2], np.zeros((3, 3)))


def test_gradients_are_those_of_differences():
    weights = np.random.default_rng(1).standard_normal(3 + 9 + 27)

    @jax.jit
    def loss(points):
        return jnp.vdot(weights, jnp.tanh(paths.flatten_levels(paths.log_signature(points, 3))))

    direction = np.random.default_rng(2).standard_normal(POINTS.shape)
    differences = (loss(POINTS + 1e-6 * direction) - loss(POINTS - 1e-6 * direction)) / 2e-6
    assert float(jnp.vdot(jax.jit(jax.grad(loss))(POINTS), direction)) == pytest.approx(float(differences), rel=1e-6)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"a window of 7 rows does not fit a series of 7: it needs"):
        paths.window_signatures(POINTS, 7, 2)
    with pytest.raises(ValueError, match=r"points \(rows, channels\), one row or more, but got \(7,\)"):
        paths.signature(POINTS[:, 0], 2)
    with pytest.raises(ValueError, match="a depth of one or more, but got 0"):
        paths.signature(POINTS, 0)
    with pytest.raises(ValueError, match=r"of shape \(d,\), \(d, d\), ..., but got \[\(3,\), \(3, 2\)\]"):
        paths.lyndon_coordinates((jnp.zeros(3), jnp.zeros((3, 2))))
