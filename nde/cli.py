"""The command line: `nde fit`, `nde evaluate`, `nde predict`, `nde export`, `nde plot`, `nde profile`, `nde sweep`.

Here stand the arguments and their help; what the commands do stands in `nde.commands`, which is imported when one
of them runs. It is the one import that does not stand at the top of its module: JAX takes seconds to import, and
`nde --help` answers without it.
"""

import importlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `nde fit` made.")]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"nde {version('nde')}")
        raise typer.Exit


@app.callback()
def _describe(
    asked: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Neural differential equations: fit models to a table of irregular series, score them, predict with them."""


@app.command()
def fit(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="A run's TOML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values over those of the file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/CONFIG-DATE-TIME if not given.")] = None,
    folds: Annotated[
        int | None, typer.Option(help="A run for each of so many folds, so that every series is held out once.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Go on with a run that was stopped; SECTION.KEY=VALUE changes how, not the CONFIG."
        ),
    ] = None,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="This is one of several processes that train together, started by SLURM, Open MPI, or with "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID set.",
        ),
    ] = False,
    processes: Annotated[
        int, typer.Option(help="How many members and models to train at once, each in a process of its own.")
    ] = 1,
    cache: Annotated[
        bool, typer.Option(help="Keep compiled programs on disk, so that the next run like it starts sooner.")
    ] = True,
) -> None:
    """Train models, score them on held-out series and draw their figures, all in a new folder."""
    given = [*([] if config is None else [config]), *(overrides or [])]
    if processes > 1:  # or this process would take the accelerator's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if distributed:
        _join(folds, processes)
    _commands().fit(given, out, resume, folds, cached=cache, processes=processes)


@app.command()
def evaluate(  # noqa: PLR0913  (its options are those of the command)
    run: RunArgument,
    cut: Annotated[str | None, typer.Option(help="second_half or landmark; the run's own if not given.")] = None,
    at: Annotated[
        float | None,
        typer.Option(help="Of a landmark: forecast from this time on, in the table's unit since the first row."),
    ] = None,
    until: Annotated[float | None, typer.Option(help="Of a landmark: and up to this one.")] = None,
    samples: Annotated[int | None, typer.Option(help="Model samples; the run's own number if not given.")] = None,
    series: Annotated[
        int | None, typer.Option(help="Test series to score; 0 for all, the run's own number if not given.")
    ] = None,
    intervals: Annotated[
        bool | None, typer.Option(help="Whether intervals of the parameters of known systems are made.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Parameters of known systems to profile too, such as birth,death.")
    ] = None,
    closed_form: Annotated[
        int | None, typer.Option(help="Find equations of what networks learned, among monomials up to this degree.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for results.csv and results.json.")] = None,
) -> None:
    """Score a run on its held-out series beside the baselines; write nothing unless --out names a new folder."""
    names = None if profile is None else [name.strip() for name in profile.split(",")]
    given = {"cut": cut, "at": at, "until": until, "samples": samples, "series": series}
    given["closed_form.degree"] = closed_form
    given |= {"intervals": intervals, "profile": names}
    _commands().evaluate(run, given, out)


@app.command()
def predict(
    run: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="The folder that `nde fit` made, or a file of `nde export`.")
    ],
    out: Annotated[Path, typer.Option(help="A new .csv or .parquet file.")],
    data: Annotated[
        Path | None,
        typer.Option(help="A table laid out like the one that the run was trained on; to generate points, none."),
    ] = None,
    ahead: Annotated[
        str, typer.Option(help="Times after each series' last row to forecast too, such as 182.5,365.")
    ] = "",
    samples: Annotated[int, typer.Option(help="Model samples; of a run that generates, how many points.")] = 200,
    keep_samples: Annotated[bool, typer.Option(help="Write every sample, a column each.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Predict by the model of this label alone; by what the run chose if not given.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Of a file: its digest, as `nde export` printed it; any other is refused.")
    ] = None,
) -> None:
    """Predict every series of a table, its forecast with quantiles or its class, or the density of every point; or
    draw new points.
    """
    _commands().predict(run, data, out, ahead, samples, keep_samples, model, sha256)


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="A new file, such as model.nde.")],
    until: Annotated[
        float | None,
        typer.Option(
            help="How far after its first row a series may be predicted, in the table's unit; half as far again as "
            "the longest series of the run if not given."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Rows that a series may have, those to be forecast included; those of the run's longest and a few "
            "more if not given."
        ),
    ] = None,
) -> None:
    """Write a trained run as one file that `nde predict` takes in place of it, and that needs nothing else of it."""
    _commands().export(run, out, until, rows)


@app.command()
def profile(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A run's TOML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values over those of the file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder; runs/profile-CONFIG-DATE-TIME if not given.")] = None,
) -> None:
    """Say where the time of a training step goes, and its memory, and write a trace; nothing is trained."""
    _commands().profile(config, overrides or [], out)


@app.command()
def plot(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="A folder for the figures; RUN/figures if not given.")] = None,
) -> None:
    """Draw a run's figures: training curves, forecast fans, calibration."""
    _commands().plot(run, out)


@app.command()
def sweep(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="A run's TOML file.")] = None,
    grid: Annotated[
        str | None,
        typer.Argument(
            metavar="GRID", help='A TOML file with [grid], what varies, as "model.width" = [16, 32], and [sweep], how.'
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values over those of the CONFIG.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder, gone on with if it is there; sweeps/CONFIG-DATE-TIME.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="How many settings in all, each trained by all seeds.")] = None,
    processes: Annotated[int, typer.Option(help="How many settings are trained at once.")] = 1,
    resume: Annotated[Path | None, typer.Option(metavar="SWEEP", help="Go on with a sweep, without CONFIG.")] = None,
    cache: Annotated[bool, typer.Option(help="Keep compiled programs on disk.")] = True,
) -> None:
    """Train a config in many settings, prune the hopeless ones, and rank them by their validation scores."""
    given = [each for each in (config, grid) if each is not None]
    _commands().sweep([*given, *(overrides or [])], out, resume, trials, processes, cached=cache)


def main() -> None:
    """The entry point of the `nde` command."""
    app()


def _join(folds: int | None, processes: int) -> None:
    """Before `nde.commands` is imported, with which JAX's first computations come."""
    try:
        if folds is not None:
            raise ValueError("--folds does not go with --distributed; make a run for each data.fold.")
        if processes != 1:
            raise ValueError("--processes does not go with --distributed, whose processes share each batch.")
        importlib.import_module("nde.train").join_processes()
    except ValueError as error:
        typer.echo(f"nde: {error}", err=True)
        raise typer.Exit(2) from None


def _commands() -> Any:
    return importlib.import_module("nde.commands")
