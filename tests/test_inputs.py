"""Doses, infusions, covariates and constants of a series: against closed forms and differences."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nde
from nde.paths import covariate_path, Doses, Inputs

TS = jnp.array([0.0, 3.0, 7.3, 8.0, 24.0])
START = jnp.array([1.0, 2.0])
TIMES = jnp.array([0.0, 8.0, 8.0, 10.0, jnp.inf])  # one at the start, two at a row, an infusion, padding
AMOUNTS = jnp.array([50.0, 20.0, 30.0, 40.0, 3.0])
INTO, LASTING = np.array([0, 1, 0, 1, 0]), jnp.array([0.0, 0.0, 0.0, 3.0, 0.0])
RATES = {"ka": 1.2, "ke": 0.15}
WAYS = {
    "controlled": {"controller": nde.PIDController(rtol=1e-10, atol=1e-10), "solver": nde.Dopri5(), "max_steps": 16384},
    "constant": {"controller": diffrax.ConstantStepSize(), "dt0": 0.03, "max_steps": 800, "solver": nde.Dopri5()},
    "in pieces": {"steps_per_row": 40, "solver": nde.Dopri5()},
}


def absorption(t, y, p):
    gut, central = y
    return jnp.stack([-p.ka * gut, p.ka * gut - p.ke * central])


def model(way, function=absorption, rates=RATES):
    parameters = {name: nde.Parameter(value, lower=0.0) for name, value in rates.items()}
    return nde.NeuralODE(nde.KnownField(function, parameters), **WAYS[way])


def closed_form(times, amounts, lasting, ts=TS):
    """Superposition of the responses to each dose, the start among them, before what is given at a row's time."""
    ka, ke = RATES["ka"], RATES["ke"]

    def at_once(s, gut, central):
        fast, slow = jnp.exp(-ka * s), jnp.exp(-ke * s)
        return jnp.stack([gut * fast, central * slow + gut * ka / (ka - ke) * (slow - fast)])

    def infused(s, duration, amount):
        on = jnp.minimum(s, duration)
        return jnp.stack([jnp.zeros_like(s), amount / duration / ke * (jnp.exp(-ke * (s - on)) - jnp.exp(-ke * s))])

    rows = []
    for t in ts:
        total = at_once(t, *START)
        for k in range(4):
            s = jnp.maximum(t - times[k], 0.0)
            one = infused(s, lasting[k], amounts[k]) if k == 3 else at_once(s, *(amounts[k] * np.eye(2)[INTO[k]]))
            total = total + jnp.where(t > times[k], one, 0.0)
        rows.append(total)
    return jnp.stack(rows)


@eqx.filter_jit
def solved(way, times=TIMES, amounts=AMOUNTS, lasting=LASTING, ts=TS):
    return model(way)(ts, START, Inputs(doses=Doses(times, amounts, INTO, states=2, durations=lasting)))


