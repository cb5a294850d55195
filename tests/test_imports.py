"""Who may import whom: read from the source, so that the architecture cannot drift."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "umap", "plotly", "streamlit", "pandas"} | {
    "duckdb",
    "sklearn",
    "scipy",
    "numba",
    "pyarrow",
}


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


def imports(path, only_top_level=False):
    """(line, dotted name) of every import in a file; `only_top_level` those that run when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _run_at_import(tree) if only_top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


def _run_at_import(tree):
    """Statements outside functions and outside `if TYPE_CHECKING`."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node


def violations(package, forbidden, **kwargs):
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files(package)
        for line, name in imports(path, **kwargs)
        if name.split(".")[0] in forbidden
    ]


def test_store_knows_nothing_of_ours():
    assert violations("store", {"probes", "app"}) == []


def test_nobody_imports_the_app():
    assert violations("probes", {"app"}) + violations("store", {"app"}) == []


@pytest.mark.parametrize("room", ["families", "capture", "metrics", "importers"])
def test_the_core_does_not_know_the_store(room):
    assert violations(f"probes/{room}", {"store"}) == []


def test_nobody_imports_the_commands():
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for package in ("probes", "store", "app")
        for path in files(package)
        if "cli" not in path.parts
        for line, name in imports(path)
        if name.startswith("probes.cli")
    ]
    assert found == []


def test_commands_are_light_to_import():
    assert violations("probes/cli", HEAVY | {"numpy", "store"}, only_top_level=True) == []


def test_the_rules_can_fail(tmp_path):
    """The reader of imports sees an import wherever it hides."""
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from store.trace import open_trace\n")
    assert list(imports(file)) == [(2, "store.trace")]
    assert list(imports(file, only_top_level=True)) == []
