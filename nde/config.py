"""A run's TOML file, validated, and the objects that it stands for. Only this module turns names into objects."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import optax
import pydantic
import tomli_w
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nde.data import pbc_path, TableFormat
from nde.models import LatentSDE
from nde.objectives import ELBO, GaussianLikelihood, StudentTLikelihood
from nde.report import AbstractTask, Landmark, SecondHalf
from nde.train import adam_with_warmup, Schedule


class ConfigError(ValueError):
    """A config that can not be used: one line naming the file, the key, and what would be right."""


class _Section(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Section):
    """`[data]`: the table, what its columns are, and how its series are divided.

    Give either `dataset`, a table that ships with nde, or `path`, a `.csv` or `.parquet` file. `sha256` is written by
    `nde fit` and, where present, must be that of the file. Without a `time_scale` the longest series is made ten units
    of time long, which suits the rates that a model starts from.
    """

    dataset: Literal["pbc"] | None = None
    path: str | None = None
    id: str
    time: str
    channels: tuple[str, ...] | None = None
    channel: str | None = None
    value: str | None = None
    log: tuple[str, ...] = ()
    units: dict[str, str] = Field(default_factory=dict)
    time_scale: PositiveFloat | None = None
    time_unit: str | None = None
    min_observations: PositiveInt = 1
    fold: NonNegativeInt = 0
    folds: int = Field(default=5, ge=2)
    validation: float = Field(default=0.15, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    sha256: str | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either `dataset` or `path`, and not both")
        if (self.channel is None) != (self.value is None):
            raise ValueError("a long table needs both `channel` and `value`, a wide one neither")
        if self.fold >= self.folds:
            raise ValueError(f"fold must be below folds = {self.folds}, but is {self.fold}")
        return self

    def table_path(self) -> Path:
        """The file to read."""
        return pbc_path() if self.path is None else Path(self.path)

    def table_format(self) -> TableFormat:
        """How the file is laid out."""
        return TableFormat(
            id=self.id,
            time=self.time,
            channels=self.channels,
            channel=self.channel,
            value=self.value,
            time_scale=self.time_scale or 1.0,
            time_unit=self.time_unit or self.time,
            min_observations=self.min_observations,
        )


class ModelConfig(_Section):
    """`[model]`: the arguments of [`nde.models.LatentSDE`][], whose defaults hold for what is left out.

    `diffusion_scale = 0` turns the noise off. `horizon` defaults to the longest series, `dt0` to a hundredth of it.
    """

    kind: Literal["latent_sde"] = "latent_sde"
    state_size: PositiveInt = 10
    width: NonNegativeInt = 16
    depth: PositiveInt = 1
    control_width: PositiveInt = 32
    encoder_size: PositiveInt = 32
    diffusion_scale: float = Field(default=0.3, ge=0, lt=2)
    likelihood: Literal["student_t", "gaussian"] = "student_t"
    horizon: PositiveFloat | None = None
    dt0: PositiveFloat | None = None


class ObjectiveConfig(_Section):
    """`[objective]`: the ELBO of [`nde.objectives.ELBO`][], its contexts and the annealing of its KL terms."""

    samples: PositiveInt = 4
    predictive: float = Field(default=0.0, ge=0, le=1)
    whole: float = Field(default=0.3, ge=0, le=1)
    kl_weight: NonNegativeFloat = 1.0
    anneal_steps: NonNegativeInt = 300


class TrainConfig(_Section):
    """`[train]`: the loop and the optimiser. `members` models are trained one after another and forecast together."""

    steps: PositiveInt = 500
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 3e-3
    warmup: NonNegativeInt = 50
    weight_decay: NonNegativeFloat = 1e-4
    clip: PositiveFloat = 1.0
    members: PositiveInt = 1
    validate_every: PositiveInt = 50
    validation_samples: int = Field(default=100, ge=2)
    patience: NonNegativeInt = 0
    log_every: PositiveInt = 10


class EvaluateConfig(_Section):
    """`[evaluate]`: the task that held-out series are scored on, and with how many samples."""

    task: Literal["second_half", "landmark"] = "second_half"
    landmark_at: NonNegativeFloat = 2.0
    landmark_until: PositiveFloat = 5.0
    samples: int = Field(default=200, ge=2)


class RunConfig(_Section):
    """A whole run. What is left out has its default; `seed` decides the rest."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    data: DataConfig
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if self.evaluate.samples < self.train.members:
            members, samples = self.train.members, self.evaluate.samples
            raise ValueError(f"evaluate.samples must be at least train.members = {members}, but is {samples}")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's TOML file, with `section.key=value` overrides on top.

    A value is read as TOML where it is TOML (`3`, `true`, `["a", "b"]`), else as a string.

    **Raises:** [`nde.config.ConfigError`][] for a file that is missing or no TOML, an unknown or missing key, a value
    of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a run's .toml file.")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file ({error}).") from None
    for override in overrides:
        _override(tree, override)
    return parse_config(tree, source=str(path))


