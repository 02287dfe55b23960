"""Models as users call them: whole numbers, other precisions, without jit, at a bad point, in a training step."""

import inspect
import time

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nde
from nde import regularise
from nde.fields.parameter import inverse_softplus

KEY = jax.random.key(0)
DAYS, COUNTS, MASK = np.array([0, 1, 2, 4]), np.array([[3, 1], [2, 2], [0, 5], [1, 1]]), np.ones((4, 2), bool)


def latent(**options):
    return nde.LatentSDE(2, 3, horizon=5.0, dt0=0.5, width=4, control_width=4, encoder_size=4, key=KEY, **options)


# Constructors that take arguments, each of which must be here; the others are found.
PUBLIC = {
    "AffineField": lambda: nde.fields.AffineField(nde.MLPField(1, 4, 1, key=KEY), location=[0], scale=[1]),
    "AugmentedField": lambda: nde.AugmentedField(nde.MLPField(3, 4, 1, key=KEY), 1),
    "CDEField": lambda: nde.CDEField(2, 3, 4, 1, key=KEY),
    "ConcatSquashField": lambda: nde.ConcatSquashField(2, 4, 1, key=KEY),
    "DiagonalDiffusion": lambda: nde.DiagonalDiffusion(2),
    "GatedField": lambda: nde.GatedField(2, key=KEY),
    "GeneralDiffusion": lambda: nde.GeneralDiffusion(2, 2, 4, 1, largest=1, key=KEY),
    "HamiltonianField": lambda: nde.HamiltonianField(2, 4, 1, damping=True, forcing=lambda t: jnp.ones(1), key=KEY),
    "Hybrid": lambda: nde.Hybrid(lambda t, y, args: y, nde.MLPField(2, 4, 1, key=KEY)),
    "InPrecision": lambda: nde.fields.InPrecision(eqx.nn.Linear(2, 2, key=KEY), jnp.bfloat16),
    "KnownField": lambda: nde.fields.lotka_volterra(1, 1, 1, 1),
    "LibraryField": lambda: nde.fields.LibraryField(nde.fields.library(["x", "y"]), np.ones((6, 2), int)),
    "LinearCDEField": lambda: nde.LinearCDEField(2, 3, scale=1, key=KEY),
    "LinearMLPField": lambda: nde.LinearMLPField(2, 4, 1, rate=1, key=KEY),
    "LogField": lambda: nde.LogField(nde.MLPField(2, 4, 1, key=KEY)),
    "MLPField": lambda: nde.MLPField(2, 4, 1, scale=1, key=KEY),
    "Parameter": lambda: nde.Parameter(1, lower=0),
    "NormalPrior": lambda: nde.fields.NormalPrior(1, 2),
    "LogNormalPrior": lambda: nde.fields.LogNormalPrior(1, 2),
    "StandardField": lambda: nde.StandardField(nde.MLPField(1, 4, 1, key=KEY), location=[0], scale=[1], rate=[1]),
    "PathScaledField": lambda: nde.fields.PathScaledField(nde.CDEField(2, 3, 4, 1, key=KEY), [1, 1, 1]),
    "ControlledField": lambda: nde.ControlledField(2, 3, 4, 1, key=KEY),
    "TimeDiffusion": lambda: nde.TimeDiffusion(2, 4, 1, scale=0.5, key=KEY),
    "LinearNoise": lambda: nde.LinearNoise(nde.TimeDiffusion(2, 4, 1, key=KEY)),
    "LTCField": lambda: nde.LTCField(2, 3, time_constants=(1, 2), key=KEY),
    "LTC": lambda: nde.LTC(2, 4, 3, time_scale=5, key=KEY),
    "ControlledSDE": lambda: nde.ControlledSDE(
        lambda x: x[:2], *nde.sde_pair("langevin", 2, 3, 4, 1, noise=0.5, key=KEY)[:2], lambda y: y, horizon=5, dt0=1
    ),
    "DiffusionModel": lambda: nde.DiffusionModel(nde.MLPField(2, 4, 1, time=True, key=KEY), 2),
    "InterpolantModel": lambda: nde.InterpolantModel(nde.MLPField(2, 4, 1, time=True, key=KEY), 2),
    "MixerField": lambda: nde.fields.MixerField((4, 4), 4, 1, classes=2, key=KEY),
    "ResidualField": lambda: nde.fields.ResidualField(2, 4, 1, classes=2, key=KEY),
    "ContinuousNormalizingFlow": lambda: nde.ContinuousNormalizingFlow(nde.MLPField(2, 4, 1, key=KEY), 2),
    "LatentSDE": latent,
    "GaussianMarginals": lambda: nde.models.GaussianMarginals(2, 3, code_size=4, width=4, rates=(1, 2), key=KEY),
    "LogNCDE": lambda: nde.LogNCDE(
        lambda x: x[:2], nde.CDEField(2, 3, 4, 1, key=KEY), lambda y: y, windows=nde.paths.RowWindows(2)
    ),
    "SignatureRegression": lambda: nde.models.SignatureRegression(1, 2, 2, time_scale=1),
    "LinearCDE": lambda: nde.models.LinearCDE(lambda x: x[:2], nde.LinearCDEField(2, 3, key=KEY), lambda h: h),
    "LS4": lambda: nde.models.LS4(2, 3, horizon=3, dt0=1, width=4, modes=2, key=KEY),
    "StateSpace": lambda: nde.models.StateSpace(2, 2, shortest=1, longest=2, key=KEY),
    "StateSpaceStack": lambda: nde.models.StateSpaceStack(2, 2, 3, 2, 1, shortest=1, longest=2, key=KEY),
    "NeuralCDE": lambda: nde.NeuralCDE(lambda x: x[:2], nde.CDEField(2, 3, 4, 1, key=KEY), lambda y: y),
    "NeuralODE": lambda: nde.NeuralODE(nde.MLPField(2, 4, 1, key=KEY)),
    "NeuralSDE": lambda: nde.NeuralSDE(
        nde.MLPField(2, 4, 1, key=KEY), nde.DiagonalDiffusion(2), solver=nde.Heun(), dt0=0.1
    ),
    "Observation": lambda: nde.models.Observation(lambda t, y, p: y, ("a",)),
    "ObservedODE": lambda: nde.ObservedODE(
        nde.NeuralODE(nde.MLPField(2, 4, 1, key=KEY)), None, nde.GaussianLikelihood(1), (0,)
    ),
    "DesignField": lambda: nde.fields.DesignField(
        nde.fields.lotka_volterra(), nde.MLPField(1, 4, 1, key=KEY), coefficients=["birth"], given={"w": (0, 1)}
    ),
    "ContextFlow": lambda: nde.ContextFlow(nde.fields.ContextField(2, 3, 4, key=KEY), [[0, 1, 2]]),
    "ContextField": lambda: nde.fields.ContextField(2, 3, 4, key=KEY),
    "TaylorField": lambda: nde.fields.TaylorField(nde.fields.ContextField(2, 3, 4, key=KEY)),
    "ContextFit": lambda: nde.objectives.ContextFit(),
    "ObservedSDE": lambda: nde.ObservedSDE(
        nde.MLPField(2, 4, 1, key=KEY), start=[1, 2], start_spread=1, push=[1, 1], noise=[1], observed=[0]
    ),
    "Population": lambda: nde.Population(
        nde.NeuralODE(nde.fields.lotka_volterra()),
        nde.GaussianLikelihood(1),
        ["birth"],
        observe=lambda t, y, p: y[:1],
        start=[1, 2],
        spread=1,
    ),
    "GRUD": lambda: nde.models.GRUD(2, 4, 3, mean=[1, 2], key=KEY),
    "GRUDeltaT": lambda: nde.models.GRUDeltaT(2, 4, 3, key=KEY),
    "CDEEncoder": lambda: nde.models.CDEEncoder(2, 4, key=KEY),
    "EncoderDecoder": lambda: nde.EncoderDecoder(
        nde.models.ODERNN(2, 4, key=KEY), 2, 3, diffusion_scale=1, horizon=5, dt0=1, key=KEY
    ),
    "LatentODE": lambda: nde.LatentODE(2, 3, horizon=5, key=KEY),
    "ODERNN": lambda: nde.models.ODERNN(2, 4, key=KEY),
    "BackwardEncoder": lambda: nde.models.BackwardEncoder(2, 4, key=KEY),
    "ELBO": lambda: nde.ELBO(samples=2),
    "GaussianLikelihood": lambda: nde.GaussianLikelihood(2, scale=1),
    "CombinedLikelihood": lambda: nde.objectives.CombinedLikelihood(2, additive=1, proportional=1),
    "LogNormalLikelihood": lambda: nde.objectives.LogNormalLikelihood(2, scale=1),
    "ChannelLikelihood": lambda: nde.objectives.ChannelLikelihood([nde.GaussianLikelihood(1, scale=1)]),
    "CensoredLikelihood": lambda: nde.objectives.CensoredLikelihood(nde.GaussianLikelihood(1), below=[1]),
    "ScaledLikelihood": lambda: nde.objectives.ScaledLikelihood(nde.GaussianLikelihood(1), unit=[2]),
    "StudentTLikelihood": lambda: nde.StudentTLikelihood(2, scale=1, degrees=6),
    "Doses": lambda: nde.paths.Doses([0, 1], [[1], [2]]),
    "StepPath": lambda: nde.paths.StepPath([0, 1], [[1], [2]]),
    "RowWindows": lambda: nde.paths.RowWindows(2),
    "TimeWindows": lambda: nde.paths.TimeWindows(1, 3),
    "BrownianGrid": lambda: nde.BrownianGrid(0, 1, 4, (2,), KEY),
    "VirtualBrownianTree": lambda: nde.VirtualBrownianTree(0, 1, 0.1, (2,), KEY),
    "Reversible": lambda: nde.Reversible(nde.Tsit5()),
    "Rex": lambda: nde.Rex(nde.Tsit5()),
    "Lawson": lambda: nde.Lawson(nde.Tsit5()),
    "ExponentialAdams": lambda: nde.ExponentialAdams(2, weights=[[1, 0], [1.5, -0.5]]),
    "SemilinearTerm": lambda: nde.terms.SemilinearTerm(lambda t, y, args: y, nde.terms.AbstractVariables()),
    "VariancePreserving": lambda: nde.diffusion.VariancePreserving(1, 20),
    "MeanReverting": lambda: nde.diffusion.MeanReverting(nde.diffusion.LinearFlow(), jnp.ones(2, int)),
    "GaussianMixture": lambda: nde.diffusion.GaussianMixture([1, 2], [[0], [1]], std=1),
    "KineticInterpolant": lambda: nde.diffusion.KineticInterpolant((0.5, 1)),
    "MixtureInterpolant": lambda: nde.diffusion.MixtureInterpolant(
        *(nde.diffusion.GaussianMixture(None, [[0, 1]], std=s) for s in (1, 2)), lambda t: 1 - t, lambda t: t
    ),
    "KnotTerm": lambda: nde.terms.KnotTerm(
        nde.CDEField(2, 1, 4, 1, key=KEY), nde.LinearInterpolation(jnp.arange(3), jnp.ones((3, 1), int))
    ),
    "LogODEField": lambda: nde.terms.LogODEField(nde.CDEField(2, 3, 4, 1, key=KEY), 2),
    "WithIntegrals": lambda: nde.terms.WithIntegrals(nde.ODETerm(nde.MLPField(2, 4, 1, key=KEY)), [lambda *_: 1]),
    "Together": lambda: regularise.Together([regularise.EndTime(), regularise.KineticEnergy()], [1, 0.5]),
    "LearnedEndTime": lambda: regularise.LearnedEndTime(nde.MLPField(2, 4, 1, key=KEY), t0=0, start=1),
}
# Results of calls: not made by users.
NOT_MADE = {"Context", "ContextELBOTerms", "ELBOTerms", "LatentPath", "Shots", "SpaceSpaceLevyArea", "Terms"}
NOT_MADE |= {"TrajectoryTerms", "MarginalPath", "MarginalTerms", "Normal", "Pieces"}
FOLDERS = (
    nde.fields,
    nde.models,
    nde.objectives,
    nde.paths,
    nde.adjoints,
    nde.solvers,
    nde.terms,
    regularise,
    nde.diffusion,
)
FOUND = {
    name: each
    for folder in FOLDERS
    for name, each in vars(folder).items()
    if inspect.isclass(each) and issubclass(each, eqx.Module) and not name.startswith("Abstract")
    if name not in NOT_MADE
}


