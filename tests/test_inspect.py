"""What terms consist of is seen under what wraps them."""

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import pytest

import nde
from nde.diffusion import VariancePreserving
from nde.terms import (
    brownian_terms,
    is_noise,
    reads_state,
    unwrap_solver,
    unwrap_time_direction,
    WithIntegrals,
)

SCHEDULE = VariancePreserving()


def path(t0=0.0, t1=1.0):
    return nde.VirtualBrownianTree(t0, t1, tol=2**-10, shape=(2,), key=jax.random.key(0))


def diffusion(t, y, args):
    return jnp.eye(2)


def sampling(early, late):
    """The reverse-time SDE of a diffusion model, with a path from one time of the noise to another."""
    gammas = [float((SCHEDULE.alpha(t) / SCHEDULE.sigma(t)) ** 2) for t in (late, early)]
    return nde.diffusion_model_term(lambda t, x, args: jnp.zeros_like(x), SCHEDULE, path=path(*gammas))


DRIFT = diffrax.ODETerm(lambda t, y, args: -y)
NOISE = diffrax.ControlTerm(diffusion, path())


def beside(term):
    """Noise as it is where integrals stand beside the state."""
    return WithIntegrals(diffrax.MultiTerm(DRIFT, term), [lambda field, t, y, args: 0.0]).terms.terms[1]


def turned(term):
    """A term as diffrax wraps it in a solve backward in time."""
    return diffrax._term.WrapTerm(term, -1)


@pytest.mark.parametrize(
    "terms",
    [
        NOISE,
        sampling(0.01, 0.9),
        diffrax.MultiTerm(DRIFT, diffrax.MultiTerm(DRIFT, NOISE)),
        turned(diffrax.MultiTerm(DRIFT, NOISE)),
        diffrax.MultiTerm(DRIFT, beside(NOISE)),
        turned(beside(diffrax.MultiTerm(NOISE))),
    ],
    ids=["plain", "semilinear", "nested", "turned", "beside", "turned beside"],
)
def test_brownian_motion_is_seen_under_what_wraps_it(terms):
    ((term, found),) = brownian_terms(terms)
    assert isinstance(found, nde.VirtualBrownianTree)
    assert not is_noise(DRIFT)
    assert is_noise(term) == (term.__class__.__name__ != "SemilinearTerm")


def test_a_field_that_reads_a_path_is_not_driven_by_it():
    assert brownian_terms(diffrax.ODETerm(jax.tree_util.Partial(lambda w, t, y, args: w.evaluate(t), path()))) == []


def test_solvers_and_time_are_unwrapped():
    heun = diffrax.Heun()
    assert unwrap_solver(diffrax.HalfSolver(diffrax.HalfSolver(heun))) == (heun, 4)
    assert unwrap_time_direction(turned(NOISE))[1] == -1
    assert unwrap_time_direction(turned(NOISE))[0] is NOISE
    assert unwrap_time_direction(NOISE) == (NOISE, 1)


@pytest.mark.parametrize("solver", [nde.Rex(diffrax.Heun()), diffrax.Heun()], ids=["Rex", "Heun"])
def test_a_semilinear_path_that_ends_too_early_is_refused(solver):
    def solve(term):
        return nde.diffeqsolve(term, solver, 0.9, 0.1, -0.1, jnp.ones(2)).ys

    assert jnp.all(jnp.isfinite(solve(sampling(0.1, 0.9))))
    for early, late in [(0.2, 0.9), (0.1, 0.8)]:
        with pytest.raises(ValueError, match="is known from t0=.*give the path the solve's ends"):
            solve(sampling(early, late))


def test_a_field_reads_the_state_by_its_operations():
    """Those that have no derivative, and functions with a rule for the backward pass alone, are no exception."""

    @jax.custom_vjp
    def by_rule(y):
        return 2 * y

    by_rule.defvjp(lambda y: (2 * y, None), lambda _, ct: (2 * ct,))
    for field, reads in [(jnp.sign, True), (by_rule, True), (jnp.ones_like, False), (jnp.diag, True)]:
        term = diffrax.ControlTerm(lambda t, y, args, field=field: field(y), path())
        assert reads_state(term, 0.0, jnp.ones(2), None) == reads
    operator = diffrax.ControlTerm(lambda t, y, args: lx.DiagonalLinearOperator(y), path())
    assert reads_state(operator, 0.0, jnp.ones(2), None)
