"""State spaces: one exact step, a scan and a convolution are one; the latent model made of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from chex import assert_trees_all_close, assert_trees_all_equal
from jax.flatten_util import ravel_pytree

import nde
from nde.models import LS4, StateSpace, StateSpaceStack
from nde.models.latent_path import normal_kl
from nde.models.ls4 import bounded

KEY = jax.random.key(0)
TIMES = jnp.array([3.0, 3.3, 3.9, 4.5, 5.0])
VALUES = jnp.array([[1.0, 2.0], [0.5, 0.0], [0.0, -1.0], [0.3, 0.2], [0.4, 0.1]])
MASK = jnp.array([[1, 1], [1, 0], [0, 0], [1, 1], [0, 1]], bool)
ASKED = jnp.array([3.0, 3.2, 4.6, 5.9, 6.0])


def layer():
    return StateSpace(3, 2, shortest=0.3, longest=2.0, key=KEY)


def as_matrices(layer, channel):
    """The real system of twice as many states: A, b, c, d."""
    rates, weights = np.asarray(layer.rates)[channel], np.asarray(layer.weights)[channel]
    blocks = [np.array([[rate.real, -rate.imag], [rate.imag, rate.real]]) for rate in rates]
    a = scipy.linalg.block_diag(*blocks)
    b = np.tile([1.0, 0.0], len(rates))[:, None] * np.exp(-np.asarray(layer.log_time_scale)[channel])
    c = np.stack([2 * weights.real, -2 * weights.imag], 1).reshape(1, -1)
    return a, b, c, np.array([[layer.skip[channel]]])


def test_step_scan_and_convolution_are_scipys_hold():
    inputs, gap = np.random.default_rng(0).standard_normal((12, 3)), 0.37
    space = layer()
    sequential, states = space(inputs, jnp.full(12, gap), "sequential")
    found = {
        "associative": space(inputs, jnp.full(12, gap), "associative")[0],
        "convolution": space.convolve(jnp.asarray(inputs), jnp.array(gap)),
    }
    for name, outputs in found.items():
        np.testing.assert_allclose(outputs, sequential, rtol=0, atol=1e-12, err_msg=name)
    state, outputs = space.step(states[6], jnp.asarray(inputs[7]), jnp.array(gap))
    np.testing.assert_allclose(state, states[7], rtol=1e-12)
    np.testing.assert_allclose(outputs, sequential[7], rtol=1e-12)
    for channel in range(3):
        a, b, c, d, _ = scipy.signal.cont2discrete(as_matrices(space, channel), gap, method="zoh")
        x = np.zeros((4, 1))
        for u, y in zip(inputs[:, channel], sequential[:, channel], strict=True):
            x = a @ x + b * u
            np.testing.assert_allclose(y, (c @ x + d * u)[0, 0], rtol=0, atol=1e-12)


def test_a_scan_over_uneven_gaps_is_a_product_of_exponentials():
    generator = np.random.default_rng(1)
    inputs, gaps = (
        generator.standard_normal((7, 3)),
        generator.uniform(1e-9, 2.0, 7) * np.array([1, 1, 0, 1, 1e-9, 1, 1]),
    )
    space = layer()
    outputs, states = space(inputs, jnp.asarray(gaps))
    np.testing.assert_array_equal(states[2], states[1])  # no time, no change
    for channel in range(3):
        a, b, c, d = as_matrices(space, channel)
        x = np.zeros(5)
        for u, gap, y in zip(inputs[:, channel], gaps, outputs[:, channel], strict=True):
            x[4] = u
            x = scipy.linalg.expm(gap * np.block([[a, b], [np.zeros((1, 5))]])) @ x
            np.testing.assert_allclose(y, (c[0] @ x[:4] + d[0, 0] * u), rtol=0, atol=1e-12)


def test_a_stack_is_its_steps():
    stack = StateSpaceStack(2, 3, 4, 2, 2, shortest=0.3, longest=2.0, key=KEY)
    assert not np.any(stack(VALUES, jnp.ones(5))[0])
    stack = eqx.tree_at(lambda s: s.last.weight, stack, jax.random.normal(KEY, (3, 4)))
    gaps = jnp.diff(TIMES, prepend=TIMES[:1])
    outputs, _ = stack(VALUES, gaps)
    states = stack.start
    for row in range(5):
        found, states = stack.step(states, VALUES[row], gaps[row])
        np.testing.assert_allclose(found, outputs[row], rtol=1e-12)


def make(**options):
    """A model whose laws have moved from where they start."""
    model = LS4(2, 3, horizon=3.0, dt0=0.5, width=4, modes=2, key=KEY, **options)
    weights, rest = eqx.partition(model, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(weights)
    return eqx.combine(unravel(flat + 0.3 * jax.random.normal(KEY, flat.shape)), rest)


def test_posterior_starts_as_the_prior_and_the_samples_follow_it():
    model = LS4(2, 3, horizon=3.0, dt0=0.5, width=4, modes=2, key=KEY)
    path = model.posterior(TIMES, VALUES, MASK, ASKED, key=KEY)
    assert path.kl_path == path.kl_initial == 0
    assert_trees_all_equal(path.zs, model.prior(ASKED - TIMES[0], key=KEY))
    nothing = make().posterior(TIMES, VALUES, jnp.zeros_like(MASK), ASKED, key=KEY)
    assert nothing.kl_path == nothing.kl_initial == 0
    assert_trees_all_equal(nothing.zs, make().prior(ASKED - TIMES[0], key=KEY))


def test_divergences_are_those_of_the_cells_laws():
    """By hand, cell after cell: the posterior reads the rows up to its own cell's end, the prior is stepped."""
    model = make()
    path = model.posterior(TIMES, VALUES, MASK, ASKED, key=KEY)
    noise = jax.random.normal(KEY, (7, 3))
    z, states, costs = jnp.zeros(3), model.transition.start, []
    for j in range(7):
        upto = TIMES - TIMES[0] <= 0.5 * j
        held, before, clock, reader = jnp.zeros(2), jnp.zeros(2), 0.0, model.encoder.start
        events = [(float(t - TIMES[0]), i) for i, t in enumerate(TIMES) if upto[i]]
        ends = [(0.5 * k, -1) for k in range(j + 1)]
        for t, i in sorted(events + ends, key=lambda pair: (pair[0], pair[1] < 0)):
            seen = MASK[i] if i >= 0 else jnp.zeros(2, bool)
            before, held = held, jnp.where(seen, VALUES[i], held)
            inputs = jnp.concatenate([held, seen.astype(float), before])
            law, reader = model.encoder.step(reader, inputs, jnp.array(t - clock))
            clock = t
        prior, states = model.transition.step(states, z, jnp.array(0.5))
        prior = (model.initial_mean, model.initial_log_std) if j == 0 else (prior[:3], bounded(prior[3:]))
        own = (law[:3], bounded(law[3:])) if j <= 4 else prior  # the last observation, at 2.0, lies in cell 4
        costs.append(normal_kl(*own, *prior))
        z = own[0] + jnp.exp(own[1]) * noise[j]
    np.testing.assert_allclose(path.kl_initial, costs[0], rtol=1e-10)
    np.testing.assert_allclose(path.kl_path, sum(costs[1:]), rtol=1e-10)
    early = model.posterior(TIMES, VALUES, MASK, ASKED[:2], key=KEY)
    np.testing.assert_allclose(early.kl_path, costs[1], rtol=1e-10)


