"""Individuals of one equation, with parameters that vary between them: `task = "population"`."""

from typing import Any, ClassVar, Literal

import pydantic
from pydantic import Field, PositiveInt

from nde.config.dynamics import DynamicsConfig, DynamicsData, DynamicsTrain
from nde.config.models import system_states
from nde.config.sections import Section
from nde.fields import parameter_values
from nde.objectives import LaplaceMarginal


class PopulationData(DynamicsData):
    """`[data]`: as of `task = "dynamics"`, whole individuals held out; with `folds = 1` none is, and scores are those
    of the individuals that were fitted. All others are fitted, but for a share `validation` that chooses the model."""

    folds: int = Field(default=5, ge=1)
    validation: float = Field(default=0.0, ge=0, lt=1)


class LaplaceConfig(Section):
    """`[objective]`: the marginal likelihood of each individual, its random effects integrated out.

    - `curvature`: `observed`, Laplace's approximation; `expected`, that of the model linearised in the effects, which
      is the first-order conditional estimate (FOCE): see `nde.objectives.LaplaceMarginal`.
    - `iterations`: of Newton's method, for the most probable effects of an individual.
    """

    name: Literal["laplace"] = "laplace"
    curvature: Literal["observed", "expected"] = "observed"
    iterations: PositiveInt = 15

    def build(self, values: int) -> LaplaceMarginal:
        """The objective, of a training on so many values."""
        return LaplaceMarginal(self.iterations, self.curvature, 1 / values)


class PopulationTrain(DynamicsTrain):
    """`[train]`: as of `task = "dynamics"`; all individuals are a batch by default, and L-BFGS may come after Adam."""

    batch_size: PositiveInt = 256


class PopulationEvaluate(Section):
    """`[evaluate]`: how held-out individuals are predicted, and what is said of the parameters.

    - `given`: how many of the first rows with a value of each held-out individual are given to predict the others.
    - `samples`: draws of its effects, and of its values around each.
    - `bins`, `repeats`: of the visual predictive check: bins of equally many rows, and simulated data sets.
    - `intervals`: whether intervals of all that is learned, which parameters the data determine, AIC and BIC are made,
      of probability `level`; it takes a minute, most of it of compilation. `profile`: parameters that are profiled too.
    """

    given: int = Field(default=0, ge=0)
    samples: int = Field(default=500, ge=20)
    bins: PositiveInt = 8
    repeats: int = Field(default=200, ge=20)
    intervals: bool = False
    level: float = Field(default=0.9, gt=0, lt=1)
    profile: tuple[str, ...] = ()


class PopulationConfig(DynamicsConfig):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A whole run of populations. What is left out has its default.

    `[data]` and `[observe]` are those of `task = "dynamics"`; whole individuals are held out, and each starts at
    `observe.known_start`.
    """

    task: Literal["population"] = "population"  # pyright: ignore[reportIncompatibleVariableOverride]
    data: PopulationData
    objective: LaplaceConfig = LaplaceConfig()  # pyright: ignore[reportIncompatibleVariableOverride]
    train: PopulationTrain = PopulationTrain()
    evaluate: PopulationEvaluate = PopulationEvaluate()  # pyright: ignore[reportIncompatibleVariableOverride]

    default_model: ClassVar[str] = "mixed"

    @pydantic.model_validator(mode="after")
    def _check_fit(self) -> "PopulationConfig":
        if self.data.test_after is not None:
            raise ValueError("data.test_after: of a population whole individuals are held out; leave it out")
        if self.observe.start != "known":
            raise ValueError("observe.start = 'known' and known_start say where the individuals of a population start")
        if self.observe.positive:
            raise ValueError("observe.positive: a population is solved in its own units; leave it out")
        if not self.regularise.is_empty:
            raise ValueError("[regularise]: a population has no penalties; leave it out")
        if self.train.polish and self.train.polish_method == "lm":
            raise ValueError(
                "train.polish_method = 'lm' needs a sum of squares, which a population has not; take lbfgs"
            )
        for section in self.model:
            self._check_random_inputs(section)
            solver = section.merged_solver(self.solver)
            if solver.rtol is not None or solver.atol is not None:
                raise ValueError(
                    "solver: third derivatives are taken of the solves of a population, which need fixed steps: give "
                    "solver.dt0 or steps_per_row, and no rtol and atol"
                )
        states = system_states(self.model)
        self._check_residual_inputs(states or self.observe.states)
        if states is not None and self.observe.states not in (None, states):
            raise ValueError(f"the states of the equation are {', '.join(states)}, but observe.states are others")
        return self

    def _check_random_inputs(self, section: Any) -> None:
        """Refuse a random input that is called like something else that a network or an equation reads."""
        taken = {
            "a state": section.named_states() or self.observe.states or (),
            "a constant or a covariate": self.data.inputs_format().names(),
            "a parameter": parameter_values(section.system()),
        }
        for name in section.random_inputs:
            for what, names in taken.items():
                if name in names:
                    raise ValueError(f"random_inputs: '{name}' is also the name of {what}; give it another")
