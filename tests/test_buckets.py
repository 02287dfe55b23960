"""Buckets: the same values and gradients as `vmap`, in the batch's own order."""

import chex
import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import nde


def solve(parameters, start, rate):
    """An oscillator whose rate, and so its number of steps, is its own."""
    return nde.diffeqsolve(
        diffrax.ODETerm(lambda t, y, p: rate * jnp.stack([p * y[1], -y[0]])), diffrax.Tsit5(), 0.0, 1.0, 0.1, start,
        parameters, stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
    )  # fmt: skip


def loss(parameters, starts, rates, mapped):
    solution = mapped(lambda start, rate: solve(parameters, start, rate), starts, rates)
    weights = jnp.arange(1.0, 1 + len(starts))[:, None]
    return jnp.sum(weights * solution.ys[:, -1]), solution.stats["num_steps"]


def problem(batch):
    return jnp.asarray(1.3), jr.normal(jr.key(0), (batch, 2)), 20 * jr.uniform(jr.key(1), (batch,))


@pytest.mark.parametrize(("batch", "buckets"), [(7, 3), (4, 8)])
def test_values_and_gradients_are_those_of_vmap(batch, buckets):
    given = problem(batch)

    def in_buckets(function, starts, rates):
        return nde.map_in_buckets(function, rates, starts, rates, buckets=buckets)

    def plain(function, *batched):
        return jax.vmap(function)(*batched)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True), static_argnums=3)
    chex.assert_trees_all_close(run(*given, in_buckets), run(*given, plain), rtol=1e-12)


def test_an_empty_batch_is_none():
    out = nde.map_in_buckets(lambda start, rate: rate * start, jnp.zeros(0), *problem(0)[1:])
    assert out.shape == (0, 2)


def test_a_wrong_cost_or_number_of_buckets():
    _, starts, rates = problem(3)
    with pytest.raises(ValueError, match="one number an example.*has shape \\(2,\\).*\\(3, 2\\)"):
        nde.map_in_buckets(lambda y: y, rates[:2], starts)
    with pytest.raises(ValueError, match="buckets must be a positive integer, not 0"):
        nde.map_in_buckets(lambda y: y, rates, starts, buckets=0)
