"""The neural CDE: `name = "neural_cde"`."""

from typing import ClassVar, Literal

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray
from pydantic import PositiveInt

from nde.config.models.base import fixed_numerics, ModelSection, SeriesFacts
from nde.config.numerics import SolverConfig
from nde.fields import CDEField, PathScaledField
from nde.models import NeuralCDE
from nde.paths import Interpolation


class NeuralCDEModel(ModelSection):
    """A `nde.models.NeuralCDE` of `state_size` states, whose field's hidden layers have `width` and `depth`.

    Over the longest series the clock and each count of observations run to about one, and the values stay as they are.
    `interpolation` is what the path does between two observations: `nde.paths.series_path` has the four.
    Its steps are fixed: `solver.dt0` is a hundredth of the longest series, if left out, and `solver.steps_per_row`
    takes them from row to row.
    """

    name: Literal["neural_cde"] = "neural_cde"
    state_size: PositiveInt = 16
    width: PositiveInt = 32
    depth: PositiveInt = 1
    interpolation: Interpolation = "hermite"

    title: ClassVar[str] = "neural CDE"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="heun")
    reads_rows: ClassVar[bool] = True

    def penalties(self, common: SolverConfig) -> list[str]:
        if self.merged_solver(common).steps_per_row is not None:
            return []  # they integrate over time
        served = list(super().penalties(common) or ())
        # Tsit5 has two stages at the end of a step, which the estimate of stiffness compares.
        return [*served, "stiffness"] if self.merged_solver(common).name == "tsit5" else served

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> NeuralCDE:
        default = self.default_solver.model_copy(update={"dt0": facts.horizon / 100})
        numerics = fixed_numerics(self.merged_solver(common, default), facts.until)
        initial_key, field_key, readout_key = jax.random.split(key, 3)
        path_size = 1 + 2 * facts.channels
        scales = [1 / facts.horizon, *[1.0] * facts.channels, *[1 / facts.observations] * facts.channels]
        return NeuralCDE(
            eqx.nn.MLP(path_size, self.state_size, self.width, 1, key=initial_key),
            PathScaledField(CDEField(self.state_size, path_size, self.width, self.depth, key=field_key), scales),
            eqx.nn.Linear(self.state_size, facts.classes, key=readout_key),
            numerics=numerics,
            interpolation=self.interpolation,
            scaled=False,  # the field is
        )
