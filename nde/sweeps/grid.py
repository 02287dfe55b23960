"""What a sweep varies: a TOML file, validated against the config that it is of."""

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import tomli_w
from pydantic import Field, NonNegativeInt, PositiveInt

from nde.config import ConfigError, load_config, RunConfig, Section

SEED = "seed"
MOST_CHECKED = 200


class SweepConfig(Section):
    """`[sweep]` of a grid.

    - `sampler`: `tpe`, a tree-structured Parzen estimator, which learns from the settings that are done; `random`; or
      `grid`, all combinations of lists, in order. Left out it is `grid` where all keys are lists, else `tpe`.
    - `pruner`: `median` ends a setting whose best score so far is above the median of the finished ones at its step;
      `hyperband` keeps a third at each of several rungs; `none`.
    - `startup`: so many settings are finished before the median ends one; `warmup`: and so many steps are let be.
    - `trials`: how many settings; all of a grid, else twenty, if left out. `--trials` goes over it.
    - `seeds`: how many seeds, from zero on, train each setting, or a list of them; if left out the config's own.
    - `seed`: of the sampler.
    """

    sampler: Literal["tpe", "random", "grid"] | None = None
    pruner: Literal["median", "hyperband", "none"] = "median"
    startup: PositiveInt = 5
    warmup: NonNegativeInt = 0
    trials: PositiveInt | None = None
    seeds: int | tuple[int, ...] | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)

    @pydantic.field_validator("seeds", mode="before")
    @classmethod
    def _check_seeds(cls, value: Any) -> Any:
        listed = value if isinstance(value, list | tuple) else [value]
        least = 0 if listed is value else 1
        if not listed or any(type(x) is not int or not least <= x < 2**31 for x in listed):
            raise ValueError(f"write how many, as seeds = 3, or which, as seeds = [0, 7], but it is {value!r}")
        if len(set(listed)) < len(listed):
            raise ValueError(f"a seed stands there twice in {value!r}")
        return value


