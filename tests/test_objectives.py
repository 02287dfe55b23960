"""Objectives to train by: what they say of one example, and the loss of a batch that is made of it."""

from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nde
from nde.fields import parameter_values, residual_rates, state_names
from nde.objectives import classification_loss, ContextELBO, cross_entropy, density_loss, Terms, TrajectoryFit
from nde.regularise import KineticEnergy
from nde.train import batch_loss

STEP, KEY = jnp.asarray(3, jnp.int32), jax.random.key(0)
TIMES = jnp.array([0.0, 0.5, 1.0, 2.0])
LAW = nde.GaussianLikelihood(1, scale=0.5)


def decay(rate=1.0):
    return nde.KnownField(lambda t, y, p: -p.rate * y, {"rate": nde.Parameter(rate, lower=0.0)}, states=("drug",))


def added(field, size=0.3):
    """A hybrid whose network adds a number."""
    return eqx.tree_at(lambda h: h.scale, nde.Hybrid(field, lambda t, y, args: jnp.ones_like(y)), jnp.asarray(size))


def observed(field, starts=None):
    tight = diffrax.PIDController(rtol=1e-8, atol=1e-10)
    return nde.ObservedODE(nde.NeuralODE(field, controller=tight), starts, LAW, observed=(0,))


def values_of(shift=0.1):
    return jnp.exp(-TIMES)[:, None] + shift


def nll(errors):
    return float(-jnp.sum(LAW.log_prob(jnp.asarray(errors), jnp.zeros_like(jnp.asarray(errors)))))


def test_single_shooting_is_the_negative_log_likelihood_of_what_has_a_weight():
    values = values_of().at[2].set(jnp.nan)
    weights = jnp.array([[1.0], [1.0], [0.0], [2.0]])

    def loss(model):
        terms = TrajectoryFit()(model, TIMES, values, weights, first=jnp.ones(1))
        return terms.nll, terms

    model = observed(decay())
    gradient, terms = eqx.filter_jit(eqx.filter_grad(loss, has_aux=True))(model)
    assert float(terms.nll) == pytest.approx(nll([0.1, 0.1, 0.1, 0.1]), rel=1e-5)
    assert float(terms.count) == 4
    assert float(terms.mean()) == pytest.approx(float(terms.nll) / 4)
    assert all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradient))
    assert terms.parts().keys() == {"nll"}


def test_learned_starts_are_those_of_the_series():
    model = observed(decay(), starts=jnp.array([[[5.0]], [[1.0]]]))
    terms = TrajectoryFit()(model, TIMES, values_of(), jnp.ones((4, 1)), 1)
    assert float(terms.nll) == pytest.approx(nll([0.1] * 4), rel=1e-5)


def test_growing_horizon_leaves_out_what_lies_past_it():
    fit = TrajectoryFit("growing", first=0.2, grow_steps=6)  # at step 3 of 6: 0.6 of the span, up to t = 1.2
    terms = fit(observed(decay()), TIMES, values_of(), np.ones((4, 1), bool), first=jnp.ones(1), step=STEP)
    assert float(terms.count) == 3
    assert float(terms.nll) == pytest.approx(nll([0.1] * 3), rel=1e-5)


def test_gaps_of_multiple_shooting_weigh_more_and_more():
    fit = TrajectoryFit("multiple", continuity=1.0, continuity_end=100.0, steps=7)
    knots, starts = jnp.array([0.0, 1.0]), jnp.array([[[1.0], [1.0]]])
    terms = fit(observed(decay(), starts), TIMES, values_of(), jnp.ones((4, 1)), 0, None, knots, step=STEP)
    gap = (1 - np.exp(-1.0)) ** 2
    assert float(terms.gap) == pytest.approx(gap, rel=1e-5)
    assert float(terms.gap_weight) == pytest.approx(10.0)
    assert float(terms.mean()) == pytest.approx((float(terms.nll) + 10 * gap) / 4, rel=1e-5)
    assert terms.parts().keys() == {"nll", "gaps"}


