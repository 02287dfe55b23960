"""Derivatives through steps that are chosen as they go: which there are, and what is said of the others."""

import diffrax
import jax
import jax.numpy as jnp
import pytest

import nde

A = 1.2
REVERSIBLE = nde.Reversible(diffrax.Heun())


def ended(adjoint, controller=None, solver=None):
    """The end of a solve as a function of a parameter; the exact one is 1.5 / (1 + 1.5 a)."""
    controller = controller or diffrax.PIDController(rtol=1e-5, atol=1e-5)
    term, solver = diffrax.ODETerm(lambda t, y, a: -a * y**2), solver or diffrax.Tsit5()

    def solve(a):
        options = {"stepsize_controller": controller, "adjoint": adjoint}
        return nde.diffeqsolve(term, solver, 0.0, 1.0, 0.1, jnp.array(1.5), a, **options).ys[0]

    return solve


def forward_over_reverse(f):
    return jax.jit(lambda a: jax.jvp(jax.grad(f), (a,), (1.0,))[1])(A)


FORWARD = {  # under jit a refusal costs no compilation
    "jvp": lambda f: jax.jit(lambda a: jax.jvp(f, (a,), (1.0,)))(A),
    "jacfwd": lambda f: jax.jit(jax.jacfwd(f))(A),
    "grad of jvp": lambda f: jax.jit(jax.grad(lambda a: jax.jvp(f, (a,), (1.0,))[1]))(A),
}
TWICE = {
    "grad of grad": lambda f: jax.jit(jax.grad(jax.grad(f)))(A),
    "vmap": lambda f: jax.jit(jax.grad(lambda a: jax.vmap(jax.grad(f))(a * jnp.ones(2)).sum()))(A),
}


@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_is_refused_by_the_ways_out(name):
    with pytest.raises(TypeError, match=r"no forward mode.*diffrax.ForwardMode\(\).*diffrax.StepTo"):
        FORWARD[name](ended(nde.CheckpointAdjoint()))


@pytest.mark.parametrize("name", TWICE)
def test_reverse_mode_twice_is_refused_by_the_ways_out(name):
    with pytest.raises(ValueError, match=r"backward twice.*jax.hessian.*diffrax.DirectAdjoint\(\).*diffrax.StepTo"):
        TWICE[name](ended(nde.CheckpointAdjoint()))


@pytest.mark.parametrize("adjoint", [nde.ContinuousAdjoint(), nde.ReversibleAdjoint()])
def test_other_adjoints_refuse_the_same(adjoint):
    solve = ended(adjoint, solver=REVERSIBLE if isinstance(adjoint, nde.ReversibleAdjoint) else None)
    with pytest.raises(TypeError, match="no forward mode"):
        FORWARD["jvp"](solve)
    with pytest.raises(ValueError, match="backward twice"):
        TWICE["grad of grad"](solve)


@pytest.mark.parametrize("adjoint", [nde.CheckpointAdjoint(2), nde.ReversibleAdjoint(), nde.ContinuousAdjoint()])
def test_hessian_is_forward_over_reverse(adjoint):
    solve = ended(adjoint, solver=REVERSIBLE if isinstance(adjoint, nde.ReversibleAdjoint) else None)
    exact = 2 * 1.5**3 / (1 + 1.5 * A) ** 3
    assert jnp.allclose(forward_over_reverse(solve), exact, rtol=2e-3)


def test_hessian_of_a_batch_is_that_of_diffrax():
    def loss(adjoint):
        solve = ended(adjoint)
        return lambda p: jnp.sum(jax.vmap(lambda x: solve(p[0] + x * p[1]))(jnp.array([0.3, 1.0])) ** 2)

    p = jnp.array([1.0, 0.5])
    ours, theirs = (jax.jit(jax.hessian(loss(a)))(p) for a in (nde.CheckpointAdjoint(), diffrax.DirectAdjoint()))
    assert jnp.allclose(ours, theirs, rtol=1e-4)


def test_ways_out_of_the_refusals():
    exact = -(1.5**2) / (1 + 1.5 * A) ** 2
    for adjoint in (diffrax.ForwardMode(), diffrax.DirectAdjoint()):
        assert jnp.allclose(jax.jit(jax.jacfwd(ended(adjoint)))(A), exact, rtol=2e-3)
    known = ended(nde.CheckpointAdjoint(), diffrax.ConstantStepSize())
    assert jnp.allclose(jax.jit(jax.jacfwd(known))(A), exact, rtol=1e-4)
    for solve in (known, ended(diffrax.DirectAdjoint())):
        assert jnp.allclose(jax.jit(jax.grad(jax.grad(solve)))(A), 2 * 1.5**3 / (1 + 1.5 * A) ** 3, rtol=2e-3)
