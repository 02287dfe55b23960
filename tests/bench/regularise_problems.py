"""The three problems of `regularise.py`: what is learned, from what, and how it is judged.

Each is a class with `make_model(key)`, `draw(generator)` (a batch to train on), `outcome(model, batch, regulariser,
key)` (the mean loss and penalty of a batch) and `judge(model, part)` (the loss on held-out data, its evaluations, and a
second measure), and the settings of its training.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

import nde
from nde.data import load_pbc, Normaliser, PBC_LOG, split_series
from nde.models.encoder import BackwardEncoder
from nde.objectives import hide_future
from nde.regularise import AbstractRegulariser, Plan
from nde.report import SecondHalf


class Evaluations(AbstractRegulariser):
    """Counts evaluations of the field."""

    def plan(self, call, key):
        """No penalty at all, but the solve's own statistics."""
        del key
        return Plan(call, lambda seen: seen.solution.stats["num_field_evaluations"].astype(jnp.result_type(float)))


def solved(model: Any, regulariser: AbstractRegulariser | None, *arguments: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
    """The output of a model, and a penalty of zero if there is no regulariser."""
    if regulariser is None:
        return model(*arguments, key=key), jnp.zeros(())
    return model.solve(*arguments, regulariser=regulariser, key=key)[:2]


class TimeMLP(eqx.Module):
    """The field of the papers' image classifier: two layers of tanh, each of which sees the time."""

    inner: eqx.nn.Linear
    outer: eqx.nn.Linear

    def __init__(self, size: int, width: int, *, key: PRNGKeyArray):
        keys = jr.split(key)
        self.inner = eqx.nn.Linear(size + 1, width, key=keys[0])
        self.outer = eqx.nn.Linear(width + 1, size, key=keys[1])

    def __call__(self, t, y, args):
        hidden = jnp.tanh(self.inner(jnp.append(y, t)))
        return jnp.tanh(self.outer(jnp.append(hidden, t)))


class DigitsModel(eqx.Module):
    """Pixels flow from 0 to 1; a linear layer reads them."""

    ode: nde.NeuralODE
    readout: eqx.nn.Linear


class Digits:
    """scikit-learn's handwritten digits, 8 by 8: 1077 to train on, 360 to choose by, 360 to score."""

    measure, steps, batch = "accuracy", 400, 64
    rows = ("none", "ERNODE", "SRNODE", "ER+SR", "local, unbiased", "local, biased", "RNODE", "TayNODE", "STEER")

    def __init__(self, tolerance: float = 1e-6):
        from sklearn.datasets import load_digits  # of the `bench` extra

        pixels, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(pixels))
        self.pixels, self.labels = (pixels / 16).astype(jnp.result_type(float)), labels
        self.parts = {"train": order[:1077], "validation": order[1077:1437], "test": order[1437:]}
        self.tolerance = tolerance
        self.optimiser = optax.sgd(optax.cosine_decay_schedule(0.5, self.steps), momentum=0.9)

    def make_model(self, key):
        """Untrained."""
        keys = jr.split(key)
        controller = nde.PIDController(rtol=self.tolerance, atol=self.tolerance)
        ode = nde.NeuralODE(TimeMLP(64, 100, key=keys[0]), controller=controller, max_steps=1024)
        return DigitsModel(ode, eqx.nn.Linear(64, 10, key=keys[1]))

    def draw(self, generator):
        """Images and their classes."""
        chosen = generator.choice(self.parts["train"], self.batch, replace=False)
        return jnp.asarray(self.pixels[chosen]), jnp.asarray(self.labels[chosen])

    def outcome(self, model, batch, regulariser, key):
        """Cross-entropy in nats."""
        losses, penalties, _ = self._each(model, batch, regulariser, key)
        return jnp.mean(losses), jnp.mean(penalties)

    def _each(self, model, batch, regulariser, key):
        def one(pixels, label, key):
            ys, penalty = solved(model.ode, regulariser, jnp.array([0.0, 1.0]), pixels, key=key)
            logits = model.readout(ys[-1])
            return -jax.nn.log_softmax(logits)[label], penalty, jnp.argmax(logits) == label

        return jax.vmap(one)(*batch, jr.split(key, len(batch[1])))

    def judge(self, model, part):
        """Cross-entropy, evaluations, accuracy."""
        batch = jnp.asarray(self.pixels[self.parts[part]]), jnp.asarray(self.labels[self.parts[part]])
        return [jnp.mean(x) for x in self._each(model, batch, Evaluations(), jr.key(0))]


