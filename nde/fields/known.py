"""A right-hand side that is known, with parameters that are not."""

import keyword
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.parameter import Parameter


class ParameterValues:
    """The current values of named parameters, as attributes: what a known right-hand side is given as `p`."""

    def __init__(self, values: Mapping[str, Array]):
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Array:
        raise AttributeError(
            f"There is no parameter {name!r}; the known field's parameters and inputs are {sorted(vars(self))}."
        )


class KnownField(eqx.Module):
    r"""A known right-hand side with learnable, bounded parameters: $f(t, y; p)$.

    ```python
    def lotka_volterra(t, y, p):
        hare, lynx = y
        return jnp.stack([p.birth * hare - p.loss * hare * lynx, p.gain * hare * lynx - p.death * lynx])

    rates = {name: Parameter(0.5, lower=0, name=name) for name in ("birth", "loss", "gain", "death")}
    field = KnownField(lotka_volterra, rates, states=("hare", "lynx"))
    ```

    **Arguments of the constructor:**

    - `function`: `function(t, y, p)` that returns the rates, of the shape of `y` or, of an array, one number a state in
      a list or a tuple; it reads a parameter as `p.name`.
    - `parameters`: a `nde.fields.Parameter` for each name; one that is `fixed` stays as it is.
    - `states`: names of the entries of `y`, so that others can point at them by name; optional.

    **Call:** `field(t, y, args)`; returns the rates. Where `args` is a mapping of names to values, as of
    `nde.paths.Inputs`, the function reads these too, and one by a parameter's name stands for the parameter: what is
    known of one series. Other `args` are not used. `y` may be any pytree that `function` takes, and is one array of
    shape `(len(states),)` where the states have names.

    **Raises:** `ValueError` for names that cannot be attributes, a parameter that is no `Parameter`, states named
    twice, a state of another length than its names, or another number of rates than states; `AttributeError` when the
    function reads a parameter that does not exist, naming it and the known ones.
    """

    function: Callable[[Any, Any, Any], Any]
    parameters: dict[str, Parameter]
    states: tuple[str, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        function: Callable[[Any, Any, Any], Any],
        parameters: Mapping[str, Parameter],
        *,
        states: Sequence[str] | None = None,
    ):
        for name, parameter in parameters.items():
            if not isinstance(name, str) or not _is_attribute(name):
                raise ValueError(f"KnownField reads a parameter as p.name, so {name!r} cannot be a parameter's name.")
            if not isinstance(parameter, Parameter):
                raise ValueError(f"KnownField needs a Parameter for {name!r}, but got {parameter!r}.")
        if states is not None and (isinstance(states, str) or len(set(states)) != len(states)):
            raise ValueError(f"KnownField needs a name of its own for each state, but got states={states!r}.")
        self.function = function
        self.parameters = dict(parameters)
        self.states = None if states is None else tuple(states)

    @property
    def state_names(self) -> tuple[str, ...] | None:
        """The names of the states, if it was given any."""
        return self.states

    def parameter_values(self) -> dict[str, Float[Array, "..."]]:
        """The current value of each parameter, by name, in its own units."""
        return {name: parameter.value for name, parameter in self.parameters.items()}

    def parameter_units(self) -> dict[str, str]:
        """The units of the parameters that have one."""
        return {name: parameter.unit for name, parameter in self.parameters.items() if parameter.unit}

    def __call__(self, t: Any, y: Any, args: Any = None) -> Any:
        if self.states is not None and y.shape != (len(self.states),):
            raise ValueError(f"KnownField has the states {self.states}, but was given a state of shape {y.shape}.")
        given = args if isinstance(args, Mapping) else {}
        rates = self.function(t, y, ParameterValues({**self.parameter_values(), **given}))
        return _stacked(rates, y) if isinstance(rates, list | tuple) and eqx.is_array(y) else rates


def _stacked(rates: Sequence[Any], y: Array) -> Array:
    """Rates that were given one by one, as an array of the type of the state."""
    if len(rates) != len(y) or any(jnp.shape(rate) != () for rate in rates):
        shapes = [jnp.shape(rate) for rate in rates]
        raise ValueError(
            f"KnownField needs a number for each of {len(y)} states, but got rates of the shapes {shapes}."
        )
    return jnp.stack([jnp.asarray(rate, y.dtype) for rate in rates])


def _is_attribute(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("__")
