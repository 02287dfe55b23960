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
from nde.fields import parameter_values
from nde.models import ObservedODE
from nde.report import ClosedForm, covariance, Stepwise, stepwise, term_form, with_term
from nde.tasks.base import RunError
from nde.tasks.dynamics.posterior import log_density, model_at
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
        part = "added to the" if parameter_values(self.model.ode.field) else "the"
        what = f"{part} rate of growth of" if self.model.positive else f"{part} rate of"
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

    **Raises:** `RunError` for a library that cannot be computed along a solution, more candidates than values, or a
    run of which no model learns a term.
    """
    asked = config.evaluate.closed_form
    if asked is None:
        return {}
    learned = [section.called() for section in config.model if getattr(section, "learns_term", False)]
    if not learned:
        raise RunError("evaluate.closed_form: no [[model]] learns a term; hybrid and neural_ode do.")
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
    rows = np.flatnonzero((problem.fit | problem.test).any((1, 2)))
    arrays = (problem.panel.times, first_states(config, problem))
    times, first = (jnp.asarray(x[rows], jnp.result_type(float)) for x in arrays)
    inputs = jax.tree.map(lambda x: x[rows], batched_inputs(config, problem))
    model = model if model.starts is None else eqx.tree_at(lambda m: m.starts, model, model.starts[rows])
    try:
        trajectories(model, times, first, [problem.panel.ids[i] for i in rows], inputs)
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
    # of series that are fitted; another may be one that can not be solved
    every = [trajectories(model, ts, first, problem.panel.ids, inputs, leave_out=True)[0] for model in members]
    rows = rows[np.all([np.isfinite(np.asarray(ys)[rows]).all((1, 2)) for ys in every], axis=0)]
    solved = [ys[rows] for ys in every]
    make = partial(
        term_form, members, ts[rows], solved, states=config.observe.states or (), make_library=asked.library,
        inputs=jax.tree.map(lambda x: x[rows], inputs), independent=int(problem.fit.sum()),
    )  # fmt: skip
    return [make(most_terms=most) for most in MOST_TERMS]
