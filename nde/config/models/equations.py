"""The field of `known`: a named system, a function or a module of one's own, with the parameters of the config."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from nde.config.own_code import first_line, OwnCode
from nde.config.parameters import ParameterConfig
from nde.fields import KnownField, Parameter, parameter_values, state_names, SYSTEMS
from nde.models import Observation


def named_system(name: str, table: Mapping[str, ParameterConfig]) -> KnownField:
    """A row of `nde.fields.SYSTEMS`, its parameters changed by those of the config.

    **Raises:** `ValueError` for a system or a parameter that there is not, or a start out of its bounds.
    """
    if name not in SYSTEMS:
        raise ValueError(
            f"there is no system known = '{name}'; the systems are {', '.join(SYSTEMS)}; write an equation of your own "
            "as known = 'FILE.py:NAME'"
        )
    system = SYSTEMS[name]()
    return KnownField(system.function, changed(name, system.parameters, table), states=system.states)


def own_system(code: OwnCode, table: Mapping[str, ParameterConfig], states: Sequence[str] | None) -> Any:
    """The field that a file or an object of the user's defines.

    A function `f(t, y, p)` becomes a `nde.fields.KnownField`, with the parameters of the config over those that the
    file has in `PARAMETERS`, names to numbers or to `nde.Parameter`s; its states are those given, else `STATES` of the
    file. A `KnownField` keeps its own, and takes changes. Any other Equinox module is a field `f(t, y, args)` as it is,
    whose arrays are learned.

    **Raises:** `ValueError` in one line for what is none of them, and for parameters that it does not have.
    """
    found = code.load()
    states = tuple(states or state_names(found) or code.constant("STATES") or ()) or None
    if isinstance(found, KnownField):
        return KnownField(found.function, changed(code.title, found.parameters, table), states=states)
    if isinstance(found, eqx.Module):
        if table:
            raise ValueError(f"{code.title} is an Equinox module with parameters of its own; leave out `parameters`")
        return found
    if isinstance(found, type) or not callable(found):
        raise ValueError(f"{code.title} must be a function f(t, y, p) or an Equinox module, but is {found!r}")
    of_file = {name: _parameter(name, each) for name, each in (code.constant("PARAMETERS") or {}).items()}
    own = {name: each.build(name, of_file.get(name)) for name, each in table.items()}
    return KnownField(found, {**of_file, **own}, states=states)


def changed(
    title: str, parameters: Mapping[str, Parameter], table: Mapping[str, ParameterConfig]
) -> dict[str, Parameter]:
    """Parameters of a field that has them, changed by those of the config.

    **Raises:** `ValueError` for one that it does not have.
    """
    unknown = sorted(set(table) - set(parameters))
    if unknown:
        known = ", ".join(parameters) or "none"
        raise ValueError(f"{title} has no parameter '{unknown[0]}'; its parameters are {known}")
    return {name: table[name].build(name, p) if name in table else p for name, p in parameters.items()}


class _Reading:
    """The `p` of a trial call: says what was read, and what can not be."""

    def __init__(self, values: Mapping[str, Any]):
        self.__dict__.update(_values=values, _read=set())

    def __getattr__(self, name: str) -> Any:
        if name not in self._values:
            raise _Unknown(name)
        self._read.add(name)
        return self._values[name]


class _Unknown(AttributeError):
    """A name that is no parameter; an `AttributeError`, so that `getattr(p, name, default)` works."""


def try_rates(code: OwnCode, field: Callable[..., Any], count: int, inputs: Sequence[str] = ()) -> set[str]:
    """Call a field of the user's once, on shapes alone, so that what is wrong with it is said in one line.

    **Arguments:** `count`: how many states there are; `inputs`: names that it may read beside its parameters.

    **Returns:** the names that it reads; all parameters, of a module that reads its own.

    **Raises:** `ValueError` for a parameter that is read and not there, for another number of rates than states, and
    for whatever the call raises.
    """
    values = {**parameter_values(field), **dict.fromkeys(inputs, jnp.ones(()))}
    if isinstance(field, KnownField):
        rates, read = _called(code, field.function, count, values)
    else:
        rates, read = _called(code, lambda t, y, p: field(t, y, None), count, values)[0], set(values)
    shape = (len(rates),) if isinstance(rates, list | tuple) else getattr(rates, "shape", None)
    if shape != (count,):
        what = f"{shape[0]} rates" if shape and len(shape) == 1 else f"{rates!r}"
        raise ValueError(f"{code.title} returned {what}, but the states are {count}: return a rate for each")
    return read


def try_observation(code: OwnCode, channels: Sequence[str], values: Mapping[str, Any], count: int) -> set[str]:
    """Call a user's function of what is observed once, as `try_rates` does a field.

    **Returns:** the names of the parameters that it reads.

    **Raises:** `ValueError` as that, and for other channels than those of the data.
    """
    function = code.load()
    if isinstance(function, type) or not callable(function):
        raise ValueError(f"{code.title} must be a function observe(t, y, p), but is {function!r}")
    return _called(code, Observation(function, tuple(channels)), count, values)[1]


def _called(code: OwnCode, function: Callable[..., Any], count: int, values: Mapping[str, Any]) -> tuple[Any, set[str]]:
    """The shapes that a function of the user's returns, and the names that it reads of `p`."""
    p, dtype = _Reading(values), jnp.result_type(float)
    t, y = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((count,), dtype)
    try:
        return eqx.filter_eval_shape(lambda t, y: function(t, y, p), t, y), p._read
    except _Unknown as error:
        raise ValueError(
            f"{code.title} reads p.{error}, but there is no parameter '{error}'; there are "
            f"{', '.join(values) or 'none'}: write parameters = {{ {error} = … }}"
        ) from None
    except Exception as error:
        said = str(error) if str(error).startswith("returned") else f"failed with {first_line(error)}"
        raise ValueError(f"{code.title} {said}") from error


def _parameter(name: str, given: Any) -> Parameter:
    return given if isinstance(given, Parameter) else Parameter(given, name=name)
