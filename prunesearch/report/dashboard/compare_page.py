"""Two points side by side, of one study or of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode

from dash import dcc, html

from prunesearch.core.costs import COSTS, digits, find_cost
from prunesearch.report.views.figures import MINUS, front_figure, signed
from prunesearch.report.views.figures_point import time_figure, time_rows, tokens_figure
from prunesearch.report.views.pages import FRONT_LABEL
from prunesearch.report.views.parts import Children, plot, section, small, stages_table, table
from prunesearch.report.views.study_view import Item, StudyView

_SEPARATOR = "\x1f"  # no study's name has a control character in it
Pair = tuple[StudyView, Item]


def compare_page(studies: Sequence[StudyView], search: str | None) -> Children:
    """The page, with the points that its address asks for (`?a=STUDY␟POINT&b=…`), or the first study's ends."""
    options = [
        {"label": f"{study.name} · {item.id}", "value": f"{study.key}{_SEPARATOR}{item.id}"}
        for study in studies
        for item in study.items
    ]
    head = html.Header([html.H1("Compare"), html.P("Two schedules side by side: of one study, or of two devices.")])
    if not options:
        return [head, small("There is no point yet.")]
    asked = parse_qs((search or "").lstrip("?"))
    values = [option["value"] for option in options]
    first = asked.get("a", [values[0]])[0]
    second = asked.get("b", [values[min(len(values) - 1, len(studies[0].items) - 1)]])[0]
    boxes = [
        html.Div(
            [html.Label(label, htmlFor=name), dcc.Dropdown(id=name, options=options, value=value, clearable=False)],
            className="control-box wide",
        )
        for label, name, value in (("first", "compare-a", first), ("second", "compare-b", second))
    ]
    body = html.Div(compared(find_pair(studies, first), find_pair(studies, second)), id="compared")
    return [head, html.Div(boxes, className="controls"), body]


def address(first: str, second: str) -> str:
    """The query of a comparison."""
    return "?" + urlencode({"a": first, "b": second})


def find_pair(studies: Sequence[StudyView], value: str | None) -> Pair | None:
    """The study and item that a value of the boxes names."""
    key, _, name = (value or "").partition(_SEPARATOR)
    for study in studies:
        item = study.item(name)
        if study.key == key and item is not None:
            return study, item
    return None


def compared(first: Pair | None, second: Pair | None) -> Children:
    """Both fronts in one figure, the numbers of both with their difference, and stages, tokens and time of each."""
    if first is None or second is None:
        return [small("Choose two points.")]
    pairs = [first, second]
    same = first[0] is second[0]
    axis = "latency"
    fronts = [first[0]] if same else [first[0], second[0]]
    parts: Children = [
        plot(
            "compare front",
            front_figure(fronts, axis, chosen=[(study.key, item.id) for study, item in pairs]),
            FRONT_LABEL,
            "",
        ),
        section("Numbers", _numbers(first, second)),
    ]
    columns = [html.Section(_column(study, item, place), className="card") for place, (study, item) in enumerate(pairs)]
    return [*parts, html.Div(columns, className="columns even")]


def _numbers(first: Pair, second: Pair) -> Any:
    rows = []
    names = [name for name in COSTS if name in first[1].costs and name in second[1].costs]
    for name in names:
        a, b = (item.costs[name].value for _, item in (first, second))
        title = f"{find_cost(name).title}, {find_cost(name).unit}"
        rows.append([title, digits(a), digits(b), f"{b / a - 1:+.1%}".replace("-", MINUS) if a else ""])
    qualities = [item.quality for _, item in (first, second)]
    if qualities[0] is not None and qualities[1] is not None:
        a, b = qualities[0].value, qualities[1].value
        title = " / ".join(dict.fromkeys(f"{study.metric}, %, {study.split}" for study, _ in (first, second)))
        rows.append([title, f"{100 * a:.1f}", f"{100 * b:.1f}", f"{signed(b - a)} points"])
    rows.append(["stages", *(str(len(item.plan)) for _, item in (first, second)), ""])
    rows.append(["precision", *(item.plan.done or study.dtype for study, item in (first, second)), ""])
    rows.append(["costs are", *(study.source for study, _ in (first, second)), ""])
    rows.append(["device", *(study.device for study, _ in (first, second)), ""])
    heads = [f"{study.name} {item.id}" for study, item in (first, second)]
    return table(["", *heads, "second against first"], rows, (1, 2, 3), "the two points in numbers")


def _column(study: StudyView, item: Item, place: int) -> Children:
    name = f"compare {place}"
    parts: Children = [html.H2(f"{study.name} {item.id}")]
    if item.plan:
        parts.append(stages_table(study, item))
    if item.tokens:
        parts.append(
            plot(f"{name} tokens", tokens_figure(study, item), f"Tokens leaving each block: {item.tokens}", "short")
        )
    rows = time_rows(study, [*([study.unpruned] if study.unpruned else []), item])
    if rows:
        parts.append(plot(f"{name} time", time_figure(rows), "Where the time goes, against the unpruned model", "bars"))
    return parts
