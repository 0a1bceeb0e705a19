"""The ladder on the terminal and on the page: what was measured, and what was skipped with the reason."""

from __future__ import annotations

import io
from typing import Any

from dash.development.base_component import Component
from rich.console import Console

from prunesearch.report.tables.rungs import rung_rows, rungs_skipped
from prunesearch.report.tables.show import show_front
from prunesearch.report.views.pages import ladder_section
from prunesearch.study.front_records import Rung

LADDER = [
    Rung(runtime="eager", precision="float32", ms=20.0, speedup=1.0, quality=0.8, plan_ms=10.0, plan_quality=0.79),
    Rung(runtime="onnxruntime", precision="int8", ms=8.0, speedup=2.5, quality=0.795),
    Rung(runtime="compile", skipped="no compiler is here"),
]


def test_speeds_are_over_the_first_rung(make_front: Any) -> None:
    front = make_front().model_copy(update={"ladder": LADDER})
    assert rung_rows(front) == [
        ["eager torch", "float32", "20", "1.00×", "80.0", "10 ms", "2.00×", "79.0"],
        ["ONNX Runtime", "int8", "8", "2.50×", "79.5", "", "", ""],
    ]
    assert rungs_skipped(front) == ["compile: no compiler is here"]


def test_it_stands_on_the_terminal_and_on_the_page(make_front: Any) -> None:
    front = make_front().model_copy(update={"ladder": LADDER})
    out = io.StringIO()
    show_front(front, Console(file=out, width=80))
    assert "unpruned in" in out.getvalue()
    assert "skipped  compile: no compiler is here" in out.getvalue()
    (part,) = ladder_section(front)
    assert isinstance(part, Component)
    assert "ONNX Runtime" in str(part.to_plotly_json())
    assert ladder_section(make_front()) == []
    plain = io.StringIO()
    show_front(make_front(), Console(file=plain, width=80))
    assert "unpruned in" not in plain.getvalue()
