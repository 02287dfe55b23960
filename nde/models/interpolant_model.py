"""A flow between two laws: a velocity, and with a denoiser an SDE of any noise, learned along an interpolant."""

import math
from collections.abc import Callable
from typing import Any, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from nde.diffusion import AbstractInterpolant, AbstractSchedule, LinearInterpolant
from nde.dtypes import float_dtype
from nde.models.checks import check_point
from nde.models.diffusion_model import DiffusionModel
from nde.models.divergence import carried, normal_log_prob, trace_directions
from nde.models.numerics import AbstractSolvingModel, equal_steps, Keywords, Numerics, numerics_of, Solved
from nde.paths import BrownianGrid
from nde.regularise import AbstractRegulariser
from nde.terms import diffusion_term


class InterpolantModel(AbstractSolvingModel):
    r"""What carries a source at $t = 0$ to a target at $t = 1$ along an interpolant.

    With $x_t = \alpha x_0 + \beta x_1 + \gamma z$ its law is that of the ODE $dx = b(t, x)\,dt$ with the velocity
    $b = \mathbb E[\dot x_t | x_t = x]$, and, with a denoiser $\eta = \mathbb E[z | x_t = x]$, also that of the SDEs

    $$dx = \Bigl(b(t, x) \mp \frac{\epsilon_t}{\gamma_t}\,\eta(t, x)\Bigr) dt + \sqrt{2 \epsilon_t}\,dW,
    \qquad \epsilon_t = \tau^2 \gamma_t^2,$$

    forward in time ($-$) and backward ($+$), for every amount of noise $\tau \geq 0$. With a linear interpolant and a
    standard normal source it is flow matching, and a rectified flow where it is trained on its own pairs
    (`nde.models.reflow_pairs`); there the velocity alone gives every amount of noise, see `as_diffusion`.

    It acts on one point; use `jax.vmap` over points, and over keys for samples.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> shift = nde.InterpolantModel(lambda t, x, args: jnp.array([3.0, 0.0]), size=2)
    >>> [round(float(x), 4) for x in shift.forward(jnp.zeros(2))]
    [3.0, 0.0]
    >>> round(float(shift.log_prob(jnp.array([3.0, 0.0]))), 2)
    -1.84

    ```

    **Arguments of the constructor:**

    - `velocity`: any callable `f(t, x, args)` from a point of shape `(size,)` to its shape; `args` is what the law is
      conditioned on, such as a class.
    - `size`: of a point. Static.
    - `interpolant`: a `nde.diffusion.AbstractInterpolant`; linear unless given.
    - `denoiser`: as the velocity; only for an interpolant with noise.
    - `normal`: whether the source is standard normal, and can be drawn and scored; else it is data of its own. Static.
    - `probes`: of `log_prob`: `None` for the exact trace, or how many of Hutchinson's probes a call draws. Static.
    - `numerics`: how it is solved, a `nde.Numerics`; or its members by keyword.

    **Raises:** `ValueError` for a denoiser without noise between, noise without a denoiser, a source that is asked for
    and not known, and points of another shape; an error at run time if a solve fails.

    **Limits:** $\epsilon_t$ is zero at both ends, where the score of data may be infinite. An SDE is solved by equal
    steps, of `diffrax.Heun` unless another solver is given: its noise does not depend on the state, so that Itô's
    solution and Stratonovich's are one.

    **Source:** Albergo, Boffi, Vanden-Eijnden 2023, arXiv 2303.08797; Lipman et al. 2023, arXiv 2210.02747; Liu, Gong,
    Liu 2022, arXiv 2209.03003.
    """

    velocity: Callable[..., Any]
    denoiser: Callable[..., Any] | None
    interpolant: AbstractInterpolant
    numerics: Numerics
    size: int = eqx.field(static=True)
    normal: bool = eqx.field(static=True)
    probes: int | None = eqx.field(static=True)

    def __init__(
        self,
        velocity: Callable[..., Any],
        size: int,
        interpolant: AbstractInterpolant | None = None,
        *,
        denoiser: Callable[..., Any] | None = None,
        normal: bool = True,
        probes: int | None = None,
        numerics: Numerics | None = None,
        **keywords: Unpack[Keywords],
    ):
        if size < 1 or (probes is not None and probes < 1):
            raise ValueError(f"InterpolantModel needs size >= 1 and probes >= 1, or None, but got {size=}, {probes=}.")
        self.interpolant = LinearInterpolant() if interpolant is None else interpolant
        if denoiser is not None and not self.interpolant.is_noisy:
            raise ValueError(
                f"InterpolantModel: {type(self.interpolant).__name__} has no noise for a denoiser to see; take "
                "nde.diffusion.BridgeInterpolant(), or leave the denoiser out."
            )
        self.velocity, self.denoiser, self.size = velocity, denoiser, size
        self.normal, self.probes = normal, probes
        default = Numerics(controller=diffrax.PIDController(rtol=1e-4, atol=1e-4))
        self.numerics = numerics_of("InterpolantModel", default, numerics, **keywords)

    @property
    def span(self) -> tuple[float, float]:
        """The times on which it is trained and solved."""
        return 0.0, 1.0

    @property
    def schedule(self) -> AbstractSchedule | None:
        """That of `as_diffusion`, of another time; `None`: none that times of training could be drawn by."""
        return None

    def residuals(
        self,
        t: Any,
        x1: Float[Array, " size"],
        x0: Float[Array, " size"] | None = None,
        args: PyTree[Any] = None,
        *,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, " size"], ...]:
        r"""How wrong the velocity is at time `t` of the path from `x0` to `x1`, and the denoiser, if there is one.

        Without `x0` it is standard normal.
        """
        if x0 is None:
            self._need_normal("draw its source")
        source_key, key = jax.random.split(key)
        x0 = jax.random.normal(source_key, x1.shape, x1.dtype) if x0 is None else x0
        z = jax.random.normal(key, x1.shape, x1.dtype)
        x = self.interpolant.point(t, x0, x1, z)
        error = self.velocity(t, x, args) - self.interpolant.velocity(t, x0, x1, z)
        return (error,) if self.denoiser is None else (error, self.denoiser(t, x, args) - z)

    def sample(self, args: PyTree[Any] = None, *, key: PRNGKeyArray, **options: Any) -> Float[Array, " size"]:
        """A point of the target from a normal source; `options` are those of `carry`."""
        return self.draw(args, key=key, **options).ys

    def draw(
        self,
        args: PyTree[Any] = None,
        *,
        key: PRNGKeyArray,
        **options: Any,
    ) -> Solved:
        """A sample from a normal source, and what its solve was like; `options` are those of `carry`."""
        self._need_normal("draw its source")
        start_key, key = jax.random.split(key)
        dtype = float_dtype(eqx.filter((self.velocity, self.denoiser), eqx.is_inexact_array))
        x0 = jax.random.normal(start_key, (self.size,), dtype)
        return self.carry(x0, args, key=key, **options)

    def forward(self, x0: ArrayLike, args: PyTree[Any] = None, **options: Any) -> Float[Array, " size"]:
        """Where a point of the source is carried, by the ODE or, with noise, at random; `options` as of `carry`."""
        return self.carry(x0, args, **options).ys

    def backward(self, x1: ArrayLike, args: PyTree[Any] = None, **options: Any) -> Float[Array, " size"]:
        """Where a point of the target comes from, by the ODE or, with noise, at random; `options` as of `carry`."""
        return self.carry(x1, args, backward=True, **options).ys

    def carry(
        self,
        x: ArrayLike,
        args: PyTree[Any] = None,
        *,
        noise: float = 0.0,
        steps: int | None = None,
        solver: diffrax.AbstractSolver | None = None,
        backward: bool = False,
        key: PRNGKeyArray | None = None,
        regulariser: AbstractRegulariser | None = None,
    ) -> Solved:
        r"""Where a point is carried from one end to the other, and what the solve was like.

        **Arguments:** `x`: of shape `(size,)`; `noise`: $\tau$, static; `steps`: so many equal ones instead of those of
        the numerics, of an SDE 100 unless given, static; `solver`: of these, `diffrax.Heun` unless given; `backward`:
        from the target to the source, static; `key`: for noise, or a regulariser that draws.
        """
        x = self._check_point(x)
        ends = (1.0, 0.0) if backward else self.span
        if noise and (self.denoiser is None or key is None):
            missing = "a key" if key is None else "a denoiser, or as_diffusion()"
            raise ValueError(f"InterpolantModel needs {missing} for noise above zero, but got {noise=}.")
        steps = 100 if noise and steps is None else steps
        numerics = self.numerics if steps is None else equal_steps(self.numerics, steps, 1 / steps, solver)
        if not noise:
            solved = carried(
                numerics, self.velocity, x, ends, args, backward=backward, regulariser=regulariser, key=key
            )
            return solved._replace(ys=solved.ys[0])
        assert key is not None and steps is not None
        solved = numerics.solve(
            self._sde(noise, backward, BrownianGrid(0.0, 1.0, steps, (self.size,), key), x.dtype),
            ends[0],
            ends[1],
            x,
            args,
            saveat=diffrax.SaveAt(t1=True),
            backward=backward,
            regulariser=regulariser,
            key=jax.random.fold_in(key, 1),
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
        """The point of the source that the ODE carries to `x`, and what its solve was like."""
        return self.carry(x, args, backward=True, regulariser=regulariser, key=key)

    @property
    def has_density(self) -> bool:
        """Whether it has a log-density: its source is normal."""
        return self.normal

    def log_prob(self, x: ArrayLike, args: PyTree[Any] = None, *, key: PRNGKeyArray | None = None) -> Float[Array, ""]:
        """The log-density at a point of the target, in nats, by the ODE from a normal source; `key`: for probes."""
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
        self._need_normal("have a log-density")
        x = self._check_point(x)
        directions, key = trace_directions("InterpolantModel", self.size, self.probes, x.dtype, key)
        options = {"backward": True, "directions": directions, "regulariser": regulariser, "key": key}
        solved = carried(self.numerics, self.velocity, x, (1.0, 0.0), args, **options)
        z, change = solved.ys
        return solved._replace(ys=normal_log_prob(z) + change)

    def as_diffusion(self) -> DiffusionModel:
        """The same law as a `nde.DiffusionModel` with data at time 0, whose samplers and noise are then to be had.

        **Raises:** `ValueError` for a source that is not normal, or an interpolant that is no schedule.
        """
        schedule = self.interpolant.schedule
        if schedule is None or not self.normal:
            raise ValueError(
                "InterpolantModel is a diffusion model where its source is normal and its interpolant linear or "
                f"trigonometric, but this one has normal={self.normal} and {type(self.interpolant).__name__}."
            )
        return DiffusionModel(
            _Reversed(self.velocity),
            self.size,
            schedule,
            predicts="velocity",
            scale=None,
            probes=self.probes,
            numerics=self.numerics,
        )

    def _sde(self, noise: float, backward: bool, path: BrownianGrid, dtype: Any) -> diffrax.MultiTerm:
        sign, denoiser = (1 if backward else -1), self.denoiser
        assert denoiser is not None

        def drift(t, x, args):
            share = (sign * noise**2 * self.interpolant.gamma(t)).astype(dtype)
            return self.velocity(t, x, args) + share * denoiser(t, x, args)

        def diffusion(t, x, args):
            del args
            return jnp.full_like(x, math.sqrt(2) * noise * self.interpolant.gamma(t))

        return diffrax.MultiTerm(diffrax.ODETerm(drift), diffusion_term(diffusion, path, diagonal=True))

    def _need_normal(self, what: str) -> None:
        if not self.normal:
            raise ValueError(
                f"InterpolantModel has a source of its own and can not {what}: give source points, as x0 or to forward."
            )

    def _check_point(self, x: ArrayLike) -> Float[Array, " size"]:
        return check_point("InterpolantModel", x, self.size, (self.velocity, self.denoiser))


class _Reversed(eqx.Module):
    """A velocity in a time that runs the other way."""

    velocity: Callable[..., Any]

    def __call__(self, t, x, args):
        return -self.velocity(1 - jnp.asarray(t), x, args)
