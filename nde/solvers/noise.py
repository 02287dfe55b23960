"""Which noise a method can take."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from nde.terms.inspect import brownian_terms


def refuse_state_dependent_noise(what: str, solver: Any, terms: Any, t: Any, y: Any, args: Any) -> None:
    """Refuse Brownian terms whose field reads the state.

    **Raises:** `ValueError` naming `what` and the solver.
    """
    if any(_reads_state(term, t, y, args) for term, _ in brownian_terms(terms)):
        name = type(solver).__name__
        raise ValueError(
            f"{what}({name}()) was given noise that depends on the state, but {name} converges to the Itô solution, "
            f"which is another one backward in time. Wrap a Stratonovich method, as {what}(diffrax.Heun()), with the "
            "equation in Stratonovich form, or make the noise independent of the state."
        )


def _reads_state(term: Any, t: Any, y: Any, args: Any) -> bool:
    """Whether the term's field depends on `y`, as its derivative is traced: values do not matter."""
    found = []

    @jax.custom_jvp
    def look(out):
        return out

    def rule(primals, tangents):
        found.extend(not isinstance(x, SymbolicZero) for x in jax.tree.leaves(tangents))
        return primals[0], jax.tree.map(jnp.zeros_like, primals[0])

    look.defjvp(rule, symbolic_zeros=True)
    jax.eval_shape(lambda y: jax.jvp(lambda y: look(term.vf(t, y, args)), (y,), (y,)), y)
    return any(found)
