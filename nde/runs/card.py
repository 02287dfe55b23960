"""The model card of an exported run: for whoever is given the file and has nothing else of it."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from nde.report import counted
from nde.runs.folder import Run
from nde.runs.notes import training_notes
from nde.tasks import Portable


def model_card(
    run: Run, portable: Portable, functions: Sequence[Mapping[str, Any]], limits: Sequence[str], format_: int
) -> str:
    """The card, as Markdown.

    **Arguments:** `functions`: of the manifest; `limits`: what could not be exported, a sentence each.
    """
    config = run.config
    names = ", ".join(section.called() for section in config.model)
    parts = [
        f"# Model card: {config.task} by {names}",
        f"Exported by nde {version('nde')} with jax {version('jax')}, format {format_}. Licence: *to be filled in by "
        "whoever passes it on*.",
        "## What it is for",
        portable.words.use,
        "## Data",
        _list(portable.words.data),
        "## Models",
        *_models(run, functions),
        "## Scores",
        *_scores(run),
        "## Limits",
        _list(_limits(run, portable, functions, limits)),
        "## To predict",
        f"```bash\npip install nde\nnde predict FILE {portable.words.command}\n```",
        "With `--sha256` and the digest that `nde export` printed, an exchanged file is refused. In Python: "
        "`nde.load_exported(FILE)` and its `predict`.",
    ]
    return "\n\n".join(parts) + "\n"


def _models(run: Run, functions: Sequence[Mapping[str, Any]]) -> list[str]:
    config, scores = run.config, run.validation_scores()
    by_model = {function["model"]: function for function in functions}
    found = []
    for section in config.model:
        function = by_model[section.called()]
        numbers = sum(math.prod(each["shape"]) for each in function["weights"])
        given = section.model_dump(exclude_none=True, exclude={"solver"}, mode="json")
        code = section.own_code()
        if code is not None:  # whose reference holds a path of this machine
            given = {name: code.title if value == code.reference else value for name, value in given.items()}
        chosen = ", ".join(f"{name} = {json.dumps(value)}" for name, value in given.items())
        solver = section.merged_solver(config.solver).model_dump(exclude_none=True)
        solved = ", ".join(f"{name} = {value}" for name, value in solver.items())
        found.append(
            f"**{section.called()}**: {counted(function['members'], 'member')} of {numbers} numbers each, "
            f"{function['precision']}; {chosen}" + (f"; solver: {solved}" if section.default_solver else "")
        )
        if section.called() in scores:
            found.append(f"its {run.task.score_name}: {scores[section.called()]:.4g}, the mean over its members' best")
    return [_list([*found, f"trained for at most {config.train.steps} steps, seed {config.seed}"])]


def _scores(run: Run) -> list[str]:
    path = run.folder / "results.json"
    if not path.is_file():
        return ["The run was not scored: there is no results.json in its folder."]
    results = json.loads(path.read_text())
    rows = results["methods"]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    settings = run.config.evaluate.model_dump(exclude_none=True, mode="json")
    asked = ", ".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    asked = results["asked"] if isinstance(results.get("asked"), str) else asked
    counts = [f"{results[f'{what}_scored']} {what}" for what in ("series", "points") if f"{what}_scored" in results]
    scored = f"{counts[0]} that were held out" if counts else "what was held out"
    return [
        f"On {scored} ({asked}); `nde evaluate` of the run measures them.",
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
        _list(results.get("notes", [])),
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _limits(run: Run, portable: Portable, functions: Sequence[Mapping[str, Any]], limits: Sequence[str]) -> list[str]:
    platforms = sorted({name for function in functions for name in function["platforms"]})
    said = [
        *portable.words.limits,
        f"lowered for {', '.join(platforms)}; run on the CPU alone before it was passed on, unless somebody says so",
        *portable.facts["notes"],
        *training_notes(run.config, run.metrics_path),
        *limits,
    ]
    return list(dict.fromkeys(said))


def _list(parts: Sequence[str]) -> str:
    return "\n".join(f"- {part}" for part in parts)
