"""The notebook runs from top to bottom, and says what it promises."""

from __future__ import annotations

import contextlib
import io
import json
import re

from tests.support.paths import EXAMPLES

NOTEBOOK = EXAMPLES / "library.ipynb"


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    names: dict = {"__name__": "notebook"}
    said = []
    for number, cell in enumerate(cells()):
        if cell["cell_type"] == "code":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
            said.append(out.getvalue())
    text = "\n".join(said)
    assert "65 tokens, accuracy 0." in text
    assert "modeling_pruned.py" in text
    assert names["unpruned"] > 0.7  # the demo's is 0.83 on all of its rows
    assert names["done"].error < 1e-5
    assert re.search(r"ms pruned: \d+\.\d\dx", text)
    # no patch is held more than once
    assert float(names["held"].min()) >= 0
    assert float(names["held"].max()) <= 1.0001


def test_it_is_committed_without_outputs() -> None:
    for cell in cells():
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
