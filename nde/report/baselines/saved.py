"""Baselines as plain lists and numbers, for a JSON file, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from nde.report.baselines.last_value import LastValue
from nde.report.baselines.mixed_model import MixedModel
from nde.report.baselines.population import Curve, Population


def baseline_to_plain(baseline: Population | LastValue | MixedModel) -> dict[str, Any]:
    """What JSON can hold of a fitted baseline: the name of its class and its parameters, to the last bit."""
    return {"class": type(baseline).__name__, **_plain(dataclasses.asdict(baseline))}


def baseline_from_plain(plain: Mapping[str, Any]) -> Population | LastValue | MixedModel:
    """The baseline that `nde.report.baselines.baseline_to_plain` wrote.

    **Raises:** `ValueError` for a class that is no baseline, or parameters that are not its own.
    """
    fields = dict(plain)
    name = fields.pop("class", None)
    if name not in READERS:
        raise ValueError(f"'{name}' is no baseline; the baselines are {', '.join(READERS)}")
    try:
        return READERS[name](fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"these are not the parameters of {name}: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _population(fields: Mapping[str, Any]) -> Population:
    return Population(tuple(Curve(**_arrays(curve)) for curve in fields["curves"]))


def _last_value(fields: Mapping[str, Any]) -> LastValue:
    numbers = {name: value for name, value in fields.items() if name != "population"}
    return LastValue(**_arrays(numbers), population=_population(fields["population"]))


def _mixed_model(fields: Mapping[str, Any]) -> MixedModel:
    return MixedModel(**_arrays(fields))


def _arrays(fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float64) for name, value in fields.items()}


READERS = {"Population": _population, "LastValue": _last_value, "MixedModel": _mixed_model}
