"""The notebook runs from top to bottom on prunesearch alone, searches, and says what it promises."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "library.ipynb"


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


def code() -> list[str]:
    return ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]


def smaller(source: str) -> str:
    """The same with fewer seconds, rows and trials: what is tested is that it works."""
    for said, less in (
        ("trials=12", "trials=5"),
        ("trials=6", "trials=4"),
        ("table_seconds=8", "table_seconds=1, patience_s=0, front_points=2, search_samples=24, sensitivity_samples=8"),
        ("holdout=400", "holdout=60"),
        ("calibration=200", "calibration=40"),
        ("seconds=2", "seconds=0.2"),
    ):
        source = source.replace(said, less)
    return source


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str], str]:
    """The notebook's names, what its cells showed as tables, and what they printed, of a run in an empty folder."""
    folder = tmp_path_factory.mktemp("notebook")
    names: dict[str, Any] = {"__name__": "notebook"}
    shown, out = [], io.StringIO()
    with contextlib.chdir(folder):
        for number, source in enumerate(code()):
            tree = ast.parse(smaller(source))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            with contextlib.redirect_stdout(out):
                exec(compile(tree, f"cell {number}", "exec"), names)
                if isinstance(last, ast.Expr):
                    value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
                    if value is not None:
                        shown.append(value._repr_html_())
    return names, shown, out.getvalue()


def test_it_runs_from_top_to_bottom(ran: tuple[dict[str, Any], list[str], str]) -> None:
    names, shown, out = ran
    assert len(shown) == 6  # inspection, measurement, study, trials, study, point
    assert all("<table" in page for page in shown)
    assert "image-classification" in shown[0]
    assert names["study"].verdict in out
    front = names["front"]
    assert front.index[0] == "unpruned"
    assert {"speedup", "accuracy", "accuracy_low", "latency_ms", "latency_ms_predicted", "schedule"} <= set(front)
    assert 0.7 < front.accuracy.iloc[0] <= 1  # the demo's is 0.83 on all of its rows
    assert len(names["trials"]) == 5
    assert "confidence" in names["mine"].to_pandas()
    assert "ViTForImageClassification runs with" in out
    assert names["done"].error < 1e-5


def test_it_imports_prunesearch_alone() -> None:
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for source in code()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported == {"prunesearch"}


def test_it_is_committed_with_what_it_showed_when_it_was_run() -> None:
    """Once, from top to bottom, without an error or a path of the machine; six cells end in a table."""
    found = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in found] == list(range(1, len(found) + 1))
    kinds = [{output["output_type"] for output in cell["outputs"]} for cell in found]
    assert not any("error" in kind for kind in kinds)
    assert sum("execute_result" in kind for kind in kinds) == 6
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert "/root" not in text
