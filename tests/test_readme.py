"""README: its Python runs as printed, its additions can be made to the letter, and what it names is there."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_layout import LAYERS

import nde
from nde.config import ConfigError, load_config, MODELS, models_of, SOLVERS
from nde.tasks import TASKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
# A block that begins with the name of a file is one to add.
RUN, ADDED = ([x for x in BLOCKS if x.startswith("# nde/") == added] for added in (False, True))
TABLE_OF_ONES_OWN = "configs/latent_sde.toml"  # whose path is the user's to give
FAST = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def run(code: str, cwd: Path, **env: str) -> str:
    """What Python prints, at JAX's own settings and not those of the tests."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, env=FAST | env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_is_short():
    assert len(README.splitlines()) <= 200


def test_blocks_run(tmp_path):
    """In one process, each with no names but those that it makes: to start is the greater part of a block's time."""
    assert RUN
    run(f"for n, block in enumerate({RUN!r}): exec(compile(block, f'block {{n}}', 'exec'), {{}})", tmp_path)


def add(root: Path, header: str, body: str) -> None:
    """Do what `# FILE` or `# FILE, in TABLE` says: a new file, lines at a file's end, or a row of a table.

    Of the lines of a row those that are not indented stand before the table, and the others in it, first.
    """
    name, _, table = header.removeprefix("# ").partition(", in ")
    path = root / name
    if not table:
        path.write_text((path.read_text() if path.exists() else "") + body)
        return
    lines = body.splitlines(keepends=True)
    before = "".join(line for line in lines if not line.startswith(" "))
    rows = "".join(line for line in lines if line.startswith(" "))
    text, found = re.subn(rf"^{table}\b.*\{{\n", lambda match: before + match[0] + rows, path.read_text(), flags=re.M)
    assert found == 1, f"{name} has no table {table}"
    path.write_text(text)


# Each addition is used in the way that README names: by a config, with its data read and its model made.
USE = """
import json, jax.numpy as jnp, nde
from nde.config import SOLVERS
from nde.runs import prepare
from nde.config import load_config
config, data = prepare(load_config("neural_ode_spiral.toml", [
    "data.dataset=sines", "model=gated", "solver.name=kutta3"]))
error = []
for steps in (10, 20):
    solution = nde.diffeqsolve(
        nde.ODETerm(lambda t, y, args: y * jnp.cos(t)), SOLVERS["kutta3"](), 0.0, 2.0, 2 / steps, jnp.ones(()))
    error.append(abs(float(solution.ys[-1]) - 2.48257773))  # exp(sin(2))
print(json.dumps([config.data.channels, [one.called() for one in config.model], config.solver.name, error]))
"""


def test_additions_work_to_the_letter(tmp_path):
    shutil.copytree(ROOT / "nde", tmp_path / "nde", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "configs" / "neural_ode_spiral.toml", tmp_path)
    for block in ADDED:
        headers = re.findall(r"^# nde/.*", block, re.M)
        for header, body in zip(headers, re.split(r"^# nde/.*\n", block, flags=re.M)[1:], strict=True):
            assert len([line for line in body.splitlines() if line.strip() and "import" not in line]) <= 10
            add(tmp_path, header, body)
    found = json.loads(run(USE, tmp_path, PYTHONPATH=str(tmp_path), JAX_ENABLE_X64="1"))
    channels, models, solver, (coarse, fine) = found
    assert (channels, models, solver) == (["y"], ["gated ODE"], "kutta3")
    assert coarse / fine == pytest.approx(8, rel=0.2)  # order three


def test_what_it_names_is_there():
    for name in set(re.findall(r"`(nde(?:\.\w+)+)`", README)):
        found = importlib.import_module("nde")
        for part in name.split(".")[1:]:
            found = getattr(found, part)
    for path in re.findall(
        r"\]\(([^)h][^)]*)\)|`((?:configs|tests|notebooks|nde)/[\w/.]+)`|^(nde/\S+)  ", README, re.M
    ):
        assert (ROOT / "".join(path)).exists(), path


def test_folders_are_the_layers():
    layers = [layer for layer in LAYERS if (ROOT / "nde" / layer).is_dir()]
    assert re.findall(r"^nde/(\w+)/ ", README, re.M) == layers


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def test_table_of_tasks_holds():
    """What it names serves the task; that it names all is not asked, or a data set could not be added in two files."""
    table = {codes(row[0])[0]: [codes(cell) for cell in row[2:]] for row in rows("Tasks")}
    assert set(table) == set(TASKS)
    for task, (configs, models, data) in table.items():
        assert set(models) <= set(models_of(task))
        assert {load_config(ROOT / path).task for path in configs if path != TABLE_OF_ONES_OWN} == {task}
        for name in data:
            assert load_config(ROOT / configs[0], [f"data.dataset={name}"]).data.dataset == name


STARTS = {
    "dynamics": {"start": "first_row"},
    "population": {"start": "known", "known_start": {"angle": 0.1, "velocity": 0.0}},
}


def test_what_to_take_can_be_taken():
    """Names of models, solvers, adjoints and penalties in the table of needs are those of configs."""
    for _, model, solver, adjoint, penalties in rows("What to take"):
        names = [name for name in codes(model) if name in MODELS]
        for name in names:
            task = MODELS[name].tasks[0]
            known = {"known": "pendulum"} if "known" in MODELS[name].model_fields else {}
            known |= {"parameters": {"length": {"random": 0.3}}} if task == "population" else {}
            data = {"density": {}}.get(task, {"path": "x.csv", "id": "i", "time": "t"})
            data |= {"label": "l"} if task == "classify" else {}
            penalised = codes(penalties) if MODELS[name].default_solver else ()
            for solver_name in [None, *(each for each in codes(solver) if each in SOLVERS)]:
                config = {
                    "task": task,
                    "data": data,
                    **({"observe": STARTS[task]} if task in STARTS else {}),
                    "model": [{"name": name, **known}],
                    "solver": {} if solver_name is None else {"name": solver_name},
                    "regularise": {"penalties": dict.fromkeys(penalised, 1.0)},
                }
                load_config(config)
        for name in codes(adjoint):
            assert hasattr(nde, name.removeprefix("nde.")) or name in ("checkpoint", "reversible", "continuous")


def test_overrides_in_it_are_those_of_configs():
    for given in ("model.gru.hidden_size=8", "model=gru"):
        assert given in README
        load_config(ROOT / "configs" / "cde_motions.toml", [given])
    with pytest.raises(ConfigError, match="say of which model"):
        load_config(ROOT / "configs" / "cde_motions.toml", ["model.width=8"])
