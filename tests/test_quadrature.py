"""Integrals beside a state: exact ones, in the place of others before them, and nothing else of the solve changed."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close

import nde
from nde.terms import diffusion_term, WithIntegrals, without_integrals

DECAY = nde.ODETerm(lambda t, y, args: -y)
Y0 = jnp.array([1.0, 2.0])


def square(field, t, y, args):
    return jnp.sum(field(t, y, args) ** 2)


def with_norm(field, t, y, args):
    return field(t, y, args), jnp.sum(y)


def path(t1=1.0):
    return nde.VirtualBrownianTree(0.0, t1, 1e-2, (2,), jax.random.key(0))


@pytest.mark.parametrize("t0", [0.0, 1.0], ids=["forward", "backward"])
def test_integrals_stand_in_order_beside_those_before_them(t0):
    first = WithIntegrals(DECAY, [lambda field, t, y, args: t], with_norm)
    both = WithIntegrals(first.terms, [square])
    saveat = nde.SaveAt(subs=[both.sub(nde.SubSaveAt(t1=True)), both.integrals])
    start = both.state(first.state(Y0 * np.exp(-t0)))
    assert len(start[1]) == 3
    sign = 1 - 2 * t0
    solution = nde.diffeqsolve(both.terms, nde.Dopri8(), t0, 1 - t0, sign * 0.05, start, saveat=saveat)
    found, (energy,) = solution.ys
    assert_trees_all_close(found[0][0], Y0 * np.exp(t0 - 1), rtol=1e-9)
    assert_trees_all_close([x[0] for x in found[1]], [sign * 3 * (1 - np.exp(-1)), sign * 0.5], rtol=1e-9)
    assert energy[0] == pytest.approx(sign * 5 * (1 - np.exp(-2)) / 2, rel=1e-9)


def test_steps_events_and_what_is_saved_are_those_of_the_state_alone():
    asked = []

    def steady(t, y, args, *, terms, **rest):
        asked.append((type(terms), y.shape))
        return jnp.sum(terms.vf(t, y, args)) + 1.0  # the field is -sum(y), the state turned in time

    controller = diffrax.ClipStepSizeController(nde.PIDController(rtol=1e-4, atol=1e-4), step_ts=[-0.7])
    event, options = nde.Event(steady), {"max_steps": 256}
    alone = nde.diffeqsolve(
        DECAY, nde.Tsit5(), 0.0, -2.0, -0.1, -Y0, stepsize_controller=controller, event=event, **options
    )
    pair = WithIntegrals(DECAY, [lambda field, t, y, args: 1e9 * jnp.sin(50 * t)])
    options |= {"stepsize_controller": pair.controller(controller), "event": pair.event(event, controller)}
    saveat = pair.saveat(nde.SaveAt(t1=True))
    beside = nde.diffeqsolve(pair.terms, nde.Tsit5(), 0.0, -2.0, -0.1, pair.state(-Y0), saveat=saveat, **options)
    assert_trees_all_close((beside.ts, beside.ys), (alone.ts, alone.ys), rtol=1e-12)
    assert beside.stats["num_steps"] == alone.stats["num_steps"]
    assert len(set(asked)) == 1


def test_the_equation_is_found_again():
    noise = diffusion_term(lambda t, y, args: 0.1 * jnp.ones(2), path(), diagonal=True)
    for equation in (DECAY, nde.MultiTerm(DECAY, noise)):
        pair = WithIntegrals(WithIntegrals(equation, [square]).terms, [square])
        found, y = without_integrals(pair.terms, pair.state((Y0, [0.0])))
        assert_trees_all_close(y, Y0)
        assert found == equation
    assert without_integrals(DECAY, Y0) == (DECAY, Y0)


def test_an_equation_with_integrals_is_checked_as_it_is_without():
    noise = diffusion_term(lambda t, y, args: 0.1 * jnp.ones(2), path(0.5), diagonal=True)
    pair = WithIntegrals(nde.MultiTerm(DECAY, noise), [square])
    with pytest.raises(ValueError, match="is known from t0=0.0 to t1=0.5"):
        nde.diffeqsolve(pair.terms, nde.Euler(), 0.0, 1.0, 0.1, pair.state(Y0))
    matrix = nde.ControlTerm(lambda t, y, args: jnp.ones((3, 2)), path())
    pair = WithIntegrals(nde.MultiTerm(DECAY, matrix), [square])
    with pytest.raises(ValueError, match=r"The diffusion returns an array of shape \[\(3, 2\)\]"):
        nde.diffeqsolve(pair.terms, nde.Euler(), 0.0, 1.0, 0.1, pair.state(Y0))


def test_what_has_no_drift_or_two_is_refused():
    with pytest.raises(ValueError, match="needs an ODETerm, or a MultiTerm that begins with one, but got ControlTerm"):
        WithIntegrals(nde.ControlTerm(lambda t, y, args: y, path()), [square])
    with pytest.raises(ValueError, match="the others must be noise, but got ODETerm"):
        WithIntegrals(nde.MultiTerm(DECAY, DECAY), [square])
    with pytest.raises(ValueError, match="joint must be None"):
        WithIntegrals(WithIntegrals(DECAY, [square]).terms, joint=with_norm)


@pytest.mark.parametrize("state", [Y0, (Y0, Y0), (Y0, []), (Y0, [0.0, 0.0]), (Y0, [Y0])])
def test_a_start_without_the_integrals_is_refused(state):
    with pytest.raises(ValueError, match=r"have 1 integrals beside the state, .* WithIntegrals\(...\).state\(y0\)"):
        nde.diffeqsolve(WithIntegrals(DECAY, [square]).terms, nde.Tsit5(), 0.0, 1.0, 0.1, state)
