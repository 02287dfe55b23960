"""The layers import downwards only, at module level only."""

import ast
from pathlib import Path

import nde

ROOT = Path(nde.__file__).parent
# From the top down; a module may import from its own layer and from those after it.
LAYERS = [
    "cli", "runs", "config", "data", "train", "report", "models", "objectives", "regularise", "engine", "adjoints",
    "solvers", "paths", "fields",
]  # fmt: skip


def _imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nde":
            names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
            yield from ((name, node.lineno) for name in names)
        elif isinstance(node, ast.Import):
            yield from (
                (alias.name.split(".")[1], node.lineno) for alias in node.names if alias.name.startswith("nde.")
            )


def _modules():
    for path in sorted(ROOT.rglob("*.py")):
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if layer != "__init__":
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


def test_training_knows_no_differential_equations():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, layer in _modules()
        if layer == "train"
        for name, line in _imports(ast.parse(path.read_text()))
        if name != "train"
    ]
    assert wrong == []


def test_no_import_hides_in_a_function():
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
