"""What a solver can is said in one place, by diffrax's table or by a solver's own method."""

import diffrax
import jax
import jax.numpy as jnp
import pytest
from chex import assert_trees_all_close

import nde
from nde.solvers import SolverTraits, traits_of, undo
from nde.terms import Interpretation, NoiseKind

TERM = nde.ODETerm(lambda t, y, args: jnp.sin(t) - args * y)
Y0 = jnp.array([1.0, -0.5])
NOISE = nde.ControlTerm(
    lambda t, y, args: 0.1 * jnp.eye(2), nde.VirtualBrownianTree(0.0, 1.0, 1e-2, (2,), jax.random.key(0))
)


class Mine(diffrax.AbstractSolver):
    """Reversible Heun's method as somebody else's, that says what it can by `inverse_step` alone."""

    term_structure = diffrax.AbstractTerm
    interpolation_cls = diffrax.LocalLinearInterpolation

    def order(self, terms):
        return 2

    def init(self, terms, t0, t1, y0, args):
        return diffrax.ReversibleHeun().init(terms, t0, t1, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        return diffrax.ReversibleHeun().step(terms, t0, t1, y0, args, solver_state, made_jump)

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def inverse_step(self, terms, args):
        return traits_of(diffrax.ReversibleHeun()).inverse(terms, args)


class Named(nde.Reversible):
    """A method of another name."""


class Other(diffrax.ReversibleHeun):
    """May step in another way."""


class ByTraits(Mine):
    """The same, with all that it can."""

    inverse_step = None

    def traits(self):
        return SolverTraits(1, 1, frozenset({Interpretation.STRATONOVICH}), frozenset({NoiseKind.ADDITIVE}))


@pytest.mark.parametrize(
    "solver", [Mine(), Named(nde.Heun()), diffrax.ReversibleHeun()], ids=lambda x: type(x).__name__
)
def test_any_reversible_method_is_taken_back(solver):
    saveat = nde.SaveAt(t1=True, solver_state=True)
    for ts in (jnp.linspace(0.0, 1.0, 9), jnp.linspace(1.0, 0.0, 9)):
        controller = nde.StepTo(ts)
        end = nde.diffeqsolve(TERM, solver, ts[0], ts[-1], None, Y0, 0.7, saveat=saveat, stepsize_controller=controller)
        start, state = undo(solver, TERM, ts, end.ys[0], end.solver_state, 0.7)
        assert_trees_all_close(start, Y0, rtol=1e-12)
        assert_trees_all_close(state, solver.init(TERM, ts[0], ts[1], Y0, 0.7), rtol=1e-12)


def test_a_method_that_is_not_reversible_is_not_taken_back():
    for solver in (nde.Heun(), nde.HalfSolver(nde.Reversible(nde.Heun())), Other()):
        with pytest.raises(ValueError, match=f"undo takes back .* but got {type(solver).__name__}"):
            undo(solver, TERM, jnp.linspace(0.0, 1.0, 3), Y0, None, 0.7)


@pytest.mark.parametrize(
    "solver",
    [
        nde.Euler(),
        nde.EulerHeun(),
        nde.StratonovichMilstein(),
        diffrax.ReversibleHeun(),
        nde.HalfSolver(nde.Euler()),
        nde.HalfSolver(diffrax.ReversibleHeun()),
        nde.Reversible(nde.Tsit5()),
        nde.Reversible(nde.Euler()),
    ],
    ids=lambda x: type(x).__name__ + type(getattr(x, "solver", None)).__name__,
)
def test_the_field_is_evaluated_as_often_as_is_said(solver):
    calls = []

    def count(t):
        calls.append(t)
        return t

    def drift(t, y, args):
        t = jnp.asarray(t, float)
        return -y * jax.pure_callback(count, t, t)  # not called where nothing hangs on it

    terms = nde.MultiTerm(nde.ODETerm(drift), NOISE)
    known, state = traits_of(solver), solver.init(terms, 0.0, 0.1, Y0, None)
    jax.block_until_ready(state)
    assert len(calls) == known.first_evaluations
    calls.clear()
    step = jax.jit(lambda y, state: solver.step(terms, 0.0, 0.1, y, None, state, False))
    jax.block_until_ready(step(Y0, state)[0])
    assert len(calls) == known.evaluations


def test_a_solver_says_what_it_can():
    known = traits_of(ByTraits())
    assert (known.inverse, known.noise) == (None, {NoiseKind.ADDITIVE})
    solution = nde.diffeqsolve(TERM, ByTraits(), 0.0, 1.0, 0.25, Y0, 0.7)
    assert solution.stats["num_field_evaluations"] == 5
    diffusion = nde.ControlTerm(lambda t, y, args: jnp.diag(jnp.flip(y)), NOISE.control)
    terms = nde.MultiTerm(nde.ODETerm(lambda t, y, args: -y), diffusion)
    with pytest.raises(ValueError, match="makes general noise, but ByTraits is made for additive noise"):
        nde.diffeqsolve(terms, ByTraits(), 0.0, 1.0, 0.25, Y0)


def test_what_a_wrapped_method_converges_to_is_what_the_method_does():
    for solver in (nde.Euler(), nde.Heun(), nde.ItoMilstein(), diffrax.SEA(), nde.Tsit5()):
        half = traits_of(nde.HalfSolver(solver))
        assert (half.interpretations, half.noise) == (traits_of(solver).interpretations, traits_of(solver).noise)
        assert half.inverse is half.tableau is half.stages is None
    assert traits_of(nde.Reversible(nde.Heun())).interpretations == {Interpretation.STRATONOVICH}


def test_the_continuous_adjoint_refuses_a_method_that_keeps_a_state():
    def end(a, **options):
        return nde.diffeqsolve(TERM, nde.Reversible(nde.Heun()), 0.0, 1.0, 0.25, Y0, a, **options).ys.sum()

    with pytest.raises(ValueError, match="a solve by Reversible, which takes more of a term than its product"):
        jax.grad(end)(0.7, adjoint=nde.ContinuousAdjoint())
    found = jax.grad(end)(0.7, adjoint=nde.ContinuousAdjoint(solver=nde.Heun()))
    assert_trees_all_close(found, jax.grad(end)(0.7), rtol=0.05)