def needs_no_arguments(constructor):
    return all(x.default is not x.empty for x in inspect.signature(constructor).parameters.values())


MADE = PUBLIC | {name: each for name, each in FOUND.items() if name not in PUBLIC and needs_no_arguments(each)}


def test_every_public_module_is_in_the_table():
    assert set(FOUND) == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_no_public_module_holds_a_weakly_typed_leaf(name):
    leaves = [x for x in jax.tree.leaves(MADE[name]()) if eqx.is_array(x)]
    assert [x for x in leaves if x.weak_type] == []


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_latent_sde_takes_whole_numbers_and_single_precision(dtype):
    model = latent()
    asked = [model.posterior(DAYS.astype(d), COUNTS.astype(d), MASK, DAYS.astype(d), key=KEY) for d in (dtype, float)]
    np.testing.assert_array_equal(asked[0].zs, asked[1].zs)
    assert asked[0].zs.dtype == jnp.float64


def test_a_gru_and_a_growing_horizon_take_whole_numbers():
    gru = nde.models.GRUDeltaT(2, 4, 3, key=KEY)
    np.testing.assert_array_equal(gru(DAYS, COUNTS, MASK), gru(DAYS.astype(float), COUNTS.astype(float), MASK))
    assert nde.objectives.growing_horizon(DAYS, 5, first=0.5, steps=10) == 3.0


