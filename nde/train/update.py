"""How a training step changes the state: by a gradient, by a game of two players, with an average of the parameters."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from nde.train.compiled import Apply, checked_step, compiled_step, CompiledStep
from nde.train.devices import Sharing
from nde.train.player import Player
from nde.train.state import BatchLoss, LossFunction, StepReport, TrainState


@dataclass(frozen=True, eq=False)
class Update:
    r"""A step of training, $(\mathrm{state}, \mathrm{batch}, \mathrm{key}) \mapsto (\mathrm{state}, \mathrm{report})$.

    `nde.train.gradient_update`, `nde.train.adversarial_update` and `nde.train.with_ema` make them, and
    `nde.train.fit` repeats one, whatever it does inside.

    **Arguments of the constructor**, for an update of one's own:

    - `init`: `model -> nde.train.TrainState`, mostly by `TrainState.create(model, opt_state)`.
    - `apply`: `(state, batch, key) -> (state, nde.train.StepReport)`, made of JAX operations, with the same structure,
      shapes and dtypes of the state before and after; it adds one to `state.step`, and leaves the best model alone.
    - `sharing`: how its batches are divided, a `nde.train.Sharing`: `apply` then gets a `nde.train.gradient.Part`.
      `None` for whole batches.

    **Call:** `update(state, batch, key)`; not compiled, and made even where a loss or a gradient is not finite.
    """

    init: Callable[[PyTree], TrainState]
    apply: Apply
    sharing: Sharing | None = None

    def __call__(self, state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
        return self.apply(state, batch, key)

    # The programs lie on the update and not in a global cache, so that both, and what the loss refers to, can be freed.

    @cached_property
    def compiled(self) -> CompiledStep:
        """`(state, data, indices, key) -> (state, report)`, compiled once for each shape: see `nde.train.compiled`."""
        step = compiled_step(self.apply, self.sharing, donate=False)

        def call(state: TrainState, data: PyTree, indices: Any, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
            new, report = step(state, data, indices, key)
            if not report.is_finite:
                self.checked(state, data, indices, key)
            return new, report

        return call

    @cached_property
    def consuming(self) -> CompiledStep:
        """The same, which writes the new state over the one that it is given, and raises no errors."""
        return compiled_step(self.apply, self.sharing, donate=True)

    @cached_property
    def checked(self) -> CompiledStep:
        """The same with the checks of what is computed, that raise errors; on one device."""
        return checked_step(self.apply, self.sharing)


def gradient_update(
    loss: LossFunction,
    optimiser: optax.GradientTransformation,
    *,
    parameters: Callable[[PyTree], Any] | None = None,
    sharing: Sharing | None = None,
    counted: bool = False,
) -> Update:
    r"""An update that lowers a loss: differentiate it, and let the optimiser move the parameters.

    A shared batch has the loss and the gradient of the whole, to rounding. The loss is a sum over $j$ of averages
    $\sum_i a_{ij} / \sum_i w_{ij}$ over the examples $i$; each device adds up $a$, $w$ and $\partial a$ over its own,
    turn by turn, and one sum over the devices makes them those of the batch. Then each moves its copy of the parameters
    alike. A solve's loop knows nothing of other devices. Where the loss has several averages, as with a penalty, their
    weights, a few numbers, are summed over the devices before.

    **Arguments:** `loss`: `(model, batch, step, key) -> nde.train.BatchLoss`; `optimiser`: an optax transformation;
    `parameters`: `model -> part`, the part of the model (or a tuple of parts) whose inexact arrays are moved, as the
    first argument of `equinox.tree_at`; all of the model if `None`; `sharing`: how each batch is divided, of a loss
    that `nde.train.batch_loss` made; `None` for whole batches on one device; `counted`: whether the report counts the
    solves of the loss and their steps, for which the loss must not be differentiated in forward mode within itself.
    """
    player = Player(loss, optimiser, parameters, counted=counted)

    def init(model: PyTree) -> TrainState:
        return TrainState.create(model, player.init(model))

    def apply(state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
        move = player.move(state.model, state.opt_state, batch, state.step, key, rate=state.rate)
        report = StepReport(move.batch, move.gradient_norm, move.finite, move.is_finite(), counts=move.counts)
        return state.advanced(move.model, move.opt_state), report

    return Update(init, apply, sharing)


def adversarial_update(generator: Player, discriminator: Player, *, discriminator_steps: int = 1) -> Update:
    r"""An update of two players in turn, each lowering its own loss by its own part of one model.

    With the batch cut into $k$ equal parts $b_1, \dots, b_k$, the discriminator's parameters $\phi$ move once on each,
    and then the generator's $\theta$ on the last:
    $\phi \leftarrow \phi - \eta_\phi \nabla_\phi L_\phi(\theta, \phi; b_i)$ for $i = 1, \dots, k$, then
    $\theta \leftarrow \theta - \eta_\theta \nabla_\theta L_\theta(\theta, \phi; b_k)$. For a game of sum zero let
    $L_\theta = -L_\phi$.

    ```python
    update = adversarial_update(
        Player(generator_loss, optax.adam(1e-4), lambda model: model.generator),
        Player(discriminator_loss, optax.adam(4e-4), lambda model: model.discriminator),
        discriminator_steps=5,
    )
    ```

    **Arguments:** `generator`, `discriminator`: a `nde.train.Player` each; `discriminator_steps`: $k$. What neither
    player names stays as it is.

    **Returns:** an `nde.train.Update`. It reports the discriminator's loss (the mean over its $k$ moves) as `loss`, the
    generator's as the part `generator`, the parts of both under `generator.` and `discriminator.`, and the gradient's
    norm over the last move of each.

    **Raises:** `ValueError` for fewer than one step; when it is used, for players that share parameters or have none,
    and for a batch that can not be cut into `discriminator_steps` equal parts.

    **Limits:** the players of a bilinear game circle its equilibrium for ever; their average
    (`nde.train.with_ema`) comes to it.

    **Source:** Goodfellow et al., *Generative Adversarial Nets*, NeurIPS 2014, algorithm 1; Arjovsky, Chintala, Bottou,
    *Wasserstein GAN*, ICML 2017, algorithm 1 (there with a clip of the weights, `Player.project`); for neural SDEs,
    Kidger et al., *Neural SDEs as Infinite-Dimensional GANs*, ICML 2021, arXiv 2102.03657.
    """
    if discriminator_steps < 1:
        raise ValueError(f"adversarial_update needs discriminator_steps >= 1, but got {discriminator_steps}.")

    def init(model: PyTree) -> TrainState:
        masks = [jax.tree.leaves(player.mask(model)) for player in (generator, discriminator)]
        if any(a and b for a, b in zip(*masks, strict=True)):
            raise ValueError("adversarial_update needs two players without a parameter in common.")
        opt_state = {"generator": generator.init(model), "discriminator": discriminator.init(model)}
        return TrainState.create(model, opt_state)

    def apply(state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
        batches = _cut(batch, discriminator_steps)
        keys = jax.random.split(key, discriminator_steps + 1)
        arrays, static = eqx.partition(state.model, eqx.is_array)

        def discriminate(carry, part):
            arrays, opt_state = carry
            model = eqx.combine(arrays, static)
            move = discriminator.move(model, opt_state, part[0], state.step, part[1], rate=state.rate)
            carry = eqx.filter(move.model, eqx.is_array), move.opt_state
            return carry, (move.batch, move.gradient_norm, move.finite, move.is_finite())

        carry = arrays, state.opt_state["discriminator"]
        (arrays, opt_state), (result, norm, finite, sound) = jax.lax.scan(discriminate, carry, (batches, keys[1:]))
        last, model = jax.tree.map(lambda x: x[-1], batches), eqx.combine(arrays, static)
        move = generator.move(model, state.opt_state["generator"], last, state.step, keys[0], rate=state.rate)
        report = StepReport(
            _of_both(move.batch, result),
            jnp.hypot(move.gradient_norm, norm[-1].astype(move.gradient_norm.dtype)),
            move.finite & jnp.all(finite, 0),
            move.is_finite() & jnp.all(sound),
        )
        return state.advanced(move.model, {"generator": move.opt_state, "discriminator": opt_state}), report

    return Update(init, apply)


def with_ema(update: Update, decay: float) -> Update:
    r"""The same update, with an exponential moving average of the parameters, which is what is validated and used.

    After update $n$, counted from one, the average $a_n$ of the parameters $\theta_n$ is
    $a_n = \beta_n a_{n-1} + (1 - \beta_n)\,\theta_n$, with $\beta_n = \min\bigl(\beta, (1 - 1/n)^8\bigr)$.
    As $\beta_1 = 0$, what the model began with has no part in it. The average reaches back over an eighth of the
    updates so far, until that is more than the $1 / (1 - \beta)$ updates of `decay`; so a short training with a long
    average is not held back by its first steps, as it would be by dividing by $1 - \beta^n$.

    The average is kept in `nde.train.TrainState.averaged`, in single precision at least; the optimiser goes on from the
    parameters themselves. What is no inexact array is that of the model. An update that is not made, for a loss that is
    not finite, leaves it alone.

    **Arguments:** `update`: any `nde.train.Update`; `decay`: $\beta$ in [0, 1), such as 0.999.

    **Raises:** `ValueError` for another `decay`; and, by `init`, for an update that has an average already.

    **Source:** Polyak & Juditsky, *Acceleration of stochastic approximation by averaging*, 1992; the warm-up is the
    power function average of Karras et al., *Analyzing and Improving the Training Dynamics of Diffusion Models*, CVPR
    2024, arXiv 2312.02696, section 3.1, with $\gamma = 7$, the width of 0.1 of the training that they found good.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"with_ema needs decay in [0, 1), but got {decay}.")

    def init(model: PyTree) -> TrainState:
        state = update.init(model)
        if state.averaged is not None:
            raise ValueError("with_ema needs an update without an average, but this one has its own.")
        return TrainState.create(state.model, state.opt_state, _parameters(state.model))

    def apply(state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
        new, report = update(state, batch, key)
        warm = -jnp.expm1(EMA_POWER * jnp.log1p(-1 / new.step.astype(jnp.float32)))  # 1 - (1 - 1/n)^8, without rounding
        weight = jnp.maximum(warm, 1 - decay)

        def average(mean: Array, now: Array) -> Array:
            return mean + weight.astype(mean.dtype) * (now - mean)

        averaged = jax.tree.map(average, state.averaged, _parameters(new.model))
        return eqx.tree_at(lambda s: s.averaged, new, averaged), report

    return Update(init, apply, update.sharing)


EMA_POWER = 8


def _parameters(model: PyTree) -> PyTree:
    """The model's parameters, those of half precision in single: an average moves by less than their rounding."""
    parameters = eqx.filter(model, eqx.is_inexact_array)
    with jax.numpy_dtype_promotion("standard"):
        return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), parameters)


def _cut(batch: PyTree, parts: int) -> PyTree:
    """A batch in so many equal parts, stacked."""
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % parts:
        raise ValueError(
            f"adversarial_update needs a batch that {parts} discriminator steps share equally, but it has {size} "
            f"examples; make that {math.ceil(size / parts) * parts}."
        )
    return jax.tree.map(lambda x: x.reshape(parts, size // parts, *x.shape[1:]), batch)


def _of_both(generator: BatchLoss, discriminator: BatchLoss) -> BatchLoss:
    """What is reported of the generator's move and of the stacked moves of the discriminator."""
    parts = {"generator": generator.loss}
    parts |= {f"generator.{name}": value for name, value in generator.parts.items()}
    parts |= {f"discriminator.{name}": jnp.mean(value) for name, value in discriminator.parts.items()}
    return BatchLoss(jnp.mean(discriminator.loss), parts, discriminator.per_example.reshape(-1))
