"""How the named systems are made."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nde.fields.known import KnownField
from nde.fields.parameter import Parameter


def positive_system(
    function: Callable[[Any, Any, Any], Any],
    states: Sequence[str],
    starts: Mapping[str, tuple[float, str]],
    *,
    others: Mapping[str, Parameter] | None = None,
) -> KnownField:
    """A known field whose parameters are positive: `starts` maps each to what it starts from, and its unit.

    `others` are parameters with bounds of their own.
    """
    made = {name: Parameter(start, lower=0.0, unit=unit, name=name) for name, (start, unit) in starts.items()}
    return KnownField(function, {**made, **(others or {})}, states=states)


def control(p: Any, name: str) -> Any:
    """A control that reaches the field by its `args`; zero where none is given."""
    return getattr(p, name, 0.0)
