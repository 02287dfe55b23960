"""What a data set is, to a config that names it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Shape = Literal["series", "labelled", "points"]


@dataclass(frozen=True)
class Dataset:
    """A data set that a config names by `[data] dataset = "…"`.

    - `load`: `load(seed=0, size=None)` of one that is `made`, where `size` is the number of series or points, else
      `load()`.
    - `shape`: what that returns: `series`, a `nde.data.Panel`; `labelled`, a `nde.data.LabelledPanel`; `points`, an
      array `(points, size)` or a `nde.data.PointSet`.
    - `made`: whether it is made from a seed; else it ships with nde or with a package.
    - `path`: where its table lies, of one that is a table.
    - `defaults`: keys of `[data]` that go with it, where a config leaves them out.
    - `truth`: what is known of what made it, functions by name: `log_prob` of points; of series, such as
      `"added to velocity by velocity"`, what a known system leaves out.
    """

    load: Callable[..., Any]
    shape: Shape
    made: bool = False
    path: Callable[[], Path] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    truth: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
