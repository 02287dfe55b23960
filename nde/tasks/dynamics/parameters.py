"""What the data say of the parameters of fitted equations: intervals, identifiability, profiles, AIC and BIC."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from nde.config import DynamicsConfig
from nde.fields import named_parameters
from nde.models import ObservedODE, Population
from nde.report import Criteria, Identifiability, Interval, intervals_text, Posterior, Profile
from nde.tasks.base import OpenedRun, RunError
from nde.tasks.dynamics.posterior import network_size, posterior
from nde.tasks.dynamics.problem import DynamicsProblem

MOST_SHOWN = 12
STOPPED_SHORT = 1.0
"""From how many nats below the maximum a training is said to have stopped short of it."""


@dataclass(frozen=True)
class Found:
    """What is said of the parameters of one `[[model]]`, of its first member.

    - `label`: what it is called; `level`: the probability within intervals; `network`: how many weights it has.
    - `intervals`: of parameters, scales of noise and starts; `identifiability`, `criteria`; `profiles`, by name.
    - `gained`: by how many nats the maximum is above where the training ended.
    - `marginalised`: whether a network's weights are among the unknowns, or held as they were trained.
    """

    label: str
    level: float
    network: int
    intervals: Sequence[Interval]
    identifiability: Identifiability
    criteria: Criteria
    profiles: Mapping[str, Profile]
    gained: float
    marginalised: bool = False

    def notes(self) -> list[str]:
        """What it says, a line each."""
        share = f"{100 * self.level:g} %"
        weights = "marginalised" if self.marginalised else "held"
        held = f", the network's weights {weights}" if self.network else ""
        notes = [f"{self.label}, {share} by Laplace{held}: {_shown(self.intervals)}"]
        if self.gained > STOPPED_SHORT and not self.network:
            notes.append(
                f"{self.label}: the training stopped {self.gained:.2f} nats short of the maximum, around which these "
                "intervals are; train on for the models to be there too"
            )
        notes += [f"{self.label}: {sentence}" for sentence in self.identifiability.sentences()]
        if self.profiles:
            told = intervals_text([profile.interval for profile in self.profiles.values()])
            held = ", the network's weights held" if self.network else ""
            notes.append(f"{self.label}, {share} by profile{held}: {told}")
        return [*notes, f"{self.label}: {self.criteria.text()}"] if self._counted else notes

    @property
    def _counted(self) -> bool:
        """Whether the criteria count all that was fitted, which they do not if the weights of a network are held."""
        return self.marginalised or not self.network

    def summary(self) -> dict[str, Any]:
        """The same as numbers, for `results.json`."""
        return {
            "level": self.level,
            "laplace": [asdict(interval) for interval in self.intervals],
            "profile": [asdict(profile.interval) for profile in self.profiles.values()],
            "information": self.identifiability.spectrum.tolist(),
            "flat": [direction.weights for direction in self.identifiability.flat],
            "log_likelihood": self.criteria.log_likelihood,
            "free": self.criteria.free,
            "aic": self.criteria.aic if self._counted else None,
            "bic": self.criteria.bic if self._counted else None,
            "nats_short": self.gained,
        }


def _shown(intervals: Sequence[Interval]) -> str:
    left = len(intervals) - MOST_SHOWN
    return intervals_text(intervals[:MOST_SHOWN]) + (f" and {left} more" if left > 0 else "")


def asked_posteriors(
    run: OpenedRun, problem: DynamicsProblem, models: Mapping[str, Sequence[ObservedODE]]
) -> dict[str, Found]:
    """What `[evaluate]` asks of each `[[model]]` whose field has named parameters, by label.

    **Raises:** `RunError` for a profile of a parameter that no model has.
    """
    config: DynamicsConfig = run.config
    return found_of(config.evaluate, models, lambda model: posterior(config, problem, model))


class Asked(Protocol):
    """What `[evaluate]` says of parameters."""

    intervals: bool
    level: float
    profile: tuple[str, ...]


Fitted = TypeVar("Fitted", ObservedODE, Population)


def found_of(
    asked: Asked, models: Mapping[str, Sequence[Fitted]], posterior_of: Callable[[Fitted], Posterior]
) -> dict[str, Found]:
    """What is asked of the first member of each `[[model]]` whose field has named parameters, by label.

    **Arguments:** `posterior_of`: of a model, the density at its maximum.

    **Raises:** `RunError` for a profile of a parameter that no model has, or that is fixed.
    """
    named = {
        label: [name for name, parameter in named_parameters(members[0].ode.field).items() if not parameter.fixed]
        for label, members in models.items()
    }
    unknown = [name for name in asked.profile if not any(name in names for names in named.values())]
    if unknown:
        known = sorted({name for names in named.values() for name in names})
        raise RunError(
            f"evaluate.profile: no model has a parameter '{unknown[0]}'; the parameters are "
            f"{', '.join(known) or 'none'}."
        )
    if not (asked.intervals or asked.profile):
        return {}
    firsts = {label: models[label][0] for label, names in named.items() if names}
    return {label: _found(asked, label, posterior_of(one), network_size(one)) for label, one in firsts.items()}


def _found(asked: Asked, label: str, fitted: Posterior, network: int) -> Found:
    if not np.isfinite(float(fitted.optimum.curve.loss)):
        raise RunError(f"{label}: no intervals, for a series could not be solved; set evaluate.intervals = false.")
    level = asked.level
    names = [name for name in asked.profile if name in fitted.density.parameters]
    return Found(
        label=label,
        level=level,
        network=network,
        intervals=fitted.intervals(level=level),
        identifiability=fitted.identifiability(),
        criteria=fitted.criteria(),
        profiles={name: fitted.profile(name, level=level) for name in names},
        gained=fitted.gained,
        marginalised=bool(fitted.density.weights),
    )
