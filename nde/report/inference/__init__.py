"""What data say of the unknowns of a fitted model: intervals, identifiability, profiles, densities to sample from.

`nde.report.Posterior` puts it together. All of it acts on a `nde.report.LogDensity`, of named unknowns in
coordinates without bounds, and knows no model:

| | |
|---|---|
| `nde.report.maximise` | the maximum, by Levenberg-Marquardt, all or some of the unknowns free |
| `nde.report.laplace_intervals`, `nde.report.laplace_draws` | from the curvature at the maximum |
| `nde.report.profile`, `nde.report.plot_profile` | the likelihood with one unknown held elsewhere |
| `nde.report.identifiability` | which combinations of parameters the data determine, in words |
| `nde.report.Criteria` | AIC and BIC |
"""

from nde.report.inference.density import Curve as Curve, LogDensity as LogDensity
from nde.report.inference.information import (
    Direction as Direction,
    Identifiability as Identifiability,
    identifiability as identifiability,
)
from nde.report.inference.laplace import (
    covariance as covariance,
    Criteria as Criteria,
    effective_number as effective_number,
    Interval as Interval,
    laplace_draws as laplace_draws,
    laplace_intervals as laplace_intervals,
)
from nde.report.inference.maximum import maximise as maximise, Optimum as Optimum
from nde.report.inference.posterior import intervals_text as intervals_text, Posterior as Posterior
from nde.report.inference.profiles import plot_profile as plot_profile, Profile as Profile, profile as profile