def test_no_trace_of_padding_of_what_is_hidden_or_of_what_else_is_asked():
    model = make()
    path = model.posterior(TIMES, VALUES, MASK, ASKED, key=KEY)
    pad = (jnp.full(2, 5.0), jnp.full((2, 2), jnp.nan), jnp.zeros((2, 2), bool))
    padded = [jnp.concatenate(pair) for pair in zip((TIMES, VALUES, MASK), pad, strict=True)]
    # to rounding, not to the bit: products of more rows are summed in another order
    assert_trees_all_close(model.posterior(*padded, ASKED, key=KEY), path, rtol=1e-13)
    hidden = jnp.where(MASK, VALUES, jnp.inf)
    assert_trees_all_equal(model.posterior(TIMES, hidden, MASK, ASKED, key=KEY), path)
    more = model.posterior(TIMES, VALUES, MASK, jnp.sort(jnp.append(ASKED, 4.7)), key=KEY)
    assert_trees_all_equal(more.zs[jnp.array([0, 1, 2, 4, 5])], path.zs)
    # the latents of a cell have read no later one: the first two times lie in the cells 0 and 1, up to 3.5
    other = model.posterior(TIMES, VALUES.at[2:].add(1.0), MASK.at[2].set(True), ASKED, key=KEY)
    assert_trees_all_equal(other.zs[:2], path.zs[:2])
    assert np.abs(other.zs[2:] - path.zs[2:]).min() > 1e-6


def test_the_generator_is_continuous_within_a_cell_and_exact_at_its_end():
    model = make()
    ends = model.posterior(TIMES, VALUES, MASK, jnp.arange(3.0, 6.01, 0.5), key=KEY).zs
    before = model.posterior(TIMES, VALUES, MASK, jnp.arange(3.5, 6.01, 0.5) - 1e-9, key=KEY).zs
    np.testing.assert_allclose(before, ends[1:], rtol=0, atol=1e-6)


def test_gradient_of_the_bound_is_that_of_finite_differences():
    model, elbo = make(likelihood=nde.GaussianLikelihood(2)), nde.ELBO(samples=2)
    context = MASK & (TIMES < 4.0)[:, None]
    weights, rest = eqx.partition(model, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(weights)

    def loss(flat):
        return elbo(eqx.combine(unravel(flat), rest), TIMES, VALUES, MASK, context, key=KEY).loss()

    loss = jax.jit(loss)
    direction = np.random.default_rng(1).standard_normal(flat.shape)
    difference = (loss(flat + 1e-6 * direction) - loss(flat - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(flat) @ direction, difference, rtol=1e-6)


def test_single_precision_and_whole_numbers():
    model = jax.tree.map(lambda x: x.astype("float32") if eqx.is_inexact_array(x) else x, make())
    values = np.array([[1, 2], [0, 3]], np.float32)
    path = model.posterior(np.array([0, 1]), values, np.ones((2, 2), bool), np.array([0, 2]), key=KEY)
    assert path.zs.dtype == "float32"
    assert np.isfinite(model.decode(path.zs)).all()
    assert model.horizon == 3.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LS4(2, 3, horizon=1.0, dt0=2.0, key=KEY), "0 < dt0 <= horizon, and not infinite, but got dt0=2.0"),
        (lambda: StateSpace(1, 1, shortest=2.0, longest=1.0, key=KEY), "shortest <= longest, but got shortest=2.0"),
        (
            lambda: make().posterior(TIMES, VALUES[:, :1], MASK, ASKED, key=KEY),
            r"LS4 needs ts of shape \(rows,\), values and mask of shape \(rows, 2\), but got ts of shape \(5,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
