"""ODEs of one or several series: `task = "dynamics"`."""

from typing import ClassVar, Literal

import optax
import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nde.config.closed_form import ClosedFormConfig
from nde.config.inputs import DosesConfig
from nde.config.models import HybridModel, KnownModel, system_states
from nde.config.observe import ObserveConfig
from nde.config.run import RunConfig
from nde.config.sections import Section, TrainConfig
from nde.config.table import TableData
from nde.data import InputsFormat
from nde.fields import has_prior
from nde.objectives import TrajectoryFit
from nde.train import then_lbfgs


class DynamicsData(TableData):
    """`[data]`: series, as of `nde.config.table.TableData`, and what of them is held out.

    With `test_after` all series are trained on up to that time, since their first row, and forecast after it; what lies
    in (`validate_after`, `test_after`] chooses the best model. Without it, whole series are held out, a fold of them,
    and `validation` is the share of the others that chooses.

    What is given to the series stands in the same table, and of doses perhaps in one of their own
    (`nde.data.InputsFormat`): `doses`, the columns of their amounts and whatever else there is; `constants`, columns
    with one value a series; `covariates`, columns that are read over time, each `held`, its `next` value or `linear`.
    With doses a series' clock starts at the earliest of its rows and doses, and `test_after` counts from there.

    ```toml
    constants = ["weight"]
    covariates = { creatinine = "linear" }
    doses = { amount = "amt", state = "gut", duration = "dur", additional = "addl", interval = "ii", steady = "ss" }
    ```
    """

    test_after: PositiveFloat | None = None
    validate_after: PositiveFloat | None = None
    doses: DosesConfig | None = None
    constants: tuple[str, ...] = ()
    covariates: dict[str, str] = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _check_times(self) -> "DynamicsData":
        if self.validate_after is not None and not self.validate_after < (self.test_after or 0.0):
            raise ValueError(f"validate_after = {self.validate_after:g} must lie before test_after = {self.test_after}")
        return self

    @pydantic.model_validator(mode="after")
    def _check_inputs(self) -> "DynamicsData":
        if self.inputs_format() and self.made() is not None:
            raise ValueError(f"the data set '{self.dataset}' is no table, which could have doses or covariates")
        return self

    def inputs_format(self) -> InputsFormat:
        """What is given to the series, and where it stands."""
        doses = None if self.doses is None else self.doses.dose_format()
        return InputsFormat(doses, self.constants, self.covariates)  # pyright: ignore[reportArgumentType]


class TrajectoryFitConfig(Section):
    """`[objective]`: how a solution is fitted to a long series (`nde.objectives.shooting`).

    - `shooting`: `single`; `multiple`, in `segments` that must meet: a continuity penalty in standard units of the
      state, whose weight grows from `continuity` to `continuity_end` over the training; or `growing`: the first share
      `first` of the span first, all of it after the share `grow` of the steps.
    - `residual_weight`: of the mean square of a hybrid's residual, in standard units.
    - `bootstrap`: whether each member weighs the rows by exponential weights of its own, so that the members differ by
      what the data leave open (Rubin, *The Bayesian bootstrap*, 1981).
    """

    name: Literal["trajectory_fit"] = "trajectory_fit"
    shooting: Literal["single", "multiple", "growing"] = "single"
    segments: PositiveInt = 4
    continuity: PositiveFloat = 1.0
    continuity_end: PositiveFloat = 100.0
    first: float = Field(default=0.2, gt=0, le=1)
    grow: float = Field(default=0.5, gt=0, le=1)
    residual_weight: NonNegativeFloat = 0.0
    bootstrap: bool = False

    def build(self, steps: int, values: int) -> TrajectoryFit:
        """The objective, of a training of so many steps on so many values."""
        return TrajectoryFit(
            shooting=self.shooting,
            continuity=self.continuity,
            continuity_end=self.continuity_end,
            steps=steps,
            first=self.first,
            grow_steps=max(1, round(self.grow * steps)),
            residual_weight=self.residual_weight,
            prior_weight=1 / values,
        )


class DynamicsTrain(TrainConfig):
    """`[train]`: the loop and the optimiser.

    After the `steps` of Adam come `polish` steps of another method on the same loss, of all series at once. They are
    steps like the others: validated, kept if best, and resumed. `polish_method` is `lbfgs`, with a line search
    (`nde.train.then_lbfgs`); or `lm`, Levenberg–Marquardt (`nde.train.then_least_squares`), for normal noise without
    limits and a loss that is the likelihood alone, in each step of which a problem of least squares is solved: some
    five are enough.
    """

    learning_rate: PositiveFloat = 1e-2
    weight_decay: NonNegativeFloat = 0.0
    polish: NonNegativeInt = 0
    polish_method: Literal["lbfgs", "lm"] = "lbfgs"

    @pydantic.model_validator(mode="after")
    def _check_polish(self) -> "DynamicsTrain":
        for key, off in (("patience", 0), ("ema", None)):
            if self.polish and getattr(self, key) != off:
                raise ValueError(f"polish = {self.polish} does not go with {key} = {getattr(self, key):g}")
        if self.polish and self.polish_method == "lm" and not (self.devices == self.accumulate == 1):
            raise ValueError(
                f"polish_method = 'lm' holds all residuals on one device; it does not go with devices = {self.devices} "
                f"and accumulate = {self.accumulate}"
            )
        return self

    @property
    def all_steps(self) -> int:
        return self.steps + self.polish

    def optimiser(self) -> optax.GradientTransformation:
        adam = super().optimiser()
        return then_lbfgs(adam, after=self.steps) if self.polish and self.polish_method == "lbfgs" else adam


