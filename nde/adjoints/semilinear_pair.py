"""The costate of a semilinear equation, in the variables in which the linear part is gone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nde.terms import scaled, SemilinearTerm, turned, unwrap_time_direction
from nde.types import Args, State, Terms


class SemilinearPair(SemilinearTerm):
    r"""A semilinear term as that of state and costate $(x, \lambda)$: of $y = (x - c) / m$ and $\mu = m \lambda$

    $$dy = f(t, x)\,ds\;(+\,dW), \qquad d\mu = -m\,\mu\,\partial_x f(t, x)\,ds.$$

    **Source:** Pan et al., *AdjointDPM*, 2023, arXiv 2307.10711; Blasingame & Liu, *AdjointDEIS*, 2024, arXiv
    2405.15020.
    """

    def into(self, t, x: State):
        state, costate = x
        return super().into(t, state), scaled(self.variables.scale(t), costate)

    def out_of(self, t, y: State):
        state, costate = y
        return super().out_of(t, state), scaled(1 / self.variables.scale(t), costate)

    def stretch(self, t, change: State):
        state, costate = change
        return super().stretch(t, state), scaled(1 / self.variables.scale(t), costate)

    def increment(self, tau0, tau1) -> Any:
        """Noise is in the state alone."""
        w = super().increment(tau0, tau1)
        return w, jax.tree.map(jnp.zeros_like, w)


def semilinear_pair(terms: Terms, args: Args) -> Terms:
    """The term of state and costate in reversed time, of one semilinear term."""
    given, direction = unwrap_time_direction(terms)
    pair = SemilinearPair(_field(given, args), given.variables, given.path, given.centre)
    return turned(pair, -direction)


def _field(given: SemilinearTerm, args: Args) -> Callable:
    def field(t: Any, pair: State, unused: Args):
        del unused
        x, costate = pair
        value, pull = jax.vjp(lambda x: jax.tree.map(lambda f, x: f.astype(x.dtype), given.field(t, x, args), x), x)
        m = given.variables.scale(t)
        return value, scaled(-m, pull(scaled(m, costate))[0])

    return field
