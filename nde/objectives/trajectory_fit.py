"""How well the solution of an observed ODE fits a series."""

from typing import Any, Literal, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.dtypes import as_floats
from nde.fields import has_prior, log_prior
from nde.objectives.likelihoods import AbstractLikelihood
from nde.objectives.shooting import growing_horizon, multiple_shooting, solve_within
from nde.objectives.terms import AbstractTerms
from nde.paths import Inputs
from nde.regularise import AbstractRegulariser
from nde.train import Average


class _Solvable(Protocol):
    def __call__(self, ts: Array, y0: Array, args: Any = None, /) -> Array: ...
    def solve(
        self,
        ts: Array,
        y0: Array,
        args: Any = None,
        /,
        *,
        regulariser: AbstractRegulariser | None,
        key: PRNGKeyArray | None,
    ) -> tuple[Array, Array, Any]: ...


class TrajectoryModel(Protocol):
    """What the fit asks of a model; `nde.models.ObservedODE` is one."""

    @property
    def ode(self) -> _Solvable:
        """The states at given times from a start."""
        ...

    @property
    def starts(self) -> Array | None:
        """Learned start states, `(series, segments, state)`, if there are any."""
        ...

    @property
    def likelihood(self) -> AbstractLikelihood:
        """The law of a row of values around its locations."""
        ...

    def locations(self, ys: Array, ts: Array, inputs: Inputs | None = None, /) -> Array:
        """Where the values lie, given the states, their times and what is given to the series."""
        ...

    def residual_rates(self, ts: Array, ys: Array, inputs: Inputs | None = None, /) -> Array:
        """What a network adds to a known field along the states, of their shape; zero without one."""
        ...


class TrajectoryTerms(AbstractTerms):
    """The parts of a `nde.objectives.TrajectoryFit` for one series.

    - `nll`: negative log likelihood of the values, weighted, in nats.
    - `count`: the sum of their weights.
    - `gap`: the squared gaps between segments, summed, and `gap_weight`, its weight in the loss; `None` without any.
    - `residual`: the mean square over rows and states of what a network adds, and `residual_weight`; `None` where that
      is zero.
    - `prior`: the negative log prior of the model's parameters, the same for each example, and `prior_weight`; `None`
      where no parameter has a prior.
    - `penalty`: see `nde.objectives.AbstractTerms`.
    """

    nll: Float[Array, "*batch"]
    count: Float[Array, "*batch"]
    gap: Float[Array, "*batch"] | None
    gap_weight: Float[Array, "*batch"] | None
    residual: Float[Array, "*batch"] | None
    residual_weight: float = eqx.field(static=True)
    prior: Float[Array, "*batch"] | None = None
    prior_weight: float = eqx.field(static=True, default=0.0)
    penalty: Float[Array, "*batch"] | None = None

    def losses(self) -> tuple[Average, ...]:
        r"""$\sum_i (\mathrm{nll}_i + \lambda\,\mathrm{gap}_i) / \sum_i n_i + \mu\,\overline{\mathrm{residual}}
        - \nu \log p(\theta)$."""
        whole = self.nll if self.gap is None or self.gap_weight is None else self.nll + self.gap_weight * self.gap
        losses = [Average(whole, self.count)]
        if self.residual is not None:
            losses.append(Average(self.residual_weight * self.residual))
        if self.prior is not None:
            losses.append(Average(self.prior_weight * self.prior))
        return tuple(losses)

    def per_example(self) -> Float[Array, " batch"]:
        return self.nll

    def parts(self) -> dict[str, Average]:
        parts = {"nll": Average(self.nll, self.count)}
        if self.gap is not None:
            parts["gaps"] = Average(self.gap)
        if self.residual is not None:
            parts["residual"] = Average(self.residual)
        if self.prior is not None:
            parts["prior"] = Average(self.prior_weight * self.prior)
        return parts