def test_residual_weighs_what_the_network_adds_however_it_is_wrapped():
    fit = TrajectoryFit(residual_weight=2.0)
    inner, outer = nde.AffineField(added(decay()), location=[0.5], scale=[3.0]), added(decay())
    for field, size in ((outer, 0.3), (inner, 0.1), (decay(), 0.0)):
        terms = fit(observed(field), TIMES, values_of(), jnp.ones((4, 1)), first=jnp.ones(1))
        assert float(terms.residual) == pytest.approx(size**2)
        assert float(terms.mean()) == pytest.approx(float(terms.nll) / 4 + 2 * size**2)


def test_what_can_not_be_fitted_is_refused():
    model, rest = observed(decay()), (TIMES, values_of(), jnp.ones((4, 1)))
    with pytest.raises(ValueError, match=r"shooting is one of single, multiple, growing, but got 'double'"):
        TrajectoryFit("double")
    with pytest.raises(ValueError, match="needs positive weights"):
        TrajectoryFit(continuity=0.0)
    with pytest.raises(ValueError, match="the model learns no starts"):
        TrajectoryFit()(model, *rest)
    with pytest.raises(ValueError, match="needs the knots"):
        TrajectoryFit("multiple")(model, *rest, first=jnp.ones(1))
    with pytest.raises(ValueError, match="needs shooting='single', but TrajectoryFit has 'growing'"):
        TrajectoryFit("growing")(model, *rest, first=jnp.ones(1), regulariser=KineticEnergy())


def test_batch_is_averaged_over_its_values_and_a_share_of_the_penalty_is_added():
    """Kinetic energy of the decay from y0: the integral of y0^2 exp(-2 t)."""
    model, firsts = observed(decay()), jnp.array([[1.0], [2.0]])
    values = jnp.stack([values_of(0.1), 2 * values_of(0.0)])
    weights = jnp.stack([jnp.ones((4, 1)), jnp.array([[1.0], [0.0], [0.0], [1.0]])])
    objective = partial(TrajectoryFit(), regulariser=KineticEnergy())
    loss = batch_loss(objective, share=lambda step: 0.1 * step.astype(float))
    batch = (jnp.stack([TIMES, TIMES]), values, weights, jnp.arange(2), firsts)
    result = eqx.filter_jit(loss)(model, batch, STEP, KEY)
    each = np.array([nll([0.1] * 4), nll([0.0] * 2)])
    energy = (1 + 4) / 2 * (1 - np.exp(-4.0)) / 2
    np.testing.assert_allclose(result.per_example, each, rtol=1e-4)
    assert float(result.parts["penalty"]) == pytest.approx(energy, rel=1e-3)
    assert float(result.loss) == pytest.approx(each.sum() / 6 + 0.3 * float(result.parts["penalty"]), rel=1e-5)


def test_classifier_pays_its_cross_entropy_and_reports_how_often_it_is_right():
    logits, labels = jnp.array([[0.0, 2.0], [1.0, 0.0], [3.0, 0.0]]), jnp.array([1, 1, 0])
    result = batch_loss(classification_loss)(lambda x, key: 2.0 * x, (logits, labels), STEP, KEY)
    each = jax.vmap(cross_entropy)(2 * logits, labels)
    np.testing.assert_allclose(result.per_example, each)
    assert float(result.loss) == pytest.approx(float(each.mean()))
    assert float(result.parts["accuracy"]) == pytest.approx(2 / 3)


def test_model_without_an_equation_has_no_penalty():
    terms = classification_loss(lambda x, key: x, jnp.zeros(2), 0, regulariser=KineticEnergy())
    assert terms.penalty is None


class Uniform(eqx.Module):
    width: jax.Array

    def log_prob(self, x, *, key=None):
        return -jnp.log(self.width)

    def solve(self, x, *, regulariser, key):
        return self.log_prob(x), regulariser * x[0], {}


def test_density_pays_its_negative_log_density_and_the_mean_penalty():
    points = (jnp.array([[1.0], [5.0]]),)
    model = Uniform(jnp.asarray(np.e))
    assert float(batch_loss(density_loss)(model, points, STEP, KEY).loss) == pytest.approx(1.0)
    result = batch_loss(partial(density_loss, regulariser=2.0), share=lambda step: 0.5)(model, points, STEP, KEY)
    assert float(result.loss) == pytest.approx(1.0 + 0.5 * 6.0)
    assert float(result.parts["penalty"]) == pytest.approx(6.0)


