"""A run: the folder that `nde fit` leaves, and what `nde evaluate`, `nde predict` and `nde plot` read from it.

config.toml        the resolved config, defaults spelled out
metrics.jsonl      loss, its parts and validation scores, a line each
checkpoints/N/     the last and the best state of member N
results.csv        the held-out scores of the models and of the baselines
results.json       the same, with what else the kind has to say
figures/           training.png, and the kind's own
normaliser.json    for kinds that standardise their data: with what
stack.json         for a latent SDE: the baselines, and what each weighs in the pool that forecasts

The `kind` of a config says what is fitted. Training, checkpoints, resume, the folder and the command line know none of
the kinds: they ask an `nde.runs.AbstractKind`.

**To add a kind** `x`:

1. `nde/config/x.py`: a `class XConfig(RunConfig)` with `kind: Literal["x"] = "x"` and the sections that it needs, and
   the `build_…` functions that turn their names into objects; enter it in `CONFIGS` of `nde/config/parse.py`.
2. `nde/runs/kinds/x.py`, or a folder: a `class XKind(AbstractKind)` with `load`, `resolve`, `describe`, `new_model`,
   `examples`, `loss`, `validation`, `evaluate` (a `TableEvaluation` will mostly do) and `figures`; `members` if it
   trains several sorts of model in one run, `save`, `finish` and `predict` if there is something to save, to learn
   after training, or to predict; enter it in `KINDS` of `nde/runs/kinds/__init__.py`.
3. `configs/….toml` with comments, a line in README, and a test that a few steps lower the loss.
"""

from nde.runs.actions import (
    draw as draw,
    evaluate as evaluate,
    finish as finish,
    load_problem as load_problem,
    predict as predict,
    resolve as resolve,
)
from nde.runs.failure import explain_solve as explain_solve
from nde.runs.folder import free_folder as free_folder, new_folder as new_folder, Run as Run
from nde.runs.interface import (
    AbstractEvaluation as AbstractEvaluation,
    AbstractKind as AbstractKind,
    Examples as Examples,
    member_key as member_key,
    OpenedRun as OpenedRun,
    Prediction as Prediction,
    RunError as RunError,
    RunFailed as RunFailed,
    TableEvaluation as TableEvaluation,
)
from nde.runs.kinds import kind_of as kind_of, KINDS as KINDS
from nde.runs.training import train as train
