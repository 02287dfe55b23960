"""A step that ended a training, kept so that it can be made again."""

import json
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import jax
import numpy as np

from nde import config as configs
from nde.runs.arrays import training_data
from nde.runs.folder import read_config, Run
from nde.tasks import Examples, member_key, RunError
from nde.train import Checkpoints, StepReport, TrainingFailed, with_setbacks

SCRIPT = """# Make the step again that ended the run: python reproduce.py
from pathlib import Path

from nde.runs import reproduce

print(reproduce(Path(__file__).parent))
"""


def keep_failure(run: Run, member: configs.Member, error: TrainingFailed, examples: Examples) -> Path | None:
    """Write what leads to a failure into a new folder `failure-N` of the run, if the error says it.

    `failure.json` says member, step, examples and the error; `state` is the state before the step, `config.toml` by
    which config it was made, and `reproduce.py` makes it again.
    """
    if error.state is None:
        return None
    folder = _new_folder(run.folder)
    rows = None if error.rows is None else np.asarray(error.rows).tolist()
    found = {
        "member": member.index,
        "model": member.label,
        "step": int(error.state.step) + (rows is not None),
        "error": str(error),
        "rows": rows,
        "examples": None if rows is None else [str(examples.names[row]) for row in rows],
    }
    (folder / "failure.json").write_text(json.dumps(found, indent=1) + "\n")
    configs.save_config(run.config, folder / "config.toml")
    (folder / "reproduce.py").write_text(SCRIPT)
    checkpoints = Checkpoints(folder / "state")
    checkpoints.keep(error.state)
    checkpoints.close()
    return folder


def _new_folder(run: Path) -> Path:
    for number in count(1):
        with suppress(FileExistsError):  # of before, or of a process beside this one
            (folder := run / f"failure-{number}").mkdir()
            return folder
    raise AssertionError


def reproduce(folder: str | Path) -> StepReport | float:
    """Make the step of a folder `failure-N` of a run once more.

    **Returns:** its `nde.train.StepReport`, or the score, should it not fail here.

    **Raises:** what ended the run: `equinox.EquinoxRuntimeError` of a solve that fails; `FloatingPointError`, with the
    report, of a loss or a gradient that is not finite. `nde.runs.RunError` if it is no such folder.
    """
    folder = Path(folder)
    if not (folder / "failure.json").is_file():
        raise RunError(f"{folder}: no failure is kept here (no failure.json); give a folder failure-N of a run.")
    known = json.loads((folder / "failure.json").read_text())
    config = read_config(folder.parent, path=folder / "config.toml")
    config = config.model_copy(update={"train": config.train.model_copy(update={"devices": 1})})  # wherever it was
    run = replace(Run.open(folder.parent), config=config)
    member = run.config.members()[known["member"]]
    examples, update = run.task.examples(run.config, run.problem, member), run.task.update(run.config, run.problem)
    checkpoints = Checkpoints(folder / "state")
    state = checkpoints.restore(with_setbacks(update.init(run.new_model(member)), len(examples.names)))
    checkpoints.close()
    if state is None:
        raise RunError(f"{folder}: its state is missing.")
    if known["rows"] is None:
        return float(run.task.validation(run.config, run.problem)(state.evaluated_model))
    data, _ = training_data(run.config.train, examples, run.config.seed + member.index)
    key = member_key(run.config, member.index, "training")
    _, report = update.checked(replace(state, setbacks=None), data, np.array(known["rows"]), key)
    if not report.is_finite:
        raise FloatingPointError(f"{known['error']}\n{jax.tree.map(np.asarray, report)}")
    return report
