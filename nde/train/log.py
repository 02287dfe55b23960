"""Tell of a training run: as lines of JSON in a file, and to whoever sits before the terminal."""

import json
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nde.train.step import StepReport, TrainState


class MetricsFile:
    """Append a line of JSON each `every` steps and at each validation to a file. An observer of [`nde.train.fit`][].

    **Arguments:** `path`: the file; `member`: which model of an ensemble the lines are about; `every`: steps between
    two lines.
    """

    def __init__(self, path: Path, *, member: int = 0, every: int = 10):
        self.path, self.member, self.every = Path(path), member, every
        self._started = time.perf_counter()

    def stepped(self, step: int, report: StepReport) -> None:
        """Write the loss, its parts and the gradient's norm."""
        if step % self.every == 0:
            parts = {name: float(value) for name, value in report.batch.parts.items()}
            self._write(step, loss=float(report.batch.loss), gradient_norm=float(report.gradient_norm), **parts)

    def validated(self, state: TrainState, score: float) -> None:
        """Write the validation score."""
        self._write(int(state.step), validation=score, best_step=int(state.best_step))

    def ended(self, state: TrainState) -> None:
        """Nothing."""

    def _write(self, step: int, **numbers: float) -> None:
        seconds = round(time.perf_counter() - self._started, 3)
        with self.path.open("a") as file:
            file.write(json.dumps({"member": self.member, "step": step, "seconds": seconds, **numbers}) + "\n")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics file, one for each (member, step, kind); of lines written twice the later one.

    A run that was killed and resumed goes through some steps again and writes them again.
    """
    rows = {}
    for line in Path(path).read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed while it wrote
            continue
        rows[row["member"], row["step"], "validation" in row] = row
    return [rows[place] for place in sorted(rows)]


class ProgressPrinter:
    """Show step, loss, its parts, steps per second and time left. An observer of [`nde.train.fit`][].

    On a terminal it is a bar that moves; elsewhere a plain line each `every` steps.

    **Arguments:** `steps`: how many there will be; `start`: how many there were already; `title`: stands in front;
    `every`: steps between two lines; `console`: where to.
    """

    def __init__(self, steps: int, *, start: int = 0, title: str = "", every: int = 50, console: Console | None = None):
        self.steps, self.start, self.title, self.every = steps, start, title, every
        self.console = Console() if console is None else console
        self._clock = time.perf_counter()
        self._first_step_at: float | None = None
        self._bar: Progress | None = None
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task(f"{title} compiling", total=steps, completed=start)
            self._bar.start()

    def stepped(self, step: int, report: StepReport) -> None:
        """Move the bar, or print a line."""
        now = time.perf_counter()
        if self._first_step_at is None:  # the first step compiles; the rate is measured from its end
            self._first_step_at, self.start = now, step
        rate = (step - self.start) / (now - self._first_step_at) if step > self.start else 0.0
        parts = "  ".join(f"{name} {float(value):.3f}" for name, value in report.batch.parts.items())
        text = f"{self.title} loss {float(report.batch.loss):.4f}  {parts}  {rate:.1f} steps/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif step % self.every == 0 or step == self.steps:
            left = f"  {(self.steps - step) / rate:.0f} s left" if rate > 0 else ""
            self.console.print(f"step {step}/{self.steps} {text.strip()}{left}", soft_wrap=True, highlight=False)

    def validated(self, state: TrainState, score: float) -> None:
        """Print the score."""
        best = " (best so far)" if int(state.best_step) == int(state.step) else ""
        text = f"step {int(state.step)}/{self.steps} {self.title} validation {score:.4f}{best}"
        self.console.print(text, soft_wrap=True, highlight=False)

    def ended(self, state: TrainState) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