def test_a_second_call_without_jit_compiles_nothing():
    model = latent()
    path = model.posterior(DAYS, COUNTS, MASK, DAYS, key=KEY)
    start = time.perf_counter()
    jax.block_until_ready((path, model.posterior(DAYS, COUNTS, MASK, DAYS, key=jax.random.key(1))))
    assert time.perf_counter() - start < 0.5  # to compile takes several seconds


def test_inverse_softplus_does_not_overflow():
    assert np.isfinite(inverse_softplus(1000.0))
    np.testing.assert_allclose(nde.GaussianLikelihood(1, scale=1000.0).scale, [1000.0], rtol=1e-5)


def test_a_failed_solve_is_infinite_where_it_does_not_throw():
    def field(t, y, args):
        return y**2  # blows up at t = 1

    model = nde.NeuralODE(field, throw=False, max_steps=64)
    ys = model(jnp.array([0.0, 0.5, 2.0]), jnp.ones(1))
    np.testing.assert_allclose(ys[1], [2.0], rtol=1e-2)
    assert np.isinf(ys[2]).all()
    flow = nde.ContinuousNormalizingFlow(lambda t, y, args: -(y**2), 1, t1=2.0, throw=False, max_steps=64)
    assert not np.isfinite(flow.log_prob(jnp.ones(1)))
    with pytest.raises(eqx.EquinoxRuntimeError):
        nde.NeuralODE(field, max_steps=64, solver=diffrax.Tsit5())(jnp.array([0.0, 2.0]), jnp.ones(1))