class Between(Section):
    """A range, ends included: `{low = 1e-4, high = 1e-2, log = true}`; whole numbers with a whole `step`."""

    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Between":
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must lie below high = {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log = true needs low above zero, but it is {self.low:g}")
        if self.log and self.step not in (None, 1):
            raise ValueError("log = true goes with step = 1, for whole numbers, and no other")
        if self.is_whole and not float(self.low).is_integer():
            raise ValueError(f"with a whole step = {self.step:g} low must be whole too, but it is {self.low:g}")
        count = 0.0 if self.step is None else (self.high - self.low) / self.step
        if abs(count - round(count)) > 1e-6:
            wide = f"{self.high - self.low:g}"
            raise ValueError(f"step = {self.step:g} must go a whole number of times into high - low = {wide}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.step is not None and float(self.step).is_integer()

    def values(self) -> range:
        """Those of one of whole numbers."""
        return range(int(self.low), int(self.high) + 1, int(self.step or 1))

    def tried(self) -> list[str]:
        """Its two ends, and of one that is not whole something between, as TOML."""
        if self.is_whole:
            return [as_toml(int(x)) for x in (self.low, self.high)]
        return [as_toml(x) for x in (self.low, 0.618 * self.low + 0.382 * self.high, self.high)]


class Grid(pydantic.BaseModel):
    """What a sweep varies.

    - `choices`: the values of each key that has a list, as TOML; `ranges`: those that lie between two ends.
    - `seeds`: each setting is trained once by each; a single `None`, the config's own, if `[sweep]` has none.
    - `settings`: `[sweep]`.
    - `source`: what messages call it.
    """

    choices: dict[str, list[str]]
    ranges: dict[str, Between]
    seeds: tuple[int | None, ...]
    settings: SweepConfig
    source: str

    @property
    def keys(self) -> list[str]:
        """What is varied, seeds aside."""
        return [*self.choices, *self.ranges]

    @property
    def sampler(self) -> str:
        """By which sampler."""
        return self.settings.sampler or ("tpe" if self.ranges else "grid")

    @property
    def size(self) -> int | None:
        """How many settings there are; `None` where a key has a range that is not of whole numbers."""
        if not all(each.is_whole for each in self.ranges.values()):
            return None
        return math.prod(map(len, self._values()))

    def combinations(self) -> Iterator[dict[str, Any]]:
        """All combinations of the lists and of ranges of whole numbers, the last key's values first."""
        for values in itertools.product(*self._values()):
            yield dict(zip(self.keys, values, strict=True))

    def _values(self) -> list[Sequence[Any]]:
        return [*self.choices.values(), *(each.values() for each in self.ranges.values())]

    def trials(self, asked: int | None) -> int:
        """How many settings are tried, where so many are asked for."""
        wanted = asked or self.settings.trials or (20 if self.ranges else self.size) or 20
        return min(wanted, self.size or wanted)


def read_grid(grid: "str | Path | Mapping[str, Any]") -> Grid:
    """Read a grid: a TOML file, or a dictionary of the same keys.

    ```toml
    [grid]
    "train.learning_rate" = {low = 1e-4, high = 1e-2, log = true}
    "model.width" = [16, 32, 64]
    [sweep]
    pruner = "median"
    seeds = 3
    ```

    **Raises:** `nde.config.ConfigError` in one line for what is no grid.
    """
    source = "grid" if isinstance(grid, Mapping) else str(grid)
    tree = dict(grid) if isinstance(grid, Mapping) else _read(Path(grid))
    if unknown := [name for name in tree if name not in ("grid", "sweep")]:
        raise ConfigError(f"{source}: {unknown[0]}: a grid's sections are [grid], for what varies, and [sweep].")
    varied, given = (_table(tree.get(name, {}), source, name) for name in ("grid", "sweep"))
    settings = _section(SweepConfig, given, source, "sweep")
    seeds = settings.seeds
    seeds = (None,) if seeds is None else tuple(range(seeds)) if isinstance(seeds, int) else seeds
    if SEED in varied:
        raise ConfigError(f"{source}: grid.seed: a setting is judged over seeds; write seeds = 3 in [sweep].")
    choices, ranges = {}, {}
    for key, value in _flat(varied):
        if isinstance(value, Mapping):
            ranges[key] = _section(Between, value, source, key)
        else:
            choices[key] = _texts(value, source, key)
    if not choices and not ranges and len(seeds) == 1:
        raise ConfigError(f'{source}: nothing varies; write a key of the config in [grid], "model.width" = [16, 32].')
    if settings.sampler == "grid" and ranges:
        key = next(iter(ranges))
        raise ConfigError(f"{source}: {key}: sampler = 'grid' needs a list of values; or take 'random' or 'tpe'.")
    return Grid(choices=choices, ranges=ranges, seeds=seeds, settings=settings, source=source)


def check_grid(grid: Grid, config: Any, overrides: Sequence[str]) -> RunConfig:
    """Try what the grid would make of a config: all combinations of its values, of ranges their ends and a
    value between, or, if they are more than two hundred, each beside the first ones of the others.

    **Returns:** the config of the first of them.

    **Raises:** `nde.config.ConfigError` for the first that is refused.
    """
    values = {**grid.choices, **{key: each.tried() for key, each in grid.ranges.items()}}
    count = 1
    for each in values.values():
        count *= len(each)
    if count <= MOST_CHECKED:
        tried = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    else:
        first = {key: each[0] for key, each in values.items()}
        tried = [{**first, key: value} for key, each in values.items() for value in each]
    found = []
    for setting in tried:
        try:
            found.append(load_config(config, [*overrides, *as_overrides(setting)]))
        except ConfigError as error:
            whole = "; of whole numbers write step = 1" if "valid integer" in str(error) and grid.ranges else ""
            said = str(error).rstrip(".")
            raise ConfigError(f"{grid.source}: with {' '.join(as_overrides(setting))}: {said}{whole}.") from None
    for seed in grid.seeds:
        load_config(config, [*overrides, *([] if seed is None else [f"seed={seed}"])])
    return found[0]


def as_overrides(setting: Mapping[str, str]) -> list[str]:
    """A setting as `section.key=value`."""
    return [f"{key}={value}" for key, value in setting.items()]


def as_toml(value: Any) -> str:
    """A value as TOML, in one line."""
    return " ".join(tomli_w.dumps({"v": value}).removeprefix("v = ").split())


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a grid's .toml file.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file ({error}).") from None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values; sections may be tables too, `[train]` with `learning_rate = […]`."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value and all(isinstance(x, Mapping | list) for x in value.values()):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _texts(value: Any, source: str, key: str) -> list[str]:
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(f"{source}: {key}: write a list of values, or {{low = …, high = …}}, but it is {value!r}.")
    found = [as_toml(each) for each in value]
    if len(set(found)) < len(found):
        raise ConfigError(f"{source}: {key}: a value stands there twice.")
    return found


def _table(given: Any, source: str, name: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{source}: {name}: write it as a section, [{name}], with a key a line.")
    return given


def _section(section: Any, given: Any, source: str, place: str) -> Any:
    try:
        return section.model_validate(given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join([place, *map(str, first["loc"])])
        if first["type"] == "extra_forbidden":
            known = ", ".join(section.model_fields)
            raise ConfigError(f"{source}: {name}: unknown key; the keys here are {known}.") from None
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise ConfigError(f"{source}: {name}: {message}.") from None
