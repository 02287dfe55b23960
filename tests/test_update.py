"""What a step of training does: by a gradient, by two players, with an average of the parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_equal

from nde.train import (
    adam_with_warmup,
    adversarial_update,
    BatchLoss,
    CheckpointError,
    Checkpoints,
    fit,
    gradient_update,
    NonFiniteLoss,
    Player,
    Schedule,
    TrainState,
    Update,
    with_ema,
)

DATA = jnp.asarray(np.random.default_rng(0).standard_normal(12) + 2.0)


def mean_loss(model, batch, step, key):
    losses = (model["mean"] - batch) ** 2
    return BatchLoss(jnp.mean(losses), {}, losses)


class Game(eqx.Module):
    """min over x, max over y of (x - 1)(y + 2), whose one equilibrium is (1, -2)."""

    x: jax.Array
    y: jax.Array
    players: str = eqx.field(static=True, default="two")

    def value(self):
        return (self.x - 1.0) * (self.y + 2.0)


def game_loss(sign, model, batch, step, key):
    return BatchLoss(sign * model.value(), {"value": model.value()}, model.value() + 0 * batch)


def game_update(rate=0.1, steps=1, loss=game_loss):
    return adversarial_update(
        Player(lambda *inputs: loss(1.0, *inputs), optax.sgd(rate), lambda game: game.x),
        Player(lambda *inputs: loss(-1.0, *inputs), optax.sgd(rate), lambda game: game.y),
        discriminator_steps=steps,
    )


GRADIENT = gradient_update(mean_loss, optax.adam(0.05))
AVERAGED, GAME = with_ema(GRADIENT, 0.9), with_ema(game_update(steps=2), 0.9)
MODELS = {"ema": (AVERAGED, {"mean": jnp.zeros(())}), "game": (GAME, Game(jnp.zeros(()), jnp.zeros(())))}


def run(update, state, steps, *, data=DATA, every=10, callbacks=(), stop=lambda: False, validate=lambda model: 0.0):
    batches = [np.random.default_rng(i).permutation(12)[:4] for i in range(steps)]
    return fit(
        update, state, data, batches, validate, Schedule(steps, every=every),
        key=jax.random.key(0), names=range(12), callbacks=callbacks, stop=stop,
    ).state  # fmt: skip


def arrays(tree):
    return eqx.filter(tree, eqx.is_array)


def test_average_is_the_recursion_of_its_docstring():
    state, rng = AVERAGED.init({"mean": jnp.zeros(())}), np.random.default_rng(0)
    average = 7.0  # of no account: the first weight is one
    for n in range(1, 41):
        state, _ = AVERAGED.compiled(state, DATA, rng.permutation(12)[:4], jax.random.key(0))
        decay = min(0.9, (1 - 1 / n) ** 8)
        average = decay * average + (1 - decay) * float(state.model["mean"])
        assert float(state.averaged["mean"]) == pytest.approx(average, rel=1e-6)
    assert (1 - 1 / 40) ** 8 < 0.9 < (1 - 1 / 100) ** 8  # so it is the warm-up that was tested, and here the decay:
    state = eqx.tree_at(lambda s: s.step, state, state.step + 100)
    state, _ = AVERAGED.compiled(state, DATA, np.arange(4), jax.random.key(0))
    assert float(state.averaged["mean"]) == pytest.approx(0.9 * average + 0.1 * float(state.model["mean"]), rel=1e-6)


def test_averaged_model_is_validated_and_kept_as_the_best():
    seen = []
    model = {"mean": jnp.zeros(()), "count": jnp.asarray(3), "name": "m"}
    state = run(AVERAGED, AVERAGED.init(model), 10, validate=lambda model: seen.append(model) or 1.0)
    assert float(seen[0]["mean"]) == float(state.averaged["mean"]) != float(state.model["mean"])
    assert (int(seen[0]["count"]), seen[0]["name"]) == (3, "m")
    assert_trees_all_equal(arrays(state.best_model), arrays(state.evaluated_model), arrays(seen[0]))


def test_half_precision_is_averaged_in_single_precision_and_used_in_its_own():
    model = {"mean": jnp.zeros((), jnp.float16)}
    state = TrainState.create(model, None, {"mean": jnp.ones(())})
    assert state.evaluated_model["mean"].dtype == jnp.float16
    assert with_ema(gradient_update(mean_loss, optax.sgd(0.1)), 0.9).init(model).averaged["mean"].dtype == jnp.float32


@pytest.mark.parametrize("name", MODELS)
def test_resumed_training_is_bit_identical(tmp_path, name):
    update, model = MODELS[name]
    whole = run(update, update.init(model), 30)
    checkpoints, count = Checkpoints(tmp_path), iter(range(100))
    run(update, update.init(model), 30, callbacks=[checkpoints], stop=lambda: next(count) == 16)
    checkpoints.close()
    restored = Checkpoints(tmp_path).restore(update.init(model))
    assert int(restored.step) == 17
    assert_trees_all_equal(arrays(run(update, restored, 30)), arrays(whole))


def test_checkpoint_without_an_average_is_one_without_it_and_refused_for_one():
    state = GRADIENT.init({"mean": jnp.zeros(())})
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(arrays(state))]
    assert paths == [  # what checkpoints of before there were averages hold
        ".step", ".model['mean']", ".opt_state[0].count", ".opt_state[0].mu['mean']", ".opt_state[0].nu['mean']",
        ".best_model['mean']", ".best_score", ".best_step",
    ]  # fmt: skip


def test_checkpoint_of_another_update_is_refused_in_one_line(tmp_path):
    model = {"mean": jnp.zeros(())}
    checkpoints = Checkpoints(tmp_path)
    run(GRADIENT, GRADIENT.init(model), 3, callbacks=[checkpoints])
    with pytest.raises(CheckpointError, match=r"step 3 .*trained in another way: it lacks \.averaged\['mean'\]\.$"):
        checkpoints.restore(AVERAGED.init(model))
    checkpoints.close()


def test_players_of_a_bilinear_game_circle_its_equilibrium_and_their_average_comes_to_it():
    update = with_ema(game_update(rate=0.1), 0.999)
    state = run(update, update.init(Game(jnp.zeros(()), jnp.zeros(()))), 1500, every=1500)
    there = np.array([1.0, -2.0])
    last, mean = (np.array([float(game.x), float(game.y)]) for game in (state.model, state.evaluated_model))
    assert 1.0 < np.linalg.norm(last - there) < 4.0
    assert np.linalg.norm(mean - there) < 0.15


def test_discriminator_moves_so_often_on_parts_of_its_own_before_the_generator():
    def loss(sign, model, batch, step, key):
        return BatchLoss(sign * (model.value() + model.y * jnp.mean(batch)), {"seen": jnp.mean(batch)}, batch)

    update = game_update(rate=0.1, steps=3, loss=loss)
    batch = jnp.arange(6.0)
    state, report = update(update.init(Game(jnp.zeros(()), jnp.zeros(()))), batch, jax.random.key(0))
    x, y = 0.0, 0.0
    for part in (0.5, 2.5, 4.5):
        y += 0.1 * (x - 1 + part)
    seen = x
    x -= 0.1 * (y + 2)
    assert float(state.model.y) == pytest.approx(y)
    assert float(state.model.x) == pytest.approx(x)
    assert int(state.step) == 1
    assert float(report.batch.parts["generator.seen"]) == 4.5
    assert float(report.batch.parts["discriminator.seen"]) == 2.5
    assert float(report.gradient_norm) == pytest.approx(np.hypot(y + 2, seen - 1 + 4.5))
    np.testing.assert_array_equal(report.batch.per_example, batch)


def test_each_player_projects_its_own_move():
    clip = optax.sgd(1.0)
    update = adversarial_update(
        Player(lambda *inputs: game_loss(1.0, *inputs), clip, lambda game: game.x),
        Player(
            lambda *inputs: game_loss(-1.0, *inputs), clip, lambda game: game.y,
            lambda game: eqx.tree_at(lambda g: g.y, game, jnp.clip(game.y, -0.5, 0.5)),
        ),
    )  # fmt: skip
    state, _ = update(update.init(Game(jnp.zeros(()), jnp.zeros(()))), DATA, jax.random.key(0))
    assert float(state.model.y) == -0.5
    assert float(state.model.x) == -1.5


def test_players_are_checked():
    player = Player(mean_loss, optax.sgd(0.1), lambda game: game.x)
    model = Game(jnp.zeros(()), jnp.zeros(()))
    with pytest.raises(ValueError, match="without a parameter in common"):
        adversarial_update(player, player).init(model)
    with pytest.raises(ValueError, match="nothing to train"):
        adversarial_update(player, Player(mean_loss, optax.sgd(0.1), lambda game: game.y)).init(
            Game(jnp.zeros(()), jnp.asarray(1))
        )
    with pytest.raises(ValueError, match="discriminator_steps >= 1, but got 0"):
        adversarial_update(player, player, discriminator_steps=0)
    with pytest.raises(ValueError, match=r"5 discriminator steps .* has 12 examples; make that 15\."):
        update = game_update(steps=5)
        update(update.init(model), DATA, jax.random.key(0))


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_average_refuses_another_decay(decay):
    with pytest.raises(ValueError, match=r"decay in \[0, 1\)"):
        with_ema(GRADIENT, decay)


def test_average_of_an_average_is_refused():
    with pytest.raises(ValueError, match="an update without an average"):
        with_ema(AVERAGED, 0.5).init({"mean": jnp.zeros(())})


@pytest.mark.parametrize("name", MODELS)
def test_step_that_is_not_finite_changes_nothing(name):
    update, model = MODELS[name]
    state, broken = update.init(model), DATA.at[3].set(jnp.nan)
    if name == "game":

        def loss(sign, model, batch, step, key):  # the generator's alone, whose gradient is finite
            bad = jnp.where(jnp.any(jnp.isnan(batch)) & (sign > 0), jnp.nan, 0.0)
            return BatchLoss(sign * model.value() + bad, {}, batch)

        update = with_ema(game_update(loss=loss), 0.9)
    state, _ = update.compiled(state, broken, np.array([0, 1, 2, 4]), jax.random.key(0))
    after, report = update.compiled(state, broken, np.array([0, 1, 2, 3]), jax.random.key(0))
    assert not report.is_finite
    assert_trees_all_equal(arrays(after), arrays(state))
    with pytest.raises(NonFiniteLoss, match=r"^step 2: the loss or its gradient is not finite \(.*series: 3"):
        fit(
            update, state, broken, [np.arange(4)] * 3, lambda model: 0.0, Schedule(3, every=3),
            key=jax.random.key(0), names=range(12),
        )  # fmt: skip


def counting(update):
    traces = []
    return Update(update.init, lambda *inputs: traces.append(1) or update.apply(*inputs)), traces


@pytest.mark.parametrize("name", MODELS)
def test_update_is_compiled_once_also_from_weakly_typed_parameters(name):
    update, model = MODELS[name]
    weak = jax.tree.map(lambda x: jnp.exp(0.5), model)
    assert jax.tree.leaves(weak)[0].weak_type
    counted, traces = counting(update)
    run(counted, counted.init(weak), 3)
    assert len(traces) == 1


class Mixed(eqx.Module):
    single: jax.Array
    double: jax.Array

    def distance(self):
        return jnp.sum(self.single**2).astype(float) + jnp.sum(self.double**2)


OPTIMISERS = {
    "adamw": adam_with_warmup(learning_rate=0.1, steps=400, warmup=2),
    "momentum": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "clipped": optax.chain(optax.clip(1.0), optax.add_decayed_weights(1e-3), optax.rmsprop(0.03)),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(0.1, 0.01, 100)),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_parameters_of_several_dtypes_are_trained_under_strict_promotion(name):
    def loss(model, batch, step, key):
        losses = model.distance() + 0.0 * batch
        return BatchLoss(jnp.mean(losses), {}, losses)

    assert jax.config.jax_numpy_dtype_promotion == "strict"
    update, traces = counting(with_ema(gradient_update(loss, OPTIMISERS[name]), 0.9))
    start = update.init(Mixed(jnp.ones(2, jnp.float32), jnp.ones(3)))
    state = start
    for _ in range(60):
        state, _ = update.compiled(state, DATA, np.arange(4), jax.random.key(0))
    assert len(traces) == 1
    assert jax.tree.map(lambda x: x.dtype, arrays(state)) == jax.tree.map(lambda x: x.dtype, arrays(start))
    assert float(state.model.distance()) < 0.3 * float(start.model.distance())


def test_complex_parameter_goes_down_its_loss():
    """JAX's gradient is the conjugate of the direction of steepest ascent."""

    def loss(model, batch, step, key):
        losses = jnp.abs(model["mean"] - (1 + 2j)) ** 2 + 0.0 * batch
        return BatchLoss(jnp.mean(losses), {}, losses)

    update = with_ema(gradient_update(loss, optax.sgd(0.25)), 0.5)
    state = run(update, update.init({"mean": jnp.zeros((), complex)}), 30)
    assert complex(state.evaluated_model["mean"]) == pytest.approx(1 + 2j, abs=1e-5)


def test_update_of_ones_own_is_trained_like_any():
    def apply(state, batch, key):
        moved, report = GRADIENT(state, batch, key)
        halved = jax.tree.map(lambda x: x / 2, moved.model)
        return eqx.tree_at(lambda s: s.model, moved, halved), report

    state = run(with_ema(Update(GRADIENT.init, apply), 0.5), AVERAGED.init({"mean": jnp.ones(())}), 20)
    assert int(state.step) == 20
    assert abs(float(state.averaged["mean"])) < 0.2


def test_update_that_changes_what_a_state_is_made_of_is_refused():
    def grow(state, batch, key):
        new, report = GRADIENT(state, batch, key)
        return eqx.tree_at(lambda s: s.opt_state, new, (new.opt_state, new.step)), report

    with pytest.raises(ValueError, match="must leave the state's structure as it was"):
        Update(GRADIENT.init, grow).compiled(GRADIENT.init({"mean": jnp.zeros(())}), DATA, [0, 1], jax.random.key(0))