def explode(t, y, args):
    return 10 * y**3


def test_an_sde_that_blows_up_is_not_finite_from_there_on_where_it_does_not_throw():
    options = {"solver": diffrax.Euler(), "dt0": 0.125}
    ts = jnp.array([0.0, 0.125, 4.0])
    model = nde.NeuralSDE(explode, lambda t, y, args: 0 * y, throw=False, **options)
    ys = model(ts, jnp.ones(1), key=KEY)
    np.testing.assert_allclose(ys[1], [2.25], rtol=1e-6)
    assert not np.isfinite(ys[2]).any()
    with pytest.raises(eqx.EquinoxRuntimeError):
        nde.NeuralSDE(explode, lambda t, y, args: 0 * y, **options)(ts, jnp.ones(1), key=KEY)


def test_a_cde_that_blows_up_has_an_infinite_output_and_penalty_where_it_does_not_throw():
    def field(t, y, args):
        return jnp.outer(y**2, jnp.array([10.0, 0.0, 0.0]))

    model = nde.NeuralCDE(lambda x: 1 + x[:1], field, lambda y: y, throw=False, max_steps=64)
    ts, values = jnp.arange(3.0), jnp.ones((3, 1))
    out, penalty = model.solve(ts, values, regulariser=regularise.ErrorEstimate())[:2]
    assert np.isinf(out).all() and np.isinf(penalty)
    assert np.isinf(model.trajectory(ts, values)[-1]).all()


