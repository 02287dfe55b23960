"""From a TOML file to the validated config of its kind, and back."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import tomli_w

from nde.config.cde_classifier import CDEClassifierConfig
from nde.config.cnf import CNFConfig
from nde.config.latent_sde import LatentSDEConfig
from nde.config.ode import ODEConfig
from nde.config.sections import RunConfig

CONFIGS: dict[str, type[RunConfig]] = {
    "latent_sde": LatentSDEConfig,
    "ode": ODEConfig,
    "cde_classifier": CDEClassifierConfig,
    "cnf": CNFConfig,
}
DEFAULT_KIND = "latent_sde"


class ConfigError(ValueError):
    """A config that can not be used: one line naming the file, the key, and what would be right."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's TOML file, with `section.key=value` overrides on top.

    A value is read as TOML where it is TOML (`3`, `true`, `["a", "b"]`), else as a string.

    **Raises:** `nde.config.ConfigError` for a file that is missing or no TOML, an unknown or missing key, a value
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
    kind = tree.get("kind", DEFAULT_KIND)
    config = CONFIGS.get(kind) if isinstance(kind, str) else None
    if config is None:
        raise ConfigError(f"{source}: kind: unknown kind {kind!r}; the kinds are {', '.join(CONFIGS)}.")
    try:
        return config.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{source}: {_first_complaint(error, config)}") from None


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


def _first_complaint(error: pydantic.ValidationError, config: type[RunConfig]) -> str:
    """The first thing wrong in a config, as one line."""
    details = error.errors()[0]
    places = [str(place) for place in details["loc"]]
    name = ".".join(places) or "the whole"
    if details["type"] == "extra_forbidden":
        return f"{name}: unknown key; the keys here are {', '.join(_known_keys(config, places[:-1]))}."
    if details["type"] == "missing":
        return f"{name}: missing; set it in the file or as {name}=VALUE."
    message = details["msg"].removeprefix("Value error, ")
    given = details["input"]
    return f"{name}: {message}." if isinstance(given, dict) else f"{name}: {message}, but is {given!r}."


def _known_keys(config: type[RunConfig], places: list[str]) -> list[str]:
    section: Any = config
    for place in places:
        section = section.model_fields[place].annotation
    return list(section.model_fields)
