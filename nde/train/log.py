"""Tell of a training run: as lines of JSON in a file, and to whoever sits before the terminal."""

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from nde.train.files import in_one_piece
from nde.train.starts import Tried
from nde.train.state import BatchLoss, StepReport, TrainState


class MetricsFile:
    """Append a line of JSON each `every` steps and at each validation to a file. A callback of `nde.train.fit`.

    **Arguments:** `path`: the file; `member`: which model of an ensemble the lines are about; `every`: steps between
    two lines; `start`: the step that training goes on from, if given: the member's lines of later steps, and a last
    line that was cut off when a run was killed, are removed, since those steps are gone through once more.
    """

    def __init__(self, path: Path, *, member: int = 0, every: int = 10, start: int | None = None):
        self.path, self.member, self.every = Path(path), member, every
        self._started = time.perf_counter()
        if start is not None and self.path.exists():
            self._cut(start)

    def on_step(self, step: int, report: StepReport) -> None:
        """Write what `numbers_of` a step says; at every step that left examples out also which."""
        if step % self.every == 0 or report.left_out:
            out = {"left_out": list(report.left_out)} if report.left_out else {}
            self._write(step, **numbers_of(report), **out)

    def on_validation(self, state: TrainState, score: float) -> None:
        """Write the validation score, or that there is none."""
        found = {"validation": score} if math.isfinite(score) else {"validation_failed": True}
        self._write(int(state.step), **found, best_step=int(state.best_step))

    def on_start(self, number: int, tried: Tried) -> None:
        """Write what came of one of several starts, counted from zero: see `nde.train.best_start`."""
        found = {"score": tried.score} if tried.failure is None else {"failure": tried.failure}
        self._write(0, start=number, **found)

    def on_end(self, state: TrainState) -> None:
        """Nothing."""

    def on_failure(self, state: TrainState) -> None:
        """Nothing."""

    def _cut(self, start: int) -> None:
        lines = self.path.read_text().splitlines()
        rows = [_parsed(line) for line in lines]
        gone = [row is None or row["member"] == self.member and row["step"] > start for row in rows]
        if any(gone):
            with in_one_piece(self.path) as part:
                part.write_text("".join(f"{line}\n" for line, cut in zip(lines, gone, strict=True) if not cut))

    def _write(self, step: int, **numbers: Any) -> None:
        seconds = round(time.perf_counter() - self._started, 3)
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"member": self.member, "step": step, "seconds": seconds, **numbers}) + "\n")
        except OSError as error:  # of a full disk; it names no file
            raise OSError(error.errno, error.strerror, str(self.path)) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, one for each (member, step, kind); of lines written twice the later one."""
    rows = {}
    for line in Path(path).read_text().splitlines():
        row = _parsed(line)
        if row is not None:
            rows[row["member"], row["step"], "best_step" in row, row.get("start", -1)] = row
    return [rows[place] for place in sorted(rows)]


def times_left_out(rows: Sequence[Mapping[str, Any]], member: int) -> dict[str, int]:
    """At how many steps each example was left out of the updates of a member, by name, from `read_metrics`."""
    return dict(Counter(name for row in rows if row["member"] == member for name in row.get("left_out", ())))


def starts_tried(rows: Sequence[Mapping[str, Any]], member: int) -> list[Tried]:
    """What came of each start of a member, in their order, from `read_metrics`; empty where there was but one."""
    own = [row for row in rows if row["member"] == member and "start" in row]
    return [Tried(row.get("score", math.inf), row.get("failure")) for row in own]


def _parsed(line: str) -> dict[str, Any] | None:
    """A line, or `None` for the last one of a run that was killed while it wrote."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def numbers_of(report: StepReport) -> dict[str, float | int]:
    """What a step says, by name: loss, its parts, the gradient's norm; the solves, their steps and the evaluations of
    their fields; the seconds spent on the data and on the step. Of one that was skipped only these."""
    batch, norm, counts = _fetched(report)
    named = {"loss": batch.loss, "gradient_norm": norm, **batch.parts} if report.is_finite else {}
    found: dict[str, float | int] = {name: float(value) for name, value in named.items()}
    # Where a method does not say how often it evaluates a field that is NaN, which JSON has not; and so on.
    found |= {name: round(float(value)) for name, value in counts.items() if math.isfinite(value) and report.is_finite}
    return found | {f"seconds_{name}": round(value, 6) for name, value in report.seconds.items()}


def _fetched(report: StepReport) -> tuple[BatchLoss, Any, dict[str, Any]]:
    """What a step says, from the device in one go."""
    batch = replace(report.batch, per_example=np.zeros(0))
    return jax.device_get((batch, report.gradient_norm, report.counts))


