"""From a TOML file to the validated config of its task, and back."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import pydantic
import tomli_w

from nde.config.classify import ClassifyConfig
from nde.config.density import DensityConfig
from nde.config.dynamics import DynamicsConfig
from nde.config.forecast import ForecastConfig
from nde.config.generate import GenerateConfig
from nde.config.population import PopulationConfig
from nde.config.run import RunConfig, section_of
from nde.config.sections import Section

CONFIGS: dict[str, type[RunConfig]] = {
    "forecast": ForecastConfig,
    "classify": ClassifyConfig,
    "dynamics": DynamicsConfig,
    "population": PopulationConfig,
    "density": DensityConfig,
    "generate": GenerateConfig,
}

EARLIER = {
    "latent_sde": 'task = "forecast" with [[model]] name = "latent_sde" (see configs/latent_sde.toml)',
    "ode": 'task = "dynamics" with a [[model]] for each of model.methods, [observe] for what is seen of the states, '
    "[objective] for [fit] and [solver] for the tolerances (see configs/hybrid_pendulum.toml)",
    "cde_classifier": 'task = "classify" with [[model]] name = "neural_cde" and [[model]] name = "gru" (see '
    "configs/cde_motions.toml)",
    "cnf": 'task = "density" with [[model]] name = "flow" and data.dataset for data.density (see configs/cnf_2d.toml)',
}
"""What to write instead of the `kind` of an earlier nde."""


class ConfigError(ValueError):
    """A config that can not be used: one line naming the file, the key, and what would be right."""


def load_config(config: "str | Path | Mapping[str, Any] | RunConfig", overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's config, a TOML file or nested dictionaries, with `section.key=value` overrides on top.

    A config can name Python files, which are run: see `nde.config.own_code`.

    A value is read as TOML where it is TOML (`3`, `true`, `["a", "b"]`), else as a string. A key of a `[[model]]` is
    `model.key` where there is one, else `model.NAME.key` with its label, its name, or its place from zero; `model=NAME`
    leaves that one alone.

    **Raises:** `nde.config.ConfigError` for a file that is missing or no TOML, an unknown or missing key, a value
    of the wrong type.
    """
    if isinstance(config, RunConfig):
        tree, source = config.model_dump(exclude_none=True), "config"
    elif isinstance(config, Mapping):
        tree, source = _copied(config), "config"
    elif isinstance(config, str | Path):
        tree, source = _read(Path(config)), str(config)
    else:
        kind = type(config).__name__
        raise ConfigError(f"a config is a path, nested dictionaries or a validated config, but this is a {kind}.")
    for override in overrides:
        _override(tree, override, source)
    folder = Path(config).parent if isinstance(config, str | Path) else None
    return parse_config(tree, source=source, folder=folder)


def parse_config(tree: Mapping[str, Any], *, source: str = "config", folder: Path | None = None) -> RunConfig:
    """A validated config from nested dictionaries; `source` names it in messages, and `folder` is where it lies."""
    task = tree.get("task")
    if "kind" in tree or "kind" in (tree["model"] if isinstance(tree.get("model"), Mapping) else ()):
        kind = tree.get("kind", "latent_sde")
        instead = EARLIER.get(kind) if isinstance(kind, str) else None
        raise ConfigError(
            f"{source}: kind = {kind!r} is of an earlier nde; write {instead or f'task = one of {_named(CONFIGS)}'}."
        )
    config = CONFIGS.get(task) if isinstance(task, str) else None
    if config is None:
        found = "missing" if task is None else f"unknown task {task!r}"
        raise ConfigError(f"{source}: task: {found}; write task = one of {_named(CONFIGS)}.")
    models = _models(tree, source)
    try:
        places = ["model"] if len(models) == 1 else [f"model.{place}" for place in range(len(models))]
        read = [_read_model(config, place, one, folder) for place, one in zip(places, models, strict=True)]
        return config.model_validate({**tree, "model": tuple(read)}, context={"folder": folder})
    except pydantic.ValidationError as error:
        raise ConfigError(f"{source}: {_first_complaint(error, config)}") from None
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None


