"""Imports go down only, and what must be light is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import prunesearch

ROOT = Path(prunesearch.__file__).parent
HEAVY = ("torch", "transformers", "pandas", "optuna", "plotly", "datasets", "sklearn")
# what each part may import besides itself
ALLOWED = {
    "core": set(),
    "pruning": {"core"},
    "cost": {"core", "pruning"},
    "tasks": {"core", "pruning"},
    "search": {"core", "pruning", "cost", "tasks", "results", "export"},
    "results": {"core", "pruning", "cost", "tasks", "search", "export"},
    "export": {"core", "pruning", "cost", "tasks", "search", "results"},
    "demo": {"core"},
}
TOP = {"cli", "cli_devices", "cli_dashboard", "cli_export", "cli_models", "cli_values", "__main__", "__init__"}


def imported(path: Path) -> set[str]:
    """Parts of prunesearch that a file imports, anywhere in it."""
    names = []
    package = ["prunesearch", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    parts = [n.split(".") for n in names]
    return {p[1] for p in parts if p[0] == "prunesearch" and len(p) > 1 and p[1] != "__version__"}


def test_every_part_is_in_the_table() -> None:
    parts = {p.name for p in ROOT.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert parts <= set(ALLOWED), f"say in ALLOWED what {sorted(parts - set(ALLOWED))} may import"


def test_imports_go_down_only() -> None:
    wrong, files = [], 0
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT)
        if place.parts[0].removesuffix(".py") in TOP:
            continue
        files += 1
        part = place.parts[0]
        wrong += [f"{place} imports {other}" for other in imported(path) - {part} - ALLOWED[part]]
    assert files > 15
    assert not wrong


def test_core_needs_numpy_and_the_standard_library_only() -> None:
    for path in (ROOT / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                top = name.split(".")[0]
                assert top in {"numpy", "prunesearch"} or top in sys.stdlib_module_names, f"{path.name}: {name}"


CORE = [f"prunesearch.core.{p.stem}" for p in sorted((ROOT / "core").glob("[a-z]*.py"))]


@pytest.mark.parametrize(
    "statement",
    [
        "import prunesearch; prunesearch.Schedule([prunesearch.Stage(1, 0.5)]); list(prunesearch.SCORERS)",
        f"import {', '.join(CORE)}",
    ],
    ids=["package", "core"],
)
def test_light_imports(statement: str) -> None:
    check = f"{statement}\nimport sys\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in prunesearch.__all__:
        assert getattr(prunesearch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'apply'"):
        _ = prunesearch.apply
