"""Recurrent networks of irregular series: their equations, what they never read, and what they refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nde.models import GRUD, GRUDeltaT

KEY = jax.random.key(0)
MODELS = [GRUDeltaT, GRUD]


def series(rows=6, seed=0):
    generator = np.random.default_rng(seed)
    times = np.cumsum(generator.uniform(0.5, 2.0, rows))
    mask = generator.random((rows, 2)) < 0.6
    mask[0, 0], mask[2] = True, False
    mask[-1] = True
    return times, generator.standard_normal((rows, 2)), mask


def by_hand(model, times, values, mask):
    """GRU-D as its equations stand, in NumPy, over the rows that observed anything."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    weight = lambda layer, x: np.asarray(layer.weight) @ x + np.asarray(layer.bias)  # noqa: E731
    mean, h, out = np.array(model.mean), np.zeros(model.candidate.out_features), []
    last, seen_at = mean.copy(), np.full(2, times[0])
    for t, x, m in zip(times, values, mask, strict=True):
        delta = (t - seen_at) / model.gap_scale
        if m.any():
            decay = np.exp(-np.maximum(0, np.asarray(model.input_decay) * delta + np.asarray(model.input_bias)))
            x_hat = np.where(m, x, decay * last + (1 - decay) * mean)
            h = np.exp(-np.maximum(0, weight(model.hidden_decay, delta))) * h
            z, r = np.split(sigmoid(weight(model.gates, np.concatenate([x_hat, m, h]))), 2)
            h = (1 - z) * h + z * np.tanh(weight(model.candidate, np.concatenate([x_hat, m, r * h])))
        last, seen_at = np.where(m, x, last), np.where(m, t, seen_at)
        out.append(h)
    return np.stack(out)


def test_gru_d_is_its_equations():
    model = GRUD(2, 3, 4, gap_scale=0.7, mean=[0.5, -1.0], key=KEY)
    data = series()
    want = by_hand(model, *data)
    np.testing.assert_allclose(model.states(*data), want, rtol=1e-12)
    np.testing.assert_allclose(model(*data), model.readout(jnp.asarray(want[-1])), rtol=1e-12)


def test_after_a_long_wait_a_missing_value_reads_as_its_mean_and_the_state_as_zero():
    model = GRUD(2, 3, 4, mean=[0.5, -1.0], key=KEY)
    model = eqx.tree_at(lambda m: m.hidden_decay.weight, model, jnp.ones((3, 2)))
    mask = np.array([[1, 0], [0, 1]], bool)
    values = np.array([[3.0, 0.0], [0.0, 2.0]])
    fresh = model.states(np.array([0.0, 1e6]), np.array([[0.5, 0.0], [0.0, 2.0]]), mask)[1]
    np.testing.assert_allclose(model.states(np.array([0.0, 1e6]), values, mask)[1], fresh, rtol=1e-9)
    x = jnp.array([0.5, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    z = jax.nn.sigmoid(model.gates(x))[:3]
    np.testing.assert_allclose(fresh, z * jnp.tanh(model.candidate(x)), rtol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_hidden_or_padded_leaves_no_trace(model):
    net = model(2, 3, 4, key=KEY)
    times, values, mask = series()
    want, states = net(times, values, mask), net.states(times, values, mask)
    np.testing.assert_array_equal(states[2], states[1])  # a row without any observation
    for hidden in (np.nan, 1e30):
        np.testing.assert_array_equal(net(times, np.where(mask, values, hidden), mask), want)
    np.testing.assert_array_equal(net(times, np.where(mask, values, np.nan)), want)  # NaN is missing
    longer = np.append(times, [times[-1]] * 3)
    padded = np.concatenate([values, np.full((3, 2), 9.0)]), np.concatenate([mask, np.zeros((3, 2), bool)])
    np.testing.assert_array_equal(net(longer, *padded), want)
    gone = np.flatnonzero(mask.any(1))
    np.testing.assert_allclose(net(times[gone], values[gone], mask[gone]), want, rtol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_a_state_has_read_the_rows_before_it_alone(model):
    net = model(2, 3, 4, key=KEY)
    times, values, mask = series()
    states = np.asarray(net.states(times, values, mask))
    later = values.copy()
    later[4:] += 1
    changed = np.asarray(net.states(times, later, mask))
    np.testing.assert_array_equal(changed[:4], states[:4])
    assert (changed[4:] != states[4:]).any()
    np.testing.assert_array_equal(net(times, values, mask), net.readout(jnp.asarray(states[-1])))


@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_finite_and_those_of_differences(model):
    net = model(2, 3, 1, key=KEY)
    times, values, mask = series()
    batch = [np.stack([x, x]) for x in (times, np.where(mask, values, np.nan), mask)]
    batch[2][1] = False  # a series without any observation

    def loss(bias):
        moved = eqx.tree_at(lambda m: m.readout.weight, net, bias)
        return jnp.sum(jax.vmap(moved)(*batch))

    weight = net.readout.weight
    gradient = jax.grad(loss)(weight)
    assert np.isfinite(gradient).all()
    step = 1e-6 * jnp.ones_like(weight)
    np.testing.assert_allclose((loss(weight + step) - loss(weight - step)) / 2e-6, gradient.sum(), rtol=1e-6)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 2.0, 1.0], "needs times ts that increase, but a row lies before another"),
        ([0.0, 0.0, 1.0], "increase strictly, but for rows without observations that repeat the last time"),
        ([0.0, 1.0, 1.0], "increase strictly, but for rows without observations that repeat the last time"),
    ],
)
def test_times_that_go_back_or_repeat_are_an_error(model, times, message):
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(model(1, 2, 2, key=KEY)(np.array(times), np.ones((3, 1)), np.ones((3, 1), bool)))


@pytest.mark.parametrize("model", MODELS)
def test_shapes_and_scales_that_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match="gap_scale > 0, but got 0"):
        model(2, 3, 4, gap_scale=0.0, key=KEY)
    with pytest.raises(ValueError, match=r"\(rows, 2\), but got ts of shape \(3,\), values of shape \(3, 1\)"):
        model(2, 3, 4, key=KEY)(np.arange(3.0), np.zeros((3, 1)), np.ones((3, 1), bool))
    with pytest.raises(ValueError, match=r"mask of shape \(2, 2\)"):
        model(2, 3, 4, key=KEY)(np.arange(3.0), np.zeros((3, 2)), np.ones((2, 2), bool))
    assert model(2, 3, 4, key=KEY).states(np.zeros(0), np.zeros((0, 2))).shape == (0, 3)


def test_a_mean_belongs_to_each_channel():
    with pytest.raises(ValueError, match="a mean of each of its 2 channels, but got 3"):
        GRUD(2, 3, 4, mean=[0.0, 1.0, 2.0], key=KEY)
