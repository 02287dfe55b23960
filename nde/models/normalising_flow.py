"""A continuous normalising flow: a density by the solution of an ODE."""

from collections.abc import Callable
from typing import Any, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from nde.dtypes import float_dtype
from nde.fields import check_field
from nde.models.checks import check_point
from nde.models.divergence import Divergence, normal_log_prob, trace_directions
from nde.models.numerics import AbstractSolvingModel, equal_steps, Keywords, Numerics, numerics_of, Solved
from nde.regularise import AbstractRegulariser
from nde.terms import WithIntegrals


def position_norm(state: PyTree[Array]) -> Array:
    """The root mean square of a flow's position alone: the log-density beside it has weight zero."""
    position, _ = state
    return optx.rms_norm(position)


class ContinuousNormalizingFlow(AbstractSolvingModel):
    r"""The density of $x = y(t_1)$ where $dy/dt = f(t, y)$ and $y(0) \sim \mathcal N(0, I)$.

    Along a solution the log-density falls at the rate of the divergence, $\operatorname{tr} J$ with
    $J = \partial f / \partial y$, so that

    $$\log p(x) = \log \mathcal N(y(0); 0, I) - \int_0^{t_1} \operatorname{tr} J(t, y(t))\,dt,$$

    with $y$ solved from $x$ backward in time. The integral rides beside `y`. With `probes=None` the trace is exact,
    from one evaluation of the field and `size` directional derivatives. With `probes=k` it is Hutchinson's estimate,
    $\frac1k \sum_i v_i^T J v_i$, the entries of $v_i$ drawn from $\pm 1$ once a call: unbiased for the log-density,
    from `k` directional derivatives.

    It acts on one point; use `jax.vmap` over points, and over keys for samples.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> flow = nde.ContinuousNormalizingFlow(lambda t, y, args: jnp.log(2.0) * y, size=2)  # all lengths doubled
    >>> round(float(flow.log_prob(jnp.zeros(2))), 3)  # of the density 1 / (2 pi 4)
    -3.224
    >>> flow.sample(key=jax.random.key(0)).shape
    (2,)

    ```

    **Arguments of the constructor:**

    - `field`: any callable `f(t, y, args)` from a position of shape `(size,)` to its shape; it must allow forward-mode
      derivatives.
    - `size`: of a point. Static.
    - `probes`: `None` for the exact trace, or how many probes a call draws. Static.
    - `t1`: the end of time; the base distribution lies at 0.
    - `numerics`: how it is solved, a `nde.Numerics`; or its members by keyword, as for `nde.models.NeuralODE`. The
      controller sees a state `(position, log-density)`. The default one's norm, `nde.models.position_norm`, leaves the
      log-density out, so that `log_prob` takes the steps that the position needs, whatever the probes.

    **Methods:** `log_prob(x, key=None)`, `solve(x, regulariser=regulariser, key=key)`, the log-density and a penalty,
    `sample(key=key)`, and the maps between the base and the data, `forward(z)` and `inverse(x)`.

    **Raises:** `ValueError` if `probes` is not positive, if a point is not of shape `(size,)`, if the field's output is
    not what the point is, or if probes are to be drawn and there is no key; an error at run time if a solve fails.

    **Limits:** a field of `size` to `size` costs `size` directional derivatives for an exact trace: use probes where
    `size` is large, and remember that they make the log-density noisy. The error of the log-density is not controlled;
    it is of the solver's order, in a step that the position's error has set.

    **Source:** Chen et al. 2018, arXiv 1806.07366, theorem 1; Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud,
    *FFJORD*, ICLR 2019, arXiv 1810.01367, equation 8.
    """

    field: Callable[..., Any]
    size: int = eqx.field(static=True)
    numerics: Numerics
    probes: int | None = eqx.field(static=True)
    t1: float

    def __init__(
        self,
        field: Callable[..., Any],
        size: int,
        *,
        probes: int | None = None,
        t1: float = 1.0,
        numerics: Numerics | None = None,
        **keywords: Unpack[Keywords],
    ):
        if probes is not None and probes < 1:
            raise ValueError(f"ContinuousNormalizingFlow needs probes >= 1, or None, but got probes={probes}.")
        self.field, self.size, self.probes, self.t1 = field, size, probes, t1
        default = Numerics(controller=diffrax.PIDController(rtol=1e-5, atol=1e-5, norm=position_norm))
        self.numerics = numerics_of("ContinuousNormalizingFlow", default, numerics, **keywords)

    @property
    def error_norm(self):
        return position_norm

    def log_prob(self, x: ArrayLike, args: PyTree[Any] = None, *, key: PRNGKeyArray | None = None) -> Float[Array, ""]:
        """The log-density at a point of shape `(size,)`, in nats; exact, or an unbiased estimate that `key` draws."""
        return self.solve(x, args, key=key).ys

    def solve(
        self,
        x: ArrayLike,
        args: PyTree[Any] = None,
        *,
        regulariser: AbstractRegulariser | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solved:
        """The log-density at a point, and what the regulariser makes of its solve: see `nde.regularise`.

        What is integrated along the solution is of the position alone.
        """
        x = self._check_point(x)
        check_field(self.field, jnp.zeros((), x.dtype), x, args)
        directions, key = trace_directions("ContinuousNormalizingFlow", self.size, self.probes, x.dtype, key)
        solved = self._solve(Divergence(directions), x, args, backward=True, regulariser=regulariser, key=key)
        z, change = solved.ys
        return solved._replace(ys=normal_log_prob(z) + change)

    def sample(self, args: PyTree[Any] = None, *, key: PRNGKeyArray) -> Float[Array, " size"]:
        """A point drawn from the density, of the type of the field's parameters."""
        dtype = float_dtype(eqx.filter(self.field, eqx.is_inexact_array))
        return self.forward(jax.random.normal(key, (self.size,), dtype), args)

    def draw(
        self,
        args: PyTree[Any] = None,
        *,
        key: PRNGKeyArray,
        steps: int | None = None,
        solver: diffrax.AbstractSolver | None = None,
    ) -> Solved:
        """A sample, and what its solve was like.

        **Arguments:** `steps`: so many equal ones instead of those of the numerics; `solver`: of these,
        `diffrax.Heun` unless given.
        """
        if steps is not None:
            numerics = equal_steps(self.numerics, steps, self.t1 / steps, solver)
            return eqx.tree_at(lambda m: m.numerics, self, numerics).draw(args, key=key)
        dtype = float_dtype(eqx.filter(self.field, eqx.is_inexact_array))
        z = jax.random.normal(key, (self.size,), dtype)
        solved = self._solve(_no_divergence, z, args, backward=False)
        return solved._replace(ys=solved.ys[0])

    def forward(self, z: ArrayLike, args: PyTree[Any] = None) -> Float[Array, " size"]:
        """The point of the data to which the flow carries `z` of the base."""
        return self._solve(_no_divergence, self._check_point(z), args, backward=False).ys[0]

    def inverse(self, x: ArrayLike, args: PyTree[Any] = None) -> Float[Array, " size"]:
        """The point of the base that the flow carries to `x`: the inverse of `forward`, up to the solver's error."""
        return self._solve(_no_divergence, self._check_point(x), args, backward=True).ys[0]

    def _check_point(self, x: ArrayLike) -> Float[Array, " size"]:
        return check_point("ContinuousNormalizingFlow", x, self.size, self.field)

    def _solve(self, divergence, position, args, *, backward: bool, regulariser=None, key=None) -> Solved:
        dtype = position.dtype
        start, end = jnp.zeros((), dtype), jnp.asarray(self.t1, dtype)
        pair, saveat = WithIntegrals(diffrax.ODETerm(self.field), joint=divergence), diffrax.SaveAt(t1=True)
        t0, t1 = (end, start) if backward else (start, end)
        solved = self.numerics.solve(
            pair.terms,
            t0,
            t1,
            pair.state(position),
            args,
            saveat=saveat,
            backward=backward,
            regulariser=regulariser,
            key=key,
        )
        return solved._replace(ys=(solved.ys[0][0], solved.ys[1][0][0]))


def _no_divergence(field, t, y, args):
    """For a position alone, whose step sizes see it with a log-density beside it too."""
    return field(t, y, args), 0.0