class LatentODE(eqx.Module):
    """A GRU reads a context backward to a start, an ODE carries it on, a linear layer sees it with noise."""

    encoder: BackwardEncoder
    start: eqx.nn.Linear
    ode: nde.NeuralODE
    decoder: eqx.nn.Linear
    log_scale: jax.Array

    def __call__(self, times, values, context, regulariser, key):
        """The mean and logarithm of the standard deviation at all times, the start's divergence, a penalty."""
        start_key, key = jr.split(key)
        features = self.encoder(times, values, context).features[0]
        mean, log_std = jnp.split(self.start(features), 2)
        z0 = mean + jnp.exp(log_std) * jr.normal(start_key, mean.shape)
        divergence = 0.5 * jnp.sum(jnp.exp(2 * log_std) + mean**2 - 1) - jnp.sum(log_std)
        zs, penalty = solved(self.ode, regulariser, times, z0, key=key)
        return jax.vmap(self.decoder)(zs), self.log_scale, divergence, penalty


class Patients:
    """A latent ODE of the clinic's patients: the second half of a follow-up forecast from the first."""

    measure, steps, batch = "squared error", 400, 48
    rows = Digits.rows

    def __init__(self, tolerance: float = 3e-7):
        panel = load_pbc()
        split = split_series(len(panel))
        values = Normaliser.fit(panel[split.fold], PBC_LOG).apply(panel)
        dtype = jnp.result_type(float)
        times = np.asarray(panel.times, dtype)
        self.data = times - times[:, :1], np.asarray(values, dtype), np.asarray(panel.mask)
        self.parts = {"train": split.train, "validation": split.validation, "test": split.test}
        self.tolerance = tolerance
        self.optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-2))

    def make_model(self, key):
        """Untrained."""
        keys = jr.split(key, 4)
        channels, size, hidden = self.data[1].shape[-1], 10, 32
        field = nde.MLPField(size, 32, 2, activation=jnp.tanh, key=keys[2])
        controller = nde.PIDController(rtol=self.tolerance, atol=self.tolerance)
        return LatentODE(
            BackwardEncoder(channels, hidden, key=keys[0]),
            eqx.nn.Linear(hidden, 2 * size, key=keys[1]),
            nde.NeuralODE(field, controller=controller, max_steps=1024),
            eqx.nn.Linear(size, channels, key=keys[3]),
            jnp.zeros(channels),
        )

    def draw(self, generator):
        """Series."""
        chosen = generator.choice(self.parts["train"], self.batch, replace=False)
        return tuple(jnp.asarray(x[chosen]) for x in self.data)

    def outcome(self, model, batch, regulariser, key):
        """The bound of a series from a random context, in nats a value."""

        def one(times, values, mask, key):
            hide_key, key = jr.split(key)
            values = jnp.where(mask, values, 0.0)
            context = hide_future(times, mask, whole=0.3, key=hide_key)
            mean, log_scale, divergence, penalty = model(times, values, context, regulariser, key)
            return jnp.sum(jnp.where(mask, _normal_cost(values, mean, log_scale), 0.0)) + divergence, penalty

        losses, penalties = jax.vmap(one)(*batch, jr.split(key, len(batch[0])))
        return jnp.sum(losses) / jnp.sum(batch[2]), jnp.mean(penalties)

    def judge(self, model, part):
        """Negative log-likelihood of a value to be forecast, evaluations, squared error."""
        times, values, mask = (x[self.parts[part]] for x in self.data)
        cut = SecondHalf().cut(times, mask)

        def one(times, values, context, targets, key):
            values = jnp.where(context | targets, values, 0.0)
            mean, log_scale, _, evaluations = model(times, values, context, Evaluations(), key)
            error = jnp.where(targets, (values - mean) ** 2, 0.0)
            return jnp.sum(jnp.where(targets, _normal_cost(values, mean, log_scale), 0.0)), evaluations, jnp.sum(error)

        given = [jnp.asarray(x) for x in (times, values, cut.context, cut.targets)]
        cost, evaluations, error = jax.vmap(one)(*given, jr.split(jr.key(0), len(times)))
        count = cut.targets.sum()
        return [jnp.sum(cost) / count, jnp.mean(evaluations), jnp.sum(error) / count]