def test_a_latent_sde_that_blows_up_has_no_finite_bound_where_it_does_not_throw():
    model = eqx.tree_at(lambda m: m.drift, latent(throw=False), lambda t, z, *_: explode(t, z, None))
    assert not np.isfinite(nde.ELBO()(model, DAYS, 10 * COUNTS, MASK, MASK, key=KEY).loss())


def test_segments_that_blow_up_leave_the_others_as_they_are_where_they_do_not_throw():
    model = nde.NeuralODE(lambda t, y, args: y**2, throw=False, max_steps=64)
    ts, starts = jnp.arange(5.0), jnp.array([[0.1], [2.0]])
    shots = nde.objectives.multiple_shooting(model, ts, jnp.array([0.0, 2.0]), starts)
    np.testing.assert_allclose(shots.ys[:2, 0], [0.1, 0.1 / 0.9], rtol=1e-3)
    assert not np.isfinite(shots.ys[-1]).any() and np.isfinite(shots.penalty())


def test_a_neural_cde_as_its_docstring_shows_it_learns_in_a_small_unit_of_time():
    # the way in which a point goes around, at twelve random rows a series, 30 % missing; unscaled, 0.38 to 0.56
    generator = np.random.default_rng(0)
    ts = np.sort(generator.uniform(0, 1, (128, 12)), axis=1)
    turn = generator.integers(0, 2, 128)
    angle = generator.uniform(0, 2 * np.pi, (128, 1)) + (2 * turn - 1)[:, None] * 2 * np.pi * ts
    values = np.stack([np.cos(angle), np.sin(angle)], axis=2) + 0.05 * generator.standard_normal((128, 12, 2))
    values[generator.uniform(size=values.shape) < 0.3] = np.nan
    data = [jnp.asarray(x) for x in (1000 * ts, values)]
    keys = jax.random.split(KEY, 3)
    model = nde.NeuralCDE(
        eqx.nn.Linear(5, 8, key=keys[0]),
        nde.CDEField(8, 5, width=16, depth=1, key=keys[1]),
        eqx.nn.Linear(8, 2, key=keys[2]),
    )
    optimiser = optax.adam(2e-2)

    def loss(model):
        logits = jax.vmap(model)(*(x[:64] for x in data))
        return jnp.mean(jax.vmap(nde.objectives.cross_entropy)(logits, jnp.asarray(turn[:64])))

    @eqx.filter_jit
    def step(model, state):
        gradient = eqx.filter_grad(loss)(model)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies its integer count of steps by floats
            change, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, change), state

    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(25):
        model, state = step(model, state)
    found = eqx.filter_jit(lambda model: jax.vmap(model)(*(x[64:] for x in data)))(model)
    assert (np.argmax(found, axis=1) == turn[64:]).mean() > 0.9


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"solver": "tsit5"}, r"the solver of nde.Numerics is one such as diffrax.Tsit5\(\), but is 'tsit5'"),
        ({"solver": diffrax.Tsit5}, r"the solver of nde.Numerics is .*, but is the class Tsit5"),
        ({"controller": 1e-3}, r"the controller of nde.Numerics is one such as diffrax.PIDController"),
        (
            {"adjoint": "reversible"},
            r"the adjoint of nde.Numerics is one such as nde.CheckpointAdjoint\(\), but is 'rev",
        ),
        ({"dt0": "0.1"}, r"the dt0 of nde.Numerics is a number or None, but is '0.1'"),
        ({"dt0": -0.1}, r"the dt0 of nde.Numerics is above zero, whichever way time runs, but is -0.1"),
        ({"max_steps": 10.5}, r"the max_steps of nde.Numerics is a whole number above zero, but is 10.5"),
        ({"numerics": diffrax.Tsit5()}, r"the numerics of NeuralODE are a nde.Numerics, but are Tsit5\(\)"),
    ],
)
def test_numerics_of_the_wrong_kind_are_refused_where_they_are_given(keywords, message):
    with pytest.raises((TypeError, ValueError), match=message):
        nde.NeuralODE(lambda t, y, args: -y, **keywords)
