"""Latency-token curves and plateaus: of device profiles, and of the studies' own cost tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from prunesearch.core.costs import digits
from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import Profile, find_profile, profile_folders
from prunesearch.report.curves import block_curve_of, curve_figure
from prunesearch.report.views.parts import Children, details, plot, small, table
from prunesearch.report.views.study_view import StudyView

_PROFILE, _STUDY = "profile:", "study:"
_MOST = 12  # tables drawn on one page


def devices_page(studies: Sequence[StudyView]) -> Children:
    """A box of everything that has cost tables, and the curves of the first."""
    options = [{"label": f"study {s.name}", "value": f"{_STUDY}{s.key}"} for s in studies if s.table is not None]
    options += [{"label": f"profile {name}", "value": f"{_PROFILE}{name}"} for name in profile_folders()]
    head = html.Header(
        [
            html.H1("Devices"),
            html.P("What one block costs at each number of tokens. On a plateau, fewer tokens save no time."),
        ]
    )
    first = options[0]["value"] if options else None
    box = html.Div(
        [
            html.Label("cost tables of", htmlFor="device"),
            dcc.Dropdown(id="device", options=options, value=first, clearable=False),
        ],
        className="control-box wide",
    )
    return [head, html.Div(box, className="controls"), html.Div(curves(studies, first), id="curves")]


def curves(studies: Sequence[StudyView], value: str | None) -> Children:
    """A panel for each table of what was chosen."""
    try:
        tables, said = _tables(studies, value or "")
        panels = [_panel(table, place) for place, table in enumerate(tables[:_MOST])]
    except PruneSearchError as error:
        return [html.P(str(error), className="note")]
    more = f" The first {_MOST} of {len(tables)} tables are drawn." if len(tables) > _MOST else ""
    return [small(said + more), html.Div(panels, className="panels")]


def _tables(studies: Sequence[StudyView], value: str) -> tuple[list[CostTable], str]:
    if value.startswith(_STUDY):
        found = next((s for s in studies if s.key == value.removeprefix(_STUDY)), None)
        if found is None or found.table is None:
            raise PruneSearchError("that study has no cost table")
        return [found.table], f"The cost table of study {found.name}."
    name = value.removeprefix(_PROFILE)
    if name not in profile_folders():
        raise PruneSearchError(f"there is no profile '{name}'")
    profile: Profile = find_profile(name)
    if not profile.tables:
        raise PruneSearchError(
            f"profile '{name}' is estimated: its tables are made for a model when it is searched for "
            f"(prunesearch run --device {name}), and that study then shows them"
        )
    return [profile.read(entry) for entry in profile.tables], f"Measured on {profile.device.get('name', name)}."


def _panel(cost_table: CostTable, place: int) -> Any:
    curve = block_curve_of(cost_table)
    flat = [p for p in curve.plateaus if p.first < p.last]
    where = ", ".join(f"{p.first} to {p.last}" for p in flat)
    said = f"Plateaus: {where} tokens." if flat else "No plateau: fewer tokens are always faster."
    figure = curve_figure(curve)
    figure["layout"] |= {
        "showlegend": True,
        "legend": {"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0},
    }
    rows = [
        [str(r.tokens), digits(r.ms), f"{digits(r.low)} to {digits(r.high)}", digits(r.attention), digits(r.mlp)]
        for r in curve.rows
    ]
    band = "within its error" if curve.status == "estimated" else "p10 to p90"
    numbers = table(["tokens", "block", band, "attention", "MLP"], rows, range(5), f"ms of a block of {curve.name}")
    chip = "chip estimated" if curve.status == "estimated" else "chip"
    return html.Section(
        [
            html.H2([curve.name, html.Span(curve.status, className=chip)]),
            small("; ".join(curve.details)),
            small(curve.trust),
            plot(f"curve {place}", figure, f"Latency of a block of {curve.name} against tokens"),
            small(said),
            details("The numbers, in ms", numbers),
        ]
    )