def _normal_cost(values, mean, log_scale):
    return 0.5 * ((values - mean) * jnp.exp(-log_scale)) ** 2 + log_scale + 0.5 * jnp.log(2 * jnp.pi)


class Cubed(eqx.Module):
    """A network of the cubes of the state, as in the papers; a quarter of them, or tanh would saturate at the start."""

    network: eqx.nn.MLP

    def __call__(self, t, y, args):
        return self.network(0.25 * y**3)


class Affine(eqx.Module):
    """A diffusion that is affine in the state, of diagonal noise."""

    noise = "diagonal"
    layer: eqx.nn.Linear

    def __call__(self, t, y, args):
        return self.layer(y)


class Spiral:
    """A neural SDE fitted to means and variances, at 30 times, of a spiral with multiplicative noise."""

    measure, steps, batch = "loss at the median of keys", 200, 48
    rows = tuple(name for name in Digits.rows if "SR" not in name)  # stiffness is not estimated for SDEs

    def __init__(self, tolerance: float = 1e-2):
        self.ts = jnp.linspace(0.0, 1.0, 30)
        self.y0 = jnp.array([2.0, 0.0])
        self.tolerance = tolerance
        self.optimiser = optax.adam(optax.cosine_decay_schedule(3e-2, self.steps))
        self.moments = {part: self._true(jr.key(n)) for n, part in enumerate(("train", "validation", "test"))}

    def _true(self, key):
        """Means and variances of 2000 paths of the spiral."""
        matrix = jnp.array([[-0.1, 2.0], [-2.0, -0.1]])

        def one(key):
            path = nde.BrownianGrid(0.0, 1.0, 580, (2,), key)
            terms = nde.MultiTerm(
                nde.ODETerm(lambda t, y, args: matrix @ y**3),
                nde.ControlTerm(lambda t, y, args: jnp.diag(0.2 * y), path),
            )
            saveat = nde.SaveAt(ts=self.ts)
            return nde.diffeqsolve(terms, nde.Heun(), 0.0, 1.0, 1 / 580, self.y0, saveat=saveat).ys

        ys = jax.jit(jax.vmap(one))(jr.split(key, 2000))
        return jnp.mean(ys, 0), jnp.var(ys, 0)

    def make_model(self, key):
        """Untrained."""
        keys = jr.split(key)
        controller = nde.PIDController(
            rtol=self.tolerance, atol=self.tolerance, pcoeff=0.1, icoeff=0.3, dtmin=2.0**-10, force_dtmin=True
        )
        return nde.NeuralSDE(
            Cubed(eqx.nn.MLP(2, 2, 50, 1, activation=jnp.tanh, key=keys[0])),
            Affine(eqx.nn.Linear(2, 2, key=keys[1])),
            solver=diffrax.SPaRK(),
            dt0=0.01,
            controller=controller,
            tol=2.0**-11,
            max_steps=2048,
        )

    def draw(self, generator):
        """There is one batch: the moments."""
        del generator
        return self.moments["train"]

    def outcome(self, model, batch, regulariser, key):
        """Squared differences of means and of variances, over paths of new keys."""
        ys, penalties = jax.vmap(lambda key: solved(model, regulariser, self.ts, self.y0, key=key))(
            jr.split(key, self.batch)
        )
        means, variances = batch
        loss = jnp.mean((jnp.mean(ys, 0) - means) ** 2) + jnp.mean((jnp.var(ys, 0) - variances) ** 2)
        return loss, jnp.mean(penalties)

    def judge(self, model, part):
        """The loss over 512 paths, evaluations of the drift, the median loss of 64 of them."""
        keys = jr.split(jr.key(100), 512)
        ys, evaluations = jax.vmap(lambda key: solved(model, Evaluations(), self.ts, self.y0, key=key))(keys)
        means, variances = self.moments[part]

        def loss(ys):
            return jnp.mean((jnp.mean(ys, 0) - means) ** 2) + jnp.mean((jnp.var(ys, 0) - variances) ** 2)

        return [loss(ys), jnp.mean(evaluations), jnp.median(jax.vmap(loss)(ys.reshape(8, 64, *ys.shape[1:])))]


PROBLEMS = {"digits": Digits, "patients": Patients, "spiral": Spiral}
