"""Matching: the loss of diffusion models and of flows, a regression that needs no solve."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from nde.objectives.matching_times import AbstractTimes, UniformTimes
from nde.objectives.terms import Terms
from nde.regularise import AbstractRegulariser


class MatchedModel(Protocol):
    """What the loss asks of a model; `nde.DiffusionModel` and `nde.InterpolantModel` are two."""

    @property
    def span(self) -> tuple[float, float]:
        """The times between which it is trained."""
        ...

    @property
    def schedule(self) -> Any:
        """Its `nde.diffusion.AbstractSchedule`, or `None`."""
        ...

    def residuals(
        self, t: Any, x1: Array, x0: Array | None, args: PyTree[Any], /, *, key: PRNGKeyArray
    ) -> tuple[Array, ...]:
        """How wrong each of its predictions is at time `t`, of a target `x1` and a source `x0` or noise."""
        ...

    @property
    def encode(self) -> Callable[..., Any]:
        """The solve that a regulariser penalises: `(x, args, regulariser=regulariser, key=key)` to a `Solved`."""
        ...


class Matching(eqx.Module):
    r"""The mean error of predictions at one random time: $\mathbb E_{t}\,\rho\bigl(u_\theta(t, x_t) - u_t\bigr)$.

    The model knows what $x_t$ and $u_t$ are made of, data and noise by a schedule or source and target by an
    interpolant, and so the weight of the error over time: see `nde.DiffusionModel.residuals` and
    `nde.InterpolantModel.residuals`. Of a model with several predictions, as velocity and denoiser, the errors are
    added.

    **Arguments of the constructor:**

    - `times`: the law of $t$, one of `nde.objectives.AbstractTimes`; uniform unless given.
    - `metric`: `"square"`, $\rho(r) = |r|^2 / d$ with $d$ entries, whose minimiser is the conditional mean; or
      `"pseudo_huber"`, $\sqrt{|r|^2 / d + c^2} - c$, which is not moved as far by a few great errors. Static.
    - `huber`: $c$, in units of the error. Static.
    - `drop`: with what probability a label is hidden, replaced by -1, so that one model learns the law with and without
      it. Static.

    **Call:** `matching(model, x1, x0=None, label=None, step=step, key=key, regulariser=regulariser)` with a target
    `x1` of shape `(size,)`, a source `x0` of that shape, or `None` for noise that the model draws, and a class. Returns
    `nde.objectives.Terms`. A regulariser penalises a solve from `x1`, which costs what this loss is there to spare.

    **Raises:** `ValueError` for another metric, and for numbers out of range.

    **Limits:** the minimiser of the pseudo-Huber metric is no conditional mean, unless the target is a function of
    $x_t$, as for the pairs of a reflow.

    **Source:** velocity and denoiser: Albergo, Boffi, Vanden-Eijnden 2023, arXiv 2303.08797; flow matching: Lipman et
    al. 2023, arXiv 2210.02747; denoising score matching: Vincent 2011; pseudo-Huber: Lee, Lin, Fanti, *Improving the
    training of rectified flows*, 2024, arXiv 2405.20320.
    """

    times: AbstractTimes = UniformTimes()
    metric: Literal["square", "pseudo_huber"] = eqx.field(default="square", static=True)
    huber: float = eqx.field(default=0.03, static=True)
    drop: float = eqx.field(default=0.0, static=True)

    def __check_init__(self):
        if self.metric not in ("square", "pseudo_huber"):
            raise ValueError(f'Matching: metric must be "square" or "pseudo_huber", but got {self.metric!r}.')
        if not (self.huber > 0 and 0 <= self.drop < 1):
            raise ValueError(f"Matching needs huber > 0 and 0 <= drop < 1, but got {self.huber=}, {self.drop=}.")

    def __call__(
        self,
        model: MatchedModel,
        x1: Float[Array, " size"],
        x0: Float[Array, " size"] | None = None,
        label: Any = None,
        *,
        step: Array | int = 0,
        key: PRNGKeyArray,
        regulariser: AbstractRegulariser | None = None,
    ) -> Terms:
        del step
        time_key, model_key, drop_key, other = jax.random.split(key, 4)
        if label is not None and self.drop:
            label = jnp.where(jax.random.uniform(drop_key) < self.drop, -1, label)
        t = self.times.draw(model.span, model.schedule, key=time_key)
        residuals = model.residuals(t, x1, x0, label, key=model_key)
        loss = sum((self._size(r) for r in residuals[1:]), self._size(residuals[0]))
        if regulariser is None:
            return Terms(loss=loss)
        return Terms(loss=loss, penalty=model.encode(x1, label, regulariser=regulariser, key=other).penalty)

    def _size(self, residual: Float[Array, " size"]) -> Float[Array, ""]:
        square = jnp.mean(residual**2)
        return square if self.metric == "square" else jnp.sqrt(square + self.huber**2) - self.huber
