"""A run: what `nde.fit` and `nde fit` leave in a folder, and what can be asked of it."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from jaxtyping import PyTree
from matplotlib.figure import Figure

from nde import config as configs
from nde.report import LogDensity, plot_training, Posterior
from nde.runs.notes import training_notes
from nde.tasks import (
    AbstractEvaluation,
    AbstractTask,
    new_model,
    predicting,
    Prediction,
    RunError,
    TASKS,
)
from nde.train import Checkpoints, in_one_piece, read_metrics


def free_folder(name: str, out: str | Path | None) -> Path:
    """Where a run may lie, which is not made yet: `out`, or `runs/NAME-DATE-TIME`.

    **Raises:** `RunError` if it exists already.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{name}-{stamp}" if out is None else Path(out)
    if folder.exists():
        raise RunError(f"{folder}: exists already, and nothing is written over; give another folder (--out).")
    return folder


def new_folder(name: str, out: str | Path | None) -> Path:
    """Make the folder of `nde.runs.free_folder`, and raise what that raises."""
    folder = free_folder(name, out)
    folder.mkdir(parents=True)
    return folder


@dataclass(frozen=True)
class Run:
    """A run's folder, opened by `nde.open_run` or made by `nde.fit`.

    - `folder`: where it lies.
    - `config`: its resolved config, of its task's own class.
    - `part`: of several processes that train it side by side, what its lines of metrics are called after.
    """

    folder: Path
    config: Any
    part: str = ""

    @classmethod
    def create(cls, folder: Path, config: configs.RunConfig, problem: Any) -> "Run":
        """Write what a run starts with into an empty folder, last its resolved config: with that there is a run."""
        for code in config.own_code():
            code.keep(folder)
        TASKS[config.task].save(folder, config, problem)
        with in_one_piece(folder / "config.toml") as part:
            configs.save_config(config, part)
        run = cls(folder, config)
        run.__dict__["problem"] = problem  # it need not be read again
        return run

    @classmethod
    def open(cls, folder: str | Path, *, given: Mapping[str, Any] | None = None) -> "Run":
        """Open a folder that `nde fit` made; see `nde.open_run`."""
        folder = Path(folder)
        if not (folder / "config.toml").is_file():
            raise RunError(f"{folder}: no run is here (no config.toml); give the folder that `nde fit` made.")
        configs.give_again(given or {})
        return cls(folder, read_config(folder))

    @property
    def task(self) -> AbstractTask:
        """What its task knows."""
        return TASKS[self.config.task]

    @cached_property
    def problem(self) -> Any:
        """The data of the run, read and prepared, when they are first asked for.

        **Raises:** `ValueError` for data that can not be used, or that are not those which the run was made from.
        """
        return self.task.load(self.config)

    def models(self, *, until: float = 0.0) -> dict[str, list[Any]]:
        """The best model of each member, by what its `[[model]]` is called; solved at least up to `until`.

        **Raises:** `RunError` if one was never validated.
        """
        found: dict[str, list[Any]] = {}
        for member in self.config.members():
            checkpoints = self.checkpoints(member.index)
            model = checkpoints.restore_best(self.new_model(member, until=until))
            checkpoints.close()
            if model is None:
                raise RunError(
                    f"{self.folder}: {member.title} has no checkpoint of a validated model; "
                    f"go on with `nde fit --resume {self.folder}`."
                )
            found.setdefault(member.label, []).append(model)
        return found

    def evaluate(self, **settings: Any) -> AbstractEvaluation:
        """Score the models and the baselines on what was held out; nothing is written.

        **Arguments:** `settings`: keys of `[evaluate]` over the run's own, such as `samples=500`; `None` is the run's.
        """
        given = [f"evaluate.{name}={value}" for name, value in settings.items() if value is not None]
        run = self.changed(given) if given else self
        return run.task.evaluate(run, run.problem).noted(training_notes(run.config, run.metrics_path))

    def predict(
        self,
        data: Any = None,
        *,
        ahead: Sequence[float] = (),
        samples: int = 200,
        keep_samples: bool = False,
        as_text: bool = False,
        model: str | None = None,
    ) -> pl.DataFrame:
        """Predictions for every series or point of a table, or new points. The run's training table is not needed.

        **Arguments:**

        - `data`: a table laid out like the one that the run was trained on: a path, or a frame of polars or pandas. To
          generate it is left out, unless points are asked for of the classes of its rows, or that begin at its points.
        - `ahead`: times after each series' last row, in the table's unit, which for dates is `data.date_unit`.
        - `samples`: how many; with `keep_samples` each becomes a column `sample_0`, `sample_1`, …; to generate without
          a table, how many points.
        - `as_text`: whether dates of a CSV table are given as they are written there; else as dates.
        - `model`: the label or the name of the `[[model]]` that predicts alone; `None` for what the run predicts by.

        **Returns:** a polars frame. Of a forecast: a row for each series, time and channel, with the value observed,
        mean, quantiles and marks; of a classifier a row a series, with its class and each class's probability; of a
        density the table with a column `log_prob`; to generate, new points, in a table's columns of the points.

        **Raises:** `RunError` for a table that is missing, or is given where none is of use; `TableError` for a bad
        one.
        """
        asked = Prediction(data, ahead, samples, keep_samples, as_text, model)
        self.task.refuse_no_table(asked, self.folder)
        return self.task.predict(self, asked)

    def prediction_notes(self, model: str | None = None) -> Sequence[str]:
        """What there is to say of what `predict` predicts by, a line each; `model`: the one that was asked for."""
        return self.task.prediction_notes(self, model)

    def log_density(self, model: str | None = None, *, member: int = 0) -> LogDensity:
        """The log density of what a trained model does not know: parameters, starts, scales of noise; for samplers.

        ```python
        density = run.log_density("known")
        jax.value_and_grad(density)(density.initial)        # a dictionary by name, in coordinates without bounds
        density.constrain(density.initial)["birth"]         # in its own units
        ```

        **Arguments:** `model`: the label or the name of the `[[model]]`, that which validated best if `None`;
        `member`: which of its members the density starts from, and whose network, if it has one, is held.

        **Raises:** `RunError` if the run's task has no such models.
        """
        found = self.task.log_density(self, self.problem, self._member(model, member))
        assert found is not None
        return found

    def posterior(self, model: str | None = None, *, member: int = 0) -> Posterior:
        """What the data say of a model's parameters: `.intervals()`, `.identifiability()`, `.profile("birth")`,
        `.criteria()`, `.draws(100, key=key)`; arguments and errors of `log_density`.
        """
        found = self.task.posterior(self, self.problem, self._member(model, member))
        assert found is not None
        return found

    def _member(self, asked: str | None, member: int) -> Any:
        if not self.task.has_posterior():
            able = ", ".join(name for name, task in TASKS.items() if task.has_posterior())
            raise RunError(f"{self.folder}: task = '{self.config.task}' has no named parameters; these do: {able}.")
        members = self.models()[predicting(self, asked)]
        if not 0 <= member < len(members):
            raise RunError(f"{self.folder}: there is no member {member}; they are 0 to {len(members) - 1}.")
        return members[member]

    def figures(self, evaluation: AbstractEvaluation | None = None) -> dict[str, Figure]:
        """The run's figures by name: training curves, and what its task draws of an evaluation, made if not given."""
        members = self.config.members()
        names = [member.title if len(self.config.model) == 1 else member.label for member in members]
        rows = read_metrics(self.metrics_path)
        training = plot_training(rows, loss_name=self.task.loss_name, score_name=self.task.score_name, names=names)
        evaluation = self.evaluate() if evaluation is None else evaluation
        return {"training": training, **self.task.figures(self, self.problem, evaluation)}

    def draw(self, evaluation: AbstractEvaluation, folder: Path | None = None) -> list[Path]:
        """Write the figures into the run's `figures`, or another folder."""
        folder = self.folder / "figures" if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        figures = self.figures(evaluation)
        paths = [folder / f"{name}.png" for name in figures]
        for path, figure in zip(paths, figures.values(), strict=True):
            figure.savefig(path, dpi=150, bbox_inches="tight")  # no legend is cut off
        return paths

    def changed(self, overrides: Sequence[str]) -> "Run":
        """The run with `section.key=value` overrides over its config, as to be evaluated; nothing is written."""
        return replace(self, config=read_config(self.folder, overrides))

    def resumed(self, overrides: Sequence[str]) -> "Run":
        """The run with overrides of how it goes on with its training; nothing is written.

        **Raises:** `ConfigError` if one would change the data, the members or what a model consists of.
        """
        changed = self.changed(overrides)
        for key in configs.changed_keys(self.config, changed.config):
            if not configs.may_change(key):
                raise configs.ConfigError(
                    f"{key} can not be changed with --resume: it would change the data, the members or the model; "
                    f"what can: {', '.join(configs.CHANGEABLE)}. For another {key} make a new run."
                )
        return changed

    def keep_config(self) -> None:
        """Write a changed config over that of the folder, which is kept as `config.before-1.toml`, `-2`, …

        It is called once there is a checkpoint that was trained by it: one that fails at once leaves no trace.
        """
        path = self.folder / "config.toml"
        if read_config(self.folder) == self.config:
            return
        number = 1
        while (kept := self.folder / f"config.before-{number}.toml").exists():
            number += 1
        shutil.copy(path, kept)
        with in_one_piece(path) as part:
            configs.save_config(self.config, part)

    @property
    def metrics_path(self) -> Path:
        """The file of loss and validation lines."""
        return self.folder / f"metrics{self.part}.jsonl"

    def new_model(self, member: configs.Member, *, until: float = 0.0, start: int = 0) -> PyTree:
        """The untrained model of a member; `start`: of several starts, which."""
        return new_model(self.config, member, self.task.facts(self.config, until=until), start=start)

    def validation_scores(self) -> dict[str, float]:
        """The best validation score of each `[[model]]`, the mean over its members."""
        scores: dict[int, float] = {}
        for row in read_metrics(self.metrics_path):
            if "validation" in row:
                member = int(row["member"])
                scores[member] = min(scores.get(member, math.inf), row["validation"])
        by_label: dict[str, list[float]] = {}
        for member in self.config.members():
            by_label.setdefault(member.label, []).append(scores.get(member.index, math.inf))
        return {label: sum(found) / len(found) for label, found in by_label.items()}

    def checkpoints(self, member: int) -> Checkpoints:
        """The checkpoints of a member."""
        return Checkpoints(self.folder / "checkpoints" / str(member))