def save_config(config: RunConfig, path: Path) -> None:
    """Write a config as TOML, defaults spelled out."""
    path.write_text(tomli_w.dumps(config.model_dump(exclude_none=True)), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a run's .toml file.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file ({error}).") from None


def _copied(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list | tuple) else tree


def _read_model(config: type[RunConfig], place: str, given: Mapping[str, Any], folder: Path | None) -> Any:
    name = given.get("name", config.default_model)
    try:
        section = section_of(config.model_fields["task"].default, name)
    except ValueError as error:
        raise ValueError(f"{place}.name: {error}.") from None
    try:
        return section.model_validate({**given, "name": name}, context={"folder": folder})
    except pydantic.ValidationError as error:
        raise ValueError(_first_complaint(error, section, f"{place}.")) from None


def _override(tree: dict[str, Any], override: str, source: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override '{override}': write it as section.key=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if keys == ["model"]:
        tree["model"] = _chosen(_models(tree, source), [value] if isinstance(value, str) else value, override)
        return
    if keys[0] == "model":
        models = tree["model"] = _models(tree, source)
        tree, keys = _model_of(models, keys[1:], override)
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override '{override}': '{key}' is a value, not a section.")
    tree[keys[-1]] = value


def _model_of(models: list[dict[str, Any]], keys: list[str], override: str) -> tuple[dict[str, Any], list[str]]:
    """The `[[model]]` that an override is about, and the keys within it."""
    for count in range(1, len(keys)):  # a label may hold dots
        found = _called(models, ".".join(keys[:count]))
        if len(found) == 1:
            return found[0], keys[count:]
    if len(models) == 1:
        return models[0], keys
    raise ConfigError(f"override '{override}': say of which model, as model.NAME.{keys[-1]}=…; {_all_called(models)}.")


def _models(tree: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    models = tree.get("model", {})
    models = [models] if isinstance(models, Mapping) else models
    if not isinstance(models, list | tuple) or not models or not all(isinstance(one, Mapping) for one in models):
        raise ConfigError(f"{source}: model: write one or more [[model]], each with a name and its keys.")
    return [dict(one) for one in models]


def _called(models: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The `[[model]]` of this label or place; if there is none, all those of this name."""
    own = [model for place, model in enumerate(models) if name in (model.get("label"), str(place))]
    return own or [model for model in models if model.get("name") == name]


def _all_called(models: list[dict[str, Any]]) -> str:
    """What an override may call each of the `[[model]]`s."""
    known = [[model.get("label"), model.get("name")] for model in models]
    unique = [[name for name in names if name and len(_called(models, str(name))) == 1] for names in known]
    return f"they are {_named(names[0] if names else str(place) for place, names in enumerate(unique))}"


def _chosen(models: list[dict[str, Any]], names: Any, override: str) -> list[dict[str, Any]]:
    """Those of the `[[model]]`s that are named, by label, place or name, and for a name that none has one of \
    defaults."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"override '{override}': write it as model=NAME or model=['NAME', 'NAME'].")
    found = [_called(models, name) or [{"name": name}] for name in names]
    for name, those in zip(names, found, strict=True):
        if len(those) > 1:
            raise ConfigError(f"override '{override}': {len(those)} models are '{name}'; {_all_called(models)}.")
    return [those[0] for those in found]


def _named(names: Any) -> str:
    return ", ".join(names)


def _first_complaint(error: pydantic.ValidationError, config: type[Section], prefix: str = "") -> str:
    """The first thing wrong in a config, as one line."""
    details = error.errors()[0]
    places = [str(place) for place in details["loc"]]
    name = prefix + ".".join(places) if places else prefix.rstrip(".")
    if details["type"] == "extra_forbidden":
        known = _known_keys(config, places[:-1])
        return f"{name}: unknown key; the keys here are {_named(known)}."
    if details["type"] == "missing":
        return f"{name}: missing; set it in the file or as {name}=VALUE."
    message = details["msg"].removeprefix("Value error, ").rstrip(".")
    given = details["input"]
    said = isinstance(given, dict | Section) or (isinstance(given, str) and f"'{given}'" in message)
    where = f"{name}: " if name else ""
    return f"{where}{message}." if said else f"{where}{message}, but is {given!r}."


def _known_keys(config: type[Section], places: list[str]) -> list[str]:
    section: Any = config
    for place in places:
        if get_origin(section) is dict:  # whose keys are the user's
            section = get_args(section)[1]
            continue
        section = section.model_fields[place].annotation
        if not hasattr(section, "model_fields") and get_origin(section) is not dict:  # an optional section
            section = next(each for each in get_args(section) if hasattr(each, "model_fields"))
    return list(section.model_fields)
