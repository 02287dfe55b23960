"""The layers import downwards only, from each other's faces only, at module level only."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nde
from nde.models import NeuralODE

ROOT = Path(nde.__file__).parent
# From the top down; a module may import from its own layer and from those after it.
LAYERS = [
    "cli", "commands", "sweeps", "runs", "tasks", "config", "data", "report", "models", "objectives", "fields",
    "regularise", "engine", "adjoints", "loop", "steppers", "diffusion", "solvers", "terms", "paths",
    "diffrax_internals", "types", "dtypes", "train", "equinox_internals",
]  # fmt: skip


def _imports(tree: ast.AST):
    """The layers that a module imports, and where."""
    yield from ((module.split(".")[1], line) for module, line in _imported_modules(tree))


def _imported_modules(tree: ast.AST):
    """The modules and folders of nde that a module imports, by their full names, and where."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nde":
            folder = ROOT.parent.joinpath(*node.module.split("."))
            inner = [x.name for x in node.names if (folder / x.name).is_dir() or (folder / f"{x.name}.py").is_file()]
            yield from ((f"{node.module}.{name}", node.lineno) for name in inner)
            if node.module != "nde" and len(inner) < len(node.names):
                yield node.module, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.startswith("nde."))


def _modules():
    for path in sorted(ROOT.rglob("*.py")):
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if layer not in ("__init__", "names"):  # nde's own face
            yield path, layer


def test_every_module_belongs_to_a_layer():
    assert {layer for _, layer in _modules()} <= set(LAYERS)


def test_imports_point_down():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, layer in _modules()
        for name, line in _imports(ast.parse(path.read_text()))
        if LAYERS.index(name) < LAYERS.index(layer)
    ]
    assert wrong == []


def test_private_parts_of_other_packages_are_known_to_two_modules_alone():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, layer in _modules()
        if layer not in ("diffrax_internals", "equinox_internals")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _names_of_others(node)
        if re.match(r"(diffrax|equinox)\.(_|internal)|jax\._src", name)
    ]
    assert wrong == []


def _names_of_others(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def test_imports_do_not_reach_past_a_folders_face():
    """`from nde.report import x`, never `from nde.report.figures import x`, but inside of `nde.report`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path, layer in _modules()
        for module, line in _imported_modules(ast.parse(path.read_text()))
        if ROOT.parent.joinpath(*module.split(".")[:-1]) not in path.parents
    ]
    assert wrong == []


def test_no_face_hides_a_module_behind_a_function_of_its_name():
    hidden = [
        f"{face.relative_to(ROOT)}: {alias.asname}"
        for face in ROOT.rglob("__init__.py")
        for node in ast.walk(ast.parse(face.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (face.parent / f"{alias.asname}.py").is_file()
    ]
    assert hidden == []


@pytest.mark.parametrize(
    ("folder", "known"), [("train", {"equinox_internals"}), ("fields", {"terms", "dtypes"}), ("paths", {"dtypes"})]
)
def test_a_folder_knows_only_what_it_needs(folder, known):
    """Training knows no differential equations, a field no solver, a path only numbers. (That the layers of solvers
    know no network follows from their order above; the face of `nde.fields` has names that have moved to them.)
    """
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, layer in _modules()
        if layer == folder and path != ROOT / "fields" / "__init__.py"
        for name, line in _imports(ast.parse(path.read_text()))
        if name not in {folder, *known}
    ]
    assert wrong == []


def test_help_and_version_import_no_jax():
    check = (
        "import sys, nde.cli; nde.__version__; print([m for m in ('jax', 'polars', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reading_a_config_imports_no_figures_and_no_statistics():
    check = (
        "import sys; from nde.config import load_config; load_config('configs/latent_sde_pbc.toml');"
        "print([m for m in ('matplotlib', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"


def test_daily_names_and_layers_are_attributes():
    assert nde.NeuralODE is NeuralODE
    assert nde.data.__name__ == "nde.data"
    assert {"NeuralODE", "Tsit5", "data", "cli"} <= set(dir(nde))
    with pytest.raises(AttributeError, match="module 'nde' has no attribute 'NeuralPDE'"):
        nde.NeuralPDE  # noqa: B018  (to ask is the test)


def test_no_import_hides_in_a_function():
    """The one exception, the command line's own of its commands, goes by `importlib`."""
    hidden = [
        f"{path.relative_to(ROOT)}:{inner.lineno}"
        for path, _ in _modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert hidden == []


def test_public_names_have_docstrings():
    bare = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path, _ in _modules()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert bare == []
