"""The latent SDE of Li et al. (2020) for one irregular, partly observed series."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.scipy import stats
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nde.engine import diffeqsolve
from nde.fields import DiagonalDiffusion, LinearMLPField
from nde.fields.linear_mlp import silence_last_layer
from nde.models.encoder import BackwardEncoder, Context
from nde.paths import BrownianGrid
from nde.objectives.likelihoods import AbstractLikelihood, StudentTLikelihood


class LatentPath(eqx.Module):
    """One sample of a latent path and what it cost.

    - `zs`: the latent states at the times asked for, shape `(times, state)`.
    - `kl_initial`: KL of the initial state's posterior from its prior, in nats.
    - `kl_path`: KL of the path's posterior from its prior along this sample, in nats.
    """

    zs: Float[Array, "times state"]
    kl_initial: Float[Array, ""]
    kl_path: Float[Array, ""]


class LatentSDE(eqx.Module):
    r"""A latent SDE: prior $dz = f(z)\,dt + \sigma(z)\,dW$, observed through a decoder and a likelihood.

    The posterior given observations shares the diffusion and adds a control $u$ that an encoder of the observations
    steers,

    $$dz = \bigl(f(z) + \sigma(z)\,u(t, z)\bigr)\,dt + \sigma(z)\,dW, \qquad z_0 \sim \mathcal N(m, s^2),$$

    so that by Girsanov's theorem the KL of the two path measures is $\mathbb E \int \tfrac12 |u|^2 dt$ (Li et al. 2020,
    equation 10, with $u = (h_\phi - h_\theta) / \sigma$). It rides beside `z` through the solve. The control acts up to
    the last observation; from there on the posterior *is* the prior, which makes a forecast.

    **Arguments of the constructor:**

    - `channels`: number of observed channels.
    - `state_size`: length of the latent state `z`.
    - `width`, `depth`: of the network in the prior drift ([`nde.fields.LinearMLPField`][]); `width=0` leaves it linear.
    - `control_width`: of the control's network.
    - `encoder_size`: length of the encoder's hidden state.
    - `diffusion_scale`: $\sigma$ at the start; `None` for a latent ODE: no noise, no control, no path KL.
    - `likelihood`: a [`nde.objectives.AbstractLikelihood`][]; Student's t if `None`.
    - `dt0`: step of the solver, in the unit of the times.
    - `solver`: any diffrax solver for Itô SDEs with diagonal noise.
    - `key`: a JAX random key, for the initial weights.

    Everything acts on one series: times of shape `(times,)`, sorted, values and mask of shape `(times, channels)`. Use
    `jax.vmap` over series and over keys for samples.

    **Limits:** the solver takes steps of one size `dt0`; states between steps are interpolated linearly.

    **Source:** Li, Wong, Chen, Duvenaud, *Scalable Gradients for Stochastic Differential Equations*, AISTATS 2020,
    arXiv 2001.01328, section 5.
    """

    encoder: BackwardEncoder
    initial: eqx.nn.Linear
    initial_mean: Float[Array, " state"]
    initial_log_scale: Float[Array, " state"]
    drift: LinearMLPField
    control: eqx.nn.MLP
    diffusion: DiagonalDiffusion | None
    decoder: eqx.nn.Linear
    likelihood: AbstractLikelihood
    solver: diffrax.AbstractSolver
    adjoint: diffrax.AbstractAdjoint
    dt0: float = eqx.field(static=True)
    state_size: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        state_size: int,
        *,
        width: int = 32,
        depth: int = 1,
        control_width: int = 32,
        encoder_size: int = 32,
        diffusion_scale: float | None = 0.3,
        likelihood: AbstractLikelihood | None = None,
        dt0: float = 0.1,
        solver: diffrax.AbstractSolver | None = None,
        adjoint: diffrax.AbstractAdjoint | None = None,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 5)
        self.encoder = BackwardEncoder(channels, encoder_size, key=keys[0])
        self.initial = eqx.nn.Linear(encoder_size, 2 * state_size, key=keys[1])
        self.initial_mean = jnp.zeros(state_size)
        self.initial_log_scale = jnp.zeros(state_size)
        self.drift = LinearMLPField(state_size, width, depth, key=keys[2])
        self.control = silence_last_layer(
            eqx.nn.MLP(
                state_size + encoder_size + 1,
                state_size,
                control_width,
                1,
                activation=jax.nn.softplus,
                key=keys[3],
            )
        )
        self.diffusion = (
            None if diffusion_scale is None else DiagonalDiffusion(state_size, scale=diffusion_scale)
        )
        self.decoder = eqx.nn.Linear(state_size, channels, key=keys[4])
        self.likelihood = StudentTLikelihood(channels) if likelihood is None else likelihood
        self.solver = diffrax.Euler() if solver is None else solver
        self.adjoint = diffrax.RecursiveCheckpointAdjoint(checkpoints=80) if adjoint is None else adjoint
        self.dt0 = dt0
        self.state_size = state_size

    def posterior(
        self,
        times: Float[Array, " times"],
        values: Float[Array, "times channels"],
        mask: Bool[Array, "times channels"],
        ts: Float[Array, " asked"],
        *,
        key: PRNGKeyArray,
    ) -> LatentPath:
        """One sample of the latent path given the observed entries, at the sorted times `ts`.

        `ts` may lie between the observations and beyond them: there the path follows the prior.
        """
        context = self.encoder(times, values, mask)
        initial_key, path_key = jax.random.split(key)
        mean, log_scale = jnp.split(self.initial(context.features[0]), 2)
        mean, log_scale = self.initial_mean + mean, self.initial_log_scale + log_scale
        z0 = mean + jnp.exp(log_scale) * jax.random.normal(initial_key, mean.shape, mean.dtype)
        kl_initial = normal_kl(mean, log_scale, self.initial_mean, self.initial_log_scale)
        zs, kl_path = self._solve(context, times[0], z0, ts, path_key)
        return LatentPath(zs, kl_initial, kl_path)

    def _solve(self, context, t0, z0, ts, key):
        def control(t, z):
            features, wait, active = context.at(t)
            u = self.control(jnp.concatenate([z, features, wait[None]]))
            return jnp.where(active, u, 0.0)

        def drift(t, state, args):
            z, _ = state
            if self.diffusion is None:
                return self.drift(t, z), jnp.zeros(())
            u = control(t, z)
            return self.drift(t, z) + self.diffusion(t, z) * u, 0.5 * jnp.sum(u**2)

        def diffusion(t, state, args):
            z, _ = state
            sig = self.diffusion(t, z)
            return lx.FunctionLinearOperator(lambda dw: (sig * dw, jnp.zeros(())), jax.eval_shape(lambda: z))

        num_steps = jnp.maximum(jnp.ceil((ts[-1] - t0) / self.dt0 - 1e-3), 1)
        t1 = t0 + num_steps * self.dt0
        terms = diffrax.ODETerm(drift)
        if self.diffusion is not None:
            noise = BrownianGrid(t0, t1, num_steps, z0.shape, key)
            terms = diffrax.MultiTerm(terms, diffrax.ControlTerm(diffusion, noise))
        solution = diffeqsolve(
            terms,
            self.solver,
            t0,
            t1,
            self.dt0,
            (z0, jnp.zeros(())),
            saveat=diffrax.SaveAt(ts=ts), throw=False, max_steps=None,
            adjoint=self.adjoint,
        )
        zs, kl = solution.ys
        return zs, kl[-1]

    def decode(self, zs):
        return jax.vmap(self.decoder)(zs)


def normal_kl(mean, log_scale, prior_mean, prior_log_scale):
    r = jnp.exp(2 * (log_scale - prior_log_scale))
    d = (mean - prior_mean) / jnp.exp(prior_log_scale)
    return 0.5 * jnp.sum(r + d**2 - 1) - jnp.sum(log_scale - prior_log_scale)