def parse_config(tree: dict[str, Any], *, source: str = "config") -> RunConfig:
    """A validated config from nested dictionaries; `source` names it in messages."""
    try:
        return RunConfig.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{source}: {_first_complaint(error)}") from None


def save_config(config: RunConfig, path: Path) -> None:
    """Write a config as TOML, defaults spelled out."""
    path.write_text(tomli_w.dumps(config.model_dump(exclude_none=True)), encoding="utf-8")


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override '{override}': write it as section.key=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override '{override}': '{key}' is a value, not a section.")
    tree[keys[-1]] = value


def _first_complaint(error: pydantic.ValidationError) -> str:
    """The first thing wrong in a config, as one line."""
    details = error.errors()[0]
    places = [str(place) for place in details["loc"]]
    name = ".".join(places) or "the whole"
    if details["type"] == "extra_forbidden":
        return f"{name}: unknown key; the keys here are {', '.join(_known_keys(places[:-1]))}."
    if details["type"] == "missing":
        return f"{name}: missing; set it in the file or as {name}=VALUE."
    message = details["msg"].removeprefix("Value error, ")
    given = details["input"]
    return f"{name}: {message}." if isinstance(given, dict) else f"{name}: {message}, but is {given!r}."


def _known_keys(places: list[str]) -> list[str]:
    section: Any = RunConfig
    for place in places:
        section = section.model_fields[place].annotation
    return list(section.model_fields)


# Names to objects.

LIKELIHOODS = {"student_t": StudentTLikelihood, "gaussian": GaussianLikelihood}


def build_model(config: ModelConfig, channels: int, *, horizon: float, key: jax.Array) -> LatentSDE:
    """The model of a config, for so many channels, solved at least up to `horizon` after a series' first row."""
    planned = horizon if config.horizon is None else config.horizon
    return LatentSDE(
        channels,
        config.state_size,
        width=config.width,
        depth=config.depth,
        control_width=config.control_width,
        encoder_size=config.encoder_size,
        diffusion_scale=config.diffusion_scale or None,
        likelihood=LIKELIHOODS[config.likelihood](channels),
        horizon=max(horizon, planned),
        dt0=planned / 100 if config.dt0 is None else config.dt0,
        key=key,
    )


def build_objective(config: ObjectiveConfig) -> ELBO:
    """The objective of a config."""
    return ELBO(samples=config.samples, predictive=config.predictive)


def build_optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """The optimiser of a config."""
    return adam_with_warmup(
        learning_rate=config.learning_rate,
        steps=config.steps,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        clip=config.clip,
    )


def build_schedule(config: TrainConfig) -> Schedule:
    """When the loop of a config validates and ends."""
    return Schedule(steps=config.steps, every=config.validate_every, patience=config.patience)


def build_task(config: EvaluateConfig) -> AbstractTask:
    """The task of a config."""
    if config.task == "landmark":
        return Landmark(at=config.landmark_at, until=config.landmark_until)
    return SecondHalf()