def test_context_elbo_is_the_bound_in_a_context_with_its_divergences_annealed():
    sizes = {"channels": 1, "state_size": 2, "width": 4, "encoder_size": 4}
    model = nde.LatentSDE(**sizes, horizon=2.0, dt0=1.0, key=KEY)
    values, mask = jnp.stack([values_of(0.0), values_of(1.0)]), jnp.ones((2, 4, 1), bool).at[1, 2].set(False)
    objective = ContextELBO(nde.ELBO(samples=2), whole=1.0, kl_weight=0.8, anneal_steps=8)
    batch = (jnp.stack([TIMES, TIMES]), values, mask)
    result = eqx.filter_jit(batch_loss(objective))(model, batch, STEP, KEY)
    keys = jax.vmap(lambda key: jax.random.split(key)[1])(jax.random.split(KEY, 2))
    elbo = jax.vmap(lambda t, x, m, key: objective.elbo(model, t, x, m, m, key=key))
    terms = eqx.filter_jit(elbo)(*batch, keys)
    np.testing.assert_allclose(result.per_example, terms.loss(0.4), rtol=1e-9)
    assert float(result.loss) == pytest.approx(float(jnp.sum(terms.loss(0.4))) / 7)
    assert float(result.parts["kl_path"]) == pytest.approx(float(terms.kl_path.mean()))
    with pytest.raises(ValueError, match=r"a probability whole in \[0, 1\], but got 1.5"):
        ContextELBO(whole=1.5)


def test_batch_is_reported_by_the_means_of_its_parts():
    def objective(model, x, *, step, key):
        return Terms(loss=model * x, reported={"x": x, "step": step.astype(float)})

    result = batch_loss(objective)(2.0, (jnp.array([1.0, 2.0]),), STEP, KEY)
    assert {name: float(value) for name, value in result.parts.items()} == {"x": 1.5, "step": 3.0}
    assert float(result.loss) == 3.0


@pytest.mark.parametrize(
    ("wrap", "y", "rate"),
    [
        (lambda field: field, 0.7, 0.3),
        (nde.LogField, np.log(2.0), 0.3 / 2.0),
        (lambda field: nde.AffineField(field, location=[1.0], scale=[4.0]), 0.7, 0.3 / 4.0),
        (lambda field: nde.StandardField(field, location=[1.0], scale=[4.0], rate=[5.0]), 0.7, 0.3 * 5.0),
        (lambda field: added(field, 0.2), 0.7, 0.5),
    ],
)
def test_wrapped_field_says_what_the_field_within_says(wrap, y, rate):
    field = wrap(added(decay(0.5)))
    assert {name: float(x) for name, x in parameter_values(field).items()} == pytest.approx({"rate": 0.5})
    assert state_names(field) == ("drug",)
    np.testing.assert_allclose(residual_rates(field, 0.0, jnp.array([y])), [rate])
    without = field(0.0, jnp.array([y])) - wrap(decay(0.5))(0.0, jnp.array([y]))
    own = 0.2 if rate == 0.5 else 0.0  # the outermost hybrid adds its own in both
    np.testing.assert_allclose(without, [rate - own])


def test_residual_on_some_states_is_zero_on_the_others_and_augmented_states_are_a_pair():
    field = nde.Hybrid(nde.fields.lotka_volterra(), lambda t, y, args: jnp.ones(1), states=["predator"])
    field = eqx.tree_at(lambda h: h.scale, field, jnp.asarray(0.5))
    np.testing.assert_array_equal(residual_rates(field, 0.0, jnp.array([1.0, 2.0])), [0.0, 0.5])
    pair = residual_rates(nde.AugmentedField(field, 1), 0.0, (jnp.ones(1), jnp.ones(1)))
    np.testing.assert_array_equal(jnp.concatenate(pair), [0.0, 0.5])
    assert parameter_values(nde.AugmentedField(field, 1)).keys() == {"birth", "loss", "gain", "death"}
    assert nde.Hybrid(field, lambda t, y, args: jnp.ones(1), states=["prey"]).states == (0,)  # names through a hybrid


def test_any_callable_is_a_field_that_says_nothing():
    def field(t, y, args):
        return y

    assert (state_names(field), parameter_values(field)) == (None, {})
    np.testing.assert_array_equal(residual_rates(field, 0.0, {"a": jnp.ones(2)})["a"], [0.0, 0.0])