@pytest.mark.parametrize("way", WAYS)
def test_doses_and_infusions_are_those_of_the_closed_form_with_its_gradient_in_amounts_times_and_durations(way):
    given = (TIMES, AMOUNTS, LASTING)
    np.testing.assert_allclose(solved(way), closed_form(*given), rtol=1e-7, atol=1e-9)
    weight = jnp.array([1.0, 0.7])
    found, exact = (
        jax.jit(jax.grad(lambda x, solve=solve: jnp.sum(solve(*x) @ weight)))(given)
        for solve in (lambda *x: solved(way, *x), closed_form)
    )
    # Each of the doses at one time has the derivative by its own time: a common one would be their sum.
    np.testing.assert_allclose(found[0][:4], exact[0][:4], rtol=1e-5)
    np.testing.assert_allclose(found[1], exact[1], rtol=1e-6)
    np.testing.assert_allclose(found[2][3], exact[2][3], rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_batch_of_series_with_doses_of_their_own_is_each_by_itself(way):
    times, amounts = jnp.stack([TIMES, TIMES + 0.5]), jnp.stack([AMOUNTS, AMOUNTS / 2])
    both = jax.vmap(lambda t, a: solved(way, t, a))(times, amounts)
    np.testing.assert_allclose(both[0], solved(way), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(both[1], closed_form(times[1], amounts[1], LASTING), rtol=1e-7, atol=1e-8)


def test_it_runs_back_to_its_start():
    ts, doses = TS.at[4].set(11.0), Inputs(doses=Doses(TIMES, AMOUNTS, INTO, states=2, durations=LASTING))
    exact = closed_form(TIMES, AMOUNTS, LASTING, ts)
    back = model("controlled")(ts[::-1], exact[-1], doses)
    np.testing.assert_allclose(back[::-1], exact, rtol=1e-4, atol=1e-3)  # what dies out fast grows fast backward
    with pytest.raises(eqx.EquinoxRuntimeError, match="runs forward"):
        model("in pieces")(TS[::-1], START, doses)


def test_reset_sets_a_state_and_its_time_has_a_gradient():
    def end(when):
        doses = Doses(jnp.stack([jnp.zeros(()), when]), [10.0, 4.0], [1, 1], states=2, resets=[False, True])
        return model("in pieces")(TS, jnp.zeros(2), Inputs(doses=doses))[-1, 1]

    assert float(end(jnp.array(5.0))) == pytest.approx(4 * np.exp(-0.15 * 19), rel=1e-8)
    assert float(jax.grad(end)(jnp.array(5.0))) == pytest.approx(0.15 * 4 * np.exp(-0.15 * 19), rel=1e-7)
    with pytest.raises(ValueError, match="reset a state need steps_per_row or constant"):
        doses = Doses([1.0], [0.0], [0], states=2, resets=[True])
        model("controlled")(TS, START, Inputs(doses=doses))


KNOTS, READ = jnp.array([0.0, 5.0, 9.0, 9.0]), jnp.array([1.0, 2.0, 4.0, jnp.nan])  # the last row is padding
AREAS = {"held": 1 * 5 + 2 * 4 + 4 * 15, "next": 2 * 5 + 4 * 4 + 4 * 15, "linear": 1.5 * 5 + 3 * 4 + 4 * 15}


@pytest.mark.parametrize("way", ["controlled", "in pieces"])
@pytest.mark.parametrize("between", AREAS)
def test_covariate_is_read_between_its_rows_with_gradients_in_values_and_times(way, between):
    gather = model(way, lambda t, y, p: p.rate * p.weight * jnp.ones_like(y), {"rate": 1.0})

    def area(knots, values):
        return gather(TS, jnp.zeros(1), Inputs(covariates={"weight": covariate_path(knots, values, between)}))[-1, 0]

    found, gradient = jax.value_and_grad(area, (0, 1))(KNOTS, READ)
    assert float(found) == pytest.approx(AREAS[between], rel=1e-7)
    widths = {"held": [5, 4, 15], "next": [0, 5, 19], "linear": [2.5, 4.5, 17]}[between]
    np.testing.assert_allclose(gradient[1][:3], widths, rtol=1e-6)
    by_time = {"held": [-1, -2], "next": [-2, 0], "linear": [-1.5, -1]}[between]
    np.testing.assert_allclose(gradient[0][1], by_time[0], rtol=1e-6)
    np.testing.assert_allclose(gradient[0][2:].sum(), by_time[1], atol=1e-6)


def test_missing_rows_of_a_covariate_take_their_neighbours():
    values = jnp.array([jnp.nan, 2.0, jnp.nan, 4.0])
    ts = jnp.array([0.0, 1.0, 2.0, 3.0])
    asked = {"held": (0.5, 1.5, 2.5, 3.5), "next": (0.5, 1.5, 2.5, 3.5), "linear": (0.5, 1.25, 2.75, 3.5)}
    expected = {"held": [2, 2, 2, 4], "next": [2, 4, 4, 4], "linear": [2, 2.25, 3.75, 4]}
    for between, found in expected.items():
        path = covariate_path(ts, values, between)
        found_at = [float(jnp.ravel(path.evaluate(t))[0]) for t in asked[between]]
        np.testing.assert_allclose(found_at, found)


def test_constant_stands_for_a_parameter_and_pieces_have_third_derivatives():
    def end(ke):
        doses = Doses([0.0], [10.0], [1], states=2)
        return model("in pieces")(TS, jnp.zeros(2), Inputs(doses=doses, constants={"ke": ke}))[-1, 1]

    third = jax.grad(jax.jacfwd(jax.grad(end)))(jnp.array(0.1))
    assert float(end(0.1)) == pytest.approx(10 * np.exp(-2.4), rel=1e-8)
    assert float(third) == pytest.approx(-(24.0**3) * 10 * np.exp(-2.4), rel=1e-6)


def test_second_derivative_in_a_dose_time_through_the_controller():
    def end(when):
        return solved("controlled", TIMES.at[3].set(when))[-1, 1]

    def exact(when):
        return closed_form(TIMES.at[3].set(when), AMOUNTS, LASTING)[-1, 1]

    found = jax.jvp(jax.grad(end), (jnp.array(10.0),), (jnp.ones(()),))[1]
    assert float(found) == pytest.approx(float(jax.grad(jax.grad(exact))(10.0)), rel=1e-3)


def test_bad_inputs_are_refused():
    doses = Inputs(doses=Doses([1.0], [2.0], [0], states=2))
    with pytest.raises(ValueError, match=r"amounts of shape \(1, 2\) and a state of shape \(3,\)"):
        nde.NeuralODE(lambda t, y, args: -y)(TS, jnp.ones(3), doses)
    with pytest.raises(ValueError, match="needs a PIDController, whose steps can end at the jumps"):
        nde.NeuralODE(lambda t, y, args: -y, controller=diffrax.StepTo(TS))(TS, START, doses)
    with pytest.raises(eqx.EquinoxRuntimeError, match="within max_steps=50"):
        constant = {"controller": diffrax.ConstantStepSize(), "dt0": 0.1, "max_steps": 50}
        nde.NeuralODE(lambda t, y, args: -y, **constant)(TS, START, doses)
    with pytest.raises(ValueError, match="among its covariates and among its constants"):
        Inputs(covariates={"a": covariate_path([0.0, 1.0], [1.0, 2.0])}, constants={"a": 1.0})
    with pytest.raises(ValueError, match=r"of shape \(rows,\), but got"):
        covariate_path([0.0, 1.0], [[1.0]])
    with pytest.raises(ValueError, match="'held', 'next' or 'linear'"):
        covariate_path([0.0, 1.0], [1.0, 2.0], "spline")
    with pytest.raises(ValueError, match=r"got times of shape \(2,\)"):
        Doses([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(eqx.EquinoxRuntimeError, match="states 0 to 1"):
        Doses([1.0], [1.0], [2], states=2)
    for times, lasting in (([jnp.nan], [0.0]), ([1.0], [-1.0])):
        with pytest.raises(eqx.EquinoxRuntimeError, match="durations >= 0"):
            Doses(times, [1.0], [0], states=2, durations=lasting)
    with pytest.raises(ValueError, match="A regulariser needs a controller"):
        model("in pieces").solve(TS, START, doses, regulariser=nde.regularise.ErrorEstimate())
