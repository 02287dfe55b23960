"""What each command of `nde` does."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from nde import runs
from nde.config import ConfigError, load_config
from nde.report import warning_of
from nde.runs import Run
from nde.tasks import AbstractEvaluation
from nde.train import (
    cause_of,
    CheckpointNotWritten,
    FailedExamples,
    in_one_piece,
    is_first_process,
    is_one_of_several,
    keep_compiled,
    terminated_as_interrupted,
)


def fit(
    given: Sequence[str],
    out: Path | None,
    resume: Path | None,
    folds: int | None = None,
    *,
    cached: bool = True,
    processes: int = 1,
) -> None:
    """`nde fit`: `given` holds the config and the overrides, of a resumed run the overrides alone.

    With `folds` a run for each fold is made within the folder, and what all of them held out is scored as one.
    Of several processes the first writes and prints, and none scores. `cached`: see `nde.train.keep_compiled`.
    """
    if cached:
        keep_compiled()
    if folds is None:
        _fit_one(given, out, resume, cached=cached, processes=processes)
        return
    console = Console()
    with _one_line_errors():
        if resume is not None or not given:
            raise ConfigError("--folds needs a CONFIG; a fold that was stopped goes on by --resume OUT/fold_N.")
        if folds < 2:
            raise ConfigError(f"--folds must be at least 2, but is {folds}.")
        divided = [[*given, f"data.folds={folds}", f"data.fold={fold}"] for fold in range(folds)]
        load_config(Path(given[0]), divided[0][1:])  # refused before a folder is made
        folder = runs.free_folder(Path(given[0]).stem, out)
    evaluations = [
        _fit_one(each, folder / f"fold_{fold}", None, cached=cached, processes=processes)
        for fold, each in enumerate(divided)
    ]
    found = [evaluation for evaluation in evaluations if evaluation is not None]
    pooled = found[0].pooled(found[1:])
    if pooled is not None:
        with _one_line_errors():
            pooled.write(folder)
        _report(console, pooled)
        _say(console, f"wrote {folder / 'results.csv'}")


def _fit_one(
    given: Sequence[str], out: Path | None, resume: Path | None, *, cached: bool = True, processes: int = 1
) -> AbstractEvaluation | None:
    """Make or resume one run, train it, score it and draw it; of several processes, which give `None`, only train."""
    console = Console(quiet=not is_first_process())
    with _one_line_errors():
        if processes < 1:
            raise ConfigError(f"--processes must be at least 1, but is {processes}.")
        if resume is not None:
            run = _reopen(resume, given, out)
        elif not given:
            raise ConfigError("give a CONFIG, such as configs/latent_sde_pbc.toml, or --resume RUN.")
        else:
            run = runs.made_once(lambda: _make(console, given, out))
        for line in run.task.describe(run.config, run.problem):
            _say(console, line)
        _say(console, f"run folder: {run.folder}")
        if not _train(run, console, processes, given if resume is not None else [], cached=cached):
            _say(console, f"stopped by a signal; go on with: nde fit --resume {run.folder}")
            raise typer.Exit(130)
        if is_one_of_several():  # what reads checkpoints waits for all processes
            _say(console, f"trained; score and draw it, in one process, with: nde fit --resume {run.folder}")
            return None
        try:
            evaluation = _finish(console, run)
        except KeyboardInterrupt:
            _say(Console(stderr=True), f"nde: stopped, all models trained; go on with: nde fit --resume {run.folder}")
            raise typer.Exit(130) from None
    return evaluation


def _train(run: Run, console: Console, processes: int, overrides: Sequence[str], *, cached: bool) -> bool:
    if processes == 1:
        return runs.train(run, console)
    return runs.train_side_by_side(run, processes, overrides, cached=cached, quiet=False)


def _make(console: Console, given: Sequence[str], out: Path | None) -> Run:
    settings = load_config(given[0], given[1:])
    with _stage(console, "reading the data"):
        found = runs.prepare(settings)
    return Run.create(runs.new_folder(Path(given[0]).stem, out), *found)


def _finish(console: Console, run: Run) -> AbstractEvaluation:
    """Score and draw a trained run."""
    with _stage(console, "scoring the models and the baselines on what was held out"):
        run.task.finish(run, run.problem)
        evaluation = run.evaluate()
    evaluation.write(run.folder)
    _report(console, evaluation)
    _draw(console, run, evaluation, None)
    return evaluation


def _reopen(folder: Path, overrides: Sequence[str], out: Path | None) -> Run:
    """A run to go on with, changed by overrides, its data read."""
    if out is not None or any("=" not in override for override in overrides):
        raise ConfigError("--resume goes on with the run's own config; give no CONFIG and no --out.")
    run = Run.open(folder)
    run = run.resumed(overrides) if overrides else run
    _ = run.problem
    return run


def evaluate(folder: Path, given: Mapping[str, Any], out: Path | None) -> None:
    """`nde evaluate`: `given` holds values over those of `[evaluate]`; those of `None` are the run's own."""
    console = Console()
    with _one_line_errors():
        opened = Run.open(folder)
        if out is not None and out.exists():
            raise runs.RunError(f"{out}: exists already, and nothing is written over; give another --out.")
        landmark = any(given.get(name) is not None for name in ("at", "until"))
        if landmark and given.get("cut") not in (None, "landmark"):
            raise ConfigError(f"--at and --until are of --cut landmark; --cut {given['cut']} has its own.")
        if landmark:
            given = {**given, "cut": "landmark"}
        evaluation = _score(console, opened, given)
        _report(console, evaluation)
        if out is not None:
            evaluation.write(runs.new_folder("", out))
            _say(console, f"wrote {out / 'results.csv'}")


