"""Equations with a linear part that is known, and the variables in which it is gone."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp


class AbstractVariables(eqx.Module):
    r"""A change of variables $y = x / m(t)$ and of time $s = s(t)$, both smooth, $s$ strictly monotone."""

    def scale(self, t: Any) -> jax.Array:
        """$m(t)$, a number that is never zero."""
        raise NotImplementedError

    def clock(self, t: Any) -> jax.Array:
        """$s(t)$."""
        raise NotImplementedError

    def time(self, s: Any) -> jax.Array:
        """$t(s)$, the inverse of the clock."""
        raise NotImplementedError

    def noise_clock(self, s: Any) -> jax.Array:
        r"""$\tau(s)$, strictly monotone: the time of the Brownian motion, for an SDE."""
        raise NotImplementedError

    def path_time(self, t: Any) -> jax.Array:
        r"""$\tau(s(t))$."""
        return self.noise_clock(self.clock(t))


class SemilinearTerm(diffrax.AbstractTerm):
    r"""The equation $\mathrm d(x / m) = f(t, x)\,\mathrm ds$, for an SDE $+\,\mathrm dW_\tau$: written out,

    $$\mathrm dx = \Bigl(\frac{m'(t)}{m(t)}\,x + m(t)\,s'(t)\,f(t, x)\Bigr)\mathrm dt
    \;\bigl(+\; m(t)\,\mathrm dW_{\tau(s(t))}\bigr).$$

    Its linear part is known, and exponential solvers (`nde.Rex`, `nde.Lawson`, `nde.Exponential`,
    `nde.ExponentialAdams`) solve it exactly. Other solvers get it written out. The noise does not depend on the state,
    so that Itô's solution and Stratonovich's are one. With a `centre` $c$ all of this holds of $x - c$, but for what
    the field is called with.

    **Arguments:** `field`: $f$, called `field(t, x, args)`, of the structure of `x`; `variables`: $m$, $s$, its inverse
    and $\tau$, an `nde.terms.AbstractVariables`; `path`: for an SDE the Brownian motion $W$, with the shape of
    `x`, known for all $\tau$ from one end of the solve to the other, from the lesser to the greater; `centre`: $c$, of
    the structure of `x`, or `None` for zero.

    **Raises:** `ValueError` for a path that is no Brownian motion.

    **Limits:** a Brownian motion has no derivative by time: for an SDE neither the times of the steps nor what the
    clocks depend on can be differentiated; nde's paths refuse it.
    """

    field: Callable
    variables: AbstractVariables
    path: diffrax.AbstractBrownianPath | None = None
    centre: Any = None

    def __check_init__(self):
        if not (self.path is None or isinstance(self.path, diffrax.AbstractBrownianPath)):
            raise ValueError(
                "SemilinearTerm: path must be a Brownian motion, as nde.VirtualBrownianTree, or None for an ODE, but "
                f"got {type(self.path).__name__}."
            )

    def vf(self, t, y, args):
        """The drift, and for an SDE with it the $m(t)$ of the noise."""
        t = jnp.asarray(t)
        (m, s), (dm, ds) = jax.jvp(
            lambda t: (self.variables.scale(t), self.variables.clock(t)), (t,), (jnp.ones_like(t),)
        )
        del s
        f = self.field(t, y, args)
        with jax.numpy_dtype_promotion("standard"):  # times may have another dtype than the state
            drift = jax.tree.map(lambda x, f: (dm / m * x + m * ds * f).astype(x.dtype), self.deviation(y), f)
        return drift if self.path is None else (drift, m)

    def contr(self, t0, t1, **kwargs):
        r"""The length of a step, and for an SDE with it $W_{\tau_1} - W_{\tau_0}$."""
        del kwargs
        if self.path is None:
            return t1 - t0
        return t1 - t0, self.increment(self.path_time(t0), self.path_time(t1))

    def prod(self, vf, control):
        """The drift times the length, and the noise's factor times the noise."""
        if self.path is None:
            return scaled(control, vf)
        drift, noise = scaled(control[0], vf[0]), scaled(vf[1], control[1])
        return jax.tree.map(lambda x, w: x + w.astype(x.dtype), drift, noise)

    def noise(self, s0, s1) -> Any:
        r"""$W_{\tau(s_1)} - W_{\tau(s_0)}$, in either order."""
        return self.increment(self.variables.noise_clock(s0), self.variables.noise_clock(s1))

    def increment(self, tau0, tau1) -> Any:
        r"""$W_{\tau_1} - W_{\tau_0}$, in either order."""
        assert self.path is not None
        w = self.path.evaluate(jnp.minimum(tau0, tau1), jnp.maximum(tau0, tau1))
        return jax.tree.map(lambda w: jnp.where(tau1 < tau0, -w, w), w)

    def path_time(self, t) -> Any:
        r"""$\tau(s(t))$, the time at which the Brownian motion is read."""
        return self.variables.path_time(t)

    def deviation(self, x) -> Any:
        """$x - c$."""
        return x if self.centre is None else jax.tree.map(jnp.subtract, x, self.centre)

    def into(self, t, x) -> Any:
        """$y = (x - c) / m(t)$."""
        return scaled(1 / self.variables.scale(t), self.deviation(x))

    def out_of(self, t, y) -> Any:
        """$x = c + m(t) y$."""
        x = scaled(self.variables.scale(t), y)
        return x if self.centre is None else jax.tree.map(jnp.add, x, self.centre)

    def stretch(self, t, change) -> Any:
        """A difference of two $y$ as one of two $x$."""
        return scaled(self.variables.scale(t), change)

    def transformed(self) -> diffrax.AbstractTerm:
        r"""The equation $\mathrm dy = f(t(s), m y)\,\mathrm ds\;(+\,\mathrm dW_\tau)$ in the new variables."""

        def drift(s, y, args):
            t = self.variables.time(s)
            return self.field(t, self.out_of(t, y), args)

        if self.path is None:
            return diffrax.ODETerm(drift)
        return diffrax.MultiTerm(diffrax.ODETerm(drift), _Noise(self))


class _Noise(diffrax.AbstractTerm):
    """Noise that is added as it is."""

    term: SemilinearTerm

    def vf(self, t, y, args):
        del t, args
        return jax.tree.map(jnp.ones_like, y)

    def contr(self, t0, t1, **kwargs):
        del kwargs
        return self.term.noise(t0, t1)

    def prod(self, vf, control):
        return jax.tree.map(lambda one, w: one * w.astype(one.dtype), vf, control)


def scaled(factor: Any, tree: Any) -> Any:
    """A tree times a number, in the tree's dtypes."""
    with jax.numpy_dtype_promotion("standard"):  # a function of time may have another dtype than the state
        return jax.tree.map(lambda x: (factor * x).astype(jnp.result_type(x)), tree)
