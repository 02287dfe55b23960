"""Flows of many environments: expansions in the context, their fit, adaptation, and the updates that train them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nde
from nde.fields import ContextField, TaylorField
from nde.models import adapt
from nde.objectives import ContextFit, row_windows
from nde.train import batch_loss, BatchLoss, gauss_newton_update, gradient_update, in_turn, proximal, Sharing, with_ema

KEY = jax.random.key(0)
FIELD = ContextField(2, 3, 8, key=KEY)
Y, ABOUT, AWAY = jnp.array([0.4, -1.1]), jnp.array([0.3, -0.2, 0.5]), jnp.array([0.7, 0.4, -0.6])


def test_expansion_is_that_of_a_polynomial():
    """Without the quadratic part at order 1, exact at order 2; of a context of any structure."""

    def field(t, y, context):
        return t + context["linear"] * y + context["square"] ** 2

    context = {"linear": jnp.array(2.0), "square": jnp.array(3.0)}
    about = {"linear": jnp.array(-1.0), "square": jnp.array(1.0)}
    exact = field(0.5, Y, context)
    np.testing.assert_allclose(TaylorField(field, 2)(0.5, Y, (context, about)), exact, rtol=1e-14)
    np.testing.assert_allclose(TaylorField(field, 1)(0.5, Y, (context, about)), exact - (3.0 - 1.0) ** 2, rtol=1e-14)


@pytest.mark.parametrize("order", [1, 2])
def test_expansion_of_a_network_errs_by_an_order_more(order):
    field = TaylorField(FIELD, order)
    errors = [
        jnp.linalg.norm(field(0.0, Y, (ABOUT + h * AWAY, ABOUT)) - FIELD(0.0, Y, ABOUT + h * AWAY))
        for h in (0.04, 0.02)
    ]
    assert float(jnp.log2(errors[0] / errors[1])) == pytest.approx(order + 1, abs=0.1)
    np.testing.assert_array_equal(field(0.0, Y, (ABOUT, ABOUT)), FIELD(0.0, Y, ABOUT))


def rates(t, y, context):
    """Decay by the exponential of a context."""
    return -jnp.exp(context) * y


TIMES, TRUE = np.linspace(0.0, 1.5, 6), np.array([0.5, 0.9, 1.4])
SERIES = np.exp(-TRUE[:, None] * TIMES)[..., None] * np.array([2.0])
DATA = (jnp.broadcast_to(TIMES, (3, 6)), jnp.asarray(SERIES), jnp.arange(3))
STEPS = {"controller": nde.ConstantStepSize(), "dt0": 0.1, "max_steps": 20}
DECAY = nde.ContextFlow(rates, jnp.zeros((3, 1)), **STEPS)


def fitted(update, steps, model=DECAY, data=DATA):
    state = update.init(model)
    for _ in range(steps):
        state, report = update.compiled(state, data, jnp.arange(len(data[0])), KEY)
    return state.model, report


def test_contexts_are_the_rates_and_a_new_one_is_found():
    model, report = fitted(gauss_newton_update(ContextFit(pool=0).residuals), 8)
    np.testing.assert_allclose(jnp.exp(model.contexts[:, 0]), TRUE, atol=1e-6)
    assert float(report.batch.loss) < 1e-12
    ys = 3 * np.exp(-0.7 * TIMES)[:, None]
    new, left = adapt(model, TIMES, np.where(np.arange(6)[:, None] == 3, np.nan, ys))
    assert float(jnp.exp(new.contexts[0, 0])) == pytest.approx(0.7, abs=1e-6)
    assert float(left) < 1e-12
    np.testing.assert_allclose(new(TIMES, ys[0], 0), ys, atol=1e-6)


def test_pool_is_solved_about_the_contexts_of_others():
    """The expansion of -exp(ξ) is a rate too: the whole loss in closed form, and its gradient by differences."""
    contexts = jnp.log(jnp.asarray(TRUE))[:, None] + 0.1
    xi = np.asarray(contexts[:, 0])
    for order in (1, 2):
        model = nde.ContextFlow(rates, contexts, order=order, **STEPS)
        fit = ContextFit(pool=2, context_weight=0.01)
        found = fit(model, *(x[0] for x in DATA), key=KEY)
        squares = []
        for j in range(3):
            apart = xi[0] - xi[j]
            rate = np.exp(xi[j]) * (1 + apart + (order == 2) * apart**2 / 2)
            squares.append(np.mean((2 * np.exp(-rate * TIMES[1:]) - SERIES[0, 1:, 0]) ** 2))
        assert float(found.loss) == pytest.approx(np.mean(squares) + 0.01 * abs(xi[0]), rel=1e-6)
        assert float(found.reported["own"]) == pytest.approx(squares[0], rel=1e-6)

    def loss(contexts):
        return fit(eqx.tree_at(lambda m: m.contexts, model, contexts), *(x[0] for x in DATA), key=KEY).loss

    gradient, step = jax.grad(loss)(contexts), 1e-5 * jnp.eye(3)[..., None]
    differences = [(loss(contexts + each) - loss(contexts - each)) / 2e-5 for each in step]
    np.testing.assert_allclose(gradient[:, 0], jnp.stack(differences), rtol=1e-7)


def test_nearest_neighbours_are_those_of_the_contexts():
    fit = ContextFit(pool=2, neighbours="nearest")
    np.testing.assert_array_equal(fit._pool(jnp.array([[0.0], [5.0], [1.0], [-2.0]]), 0, KEY), [2, 3])
    drawn = {tuple(np.sort(ContextFit(pool=2)._pool(jnp.zeros((3, 1)), 1, key))) for key in jax.random.split(KEY, 5)}
    assert drawn == {(0, 2)}


def test_windows_are_rows_that_follow_each_other():
    ts, ys, label = row_windows(np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(2, 3, 2), 2, [7, 8])
    np.testing.assert_array_equal(ts, [[0, 1], [1, 2], [3, 4], [4, 5]])
    np.testing.assert_array_equal(ys[1], [[2, 3], [4, 5]])
    np.testing.assert_array_equal(label, [7, 7, 8, 8])


@pytest.mark.parametrize("count", [3, 12])
def test_gauss_newton_solves_a_linear_problem_at_once(count):
    """Of fewer rows than parameters the least change that fits, of more the least squares: both systems."""
    A, b = np.random.default_rng(0).standard_normal((count, 5)), np.arange(count) * 0.3
    update = gauss_newton_update(lambda x, a, b, key: (a @ x["x"] - b)[None] + x["held"], parameters=lambda x: x["x"],
                                 damping=1e-12)  # fmt: skip
    start = {"x": jnp.ones(5), "held": jnp.zeros(())}
    state, report = update(update.init(start), (jnp.asarray(A), jnp.asarray(b)), KEY)
    expected = 1 + np.linalg.lstsq(A, b - A.sum(1), rcond=None)[0]
    np.testing.assert_allclose(state.model["x"], expected, atol=1e-8)
    assert float(state.model["held"]) == 0.0
    assert float(report.batch.loss) == pytest.approx(np.mean((A.sum(1) - b) ** 2))
    assert float(report.gradient_norm) == pytest.approx(np.linalg.norm(2 / count * A.T @ (A.sum(1) - b)))


def test_gauss_newton_makes_no_step_that_is_no_better():
    """At a minimum that is not zero nothing falls: the parameters stay, and the damping has grown eight times."""
    update = gauss_newton_update(lambda x, a, key: jnp.stack([x - a, a - x + 2.0]))
    state, _ = update(update.init(jnp.array(2.0)), (jnp.array([1.0]),), KEY)
    assert float(state.model) == 2.0
    assert float(state.opt_state) == pytest.approx(1e-3 * 4**8)


def test_gauss_newton_goes_on_after_a_long_stay_at_a_minimum_and_names_what_is_not_finite():
    update = gauss_newton_update(
        lambda m, a, key: jnp.stack([m["x"] - a, a - m["x"] + 2.0]), parameters=lambda m: m["x"]
    )
    state = update.init({"x": jnp.array(2.0, jnp.float32), "held": jnp.zeros(3)})
    for _ in range(30):
        state, report = update(state, (jnp.array([1.0], jnp.float32),), KEY)
    assert np.isfinite(state.opt_state) and float(state.model["x"]) == 2.0
    assert report.finite.shape == (2,)  # a flag for each array of the model
    for _ in range(40):
        state, _ = update(state, (jnp.array([4.0], jnp.float32),), KEY)
    np.testing.assert_allclose(state.model["x"], 5.0, rtol=1e-4)


def square(model, batch, step, key):
    each = (model["a"] * model["b"] - batch) ** 2
    return BatchLoss(jnp.mean(each), {}, each)


def test_turns_of_different_sharings_are_refused():
    shared = gradient_update(square, optax.sgd(0.05), sharing=Sharing(turns=2))
    with pytest.raises(ValueError, match="in_turn needs updates that share their batches in the same way"):
        in_turn(shared, gradient_update(square, optax.sgd(0.05)))


def test_updates_take_turns():
    turns = [gradient_update(square, optax.sgd(0.05), parameters=lambda m, k=k: m[k]) for k in ("a", "b")]
    update, data = in_turn(*turns, moves=2), jnp.full(1, 3.0)
    state, moved = update.init({"a": jnp.array(1.0), "b": jnp.array(1.5)}), []
    for _ in range(8):
        new, _ = update.compiled(state, data, jnp.arange(1), KEY)
        moved.append([k for k in "ab" if float(new.model[k]) != float(state.model[k])])
        state = new
    assert moved == [["a"], ["a"], ["b"], ["b"]] * 2


def test_proximal_rounds_go_to_the_proximal_point():
    """Of (x - 1)² / 2 a round from x_k ends at (1 + β x_k) / (1 + β)."""
    optimiser, x = proximal(optax.sgd(0.2), 3.0, every=60), jnp.array(5.0)
    state, ends = optimiser.init(x), []
    for _ in range(120):
        change, state = optimiser.update(x - 1.0, state, x)
        x = x + change
        ends.append(float(x))
    np.testing.assert_allclose([ends[59], ends[119]], [1 + 4 * 3 / 4, 1 + 4 * (3 / 4) ** 2], rtol=1e-9)


def test_alternating_minimisation_comes_to_the_rates():
    def adam(k):
        return gradient_update(batch_loss(ContextFit(pool=0)), proximal(optax.adam(0.05), 0.1, every=5), parameters=k)

    update = in_turn(adam(lambda m: m.contexts), adam(lambda m: m.ode.field.scale), moves=5)
    model = nde.ContextFlow(Scaled(jnp.array(0.7)), jnp.zeros((3, 1)), **STEPS)
    model, report = fitted(update, 300, model)
    assert float(report.batch.parts["own"]) < 1e-4
    np.testing.assert_allclose(model.ode.field.scale * jnp.exp(model.contexts[:, 0]), TRUE, atol=0.05)


class Scaled(eqx.Module):
    scale: jax.Array

    def __call__(self, t, y, context):
        return self.scale * rates(t, y, context)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: TaylorField(FIELD, 3), "orders 1 and 2, but got 3"),
        (lambda: TaylorField(FIELD)(0.0, Y, ABOUT), r"args = \(context, about\)"),
        (lambda: nde.ContextFlow(FIELD, jnp.zeros(3)), r"contexts of shape \(environments, context_size\)"),
        (lambda: ContextFit(pool=-1), "pool >= 0"),
        (lambda: ContextFit(pool=3).residuals(DECAY, *(x[0] for x in DATA), key=KEY), "give a smaller pool"),
        (lambda: adapt(DECAY, TIMES, jnp.zeros((5, 1))), r"ys of shape \(series, times, state\)"),
        (lambda: adapt(DECAY, TIMES, jnp.full((6, 1), jnp.inf)), "no context of the model gives a finite error"),
        (lambda: row_windows(DATA[0], DATA[1], 7), "2 to times rows"),
        (lambda: gauss_newton_update(lambda x: x, damping=0.0), "damping > 0"),
        (lambda: gauss_newton_update(lambda x: x).init({"n": 1}), "nothing to train"),
        (lambda: in_turn(gradient_update(square, optax.sgd(0.1))), "two updates or more"),
        (lambda: in_turn(*[with_ema(gradient_update(square, optax.sgd(0.1)), 0.9)] * 2).init(jnp.ones(1)), "with_ema"),
        (lambda: proximal(optax.sgd(0.1), -1.0, every=2), "weight >= 0"),
    ],
)
def test_wrong_input_is_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()
