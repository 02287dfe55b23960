"""The neural CDE by log-ODE steps: `name = "log_ncde"`."""

import math
from typing import ClassVar, Literal

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray
from pydantic import model_validator, PositiveFloat, PositiveInt

from nde.config.models.base import ModelSection, SeriesFacts
from nde.config.numerics import build_numerics, SolverConfig
from nde.fields import CDEField, PathScaledField
from nde.models import LogNCDE
from nde.paths import RowWindows, TimeWindows


class LogNCDEModel(ModelSection):
    """A `nde.models.LogNCDE` of `state_size` states, whose field's hidden layers have `width` and `depth`.

    A window of `window` rows, or of `interval` units of time, is crossed in `steps_per_window` by its log-signature of
    `signature_depth`. Of `[solver]` it takes the name and the adjoint: its steps are those.
    """

    name: Literal["log_ncde"] = "log_ncde"
    state_size: PositiveInt = 16
    width: PositiveInt = 32
    depth: PositiveInt = 1
    signature_depth: Literal[1, 2, 3] = 2
    window: PositiveInt | None = None
    interval: PositiveFloat | None = None
    steps_per_window: PositiveInt = 1
    interpolation: Literal["linear", "rectilinear"] = "linear"

    title: ClassVar[str] = "Log-NCDE"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="heun")

    reads_rows: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check_window(self) -> "LogNCDEModel":
        if (self.window is None) == (self.interval is None):
            raise ValueError("log_ncde needs window, in rows, or interval, in units of time, and not both")
        return self

    def remedies(self, common: SolverConfig) -> list[str]:
        return [f"raise steps_per_window (now {self.steps_per_window})", "shorten its windows"]

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> LogNCDE:
        initial_key, field_key, readout_key = jax.random.split(key, 3)
        path_size = 1 + 2 * facts.channels
        scales = [1 / facts.horizon, *[1.0] * facts.channels, *[1 / facts.observations] * facts.channels]
        found = self.merged_solver(common)
        solver = SolverConfig(name=found.name, adjoint=found.adjoint, dt0=1 / self.steps_per_window)
        if self.window is not None:
            windows = RowWindows(self.window)
        else:
            assert self.interval is not None
            windows = TimeWindows(self.interval, math.ceil(facts.until / self.interval))
        return LogNCDE(
            eqx.nn.MLP(path_size, self.state_size, self.width, 1, key=initial_key),
            PathScaledField(CDEField(self.state_size, path_size, self.width, self.depth, key=field_key), scales),
            eqx.nn.Linear(self.state_size, facts.classes, key=readout_key),
            windows=windows,
            depth=self.signature_depth,
            interpolation=self.interpolation,
            scaled=False,  # the field is
            numerics=build_numerics(solver),
        )
