r"""Baselines for forecasting irregular, masked panels: the figures that a learned model has to beat.

A panel is three numpy arrays: `times (series, rows)`, sorted within a series and padded with its last time;
`values (series, rows, channels)`, standardised; `mask (series, rows, channels)`, true where a value was
observed. What `values` holds elsewhere is never used, and may be NaN. Every baseline takes its channels one
by one and has

- `fit(times, values, mask)`, by maximum likelihood;
- `predict(times, values, context)`, with `context (series, rows, channels)` true at the values that may be
  used: mean and standard deviation of the Gaussian law of an *observed* value, measurement noise included, at
  every row. At a row of the context that is the law of a second measurement at the same time.

`BASELINES` maps a name to its `fit`. Results are float64, whatever JAX is set to. `ValueError` is raised for
arrays whose shapes do not go together, a mask that is not boolean, times that decrease, values that are not
finite where the mask is true, and a channel without observed values.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from numpy.typing import ArrayLike

from nde.report.baselines.last_value import LastValue as LastValue
from nde.report.baselines.mixed_model import MixedModel as MixedModel
from nde.report.baselines.population import Population as Population
from nde.report.baselines.saved import (
    baseline_from_plain as baseline_from_plain,
    baseline_to_plain as baseline_to_plain,
)

Baseline = Population | LastValue | MixedModel
BASELINES: Mapping[str, Callable[[ArrayLike, ArrayLike, ArrayLike], Baseline]] = MappingProxyType(
    {
        "population": Population.fit,
        "last value": LastValue.fit,
        "mixed model": MixedModel.fit,
        "mixed model + OU": partial(MixedModel.fit, ou=True),
    }
)
