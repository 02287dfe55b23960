"""One broken series in a batch: a loss that leaves it out has the gradient of the others, and zero of its own."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nde

TIMES = jnp.linspace(0.0, 1.0, 6)
VALUES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 2)))
BROKEN = 1  # of three


class Square(eqx.Module):
    """It blows up from a large start."""

    weight: jax.Array

    def __call__(self, t, y, args=None):
        return self.weight * y**2


class Constant(eqx.Module):
    size: jax.Array

    def __call__(self, t, y, args=None):
        return self.size * jnp.ones_like(y)


class Columns(eqx.Module):
    """The matrix of a CDE that blows up from large values."""

    weight: jax.Array

    def __call__(self, t, y, args=None):
        return jnp.einsum("ijk,k->ij", self.weight, y) + 0.2 * (y**2)[:, None]


def starts(bad: float):
    return (jnp.array([[0.3, 0.1], [bad, 1.0], [0.2, -0.4]]),)


def ode(**keywords):
    def loss(model, y0):
        return jnp.mean((model(TIMES, y0) - 1.0) ** 2)

    return nde.NeuralODE(Square(jnp.array(1.0)), throw=False, **keywords), loss


def sde():
    noise, keys = Constant(jnp.array(0.1)), jax.random.key(0)
    model = nde.NeuralSDE(
        Square(jnp.array(1.0)), noise, solver=diffrax.Euler(), dt0=0.05, grid=(0.0, 1.0, 20), throw=False
    )

    def loss(model, y0):
        return jnp.mean((model(TIMES, y0, key=keys) - 1.0) ** 2)

    return model, loss


def cde(**keywords):
    keys = jax.random.split(jax.random.key(0), 3)
    start, readout = eqx.nn.Linear(5, 4, key=keys[0]), eqx.nn.Linear(4, 2, key=keys[1])
    field = Columns(0.3 * jax.random.normal(keys[2], (4, 5, 4)))
    model = nde.NeuralCDE(start, field, readout, solver=nde.Heun(), throw=False, **keywords)
    return model, lambda model, values: -jax.nn.log_softmax(model(TIMES, values))[0]


def latent():
    model = nde.LatentSDE(channels=2, state_size=3, horizon=1.0, dt0=0.2, key=jax.random.key(0), throw=False)
    mask = jnp.ones((6, 2), bool)

    def loss(model, values):
        return nde.ELBO(samples=2)(model, TIMES, values, mask, mask, key=jax.random.key(1)).loss()

    return model, loss


ADAPTIVE = {"controller": nde.PIDController(rtol=1e-3, atol=1e-6), "max_steps": 64}
FIXED = {"controller": diffrax.ConstantStepSize(), "dt0": 0.05}  # a loop: the model's times are traced
INFINITE, FIRST = VALUES.at[BROKEN, 3, 0].set(jnp.inf), VALUES.at[BROKEN, 0, 0].set(jnp.inf)
CASES = {
    "ode, adaptive, infinite": (lambda: ode(**ADAPTIVE), starts(jnp.inf)),
    "ode, fixed, blows up": (lambda: ode(**FIXED), starts(50.0)),
    "sde, blows up": (sde, starts(50.0)),
    "cde, by rows, infinite": (lambda: cde(steps_per_row=1), (INFINITE,)),
    "cde, adaptive, infinite first": (lambda: cde(**ADAPTIVE | {"max_steps": 1000}), (FIRST,)),
    "latent sde, infinite": (latent, (INFINITE,)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_series_leaves_the_gradient_of_the_others_alone(case):
    make, batch = CASES[case]
    model, loss = make()

    def kept(model, *example):
        found = loss(model, *example)
        return jnp.where(jnp.isfinite(found), found, 0.0)

    def total(model, *batch):
        return jnp.sum(jax.vmap(kept, (None, 0))(model, *batch))

    @eqx.filter_jit
    def both(model, *batch):
        apart = jax.vmap(eqx.filter_value_and_grad(kept), (None, 0))(model, *batch)
        return *apart, eqx.filter_grad(total)(model, *batch)

    losses, each, gradient = both(model, *batch)
    assert losses[BROKEN] == 0 and jnp.all(losses[jnp.array([0, 2])] != 0)
    for whole, parts in zip(jax.tree.leaves(gradient), jax.tree.leaves(each), strict=True):
        assert not jnp.any(parts[BROKEN])
        np.testing.assert_allclose(whole, parts[0] + parts[2], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "adjoint", [nde.CheckpointAdjoint(), nde.ReversibleAdjoint()], ids=["checkpoint", "reversible"]
)
def test_constant_steps_end_where_the_state_is_no_number_and_say_so(adjoint):
    """With `t1` traced, so that the solve is a loop."""

    def solve(y0, t1):
        term = nde.ODETerm(Square(jnp.array(1.0)))
        return nde.diffeqsolve(
            term, nde.Reversible(nde.Heun()), 0.0, t1, 0.125, y0, throw=False, max_steps=16, adjoint=adjoint
        )

    solution = jax.jit(solve)(jnp.array([1e4]), 1.0)
    assert solution.result == nde.RESULTS.nonfinite and bool(jnp.isnan(solution.ys[-1, 0]))
    assert solution.stats["num_accepted_steps"] < 8
    slope = jax.jit(jax.grad(lambda y0, t1: jnp.sum(jnp.nan_to_num(solve(y0, t1).ys, nan=0.0))))(jnp.array([1e4]), 1.0)
    assert not jnp.any(slope)