def predict(
    source: Path,
    data: Path | None,
    out: Path,
    ahead: str,
    samples: int,
    keep_samples: bool,
    model: str | None,
    sha256: str | None,
) -> None:
    """`nde predict` of a run's folder, or of a file of `nde export`, into `out`, a `.csv` or `.parquet` file that does
    not exist yet.
    """
    with _one_line_errors():
        steps = [_number("--ahead", part) for part in ahead.split(",") if part]
        if sha256 is not None and source.is_dir():
            raise ConfigError("--sha256 is of a file of `nde export`, and a run's folder was given.")
        opened = Run.open(source) if source.is_dir() else runs.load_exported(source, sha256=sha256)
        if out.suffix not in (".csv", ".parquet"):
            raise runs.RunError(f"{out}: unknown kind of table '{out.suffix}'; use .csv or .parquet.")
        if out.exists():
            raise runs.RunError(f"{out}: exists already, and nothing is written over; give another --out.")
        if not out.parent.is_dir():
            raise runs.RunError(f"{out}: no folder {out.parent} is there; make it, or give another --out.")
        text = out.suffix == ".csv"
        with _stage(Console(), "drawing points" if data is None else f"predicting {data}"):
            table = opened.predict(
                data, ahead=steps, samples=samples, keep_samples=keep_samples, as_text=text, model=model
            )
        with in_one_piece(out) as part:
            table.write_csv(part) if text else table.write_parquet(part)
        _say(Console(), f"wrote {out}: {len(table)} rows")
        for note in opened.prediction_notes(model):
            _say(Console(), note)
        warning = warning_of(table["mark"].to_list()) if "mark" in table.columns else None
        if warning is not None:
            _say(Console(stderr=True), f"nde: warning: {warning}")


def export(folder: Path, out: Path, until: float | None, rows: int | None) -> None:
    """`nde export`: into `out`, a file that does not exist yet."""
    with _one_line_errors():
        console = Console()
        opened = Run.open(folder)
        with _stage(console, "lowering the models and writing their card"):
            digest = runs.export_run(opened, out, until=until, rows=rows)
        size = out.stat().st_size / 2**20
        _say(console, f"wrote {out}: {size:.1f} MiB, its card is in it: unzip -p {out} card.md")
        _say(console, f"sha256: {digest}")


def plot(folder: Path, out: Path | None) -> None:
    """`nde plot`."""
    with _one_line_errors():
        opened = Run.open(folder)
        console = Console()
        _draw(console, opened, _score(console, opened, {}), out)


