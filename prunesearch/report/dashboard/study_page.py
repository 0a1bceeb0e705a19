"""The page of a study: front, the chosen point, data, search. Skeleton, and what fills it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from dash import dcc, html
from dash.development.base_component import Component

from prunesearch.core.costs import COSTS, find_cost
from prunesearch.report.dashboard.overview import study_address
from prunesearch.report.views import pages
from prunesearch.report.views.figures import Figure, colours, front_figure
from prunesearch.report.views.figures_search import contributions
from prunesearch.report.views.other_device import front_on, other_devices
from prunesearch.report.views.parts import LIVE, Children, named, plot, points_table, small
from prunesearch.report.views.study_view import Item, StudyView

_ON = "on:"  # before the name of a device, among the studies that can be shown too


def chosen_item(study: StudyView, search: str | None) -> Item | None:
    """The item that an address asks for (`?point=p3`), or the one to show first."""
    asked = parse_qs((search or "").lstrip("?")).get("point", [None])[0]
    return study.item(asked) or study.item(study.suggested)


def study_page(study: StudyView, others: Sequence[StudyView], search: str | None) -> Children:
    """The whole page, filled: one answer of the server paints it."""
    item = chosen_item(study, search)
    axis = study.axes[0] if study.axes else "latency"
    return [
        dcc.Store(id="study-key", data=study.key),
        dcc.Store(id="later"),  # is set once the front is drawn, and what is below it asked for
        dcc.Store(id="shown", data=shown_stamp(study, item)),
        html.Div(pages.head(study), id="study-head"),
        html.Div(
            [
                html.Section(
                    [
                        html.H2("Quality"),
                        _controls(study, others, axis),
                        html.P(pages.front_remark(study), id="front-remark", className="muted small"),
                        plot("front", front(study, axis, None, [], item), pages.FRONT_LABEL, "tall"),
                        html.H2("All points"),
                        html.Div(points(study, item), id="points"),
                    ],
                    className="stack",
                ),
                html.Section(panel(study, item), id="panel", className="card", **LIVE),
                html.Section(data(study, item), id="samples"),
            ],
            className="columns study",
        ),
        html.Div(id="below"),
    ]


def below(study: StudyView, axis: str) -> Children:
    """What is below the fold: how the search went, and how far the numbers can be trusted."""
    found = contributions(study, axis)
    search = pages.search_section(pages.search_figures(study, axis, found), found)
    return [search, html.Div(pages.trust_section(study), id="trust")]


def _controls(study: StudyView, others: Sequence[StudyView], axis: str) -> Component:
    return html.Div(
        [
            _control("against", "axis", axis_options(study), axis),
            _control("colour", "colour", colour_options(study), None),
            _control("also show", "others", other_options(study, others), [], multi=True),
        ],
        className="controls",
    )


def _control(label: str, name: str, options: list[dict[str, str]], value: Any, multi: bool = False) -> Component:
    clearable = value is None or multi
    box = dcc.Dropdown(
        id=name, options=options, value=value, multi=multi, clearable=clearable, searchable=False, placeholder="–"
    )
    return html.Div([html.Label(label, htmlFor=name), box], className="control-box", role="group", **named(label))


def axis_options(study: StudyView) -> list[dict[str, str]]:
    """Costs that the study knows."""
    return [{"label": find_cost(name).noun, "value": name} for name in study.axes or ["latency"]]


def colour_options(study: StudyView) -> list[dict[str, str]]:
    """What is known of some point to colour it by."""
    return [
        {"label": title, "value": name}
        for name, (title, read) in colours().items()
        if any(read(item) is not None for item in study.items)
    ]


def other_options(study: StudyView, others: Sequence[StudyView]) -> list[dict[str, str]]:
    """Other studies with a front, and these schedules on other devices."""
    found = [
        {"label": f"{other.name} ({other.device})", "value": other.key} for other in others if other.key != study.key
    ]
    return found + [{"label": f"these schedules on {name}", "value": f"{_ON}{name}"} for name in other_devices(study)]


def overlaid(study: StudyView, studies: dict[str, StudyView], asked: Sequence[str]) -> list[StudyView]:
    """The views behind what was chosen to be shown too; what is not known is left out."""
    found = []
    tables = other_devices(study) if any(name.startswith(_ON) for name in asked) else {}
    for name in asked:
        device = name.removeprefix(_ON)
        if name.startswith(_ON) and device in tables and study.front is not None:
            there = front_on(study.front, tables[device], device)
            found.append(StudyView(study.key, study.name, there, shape=study.shape))
        elif name in studies:
            found.append(studies[name])
    return found


def front(study: StudyView, axis: str, colour: str | None, others: Sequence[StudyView], item: Item | None) -> Figure:
    """The figure of the front."""
    name = axis if axis in COSTS else "latency"
    shade = colour if colour in colours() else None
    return front_figure([study, *others], name, shade, [(study.key, item.id)] if item else [])


def panel(study: StudyView, item: Item | None) -> Children:
    """The chosen schedule."""
    if item is None:
        why = "No schedule is on the front: keep the model as it is." if study.front else "No trial has finished yet."
        return [html.H2("Schedule"), html.P(why, className="muted")]
    return pages.point_panel(study, item)


def data(study: StudyView, item: Item | None) -> Children:
    """What the chosen schedule does to data."""
    return [] if item is None else pages.samples_panel(study, item)


def points(study: StudyView, item: Item | None) -> Component:
    """All points as a table of links."""
    if not study.items:
        return small("None yet.")
    return points_table(study, item.id if item else None, study_address(study.key))


def shown_stamp(study: StudyView, item: Item | None) -> str:
    """What the panel of a point depends on: where it is the same, a live page leaves the panel alone."""
    made = study.front.created if study.front else ""
    traced = len(study.samples.traces) if study.samples else 0
    return f"{study.key}/{item.id if item else ''}/{made}/{study.table is not None}/{traced}"