class DynamicsEvaluate(Section):
    """`[evaluate]`: draws of a forecast, for its intervals, over all members; and what is said of the parameters.

    - `intervals`: whether intervals of the parameters of known systems, of probability `level`, which combinations of
      them the data determine, AIC and BIC are made; it takes 10 to 30 seconds, most of them of compilation.
    - `profile`: parameters whose profile likelihoods are made and drawn too.
    - `closed_form`: a table of candidates for the equation of what a model has learned, which is refitted to the data
      and scored as a model of its own: `nde.config.closed_form.ClosedFormConfig`.
    """

    samples: int = Field(default=2000, ge=20)
    intervals: bool = False
    level: float = Field(default=0.9, gt=0, lt=1)
    profile: tuple[str, ...] = ()
    closed_form: ClosedFormConfig | None = None


class DynamicsConfig(RunConfig):
    """A whole run of ODE models. What is left out has its default."""

    task: Literal["dynamics"] = "dynamics"
    data: DynamicsData
    observe: ObserveConfig = ObserveConfig()
    objective: TrajectoryFitConfig = TrajectoryFitConfig()
    train: DynamicsTrain = DynamicsTrain()
    evaluate: DynamicsEvaluate = DynamicsEvaluate()

    default_model: ClassVar[str] = "neural_ode"

    @pydantic.model_validator(mode="after")
    def _check_fit(self) -> "DynamicsConfig":
        shooting, start = self.objective.shooting, self.observe.start
        if shooting == "multiple" and start != "learned":
            raise ValueError(f"objective.shooting = 'multiple' learns starts, but observe.start is '{start}'")
        if start == "learned" and self.data.test_after is None:
            raise ValueError("observe.start = 'learned' forecasts the series that it is fitted to: set data.test_after")
        if shooting != "single" and not self.regularise.is_empty:
            raise ValueError(f"[regularise] needs objective.shooting = 'single', but it is '{shooting}'")
        if self.observe.positive and self.data.doses is not None:
            raise ValueError(
                "observe.positive solves for logarithms, which a dose does not move by its amount, nor from zero: "
                "leave it out with data.doses"
            )
        for section in self.model:
            varied = [name for name, each in getattr(section, "parameters", {}).items() if each.random is not None]
            if varied:
                raise ValueError(
                    f"parameters.{varied[0]}.random: parameters vary between individuals in task = 'population' with "
                    "[[model]] name = 'mixed'"
                )
        states = system_states(self.model)
        self._check_least_squares()
        self._check_steps()
        self._check_residual_inputs(states or self.observe.states)
        if states is not None and self.observe.states not in (None, states):
            raise ValueError(
                f"the states of the known system are {', '.join(states)}, but observe.states are "
                f"{', '.join(self.observe.states or ())}"
            )
        return self

    def _check_residual_inputs(self, states: tuple[str, ...] | None) -> None:
        """Refuse a network that is to see what is neither a state nor an input, where the states have names."""
        for section in self.model:
            inputs = (*self.data.inputs_format().names(), *getattr(section, "random_inputs", ()))
            for name in (isinstance(section, HybridModel) and states and section.residual_inputs) or ():
                if states and name not in (*states, *inputs):
                    also = f" and the inputs {', '.join(inputs)}" if inputs else ""
                    raise ValueError(
                        f"residual_inputs names the state '{name}', but the states are {', '.join(states)}{also}"
                    )

    def _check_least_squares(self) -> None:
        """Refuse Levenberg–Marquardt where the loss is no sum of squares."""
        if not (self.train.polish and self.train.polish_method == "lm"):
            return
        observe, objective = self.observe, self.objective
        noises = {observe.noise} if isinstance(observe.noise, str) else set(observe.noise.values())
        other = noises - {"normal", "additive"} if not observe.log_noise else set()
        priors = any(isinstance(section, KnownModel) and has_prior(section.system()) for section in self.model)
        parts = {
            f"noise = '{next(iter(other), '')}'": other,
            "limits of quantification": observe.below or observe.above,
            "objective.shooting = 'multiple'": objective.shooting == "multiple",
            "objective.residual_weight": objective.residual_weight,
            "[regularise]": not self.regularise.is_empty,
            "a prior": priors,
        }
        for name, there in parts.items():
            if there:
                raise ValueError(
                    f"train.polish_method = 'lm' needs a sum of squares, which {name} is not; take 'lbfgs'"
                )

    def _check_steps(self) -> None:
        """Refuse steps that need what is given to the series where nothing is, and resets by others."""
        given, doses = bool(self.data.inputs_format()), self.data.doses
        for section in self.model:
            solver = section.merged_solver(self.solver)
            if solver.steps_per_row and not given:
                raise ValueError(f"solver.steps_per_row: no series drives a model '{section.name}'; give it a step dt0")
            if doses is not None and doses.reset is not None and not solver.is_fixed:
                raise ValueError(
                    "data.doses.reset needs solver.steps_per_row or dt0: with tolerances a dose can only add to a state"
                )