def profile(config: str, overrides: Sequence[str], out: Path | None) -> None:
    """`nde profile`."""
    console = Console()
    with _one_line_errors():
        settings = load_config(config, overrides)
        folder = runs.free_folder(f"profile-{Path(config).stem}", out)
        with _stage(console, "compiling and timing a step of each model"):
            found = runs.profile(settings, folder)
        console.print(found.table())
        for line in found.lines():
            _say(console, line)


def sweep(
    given: Sequence[str],
    out: Path | None,
    resume: Path | None,
    trials: int | None,
    processes: int,
    *,
    cached: bool = True,
) -> None:
    """`nde sweep`: `given` holds the config, the grid and the overrides, and nothing with `resume`."""
    if cached:
        keep_compiled()
    sweeps, console = importlib.import_module("nde.sweeps"), Console()  # with Optuna, which no other command waits for
    with _one_line_errors():
        if resume is not None and (given or out is not None):
            raise ConfigError("--resume goes on with the sweep's own config and grid; give no others, and no --out.")
        if resume is None and (len(given) < 2 or any("=" in each for each in given[:2])):
            raise ConfigError("give a CONFIG and a GRID, such as configs/cnf_2d.toml configs/cnf_2d_grid.toml.")
        folder = resume or out or sweeps.new_place(Path(given[0]).stem)
        try:
            if resume is not None:
                found = sweeps.go_on(sweeps.Sweep.open(resume).kept, trials, processes, console, cached=cached)
            else:
                options = {"out": folder, "trials": trials, "processes": processes, "overrides": given[2:]}
                found = sweeps.sweep(*given[:2], **options, cached=cached)
        except KeyboardInterrupt:
            if not (folder / "sweep.toml").is_file():
                raise
            _say(Console(stderr=True), f"nde: stopped; go on with: nde sweep --resume {folder}")
            raise typer.Exit(130) from None
        console.print(found.table())
        for line in [*found.lines(), f"wrote {folder / 'results.csv'}, results.json, sweep.png"]:
            _say(console, line)
        best = found.best.folder
        _say(console, f"best run: {best}")
        _say(console, f"score and draw it on what was held out: nde fit --resume {best}")
        asked = "--data TABLE.csv" if found.best.task.needs_table else "--samples 1000"
        _say(console, f"predict from it: nde predict {best} {asked} --out predictions.csv")


def _score(console: Console, run: Run, settings: Mapping[str, Any]) -> AbstractEvaluation:
    with _stage(console, "scoring the models and the baselines on what was held out"):
        return run.evaluate(**settings)


def _draw(console: Console, run: Run, evaluation: AbstractEvaluation, out: Path | None) -> None:
    with _stage(console, "drawing the figures"):
        paths = run.draw(evaluation, out)
    for path in paths:
        _say(console, f"wrote {path}")


@contextmanager
def _stage(console: Console, text: str) -> Iterator[None]:
    """Say what is being done: on a terminal with the time since it began, elsewhere in a plain line."""
    if not console.is_terminal:
        _say(console, f"{text} …")
        yield
        return
    columns = (
        SpinnerColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(text, total=None)
        yield


def _report(console: Console, evaluation: AbstractEvaluation) -> None:
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

    def say(text: str) -> None:  # a name of a table or a file may hold the end of a line
        _say(errors, f"nde: {' '.join(text.splitlines())}")

    try:
        with terminated_as_interrupted():
            yield
    except (runs.RunFailed, CheckpointNotWritten) as error:
        say(str(error))
        raise typer.Exit(1) from None
    except FailedExamples as failure:
        say(f"{runs.explain_solve(failure)}.")
        raise typer.Exit(1) from None
    except eqx.EquinoxRuntimeError as error:
        say(f"{runs.explain_solve(FailedExamples(cause_of(error)))}.")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("stopped.")
        raise typer.Exit(130) from None
    except OSError as error:
        say(f"{error.filename or 'file'}: {error.strerror or error}.")
        raise typer.Exit(2) from None
    except ValueError as error:
        say(str(error))
        raise typer.Exit(2) from None
