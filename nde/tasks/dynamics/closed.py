"""The equations of what fitted models have learned, refitted to the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nde.config import ClosedFormConfig, DynamicsConfig
from nde.models import ObservedODE
from nde.report import ClosedForm, covariance, Stepwise, stepwise, term_form, with_term
from nde.tasks.base import RunError
from nde.tasks.dynamics.posterior import log_density, model_at, network_size
from nde.tasks.dynamics.problem import DynamicsProblem
from nde.tasks.dynamics.training import batched_inputs, first_states, trajectories
from nde.train import FailedExamples

POINTS = 100
"""How many states along a solution the regression sees."""

MOST_TERMS = (None, 1, 2)
"""How many terms a rate may have, of forms of networks; the choice of terms starts from those that are bounded."""


@dataclass(frozen=True, eq=False)
class Recovered:
    """The equation of what the members of one `[[model]]` have learned.

    - `label`: what the `[[model]]` is called.
    - `network`: the closed form of what the networks add, by sparse regression alone.
    - `form`: the one whose terms and coefficients the data chose, with standard errors by Laplace.
    - `model`: the model with it in the network's place, everything refitted; `choice`: the path to it.
    - `failure`: why it cannot be solved up to the last row, in words; `None` where it can.
    """

    label: str
    network: ClosedForm
    form: ClosedForm
    model: ObservedODE
    choice: Stepwise
    failure: str | None

    @property
    def title(self) -> str:
        """What the refitted model is called in tables and figures."""
        return f"{self.label}, closed form"

    def notes(self) -> list[str]:
        """The equation, a line each rate."""
        what = "added to the growth of" if self.model.positive else "added to"
        notes = self.form.equations(f"{self.title}, 90 % by Laplace: {what} ")
        if self.failure is not None:
            notes.append(f"{self.title}: not scored, for it cannot be solved up to the last row: {self.failure}")
        return notes

    def summary(self) -> dict[str, Any]:
        """The same as numbers, for `results.json`."""
        return {
            "terms": {name: self.form.terms(name) for name in self.form.outputs},
            "errors": {
                name: replace(self.form, coefficients=self.form.errors).terms(name) for name in self.form.outputs
            },
            "network": {name: self.network.terms(name) for name in self.network.outputs},
            "criterion": self.choice.criterion,
            "path": [list(step) for step in self.choice.path],
        }


def asked_closed_forms(
    config: DynamicsConfig, problem: DynamicsProblem, models: Mapping[str, Sequence[ObservedODE]]
) -> dict[str, Recovered]:
    """The closed form of each `[[model]]` that learns a term, by what the refitted model is called.

    **Raises:** `RunError` for a library that cannot be computed along a solution, or more candidates than values.
    """
    asked = config.evaluate.closed_form
    if asked is None:
        return {}
    learned = [label for label, members in models.items() if network_size(members[0])]
    try:
        found = [recover(config, problem, label, models[label], asked) for label in learned]
    except ValueError as error:
        raise RunError(f"evaluate.closed_form: {error}") from None
    return {each.title: each for each in found}


def recover(
    config: DynamicsConfig,
    problem: DynamicsProblem,
    label: str,
    members: Sequence[ObservedODE],
    asked: ClosedFormConfig,
) -> Recovered:
    """The closed form of what the members of a model have learned, from the first of them.

    **Raises:** `ValueError` as of `nde.report.closed_form` and `nde.report.stepwise`.
    """
    network, *sparser = _of_networks(config, problem, members, asked)
    size, values = network.coefficients.size, int(problem.fit.sum())
    if size > values:
        raise ValueError(f"{label}: {size} candidates are more than the {values} values; take a lower degree.")
    with jax.enable_x64(True):
        every = with_term(members[0], network, active=np.ones_like(network.active))
        density = log_density(config, problem, every)
        names = np.array([[f"{name} in {output}" for output in network.outputs] for name in network.library.names])
        starts = [dict(zip(names[form.active], form.coefficients[form.active], strict=True)) for form in sparser]
        choice = stepwise(density, names.ravel().tolist(), [{}, *starts], gamma=asked.gamma)
        position = choice.optimum.position
        spread = np.zeros(len(density.names))
        free = choice.active
        spread[free] = np.sqrt(np.diagonal(covariance(np.asarray(choice.optimum.curve.curvature)[np.ix_(free, free)])))
        place = np.array([[density.index(name) for name in row] for row in names.tolist()])
        form = replace(network, coefficients=np.asarray(position)[place], errors=spread[place])
        model = with_term(model_at(config, problem, every, position), form)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)) if eqx.is_inexact_array(x) else x, model)
    return Recovered(label, network, form, single, choice, _failure(config, problem, single))


def _failure(config: DynamicsConfig, problem: DynamicsProblem, model: ObservedODE) -> str | None:
    """Why a model cannot be solved to the last row of each series: an equation may run away where a network did not."""
    times, first = (
        jnp.asarray(x, jnp.result_type(float)) for x in (problem.panel.times, first_states(config, problem))
    )
    try:
        trajectories(model, times, first, problem.panel.ids, batched_inputs(config, problem))
    except FailedExamples as failure:
        return str(failure)
    return None


def _of_networks(
    config: DynamicsConfig, problem: DynamicsProblem, members: Sequence[ObservedODE], asked: ClosedFormConfig
) -> list[ClosedForm]:
    """Closed forms of what networks add along their solutions, as far as they were fitted; of `MOST_TERMS` each."""
    last = np.where(problem.fit.any(-1), problem.panel.times, problem.clock[:, None]).max(1)
    ts = jnp.asarray(np.linspace(problem.clock, last, POINTS, axis=1), jnp.result_type(float))
    first, inputs = jnp.asarray(first_states(config, problem), ts.dtype), batched_inputs(config, problem)
    rows = problem.series
    solved = [trajectories(model, ts, first, problem.panel.ids, inputs)[0][rows] for model in members]
    make = partial(
        term_form, members, ts[rows], solved, states=config.observe.states or (), make_library=asked.library,
        inputs=jax.tree.map(lambda x: x[rows], inputs), independent=int(problem.fit.sum()),
    )  # fmt: skip
    return [make(most_terms=most) for most in MOST_TERMS]
