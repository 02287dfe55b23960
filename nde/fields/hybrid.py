"""A known right-hand side plus a network for what it leaves out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nde.fields.described import LearnedTerm, parameter_units, parameter_values, residual_rates, state_names


class Hybrid(eqx.Module):
    r"""A known field plus a network on chosen states: $f_i(t, y) = k_i(t, y) + s\,r_i(t, y_{\mathrm{in}})$.

    The scale `s`, one learnable number, starts at exactly zero: the untrained hybrid *is* the known model, bit for bit,
    and what training adds is what the data ask for. The scale has a gradient from the first step; the network has one
    as soon as the scale has moved.

    ```python
    residual = MLPField(2, 16, 1, out_size=1, key=key)
    field = Hybrid(known, residual, states=["lynx"])    # sees hare and lynx, changes lynx only
    ```

    **Arguments of the constructor:**

    - `known`: a field on arrays of shape `(state,)`, as `nde.fields.KnownField`.
    - `residual`: a field `f(t, x, args)` that returns one rate for each of `states`, given the states in `inputs`, as
      `MLPField(len(inputs), width, depth, out_size=len(states), key=key)`.
    - `states`: the states that the residual acts on: indices from zero, or names if `known` has `state_names`; all of
      them if `None`.
    - `inputs`: the states that the residual sees, likewise; all of them if `None`, and none if empty beside `given`.
    - `given`: what the residual sees after them: names of values in `args`, a mapping as of `nde.paths.Inputs`, each
      with the location and the scale by which it is standardised.

    **Call:** `field(t, y, args)` with `y` of shape `(state,)`; returns that shape.

    **Raises:** `ValueError` for a state that does not exist, naming it and those that do (at the first call, where an
    index is all there is to go by); for one given twice; and, when called, for a residual of another length than
    `states`, a known field that does not return one array of the shape of `y`, or a given value that `args` lacks.

    **Limits:** a residual that is free to act can take over what the known part's parameters explain; weigh its size in
    the loss, and read `correction`. It must be finite, for zero times infinity is not zero.

    **Source:** Rackauckas et al., *Universal Differential Equations for Scientific Machine Learning*, 2020, arXiv
    2001.04385; Yin et al., *Augmenting Physical Models with Deep Networks* (APHYNITY), ICLR 2021. The scale from zero:
    Bachlechner et al., *ReZero*, 2020.
    """

    known: Callable[..., Float[Array, " state"]]
    residual: Callable[..., Float[Array, " acted"]]
    scale: Float[Array, ""]
    states: tuple[int, ...] | None = eqx.field(static=True)
    inputs: tuple[int, ...] | None = eqx.field(static=True)
    given: tuple[tuple[str, float, float], ...] = eqx.field(static=True, default=())

    def __init__(
        self,
        known: Callable[..., Float[Array, " state"]],
        residual: Callable[..., Float[Array, " acted"]],
        *,
        states: Sequence[int | str] | None = None,
        inputs: Sequence[int | str] | None = None,
        given: Mapping[str, tuple[float, float]] | None = None,
    ):
        names = state_names(known)
        self.known = known
        self.residual = residual
        self.scale = jnp.zeros(())
        self.states = _indices("states", states, names)
        self.given = tuple((name, float(m), float(s)) for name, (m, s) in (given or {}).items())
        self.inputs = () if self.given and not inputs and inputs is not None else _indices("inputs", inputs, names)

    def correction(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " acted"]:
        """What the network adds, $s\\,r(t, y_{\\mathrm{in}})$, of shape `(len(states),)`: the thing to draw."""
        for option, indices in (("states", self.states), ("inputs", self.inputs)):
            if indices and max(indices) >= y.size:
                raise ValueError(
                    f"Hybrid's {option} name the state {max(indices)}, but the states are 0 to {y.size - 1}."
                )
        seen = y if self.inputs is None else y[np.array(self.inputs, int)]
        rates = self.residual(t, self._with_given(seen, args), args)
        expected = y.shape if self.states is None else (len(self.states),)
        if jnp.shape(rates) != expected:
            raise ValueError(
                f"Hybrid's residual returned the shape {jnp.shape(rates)}, but acts on states of shape {expected}."
            )
        return self.scale * rates

    def _with_given(self, seen: Array, args: Any) -> Array:
        values = args if isinstance(args, Mapping) else {}
        for name, _, _ in self.given:
            if name not in values:
                raise ValueError(
                    f"Hybrid's residual sees '{name}' of args, which has {', '.join(values) or 'nothing'}."
                )
        given = [(jnp.asarray(values[name], seen.dtype) - m) / s for name, m, s in self.given]
        return jnp.concatenate([seen, jnp.stack(given)]) if given else seen

    @property
    def state_names(self) -> tuple[str, ...] | None:
        """The names of the states, if the known field names them."""
        return state_names(self.known)

    def parameter_values(self) -> dict[str, Array]:
        """The current value of each named parameter of the known field, and of the residual if that has some."""
        return {**parameter_values(self.known), **parameter_values(self.residual)}

    def parameter_units(self) -> dict[str, str]:
        """The units of the parameters of the known field."""
        return parameter_units(self.known)

    def learned_term(self) -> LearnedTerm:
        """The correction. Another term is put in its place without a scale, which would say twice how large it is."""

        def put(term: Callable[..., Any]) -> "Hybrid":
            return eqx.tree_at(lambda field: (field.residual, field.scale), self, (term, 1.0))

        return LearnedTerm(self.correction, self.states, self.inputs, self.given, put)

    def residual_rates(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        """What the network adds to each state: `correction`, and zero for the states that it does not act on."""
        return self._corrected(residual_rates(self.known, t, y, args), t, y, args)

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        known = self.known(t, y, args)
        if not eqx.is_array(known) or known.shape != y.shape:
            raise ValueError(f"Hybrid's known field returned {known}, but the state is one array of shape {y.shape}.")
        return self._corrected(known, t, y, args)

    def _corrected(self, rates: Array, t: Any, y: Array, args: Any) -> Float[Array, " state"]:
        correction = self.correction(t, y, args)
        return rates + correction if self.states is None else rates.at[np.array(self.states)].add(correction)


def _indices(option: str, chosen: Sequence[int | str] | None, names: tuple[str, ...] | None) -> tuple[int, ...] | None:
    if chosen is None:
        return None
    indices = () if isinstance(chosen, str) else tuple(_index(option, each, names) for each in chosen)
    if not indices or len(set(indices)) != len(indices):
        raise ValueError(f"Hybrid needs {option} to be a list of distinct states, but got {option}={chosen!r}.")
    return indices


def _index(option: str, state: int | str, names: tuple[str, ...] | None) -> int:
    if isinstance(state, str):
        if names is None or state not in names:
            known = "has no names for its states" if names is None else f"has the states {names}"
            raise ValueError(f"Hybrid's {option} name the state {state!r}, but the known field {known}.")
        return names.index(state)
    if state < 0 or (names is not None and state >= len(names)):
        end = "on" if names is None else f"to {len(names) - 1}"
        raise ValueError(f"Hybrid's {option} name the state {state}, but the states are 0 {end}.")
    return int(state)
