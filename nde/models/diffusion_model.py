"""A diffusion model: a network that sees through noise, and the equations that sample from it."""

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from nde.diffusion import (
    AbstractSchedule,
    check_prediction,
    convert,
    converted,
    diffusion_model_term,
    log_snr_times,
    noise_span,
    Sampler,
    VariancePreserving,
)
from nde.dtypes import float_dtype
from nde.fields import check_field
from nde.models.checks import check_point
from nde.models.divergence import carried, normal_log_prob, trace_directions
from nde.models.gaussian_shares import GaussianShares
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of, Solved
from nde.paths import VirtualBrownianTree
from nde.regularise import AbstractRegulariser
from nde.solvers import ExponentialAdams


class DiffusionModel(AbstractSolvingModel):
    r"""A law of points, by the mean of what made the noisy ones: $x_t = \alpha_t x_0 + \sigma_t \varepsilon$.

    From a prediction of $x_0$, of $\varepsilon$, of the score or of the velocity given $x_t$ (see
    `nde.diffusion.PREDICTIONS`) follow the equations that carry noise to data: `sample` solves the reverse equation
    with any amount of noise, `log_prob` the probability-flow ODE with its divergence beside it.

    With a `scale` $s$ the network is asked for the difference from what Gaussian data of that standard deviation would
    have made, in units of what is then left: with $\rho^2 = \alpha^2 s^2 + \sigma^2$

    $$\hat x_0 = \frac{\alpha s^2}{\rho^2}\,x + \frac{\sigma s}{\rho}\,u, \qquad
    u = \mathrm{net}\bigl(\tfrac14 \log \tfrac{\sigma_t}{\alpha_t},\; x / \rho\bigr),$$

    and likewise for the other three: it sees inputs of order one, and is to give outputs of order one, at every time of
    every schedule.

    It acts on one point; use `jax.vmap` over points, and over keys for samples.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> model = nde.DiffusionModel(lambda t, x, args: 0.0 * x, size=2)  # the law N(0, I), that of `scale`
    >>> round(float(model.log_prob(jnp.zeros(2))), 2)
    -1.84
    >>> model.sample(key=jax.random.key(0), noise=1.0).shape
    (2,)

    ```

    **Arguments of the constructor:**

    - `network`: any callable `f(t, x, args)` from a point of shape `(size,)` to its shape; `args` is what the law is
      conditioned on, such as a class.
    - `size`: of a point. Static.
    - `schedule`: a `nde.diffusion.AbstractSchedule`, on whose `ends` the model is trained and solved; variance
      preserving unless given.
    - `predicts`: what it predicts, one of `nde.diffusion.PREDICTIONS`. Static.
    - `error`: in which of these the training measures the error, see `residuals`; as `predicts` if `None`. Static.
    - `scale`: $s$, the standard deviation of the data; `None` for a network that is called with `t` and `x` as they
      are, and whose output is the prediction. Static.
    - `probes`: of `log_prob`: `None` for the exact trace, or how many of Hutchinson's probes a call draws. Static.
    - `numerics`: how it is solved, a `nde.Numerics`; or its members by keyword.

    **Raises:** `ValueError` for another prediction, sizes that are not positive and points of another shape; an error
    at run time if a solve fails.

    **Limits:** the law is that of $x_t$ at the first of the schedule's `ends`, where a little noise is left. A model of
    `size` costs `size` directional derivatives for an exact log-density.

    **Source:** Song et al., *Score-based generative modeling through stochastic differential equations*, 2021, arXiv
    2011.13456; the scaling of the network after Karras et al. 2022, arXiv 2206.00364, table 1 (there for data
    prediction and $\alpha = 1$).
    """

    network: Callable[..., Any]
    schedule: AbstractSchedule
    numerics: Numerics
    size: int = eqx.field(static=True)
    predicts: str = eqx.field(static=True)
    error: str = eqx.field(static=True)
    scale: float | None = eqx.field(static=True)
    probes: int | None = eqx.field(static=True)

    def __init__(
        self,
        network: Callable[..., Any],
        size: int,
        schedule: AbstractSchedule | None = None,
        *,
        predicts: str = "noise",
        error: str | None = None,
        scale: float | None = 1.0,
        probes: int | None = None,
        numerics: Numerics | None = None,
        **keywords: Unpack[Keywords],
    ):
        error = predicts if error is None else error
        check_prediction("DiffusionModel", predicts)
        check_prediction("DiffusionModel", error, "error")
        if size < 1 or (probes is not None and probes < 1) or (scale is not None and not scale > 0):
            raise ValueError(
                "DiffusionModel needs size >= 1, probes >= 1 or None, and scale > 0 or None, but got "
                f"{size=}, {probes=}, {scale=}."
            )
        self.network, self.size = network, size
        self.schedule = VariancePreserving() if schedule is None else schedule
        self.predicts, self.error, self.scale, self.probes = predicts, error, scale, probes
        default = Numerics(controller=diffrax.PIDController(rtol=1e-4, atol=1e-4))
        self.numerics = numerics_of("DiffusionModel", default, numerics, **keywords)

    @property
    def span(self) -> tuple[float, float]:
        """The times on which it is trained: those of the schedule, near the data and near the noise."""
        return self.schedule.ends

    def prediction(self, t: Any, x: Float[Array, " size"], args: PyTree[Any] = None) -> Float[Array, " size"]:
        """What `predicts` says, of the noisy point `x` at time `t`."""
        if self.scale is None:
            return self.network(t, x, args)
        of_state, of_network = self._shares.of(self.predicts, t)
        deviation = self.schedule.deviation(x)
        seen = deviation * (1 / self._shares.spread(t)).astype(x.dtype)
        # of the noise's share a quarter of the logarithm: of order one from one end of a schedule to the other
        output = self.network(-self.schedule.log_snr(t) / 8, seen, args)
        found = of_state.astype(x.dtype) * deviation + of_network.astype(x.dtype) * output
        return found + self.schedule.centre if self.predicts == "data" and self.schedule.centre is not None else found

    def score(self, t: Any, x: Float[Array, " size"], args: PyTree[Any] = None) -> Float[Array, " size"]:
        r"""$\nabla \log p_t(x)$."""
        return convert(self.prediction(t, x, args), self.predicts, "score", self.schedule, t, x)

    def velocity(self, t: Any, x: Float[Array, " size"], args: PyTree[Any] = None) -> Float[Array, " size"]:
        """The field of the probability-flow ODE."""
        return convert(self.prediction(t, x, args), self.predicts, "velocity", self.schedule, t, x)

    def residuals(
        self, t: Any, x1: Float[Array, " size"], x0: None = None, args: PyTree[Any] = None, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, " size"]]:
        r"""How wrong the prediction is of a data point `x1` blurred at time `t`, in the units of `error`.

        Predictions of one kind differ from the truth in proportion to those of another: by $\sigma / \alpha$ of the
        noise for the data, $1 / \sigma$ for the score and $(\dot\sigma \alpha - \sigma \dot\alpha) / \alpha$ for the
        velocity. So `error` is a weight over time, whatever the network predicts. By the noise, with times that are
        even in log-SNR (`nde.objectives.LogSNRTimes`), the mean square times half the length of log-SNR is the bound on
        the negative log-likelihood, up to a constant, with $t$ drawn by importance.

        **Source:** Song, Durkan, Murray, Ermon, *Maximum likelihood training of score-based diffusion models*, 2021,
        arXiv 2101.09258.
        """
        if x0 is not None:
            raise ValueError(
                "DiffusionModel begins in noise and takes no source points; nde.models.InterpolantModel does."
            )
        noise = jax.random.normal(key, x1.shape, x1.dtype)
        x = self.schedule.perturb(t, x1, noise)
        found = convert(self.prediction(t, x, args), self.predicts, self.error, self.schedule, t, x)
        truth = noise if self.error == "noise" else convert(noise, "noise", self.error, self.schedule, t, x)
        return (found - (x1 if self.error == "data" else truth),)

    def sample(
        self,
        args: PyTree[Any] = None,
        *,
        key: PRNGKeyArray,
        **options: Any,
    ) -> Float[Array, " size"]:
        r"""A point drawn from the law; `options` are those of `draw`."""
        return self.draw(args, key=key, **options).ys

    def draw(
        self,
        args: PyTree[Any] = None,
        *,
        key: PRNGKeyArray,
        noise: Any = 0.0,
        steps: int | ArrayLike | None = None,
        solver: diffrax.AbstractSolver | None = None,
        form: str | None = None,
        sampler: Sampler | None = None,
        regulariser: AbstractRegulariser | None = None,
    ) -> Solved:
        r"""A sample and what its solve was like, of the reverse equation with an amount of noise $\tau$.

        **Arguments:**

        - `args`: the condition.
        - `noise`: $\tau$, zero for the probability-flow ODE and one for the reverse-time SDE, or a function as of
          `nde.diffusion_model_term`; static.
        - `steps`: their times, from the noise to the data, as `nde.diffusion.log_snr_times` makes them, or how many of
          these; without, those of the numerics, for an SDE 100.
        - `solver`: in place of that of the numerics; of an SDE DPM-Solver++ 2M unless given.
        - `form`: of `nde.diffusion_model_term`; `"velocity"` for an equation that is written out.
        - `sampler`: a row of `nde.diffusion.SAMPLERS`, in place of the form, the noise and the solver.
        - `regulariser`: see `nde.regularise`.
        """
        if sampler is not None:
            solver, form, noise = sampler.solver, sampler.form, sampler.noise
        noisy = callable(noise) or noise != 0
        if noisy:
            steps, solver = 100 if steps is None else steps, solver or ExponentialAdams(2, weights="mean")
        dtype = self._dtype()
        start_key, path_key, other = jax.random.split(key, 3)
        first, last = self.span
        numerics = self.numerics if solver is None else dataclasses.replace(self.numerics, solver=solver)
        ends = jnp.asarray(last, dtype), jnp.asarray(first, dtype)
        if steps is not None:
            grid = jnp.asarray(log_snr_times(self.schedule, steps) if isinstance(steps, int) else steps, dtype)
            numerics = dataclasses.replace(numerics, controller=diffrax.StepTo(grid), dt0=None, max_steps=grid.size + 1)
            ends = grid[0], grid[-1]
        x, term = self._start(ends[0], start_key), self._term(noise, form, ends, path_key)
        saveat = diffrax.SaveAt(t1=True)
        solved = numerics.solve(
            term, ends[0], ends[1], x, args, saveat=saveat, backward=True, regulariser=regulariser, key=other
        )
        return solved._replace(ys=solved.ys[0])

    def encode(
        self,
        x: ArrayLike,
        args: PyTree[Any] = None,
        *,
        regulariser: AbstractRegulariser | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solved:
        """The noise that the probability-flow ODE makes of a point, and what its solve was like."""
        x = self._check_point(x)
        solved = carried(self.numerics, self.velocity, x, self.span, args, regulariser=regulariser, key=key)
        return solved._replace(ys=solved.ys[0])

    def log_prob(self, x: ArrayLike, args: PyTree[Any] = None, *, key: PRNGKeyArray | None = None) -> Float[Array, ""]:
        """The log-density at a point of shape `(size,)`, in nats, by the probability-flow ODE; `key`: for probes."""
        return self.solve(x, args, key=key).ys

    def solve(
        self,
        x: ArrayLike,
        args: PyTree[Any] = None,
        *,
        regulariser: AbstractRegulariser | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solved:
        """The log-density at a point, and what the regulariser makes of its solve: see `nde.regularise`."""
        x = self._check_point(x)
        check_field(self.velocity, jnp.asarray(self.span[1], x.dtype), x, args)
        directions, key = trace_directions("DiffusionModel", self.size, self.probes, x.dtype, key)
        options = {"directions": directions, "regulariser": regulariser, "key": key}
        solved = carried(self.numerics, self.velocity, x, self.span, args, **options)
        z, change = solved.ys
        base = normal_log_prob(self.schedule.deviation(z), self._shares.spread(self.span[1]))
        return solved._replace(ys=base + change)

    def sample_corrected(
        self,
        args: PyTree[Any] = None,
        *,
        key: PRNGKeyArray,
        times: ArrayLike,
        corrections: int = 1,
        ratio: float = 0.16,
        noise: float = 1.0,
        solver: diffrax.AbstractSolver | None = None,
    ) -> Float[Array, " size"]:
        r"""A sample by predictor and corrector: each step is followed by steps of Langevin's equation at its time,

        $$x \leftarrow x + h\,s(t, x) + \sqrt{2h}\,z, \qquad h = 2\,(r \sigma_t)^2,$$

        with the score $s$ and a standard normal $z$: these leave $p_t$ as it is, and mend what the steps did to it.

        **Arguments:** `times`: of the steps, from the noise to the data; `corrections`: after each step; `ratio`: $r$,
        below one; `noise`: of the predictor, as in `draw`; `solver`: of its steps, `diffrax.Euler` unless given.

        **Limits:** each correction costs an evaluation. The step is that of the source where $|s|$ is $|z| / \sigma_t$,
        as far as the data are few; it takes the norms themselves, of whole batches: of one point of few entries $|s|$
        may be near zero.

        **Source:** Song et al. 2021, arXiv 2011.13456, section 4.2; steps in proportion to $\sigma_t^2$: Song & Ermon,
        *Generative modeling by estimating gradients of the data distribution*, 2019, arXiv 1907.05600, algorithm 1.
        """
        dtype = self._dtype()
        times = jnp.asarray(times, dtype)
        start_key, *keys = jax.random.split(key, len(times))
        x = self._start(times[0], start_key)

        def step(x, here):
            t0, t1, key = here
            path_key, *corrections_keys = jax.random.split(key, corrections + 1)
            term = self._term(noise, None, (t0, t1), path_key)
            numerics = dataclasses.replace(
                self.numerics,
                solver=solver or diffrax.Euler(),
                controller=diffrax.StepTo(jnp.stack([t0, t1])),
                dt0=None,
            )
            x = numerics.solve(term, t0, t1, x, args, saveat=diffrax.SaveAt(t1=True), backward=True).ys[0]
            for one in corrections_keys:
                h = (2 * ratio**2 * self.schedule.sigma(t1) ** 2).astype(dtype)
                x = x + h * self.score(t1, x, args) + jnp.sqrt(2 * h) * jax.random.normal(one, x.shape, dtype)
            return x, None

        return jax.lax.scan(step, x, (times[:-1], times[1:], jnp.stack(keys)))[0]

    def _start(self, t: Array, key: PRNGKeyArray) -> Float[Array, " size"]:
        dtype = self._dtype()
        x = self._shares.spread(t).astype(dtype) * jax.random.normal(key, (self.size,), dtype)
        return x if self.schedule.centre is None else x + self.schedule.centre

    def _term(self, noise: Any, form: str | None, ends: tuple[Array, Array], key: PRNGKeyArray) -> Any:
        if form is None:
            form = self.predicts if self.predicts in ("data", "noise") else "data"
        form = "data" if form == "velocity" else form  # which are the same, written out
        prediction = converted(self.prediction, self.predicts, form, self.schedule)
        if not callable(noise) and noise == 0:
            return diffusion_model_term(prediction, self.schedule, form)
        with jax.ensure_compile_time_eval():  # a tree whose ends are known is cheaper
            low, high = noise_span(self.schedule, form, noise, ends)
        shape = jax.ShapeDtypeStruct((self.size,), self._dtype())
        path = VirtualBrownianTree(low, high, (high - low) * PATH_TOLERANCE, shape, key)
        return diffusion_model_term(prediction, self.schedule, form, path, noise=noise)

    def _check_point(self, x: ArrayLike) -> Float[Array, " size"]:
        return check_point("DiffusionModel", x, self.size, self.network)

    @property
    def _shares(self) -> GaussianShares:
        return GaussianShares(self.schedule, self.scale or 0.0)

    def _dtype(self) -> Any:
        return float_dtype(eqx.filter(self.network, eqx.is_inexact_array))


PATH_TOLERANCE = 2.0**-48
"""Of the Brownian motion of a sample, below which it is not resolved, in units of its length: its clock goes over many
orders of magnitude, and must be resolved where it is slowest."""
