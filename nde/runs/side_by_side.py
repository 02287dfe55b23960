"""Members of a run trained side by side, each in a process of its own."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from nde.runs.folder import Run
from nde.runs.processes import as_a_process, in_processes
from nde.runs.training import train
from nde.tasks import RunError, RunFailed
from nde.train import in_one_piece, keep_compiled, MetricsFile


def train_side_by_side(run: Run, processes: int, overrides: Sequence[str] = (), *, cached: bool, quiet: bool) -> bool:
    """Train what is not yet trained of a run, its members at once in so many processes; `False` if a signal ended it.

    Members are trained to the same bits as one after another. Their lines of metrics come together at the end.

    **Arguments:** `overrides`: of a run that is resumed, how it is changed; `cached`: see `nde.train.keep_compiled`;
    `quiet`: whether nothing is printed.

    **Raises:** `RunError` for objects given in Python, which other processes do not
    have; `RunFailed` if a member failed, after the others have ended.
    """
    given = [code.title for code in run.config.own_code() if code.path is None]
    if given:
        raise RunError(f"{given[0]} was given in Python, which other processes do not have; put it in a file.")
    members = [member.index for member in run.config.members()]
    groups = [members[place::processes] for place in range(min(processes, len(members)))]
    _gather(run)
    for member in members:  # what comes after its checkpoint is gone through once more
        checkpoints = run.checkpoints(member)
        MetricsFile(run.metrics_path, member=member, start=checkpoints.step or 0)
        checkpoints.close()
    options = [json.dumps(list(overrides)), str(int(cached)), str(int(quiet))]
    try:
        codes = in_processes(
            "nde.runs.side_by_side",
            [[str(run.folder), f".{place}", json.dumps(group), *options] for place, group in enumerate(groups)],
        )
    except KeyboardInterrupt:
        return False
    finally:
        _gather(run)
    if 130 in codes:
        return False
    if codes:
        raise RunFailed(f"{len(codes)} of {len(groups)} processes failed; what they said stands above.")
    run.keep_config()
    return True


def main(folder: str, part: str, members: str, overrides: str, cached: str, quiet: str) -> None:
    """A process of `train_side_by_side`."""
    if cached == "1":
        keep_compiled()
    with as_a_process():
        run = Run.open(Path(folder))
        run = run.resumed(json.loads(overrides)) if overrides != "[]" else run
        # Plain lines: of several bars each would write over the others.
        console = Console(quiet=quiet == "1", force_terminal=False)
        if not train(replace(run, part=part), console, only=json.loads(members)):
            raise KeyboardInterrupt


def _gather(run: Run) -> None:
    """Put the lines of metrics of all processes into the run's file, those too of processes that were killed."""
    if run.metrics_path.exists():
        text = run.metrics_path.read_text()
        if text and not text.endswith("\n"):  # the last line of a run that was killed while it wrote
            with in_one_piece(run.metrics_path) as whole:
                whole.write_text(text[: text.rfind("\n") + 1])
    for path in sorted(run.folder.glob("metrics.[0-9]*.jsonl")):
        with run.metrics_path.open("a") as file:
            file.write("".join(line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")))
        path.unlink()
