"""The command line: `nde fit`, `nde evaluate`, `nde predict`, `nde plot`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import typer
from rich.console import Console

from nde import runs
from nde.config import ConfigError, load_config
from nde.runs import Run
from nde.train import NonFiniteLoss

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `nde fit` made.")]


@app.callback()
def _describe() -> None:
    """Neural differential equations: fit a model to a table of irregular series, score it, forecast with it."""


@app.command()
def fit(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="A run's TOML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values over those of the file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/CONFIG-DATE-TIME if not given.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
) -> None:
    """Train a model, score it on held-out series and draw its figures, all in a new folder."""
    console = Console()
    with _one_line_errors():
        if resume is not None:
            if config is not None or out is not None:
                raise ConfigError("--resume goes on with the run's own config; give no CONFIG, no override, no --out.")
            run = Run.open(resume)
            problem = runs.load_problem(run.config)
        elif config is None:
            raise ConfigError("give a CONFIG, such as configs/latent_sde_pbc.toml, or --resume RUN.")
        else:
            settings = load_config(config, overrides or [])
            problem = runs.load_problem(settings)
            settings = runs.resolve(settings, problem)
            run = Run.create(runs.new_folder(config, out), settings, problem)
        _introduce(console, run, problem)
        if not runs.train(run, problem, console):
            _say(console, f"stopped by Ctrl-C; go on with: nde fit --resume {run.folder}")
            raise typer.Exit(130)
        evaluation = runs.evaluate(run, problem)
        evaluation.write(run.folder)
        _report(console, evaluation)
        for path in runs.draw(run, problem, evaluation):
            _say(console, f"wrote {path}")


@app.command()
def evaluate(
    run: RunArgument,
    task: Annotated[str | None, typer.Option(help="second_half or landmark; the run's own if not given.")] = None,
    samples: Annotated[int | None, typer.Option(help="Model samples; the run's own number if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for results.csv and results.json.")] = None,
) -> None:
    """Score a run on its held-out series beside the baselines; write nothing unless --out names a new folder."""
    console = Console()
    with _one_line_errors():
        opened = Run.open(run)
        if out is not None and out.exists():
            raise runs.RunError(f"{out}: exists already, and nothing is written over; give another --out.")
        given = {"task": task, "samples": samples}
        opened = opened.changed([f"evaluate.{name}={value}" for name, value in given.items() if value is not None])
        evaluation = runs.evaluate(opened, runs.load_problem(opened.config))
        _report(console, evaluation)
        if out is not None:
            evaluation.write(runs.new_folder(out, out))
            _say(console, f"wrote {out / 'results.csv'}")


@app.command()
def predict(
    run: RunArgument,
    data: Annotated[Path, typer.Option(help="A table laid out like the one that the run was trained on.")],
    out: Annotated[Path, typer.Option(help="A new .csv or .parquet file.")],
    ahead: Annotated[
        str, typer.Option(help="Times after each series' last row to forecast too, such as 182.5,365.")
    ] = "",
    samples: Annotated[int, typer.Option(help="Model samples.")] = 200,
    keep_samples: Annotated[bool, typer.Option(help="Write every sample, a column each.")] = False,
) -> None:
    """Forecast every series of a table: per series, time and channel the mean, quantiles, and samples on request."""
    with _one_line_errors():
        steps = [_number("--ahead", part) for part in ahead.split(",") if part]
        table = runs.predict(Run.open(run), data, out, ahead=steps, samples=samples, keep_samples=keep_samples)
        _say(Console(), f"wrote {out}: {len(table)} rows")


@app.command()
def plot(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="A folder for the figures; RUN/figures if not given.")] = None,
) -> None:
    """Draw a run's figures: training curves, forecast fans, calibration."""
    with _one_line_errors():
        opened = Run.open(run)
        problem = runs.load_problem(opened.config)
        for path in runs.draw(opened, problem, runs.evaluate(opened, problem), out):
            _say(Console(), f"wrote {path}")


def main() -> None:
    """The entry point of the `nde` command."""
    app()


def _introduce(console: Console, run: Run, problem: Any) -> None:
    for line in run.kind.describe(run.config, problem):
        _say(console, line)
    _say(console, f"run folder: {run.folder}")


def _report(console: Console, evaluation: runs.AbstractEvaluation) -> None:
    console.print(evaluation.table())
    for line in evaluation.lines():
        _say(console, line)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{option}: '{text}' is no number; write numbers with commas between.") from None


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn an error that the user can mend into one line on standard error and exit code 2; a failed run into 1."""
    errors = Console(stderr=True)
    try:
        yield
    except NonFiniteLoss as error:
        _say(errors, f"nde: {error} The last good checkpoint is kept.")
        raise typer.Exit(1) from None
    except eqx.EquinoxRuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        _say(errors, f"nde: a differential equation could not be solved ({reason}) The last good checkpoint is kept.")
        raise typer.Exit(1) from None
    except OSError as error:
        _say(errors, f"nde: {error.filename or 'file'}: {error.strerror or error}.")
        raise typer.Exit(2) from None
    except ValueError as error:
        _say(errors, f"nde: {error}")
        raise typer.Exit(2) from None
