"""Encoders that read forward, the latent ODE, and the causal encoder-decoder."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from scipy.special import logsumexp

import nde
from nde.models import CDEEncoder, GRUD, GRUDeltaT, ODERNN
from nde.models.latent_path import normal_kl

KEY = jax.random.key(0)
TIMES = jnp.array([3.0, 3.3, 3.9, 4.5, 5.0])
VALUES = jnp.array([[1.0, 2.0], [0.5, 0.0], [0.0, -1.0], [0.3, 0.2], [0.4, 0.1]])
MASK = jnp.array([[1, 1], [1, 0], [0, 0], [1, 1], [0, 1]], bool)
PAD = (jnp.full(2, 5.0), jnp.full((2, 2), jnp.nan), jnp.zeros((2, 2), bool))
ENCODERS = {
    "ode_rnn": lambda **options: ODERNN(2, 4, width=5, key=KEY, **options),
    "cde": lambda **options: CDEEncoder(2, 4, width=5, time_scale=2.0, key=KEY, **options),
    "gru": lambda: GRUDeltaT(2, 4, None, gap_scale=0.5, key=KEY),
    "gru_d": lambda: GRUD(2, 4, None, gap_scale=0.5, key=KEY),
}
FINE = {"solver": diffrax.Tsit5(), "dt0": 0.1}


def make(encoder="ode_rnn", **options):
    options = {"horizon": 3.0, "dt0": 0.25, "width": 4} | options
    return nde.EncoderDecoder(ENCODERS[encoder](), 2, 3, key=KEY, **options)


def latent_ode(**options):
    options = {"horizon": 3.0, "dt0": 0.25, "width": 4, "encoder_size": 4, "encoder_width": 5} | options
    fixed = {"solver": diffrax.Heun(), "controller": diffrax.ConstantStepSize()}
    return nde.LatentODE(2, 3, key=KEY, **(fixed | options))


def padded():
    return [jnp.concatenate(pair) for pair in zip((TIMES, VALUES, MASK), PAD, strict=True)]


def solved(field, t1, y0, args=None):
    """By diffrax alone, to rounding."""
    options = {"stepsize_controller": diffrax.PIDController(rtol=1e-10, atol=1e-12)}
    return diffrax.diffeqsolve(diffrax.ODETerm(field), diffrax.Dopri8(), 0.0, t1, None, y0, args, **options).ys[0]


@pytest.mark.parametrize("name", ENCODERS)
def test_states_have_read_no_later_row_and_no_empty_one(name):
    encoder = ENCODERS[name]()
    states = encoder.states(TIMES, VALUES, MASK)
    later = VALUES.at[3:].add(1.0), MASK.at[3:].set(~MASK[3:])
    assert_trees_all_equal(encoder.states(TIMES.at[3:].add(0.1), *later)[:3], states[:3])
    assert_trees_all_equal(states[2], states[1])  # the third row holds nothing
    assert_trees_all_equal(encoder.states(*padded())[:5], states)
    kept = jnp.array([0, 1, 3, 4])
    assert_trees_all_equal(encoder.states(TIMES[kept], VALUES[kept], MASK[kept]), states[kept])
    assert_trees_all_equal(encoder.states(TIMES, jnp.where(MASK, VALUES, jnp.nan), jnp.ones_like(MASK)), states)
    moved = encoder.states(TIMES + 8, VALUES, MASK)
    assert_trees_all_close(moved, states, rtol=1e-9)


def test_an_ode_rnn_solves_its_ode_over_a_gap_and_reads_values_with_their_mask():
    encoder = ENCODERS["ode_rnn"](**FINE)
    states = encoder.states(TIMES, VALUES, MASK)
    first = encoder.cell(jnp.array([1.0, 2.0, 1.0, 1.0]), jnp.zeros(4))
    assert_trees_all_close(states[0], first, rtol=1e-12)
    second = encoder.cell(jnp.array([0.5, 0.0, 1.0, 0.0]), solved(encoder.field, 0.3, first))
    assert_trees_all_close(states[1], second, rtol=1e-8)
    assert_trees_all_close(encoder.moved(first, 2), solved(encoder.field, 2.0, first), rtol=1e-8)


def test_a_cde_encoder_solves_the_cde_along_the_lines_between_rows():
    encoder = ENCODERS["cde"](**FINE)
    counts = jnp.log1p(jnp.array([[0, 0], [1, 1], [2, 1], [3, 2], [3, 3]]))
    values = jnp.array([[0.0, 0.0], [1.0, 2.0], [0.5, 2.0], [0.3, 0.2], [0.3, 0.1]])
    clock = jnp.array([0.0, 0.0, 0.3, 1.5, 2.0])[:, None] / 2.0
    path = diffrax.LinearInterpolation(jnp.arange(5.0), jnp.concatenate([clock, values, counts], 1))
    term = diffrax.ControlTerm(encoder.field, path).to_ode()
    controller = diffrax.ClipStepSizeController(
        diffrax.PIDController(rtol=1e-9, atol=1e-11), jump_ts=jnp.arange(1.0, 4.0)
    )
    saveat, options = diffrax.SaveAt(ts=jnp.arange(1.0, 5.0)), {"stepsize_controller": controller}
    expected = diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 4.0, None, jnp.zeros(4), saveat=saveat, **options).ys
    assert_trees_all_close(encoder.states(TIMES, VALUES, MASK)[jnp.array([0, 1, 3, 4])], expected, rtol=1e-6)


@pytest.mark.parametrize(("encoder", "noise"), [("ode_rnn", None), ("cde", 0.3)])
def test_what_comes_later_changes_nothing_before(encoder, noise):
    model, asked = make(encoder, diffusion_scale=noise), jnp.array([3.0, 3.2, 3.3, 3.6, 3.9, 4.2, 4.5, 4.6, 5.5])
    first = model(TIMES, VALUES, MASK, asked, key=KEY)
    assert np.isfinite(first).all()
    for times, values, mask in (
        (TIMES, VALUES.at[3:].add(1.0), MASK),
        (TIMES, VALUES, MASK.at[3:].set(False)),
        (TIMES.at[3:].set(jnp.array([4.7, 4.8])), VALUES, MASK),
    ):
        other = model(times, values, mask, asked, key=KEY)
        assert_trees_all_equal(other[:7], first[:7])  # up to the fourth row, at which nothing of it is known
        assert (other[7:] != first[7:]).any()
    assert_trees_all_equal(model(*padded(), asked, key=KEY), first)


def test_a_time_sees_what_is_observed_at_it_only_if_it_may():
    model, others = make(), VALUES.at[3].add(1.0)
    seen, hidden = (
        model(TIMES, VALUES, MASK, TIMES, strictly=strictly) == model(TIMES, others, MASK, TIMES, strictly=strictly)
        for strictly in (False, True)
    )
    assert hidden[:4].all() and not hidden[4].any()
    assert seen[:3].all() and not seen[3:].any()


def test_times_asked_for_may_come_in_any_order_and_leave_each_other_alone():
    model = make(diffusion_scale=0.3)
    asked = jnp.array([3.1, 4.7, 4.2, 5.9])
    whole = model(TIMES, VALUES, MASK, asked, key=KEY)
    assert_trees_all_equal(model(TIMES, VALUES, MASK, asked[::-1], key=KEY)[::-1], whole)
    assert_trees_all_close(model(TIMES, VALUES, MASK, asked[1:2], key=KEY), whole[1:2], rtol=1e-12)
    longer = make(diffusion_scale=0.3, horizon=4.0)
    assert_trees_all_close(longer(TIMES, VALUES, MASK, asked, key=KEY), whole, rtol=1e-9)


@pytest.mark.parametrize("asked", [3.7, 4.4])
def test_between_rows_the_path_is_the_solution_from_the_row_before(asked):
    model = make(solver=diffrax.Tsit5())
    hidden = model.encoder.states(TIMES, VALUES, MASK)[1]
    expected = solved(model.drift, asked - 3.3, model.initial(hidden)[:3])
    found = model.path(TIMES, VALUES, MASK, jnp.array([asked]))
    assert_trees_all_close(found[0], expected, rtol=1e-7)


def test_after_the_last_row_the_path_has_the_moments_of_its_ornstein_uhlenbeck_process():
    model = make(diffusion_scale=0.5, width=0, dt0=0.125)
    asked = jnp.array([5.06, 5.3])  # 0.06 is inside of the first step
    zs = jax.vmap(lambda key: model.path(TIMES, VALUES, MASK, asked, key=key))(jax.random.split(KEY, 20_000))
    mean, log_std = jnp.split(model.initial(model.encoder.states(TIMES, VALUES, MASK)[-1]), 2)
    decay = np.exp(-0.1 * (asked - 5.0))[:, None]
    np.testing.assert_allclose(zs.mean(0), decay * np.array(mean), atol=0.03)
    variance = decay**2 * np.exp(2 * np.array(log_std)) + 0.5**2 * (1 - decay**2) / 0.2
    np.testing.assert_allclose(zs.var(0), variance, rtol=0.04)


def test_the_starts_of_a_series_without_observations_are_learned():
    model = make()
    zs = model.path(TIMES, VALUES, jnp.zeros_like(MASK), TIMES)
    assert_trees_all_close(zs[0], model.initial(jnp.zeros(4))[:3])
    one = model.path(TIMES[:1], VALUES[:1], MASK[:1], TIMES[:1])
    assert_trees_all_close(one[0], zs[0])


def test_the_latent_ode_reads_backward_and_solves_forward():
    model = latent_ode(solver=diffrax.Tsit5())
    encoder = model.encoder
    # the first row holds nothing: the state that has read all is moved on to its time
    mask = MASK.at[0].set(False)
    hidden = encoder.moved(encoder.read(-TIMES[::-1], VALUES[::-1], mask[::-1])[-1], 0.3)
    mean, log_std = jnp.split(model.initial(hidden), 2)
    path = model.posterior(TIMES, VALUES, mask, jnp.array([3.0, 4.6]), key=KEY)
    assert_trees_all_close(path.kl_initial, normal_kl(mean, log_std, jnp.zeros(3), jnp.zeros(3)), rtol=1e-12)
    assert_trees_all_close(path.zs[1], solved(model.drift, 1.6, path.zs[0]), rtol=1e-6)
    draws = jax.vmap(lambda key: model.posterior(TIMES, VALUES, mask, TIMES, key=key).zs[0])(
        jax.random.split(KEY, 4000)
    )
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(draws.std(0), jnp.exp(log_std), rtol=0.05)


def test_the_latent_ode_has_no_trace_of_padding_nor_of_what_is_hidden():
    model, asked = latent_ode(), jnp.array([3.1, 4.0, 6.0])
    path = model.posterior(TIMES, VALUES, MASK, asked, key=KEY)
    assert_trees_all_equal(model.posterior(*padded(), asked, key=KEY), path)
    assert_trees_all_close(model.posterior(TIMES - 3, VALUES, MASK, asked - 3, key=KEY), path, rtol=1e-9)
    nothing = model.posterior(TIMES, VALUES, jnp.zeros_like(MASK), asked, key=KEY)
    assert float(nothing.kl_initial) == 0.0 and float(nothing.kl_path) == 0.0


@pytest.mark.parametrize("model", [latent_ode(), make("cde", diffusion_scale=0.3)], ids=["latent_ode", "cde to sde"])
def test_single_precision_stays_single(model):
    single = jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, model)
    times = TIMES.astype(jnp.float32)
    path = single.posterior(times, VALUES.astype(jnp.float32), MASK, times, key=KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(path)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("model", [latent_ode(), make("cde", diffusion_scale=0.3)], ids=["latent_ode", "cde to sde"])
def test_gradients_are_those_of_finite_differences(model):
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(parameters)
    generator = np.random.default_rng(0)
    directions = [jnp.asarray(generator.standard_normal(x.shape)) for x in leaves]
    series = padded()

    @jax.jit
    def loss(size):
        moved = jax.tree.unflatten(structure, [x + size * d for x, d in zip(leaves, directions, strict=True)])
        context = series[2] & (series[0] < 4)[:, None]
        return nde.ELBO(samples=2, predictive=0.5)(eqx.combine(moved, rest), *series, context, key=KEY).loss(0.7)

    step = 1e-5
    differences = (loss(step) - loss(-step)) / (2 * step)
    assert float(jax.jit(jax.grad(loss))(0.0)) == pytest.approx(float(differences), rel=1e-6)


def test_a_causal_model_is_scored_by_its_predictive_density_everywhere():
    model, keys = make(diffusion_scale=0.3), jax.random.split(KEY, 5)
    terms = nde.ELBO(samples=5, predictive=1.0)(model, TIMES, VALUES, MASK, MASK, key=KEY)
    locations = jax.vmap(lambda key: model(TIMES, VALUES, MASK, TIMES, key=key))(keys)
    density = logsumexp(model.likelihood.log_prob(jnp.broadcast_to(VALUES, locations.shape), locations), 0) - np.log(5)
    assert float(terms.log_likelihood) == pytest.approx(density[MASK].sum(), rel=1e-9)
    assert float(terms.kl_path) == float(terms.kl_initial) == 0.0


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match=r"0 < dt0 <= horizon, but got dt0=4.0 and horizon=3.0"):
        make(dt0=4.0)
    with pytest.raises(ValueError, match=r"with noise is solved by diffrax.Euler\(\), but got Heun"):
        make(solver=diffrax.Heun(), diffusion_scale=0.3)
    with pytest.raises(ValueError, match="EncoderDecoder takes no regulariser"):
        make().posterior(TIMES, VALUES, MASK, TIMES, key=KEY, regulariser=nde.regularise.KineticEnergy())
    with pytest.raises(RuntimeError, match="from the first row to 3 after it only"):
        make()(TIMES, VALUES, MASK, jnp.array([6.5]))
    with pytest.raises(ValueError, match="a horizon above zero, and not infinite, but got 0"):
        latent_ode(horizon=0.0)
    with pytest.raises(ValueError, match="time_scale > 0, but got 0"):
        CDEEncoder(2, 4, time_scale=0.0, key=KEY)
    with pytest.raises(ValueError, match=r"ODERNN needs ts of shape \(rows,\).* got ts of shape \(5,\), values"):
        ENCODERS["ode_rnn"]().states(TIMES, VALUES[:4], MASK)
