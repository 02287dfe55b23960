"""The latent SDE of Li et al. (2020) for one irregular, partly observed series."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.dtypes import as_floats
from nde.fields import DiagonalDiffusion, LinearMLPField, silence_last_layer
from nde.models.checks import up_to
from nde.models.encoder import BackwardEncoder, Context
from nde.models.latent_path import LatentPath, normal_kl
from nde.models.marginals import GaussianMarginals, MarginalPath
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of
from nde.objectives import AbstractLikelihood, StudentTLikelihood
from nde.paths import BrownianGrid
from nde.regularise import AbstractRegulariser
from nde.terms import diffusion_term, WithIntegrals


class LatentSDE(AbstractSolvingModel):
    r"""A latent SDE, $dz = f(z)\,dt + \sigma(z)\,dW$, seen through a linear decoder and a likelihood.

    The posterior given observations shares the diffusion and adds a control $u$ that an encoder of the observations
    steers,

    $$dz = \bigl(f(z) + \sigma(z)\,u(t, z)\bigr)\,dt + \sigma(z)\,dW, \qquad z_0 \sim \mathcal N(m, s^2),$$

    so that by Girsanov's theorem the KL divergence of the two path measures is $\mathbb E \int \tfrac12 |u|^2 dt$ (Li
    et al. 2020, equation 10, with $u = (h_\phi - h_\theta) / \sigma$). The integral rides beside `z` through the solve.
    The control acts up to the last observation; from there on the posterior *is* the prior, and that is the forecast.
    Or the posterior is given by its marginals, $z_t = m(t) + s(t)\,\varepsilon$ with $m$ and $s$ networks of time and
    of the observations, and $u$ follows from these (`nde.models.MarginalPath`): then it is trained without any
    simulation, by `nde.SDEMatching`.

    Everything acts on one series: times of shape `(rows,)`, sorted, values and mask of shape `(rows, channels)`; what
    the mask hides is never read. Times count from the first row. Use `jax.vmap` over series, and over keys for samples.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> key = jax.random.key(0)
    >>> model = nde.LatentSDE(channels=2, state_size=3, horizon=30.0, dt0=1.0, width=4, encoder_size=4, key=key)
    >>> days, values = jnp.array([0, 7, 14]), jnp.array([[1.0, 2.0], [0.0, 2.5], [1.2, 0.0]])
    >>> mask = jnp.array([[1, 1], [0, 1], [1, 0]], bool)  # what was observed
    >>> path = model.posterior(days, values, mask, jnp.array([0, 10, 20]), key=key)
    >>> model.decode(path.zs).shape  # both channels at three times
    (3, 2)

    ```

    **Arguments of the constructor:**

    - `channels`: number of observed channels.
    - `state_size`: length of the latent state `z`.
    - `width`, `depth`: of the network in the prior drift, a `nde.fields.LinearMLPField`; `width=0` leaves the drift
      linear.
    - `posterior`: what gives the posterior, `"control"` or `"marginals"`.
    - `control_width`: of the control's network, or of those of the marginals, one hidden layer.
    - `encoder_size`: length of the encoder's hidden state, or of what the marginals know at a row.
    - `diffusion_scale`: the diffusion to start from, in state per square root of time; `None` for an ODE, with no
      noise, no control and no path KL (for the latent ODE of Rubanova et al. see `nde.LatentODE`).
    - `likelihood`: a `nde.objectives.AbstractLikelihood`; Student's t if `None`.
    - `horizon`: how far after its first row a series is solved, in units of time.
    - `numerics`: how it is solved, a `nde.Numerics`; or its members by keyword. The solver is one for Itô SDEs that
      only multiplies by the diffusion, as `diffrax.Euler` (Euler–Maruyama) does, the default. `dt0` is every step, in
      units of time, to which `horizon` is rounded up: steps lie on a grid, so there is no other controller. With
      `throw=False` a path that blows up is infinite from there on.
    - `key`: a JAX random key, for the initial weights.

    **Limits:** all steps have the size `dt0`, and between them the state is interpolated linearly, so `dt0` should lie
    well below the time between observations. Memory of the gradient grows with `horizon / dt0`.

    **Source:** Li, Wong, Chen, Duvenaud, *Scalable Gradients for Stochastic Differential Equations*, AISTATS 2020,
    arXiv 2001.01328, section 5; for the marginals Bartosh, Vetrov, Naesseth, *SDE Matching*, ICML 2025, arXiv
    2502.02472.
    """

    encoder: BackwardEncoder | None
    initial: eqx.nn.Linear | None
    initial_mean: Float[Array, " state"]
    initial_log_std: Float[Array, " state"]
    drift: LinearMLPField
    control: eqx.nn.MLP | None
    marginals: GaussianMarginals | None
    diffusion: DiagonalDiffusion | None
    decoder: eqx.nn.Linear
    likelihood: AbstractLikelihood
    numerics: Numerics
    num_steps: int = eqx.field(static=True)

    def __init__(  # noqa: PLR0913  (its keywords are the interface)
        self,
        channels: int,
        state_size: int,
        *,
        width: int = 16,
        depth: int = 1,
        posterior: Literal["control", "marginals"] = "control",
        control_width: int = 32,
        encoder_size: int = 32,
        diffusion_scale: float | None = 0.3,
        likelihood: AbstractLikelihood | None = None,
        horizon: float,
        numerics: Numerics | None = None,
        key: PRNGKeyArray,
        **keywords: Unpack[Keywords],
    ):
        default = Numerics(diffrax.Euler(), diffrax.ConstantStepSize())
        numerics = numerics_of("LatentSDE", default, numerics, **keywords)
        dt0 = numerics.dt0
        if dt0 is None or not isinstance(numerics.controller, diffrax.ConstantStepSize):
            raise ValueError(
                f"LatentSDE takes steps of one size and needs a dt0 and no other controller, but got dt0={dt0} and "
                f"{type(numerics.controller).__name__}."
            )
        if not (0 < dt0 <= horizon):
            raise ValueError(f"LatentSDE needs 0 < dt0 <= horizon, but got dt0={dt0} and horizon={horizon}.")
        encoder_key, initial_key, drift_key, control_key, decoder_key = jax.random.split(key, 5)
        self.encoder = self.initial = self.control = self.marginals = None
        if posterior == "control":
            self.encoder = BackwardEncoder(channels, encoder_size, key=encoder_key)
            self.initial = eqx.nn.Linear(encoder_size, 2 * state_size, key=initial_key)
            network = eqx.nn.MLP(
                state_size + encoder_size + 1, state_size, control_width, 1, activation=jax.nn.softplus, key=control_key
            )
            self.control = silence_last_layer(network)
        elif posterior == "marginals" and diffusion_scale is not None:
            self.marginals = GaussianMarginals(
                channels,
                state_size,
                code_size=encoder_size,
                width=control_width,
                rates=(1 / horizon, 1 / dt0),
                std=diffusion_scale * math.sqrt(dt0),
                key=encoder_key,
            )
        else:
            raise ValueError(
                "LatentSDE takes posterior='control', or posterior='marginals' with a diffusion_scale, but got "
                f"{posterior=} and {diffusion_scale=}."
            )
        self.initial_mean = jnp.zeros(state_size)
        self.initial_log_std = jnp.zeros(state_size)
        self.drift = LinearMLPField(state_size, width, depth, key=drift_key)
        self.diffusion = None if diffusion_scale is None else DiagonalDiffusion(state_size, scale=diffusion_scale)
        self.decoder = eqx.nn.Linear(state_size, channels, key=decoder_key)
        self.likelihood = StudentTLikelihood(channels) if likelihood is None else likelihood
        self.num_steps = math.ceil(horizon / dt0 - 1e-6)
        self.numerics = dataclasses.replace(numerics, max_steps=self.num_steps)

    @property
    def horizon(self) -> float:
        """How far after its first row a series is solved, in units of time: a whole number of steps."""
        assert self.dt0 is not None
        return self.num_steps * self.dt0

    @eqx.filter_jit  # or a call outside of `jit` would compile the encoder's scan anew
    def posterior(
        self,
        times: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike,
        ts: ArrayLike,
        *,
        key: PRNGKeyArray,
        regulariser: AbstractRegulariser | None = None,
    ) -> LatentPath:
        r"""One sample of the latent path given the observed entries.

        A posterior given by its marginals needs no solve up to the last observation: there the sample is
        $m(t) + s(t)\,\varepsilon$ with one $\varepsilon$ at all times, right at each time but not as the law of a path,
        and its `kl_path` is an estimate from one random time.

        **Arguments:** `times`, `values`, `mask`: the series; `ts`: sorted times at which the state is wanted, between
        the first row and `horizon` after it; after the last observation the path follows the prior; `key`: the sample;
        `regulariser`: of the solve, see `nde.regularise`: one that does not ask for an estimate of the error, which
        this solver has not, nor for other times.

        **Returns:** a `nde.models.LatentPath`.
        """
        if self.marginals is None:
            return self.simulated_posterior(times, values, mask, ts, key=key, regulariser=regulariser)
        times, values, ts = as_floats(times, values, ts, like=self._parameters())
        path, asked = self.marginal_path(times, values, mask), ts - times[0]
        start_key, time_key, rate_key, noise_key = jax.random.split(key, 4)
        shape, dtype = self.initial_mean.shape, times.dtype
        noise, other = (jax.random.normal(key, shape, dtype) for key in (start_key, rate_key))
        within = jax.vmap(lambda t: path.state(t, noise))(jnp.minimum(asked, path.end))
        # The prior does not depend on time: it is solved from the last observation on, wherever that lies.
        since = jnp.maximum(asked - path.end, 0.0)
        after, _, penalty = self._solve(path.state(path.end, noise), None, since, noise_key, regulariser)
        t, kl_path = path.kl(jax.random.uniform(time_key, (), dtype), other)
        zs = jnp.where((asked <= path.end)[:, None], within, after)
        return LatentPath(zs, self.kl_initial(path), jnp.where(t <= asked[-1], kl_path, 0.0), penalty)

    @eqx.filter_jit
    def simulated_posterior(
        self,
        times: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike,
        ts: ArrayLike,
        *,
        key: PRNGKeyArray,
        regulariser: AbstractRegulariser | None = None,
    ) -> LatentPath:
        """The same as `posterior`, by a solve of the posterior's equation from the first row on, whatever gives it."""
        times, values, ts = as_floats(times, values, ts, like=self._parameters())
        start_key, noise_key = jax.random.split(key)
        if self.marginals is None:
            assert self.encoder is not None and self.initial is not None and self.control is not None
            context = self.encoder(times - times[0], values, mask)
            mean, log_std = jnp.split(self.initial(context.features[0]), 2)
            mean, log_std = self.initial_mean + mean, self.initial_log_std + log_std
            control = None if self.diffusion is None else _Control(self.control, context)
        else:
            control = self.marginal_path(times, values, mask)
            start = control.at(jnp.zeros_like(times[0]))
            mean, log_std = start.mean, jnp.log(start.std)
        z0 = mean + jnp.exp(log_std) * jax.random.normal(start_key, mean.shape, mean.dtype)
        kl_initial = normal_kl(mean, log_std, self.initial_mean, self.initial_log_std)
        zs, kl_path, penalty = self._solve(z0, control, ts - times[0], noise_key, regulariser)
        return LatentPath(zs, kl_initial, kl_path, penalty)

    def marginal_path(self, times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> MarginalPath:
        """The posterior given the observed entries by its marginals, of a model that has them.

        **Raises:** `ValueError` for a model made with `posterior="control"`.
        """
        if self.marginals is None or self.diffusion is None:
            raise ValueError("a LatentSDE made with posterior='control' has no marginals; make it with 'marginals'.")
        times, values = as_floats(times, values, like=self._parameters())
        return self.marginals(times - times[0], values, mask, self.drift, self.diffusion)

    def kl_initial(self, path: MarginalPath) -> Float[Array, ""]:
        """The KL divergence of a posterior's start from the prior's, in nats."""
        start = path.at(jnp.zeros_like(path.end))
        return normal_kl(start.mean, jnp.log(start.std), self.initial_mean, self.initial_log_std)

    @eqx.filter_jit
    def prior(self, ts: ArrayLike, *, key: PRNGKeyArray) -> Float[Array, "asked state"]:
        """One sample of the latent path given nothing, at sorted times `ts` after the start; shape `(asked, state)`."""
        (ts,) = as_floats(ts, like=self._parameters())
        start_key, noise_key = jax.random.split(key)
        noise = jax.random.normal(start_key, self.initial_mean.shape, self.initial_mean.dtype)
        z0 = self.initial_mean + jnp.exp(self.initial_log_std) * noise
        return self._solve(z0, None, ts, noise_key)[0]

    def decode(self, zs: Float[Array, "asked state"]) -> Float[Array, "asked channels"]:
        """The location of the observed values at each state."""
        return jax.vmap(self.decoder)(zs)

    def _parameters(self):
        return self.encoder, self.initial, self.marginals, self.initial_mean, self.drift, self.decoder

    def _solve(self, z0, control, ts, key, regulariser=None):
        """The states at `ts`, the path KL, whose integral is a part of the one solve, and a regulariser's penalty."""
        grid = np.linspace(0.0, self.horizon, self.num_steps + 1, dtype=ts.dtype)
        equation = diffrax.ODETerm(_Drift(self.drift, self.diffusion, control))
        if self.diffusion is not None:
            shape = jax.ShapeDtypeStruct(z0.shape, z0.dtype)
            path = BrownianGrid(0.0, self.horizon, self.num_steps, shape, key)
            equation = diffrax.MultiTerm(equation, diffusion_term(self.diffusion, path))
        pair = WithIntegrals(equation, joint=_Drift.with_kl)
        saveat = diffrax.SaveAt(ts=up_to(ts, grid[-1]))
        # On a known grid a solve is one scan; its last step ends at the horizon, whatever the rounding.
        numerics = dataclasses.replace(self.numerics, controller=diffrax.StepTo(ts=grid), dt0=None)
        y0, other = pair.state(z0), jax.random.fold_in(key, 1)
        solved = numerics.solve(pair.terms, grid[0], grid[-1], y0, saveat=saveat, regulariser=regulariser, key=other)
        zs, (kl,) = solved.ys
        return zs, kl[-1], solved.penalty


class _Control(eqx.Module):
    """The control of the posterior: a network of the state and of what the observations to come say."""

    network: eqx.nn.MLP
    context: Context

    def __call__(self, t, z):
        outlook = self.context.after(t)
        u = self.network(jnp.concatenate([z, outlook.features, outlook.wait[None]]))
        return jnp.where(outlook.active, u, 0.0)


class _Drift(eqx.Module):
    """The drift of a latent state; without a control it is the prior's."""

    drift: LinearMLPField
    diffusion: DiagonalDiffusion | None
    control: Callable[[Array, Array], Array] | None

    def __call__(self, t, z, args):
        return self.with_kl(t, z, args)[0]

    def with_kl(self, t, z, args):
        """The drift, and the rate of the path KL, which shares the control with it."""
        del args
        if self.diffusion is None or self.control is None:
            return self.drift(t, z), jnp.zeros((), z.dtype)
        u = self.control(t, z)
        return self.drift(t, z) + self.diffusion(t, z) * u, 0.5 * jnp.sum(u**2)