class TensorBoardFile:
    """Write the same numbers for TensorBoard, into an events file of a folder. A callback of `nde.train.fit`.

    Look at it by `tensorboard --logdir runs`.

    **Arguments:** those of `nde.train.MetricsFile`, but for `folder`; of a member that goes on from `start` TensorBoard
    leaves out later steps of before. What can not be written, as on a full disk, is lost, and ends nothing.
    """

    def __init__(self, folder: Path, *, every: int = 10, start: int | None = None):
        self.every = every
        folder.mkdir(parents=True, exist_ok=True)
        before = any(folder.iterdir())
        # The package's own face writes from a thread, whose errors no one can catch.
        self._events = EventsWriter(str(folder / "events"))
        if before and start is not None:
            self._write(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def on_step(self, step: int, report: StepReport) -> None:
        """Write the numbers of the step, and how many examples were left out."""
        if step % self.every == 0 or report.left_out:
            numbers = numbers_of(report) | {"left_out": len(report.left_out)}
            self._write_scalars({f"train/{name}": value for name, value in numbers.items()}, step)

    def on_validation(self, state: TrainState, score: float) -> None:
        """Write the score, and all that waits to be written."""
        self._write_scalars({"validation/score": score}, int(state.step))
        with suppress(OSError):  # as at the end
            self._events.flush()

    def on_end(self, state: TrainState) -> None:
        """Close the file."""
        with suppress(OSError):  # of a full disk, which is told by who writes what is needed
            self._events.close()

    def on_failure(self, state: TrainState) -> None:
        """Close the file."""
        self.on_end(state)

    def _write_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with suppress(OSError):
            self._events.write_event(event)


class ProgressPrinter:
    """Show step, loss, its parts, steps per second and time left. A callback of `nde.train.fit`.

    Of the solves it says how many evaluations of the field each takes in the mean, and the share of steps that were
    rejected; further how many examples have failed, the norm of the gradient, and the share of the time that goes by
    for data, above a tenth. On a terminal it is a bar that moves; elsewhere a plain line each `every` steps.

    **Arguments:** `steps`: how many there will be; `start`: how many there were already; `title`: stands in front;
    `every`: steps between two lines; `validate_every`: after how many steps a validation follows, which is said;
    `console`: where to.
    """

    def __init__(
        self,
        steps: int,
        *,
        start: int = 0,
        title: str = "",
        every: int = 50,
        validate_every: int = sys.maxsize,
        console: Console | None = None,
    ):
        self.steps, self.start, self.title, self.every = steps, start, title, every
        self.validate_every = validate_every
        self.console = Console() if console is None else console
        self._clock = time.perf_counter()
        self._first_step_at: float | None = None
        self._left_out: dict[str, str] = {}
        self._bar: Progress | None = None
        if self.console.is_terminal:
            # The text gives way where the terminal is narrow; bar, total and time left stay.
            columns = (
                BarColumn(bar_width=12),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            )
            self._bar = Progress(*columns, console=self.console, expand=True)
            self._task = self._bar.add_task(f"{title} compiling".strip(), total=steps, completed=start)
            self._bar.start()

    def on_step(self, step: int, report: StepReport) -> None:
        """Move the bar, or print a line; and another for an example that is left out for the first time."""
        now = time.perf_counter()
        if self._first_step_at is None:  # the first step compiles; the rate is measured from its end
            self._first_step_at, self.start = now, step
        rate = (step - self.start) / (now - self._first_step_at) if step > self.start else 0.0
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._text(report, rate))
        elif step % self.every == 0 or step == self.steps:
            left = f"  {(self.steps - step) / rate:.0f} s left" if rate > 0 else ""
            text = self._text(report, rate)
            self.console.print(f"step {step}/{self.steps} {text}{left}", soft_wrap=True, highlight=False)
        new = {name: why for name, why in report.left_out.items() if name not in self._left_out}
        if new:
            self._left_out |= new
            which, why = ", ".join(new), "; ".join(dict.fromkeys(new.values()))
            said = f"step {step}/{self.steps} {self.title} left out of the loss: {which} ({why})"
            self.console.print(said, soft_wrap=True, highlight=False, markup=False)
        if self._bar is not None and step % self.validate_every == 0:
            self._bar.update(self._task, description=f"{self.title} validating".strip())

    def _text(self, report: StepReport, rate: float) -> str:
        """What a line says; its numbers come from the device, and are asked for where it is shown alone."""
        batch, norm, counts = _fetched(report)
        said = [f"{self.title} loss {float(batch.loss):.4f}".strip(), f"{rate:.1f} steps/s"]
        said += [f"{name} {float(value):.3f}" for name, value in batch.parts.items()]
        said.append(f"gradient {float(norm):.3g}")
        if counts.get("solves"):
            tried = counts["accepted"] + counts["rejected"]
            if math.isfinite(counts["evaluations"]):
                said.append(f"{counts['evaluations'] / counts['solves']:.0f} evaluations a solve")
            if counts["rejected"]:
                said.append(f"{counts['rejected'] / tried:.0%} rejected")
        if self._left_out:
            said.append(f"{len(self._left_out)} left out")
        spent = sum(report.seconds.values())
        if spent and report.seconds["data"] / spent > 0.1:
            said.append(f"{report.seconds['data'] / spent:.0%} of the time for data")
        return "  ".join(said)

    def on_validation(self, state: TrainState, score: float) -> None:
        """Print the score."""
        best = " (best so far)" if int(state.best_step) == int(state.step) else ""
        text = f"step {int(state.step)}/{self.steps} {self.title} validation {score:.4f}{best}"
        self.console.print(text, soft_wrap=True, highlight=False)

    def on_failure(self, state: TrainState) -> None:
        """Take the bar down."""
        self.on_end(state)

    def on_end(self, state: TrainState) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