class TrajectoryFit(eqx.Module):
    r"""The loss of an observed ODE on a series: $-\sum_n w_n \log p(x_n \mid y(t_n))$, and what helps to lower it.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> decay = nde.KnownField(lambda t, y, p: -p.rate * y, {"rate": nde.Parameter(1.0, lower=0.0)})
    >>> model = nde.ObservedODE(nde.NeuralODE(decay), None, nde.GaussianLikelihood(1), observed=(0,))
    >>> times = jnp.array([0.0, 1.0, 2.0])
    >>> values, weights = jnp.exp(-times)[:, None], jnp.ones((3, 1))
    >>> terms = nde.TrajectoryFit()(model, times, values, weights, first=jnp.ones(1))
    >>> terms.mean().shape, float(terms.count)
    ((), 3.0)

    ```

    `nde.train.batch_loss` makes it the loss of a batch; its own training loop takes the mean of the terms of
    `jax.vmap`.

    **Arguments of the constructor:**

    - `shooting`: `"single"`, the solution from one start; `"growing"`, the same up to a horizon that grows
      (`nde.objectives.growing_horizon`, with `first` and `grow_steps`); `"multiple"`, in segments that must meet
      (`nde.objectives.multiple_shooting`).
    - `continuity`, `continuity_end`, `steps`: of multiple shooting the weight $\lambda$ of the squared gaps, which
      grows geometrically from `continuity` at step 0 to `continuity_end` at the last of the `steps`.
    - `first`, `grow_steps`: of the growing horizon, the share of the span to begin with, and the steps after which it
      is the whole.
    - `residual_weight`: $\mu$, of the mean square of what a `nde.fields.Hybrid` adds to its known field, per state.
    - `prior_weight`: $\nu$, of the negative log prior of the model's parameters (`nde.fields.log_prior`): one over the
      number of values of all series, for the loss to be the negative log posterior density per value.

    **Call:** `fit(model, times, values, weights, series, first, knots, inputs, step=0, key=None, regulariser=None)` for
    one series; returns `nde.objectives.TrajectoryTerms`.

    - `times`: `(rows,)`, sorted; `values`: `(rows, channels)`, what the model's likelihood is of.
    - `weights`: $w$, of the shape of `values` and not negative; zero for what is missing, where a value may be NaN.
    - `series`: the number of the series, where the model learns starts; `first`: the start `(state,)`, where it does
      not.
    - `knots`: `(segments,)`, the times at which the segments of multiple shooting start.
    - `inputs`: the `nde.paths.Inputs` of the series, doses in the coordinates that are solved; `None` without any.
    - `step`: of the training, from zero; `key`: for a regulariser that draws; `regulariser`: makes the penalty, from
      single shooting.

    **Raises:** `ValueError` for an unknown way of shooting or a weight that is not positive; and when called, without
    a start, without knots for multiple shooting, and with a regulariser for another than single shooting.

    **Source:** of multiple shooting see `nde.objectives.multiple_shooting`; of the residual's weight, Yin et al.,
    *Augmenting Physical Models with Deep Networks* (APHYNITY), ICLR 2021, arXiv 2010.04456.
    """

    shooting: Literal["single", "multiple", "growing"] = eqx.field(static=True, default="single")
    continuity: float = eqx.field(static=True, default=1.0)
    continuity_end: float = eqx.field(static=True, default=100.0)
    steps: int = eqx.field(static=True, default=1)
    first: float = eqx.field(static=True, default=0.2)
    grow_steps: int = eqx.field(static=True, default=1)
    residual_weight: float = eqx.field(static=True, default=0.0)
    prior_weight: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        if self.shooting not in SHOOTING:
            raise ValueError(f"TrajectoryFit's shooting is one of {', '.join(SHOOTING)}, but got {self.shooting!r}.")
        if self.continuity <= 0 or self.continuity_end <= 0 or min(self.residual_weight, self.prior_weight) < 0:
            raise ValueError(f"TrajectoryFit needs positive weights, but got {self}.")

    def __call__(  # noqa: PLR0913  (its keywords are the interface)
        self,
        model: TrajectoryModel,
        times: Float[ArrayLike, " rows"],
        values: Float[ArrayLike, "rows channels"],
        weights: Float[ArrayLike, "rows channels"],
        series: Any = 0,
        first: Float[ArrayLike, " state"] | None = None,
        knots: Float[ArrayLike, " segments"] | None = None,
        inputs: Inputs | None = None,
        *,
        step: Array | int = 0,
        key: PRNGKeyArray | None = None,
        regulariser: AbstractRegulariser | None = None,
    ) -> TrajectoryTerms:
        times, values, weights = as_floats(times, values, weights)
        starts = self._starts(model, series, first)
        given = () if inputs is None else (inputs,)

        def solve(ts: Array, y0: Array) -> Array:
            return model.ode(ts, y0, *given)

        gap = weight = penalty = None
        if regulariser is not None:
            if self.shooting != "single":
                raise ValueError(f"A regulariser needs shooting='single', but TrajectoryFit has {self.shooting!r}.")
            ys, penalty, _ = model.ode.solve(times, starts[0], *given, regulariser=regulariser, key=key)
        elif self.shooting == "multiple":
            if knots is None:
                raise ValueError("TrajectoryFit needs the knots at which the segments start, for shooting='multiple'.")
            shots = multiple_shooting(solve, times, knots, starts)
            ys, gap, weight = shots.ys, shots.penalty(), self._gap_weight(step, times)
        else:
            horizon = times[-1]
            if self.shooting == "growing":
                horizon = growing_horizon(times, step, first=self.first, steps=self.grow_steps)
            ys, seen = solve_within(solve, times, starts[0], horizon)
            weights = jnp.where(seen[:, None], weights, 0.0)
        # A missing value may be anything, and a NaN times a weight of zero would still be one in the gradient.
        density = model.likelihood.log_prob(jnp.where(weights > 0, values, 0.0), model.locations(ys, times, *given))
        nll = -jnp.sum(jnp.where(weights > 0, weights.astype(density.dtype) * density, 0.0))
        residual = jnp.mean(model.residual_rates(times, ys, *given) ** 2) if self.residual_weight else None
        count = jnp.sum(weights).astype(nll.dtype)
        prior = -log_prior(model) if self.prior_weight and has_prior(model) else None
        return TrajectoryTerms(
            nll=nll, count=count, gap=gap, gap_weight=weight, residual=residual,
            residual_weight=self.residual_weight, prior=prior, prior_weight=self.prior_weight, penalty=penalty,
        )  # fmt: skip

    def residuals(self, model: TrajectoryModel, *example: Any) -> Float[Array, "rows channels"]:
        r"""$\sqrt{w_n}\,(x_n - \mu_n) / s_n$ of one series, of the solution from one start over its whole span.

        $\mu$ and $s$ are mean and standard deviation of the model's likelihood, and no gradient goes through $s$. Half
        the sum of their squares is the loss of a normal law, but for the logarithms of $s$. What is missing is zero.

        **Arguments:** `example`: what a call takes after the model.
        """
        times, values, weights, series, first, _, inputs = (*example, *(None,) * (7 - len(example)))
        times, values, weights = as_floats(times, values, weights)
        given = () if inputs is None else (inputs,)
        ys = model.ode(times, self._starts(model, series, first)[0], *given)
        centres = model.locations(ys, times, *given)
        law = model.likelihood
        deviation = jax.lax.stop_gradient(jnp.sqrt(law.variance(centres)))
        off = (jnp.where(weights > 0, values, 0.0).astype(centres.dtype) - law.mean(centres)) / deviation
        return jnp.where(weights > 0, jnp.sqrt(weights).astype(off.dtype) * off, 0.0)

    def _starts(self, model: TrajectoryModel, series: Any, first: ArrayLike | None) -> Array:
        if model.starts is not None:
            return model.starts[series]
        if first is None:
            raise ValueError("TrajectoryFit needs first, the state to start from: the model learns no starts.")
        return jnp.asarray(first)[None]

    def _gap_weight(self, step: Array | int, times: Array) -> Float[Array, ""]:
        share = jnp.minimum(jnp.asarray(step, times.dtype) / max(self.steps - 1, 1), 1.0)
        return self.continuity * (self.continuity_end / self.continuity) ** share


SHOOTING = ("single", "multiple", "growing")