TABLE = "data.parquet"
"""Where a run's folder keeps the frame that it was made from."""


def read_config(folder: Path, overrides: Sequence[str] = (), *, path: Path | None = None) -> configs.RunConfig:
    """The config of a run's folder, or of another file made from it.

    A frame that the run was made from is found where the folder has been moved.
    """
    config = configs.load_config(folder / "config.toml" if path is None else path, overrides)
    table, kept = getattr(config.data, "path", None), folder.absolute() / TABLE
    if table is None or Path(table).name != TABLE or Path(table).is_file() or not kept.is_file():
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(kept)})})


def open_run(folder: str | Path, *, given: Mapping[str, Any] | None = None) -> Run:
    """Open a folder that `nde.fit` or `nde fit` made.

    A run of equations of one's own opens by running the copy of their file that its folder keeps: see
    `nde.config.own_code`.

    **Arguments:** `given`: functions and modules that the run was made with in Python and that are in no file, under
    the names by which the run knows them: it says them when it is made, and when they are missing.

    **Raises:** `nde.runs.RunError` if it is no such folder; `nde.config.ConfigError` for a copy that was changed, or
    an object that is not given.
    """
    return Run.open(folder, given=given)


def prepare(config: configs.RunConfig) -> tuple[configs.RunConfig, Any]:
    """A config with all that depends on its data filled in, and the data.

    **Raises:** `ValueError` for data that can not be used, and for models that can not be built of them.
    """
    task = TASKS[config.task]
    problem = task.load(config)
    resolved = task.resolve(config, problem)
    for member in resolved.members()[:: resolved.train.members]:  # what a model refuses is said before a folder is made
        new_model(resolved, member, task.facts(resolved))
    return resolved, problem
