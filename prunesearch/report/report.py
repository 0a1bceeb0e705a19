"""`report.html`: the dashboard's views of a study, frozen in one file that needs no network and no server."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.report.page import fill_template, inert_json, plotly_js, resource
from prunesearch.study.front import Front
from prunesearch.study.storage.reader import Trial

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from prunesearch.cost.tables.cost_table import CostTable
    from prunesearch.report.views.freeze import Frozen
    from prunesearch.report.views.shown_samples import ShownRow, ShownSamples, ShownTrace
    from prunesearch.report.views.study_view import StudyView


def write_report(
    path: str | os.PathLike[str],
    front: Front,
    trials: Sequence[Mapping[str, Any]] = (),
    rows: Sequence[ShownRow] = (),
    traces: Sequence[ShownTrace] = (),
) -> None:
    """Write the report, about 1.5 MB with plotly.js inside, and `samples.json` beside it, which the dashboard reads.

    The cost table that lies beside it is read for where the time goes.

    Args:
        path: of the HTML file; files are replaced atomically.
        front: the front of the study.
        trials: all finished trials: `{"number", "predicted_ms", "kl", "quality"}` (quality as a fraction, on the
            calibration split; None or NaN where it is not known), `"schedule"` as `Schedule.to_dict()` for the
            views of the search, and `"constraints"`, by which each is broken (0 or less: kept); further numbers are
            costs by the names of `views.axes`.
        rows: of data that were traced.
        traces: what each point made of them.
    """
    from prunesearch.report.views.shown_samples import ShownSamples

    folder = Path(path).parent
    samples = ShownSamples(rows=list(rows), traces=list(traces))
    samples.save(folder / "samples.json")
    write_text_atomic(path, report_html(front, trials, samples, _table(folder)))


def report_html(
    front: Front,
    trials: Sequence[Mapping[str, Any]] = (),
    samples: ShownSamples | None = None,
    table: CostTable | None = None,
) -> str:
    """Return the text of the report; arguments as in `write_report`, and the cost table for where the time goes."""
    from prunesearch.report.views.freeze import Frozen
    from prunesearch.report.views.study_view import ShownShape, StudyView

    shape = ShownShape.of(front.model.geometry)
    tried = [_trial(trial) for trial in trials]
    study = StudyView("study", front.study, front, tried, front.config, shape, lambda: table, samples)
    frozen = Frozen()
    body = "".join(frozen.html(part) for part in _page(study, frozen))
    data = {"front": front.to_dict(), "figures": frozen.figures, "pictures": frozen.pictures, "chosen": study.suggested}
    parts = {
        "title": html.escape(front.study),
        "style": resource("assets/style.css"),
        "body": body,
        "data": inert_json(data),
        "plotly": plotly_js(),
        "script": resource("assets/theme.js") + resource("templates/report.js"),
    }
    return fill_template("report.html", parts)


def _page(study: StudyView, frozen: Frozen) -> list[Component]:
    """The parts of the page in their order."""
    from dash import html as dom

    from prunesearch.report.views import pages
    from prunesearch.report.views.figures_search import contributions
    from prunesearch.report.views.parts import LIVE

    card: list[Component] = []
    below: list[Component] = []
    for item in study.items:
        mine: dict[str, Any] = {"data-panel": item.id}
        card.append(dom.Div(pages.point_panel(study, item), **mine))
        if study.samples is not None and study.samples.traces:
            below.append(dom.Section(pages.samples_panel(study, item), **mine))
    if not card:
        card.append(dom.P("No schedule is on the front: keep the model as it is.", className="muted"))
    left = dom.Div(_front_part(study, frozen), className="stack")
    right = dom.Section(card, className="card", **LIVE)
    both = dom.Div([left, right, dom.Div(below)], className="columns study")
    search: list[Component] = []
    if any("schedule" in trial.attrs for trial in study.trials):
        found = contributions(study, study.axes[0])
        search.append(pages.search_section(pages.search_figures(study, study.axes[0], found), found))
    return [pages.head(study), dom.Main([both, *search, *pages.trust_section(study)])]


def _front_part(study: StudyView, frozen: Frozen) -> list[Any]:
    """The figure of the front against every cost that is known, one of them shown, and the table of all points."""
    from dash import html as dom

    from prunesearch.core.costs import find_cost
    from prunesearch.report.views import pages
    from prunesearch.report.views.figures import front_figure
    from prunesearch.report.views.parts import plot, points_table, section, small

    for axis in study.axes:
        frozen.figures[f"front {axis}"] = front_figure([study], axis, chosen=[(study.key, study.suggested)])
    options = [dom.Option(find_cost(axis).title, value=axis) for axis in study.axes]
    against = dom.Label(["against ", dom.Select(options, id="axis")], className="control")
    figure = plot("front", None, pages.FRONT_LABEL, "tall")
    return [
        section("Quality", against, small(pages.front_remark(study)), figure),
        section("All points", points_table(study, None, "")),
    ]


def _table(folder: Path) -> CostTable | None:
    """The study's cost table; a report can do without one that is missing or broken."""
    from prunesearch.cost.tables.cost_table import CostTable

    try:
        return CostTable.load(folder / "cost_table.json")
    except PruneSearchError:
        return None


def _trial(found: Mapping[str, Any]) -> Trial:
    known = {name: value for name, value in found.items() if not isinstance(value, float) or math.isfinite(value)}
    attrs = {
        name: value for name, value in known.items() if name not in ("number", "predicted_ms", "kl", "constraints")
    }
    loss = known.get("kl")
    attrs["latency"] = known.get("predicted_ms")
    bounds = known.get("constraints", {})
    return Trial(int(found["number"]), "COMPLETE", () if loss is None else (loss,), attrs, constraints=bounds)
