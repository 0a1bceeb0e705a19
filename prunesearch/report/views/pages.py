"""The parts of a study's page that dashboard and report have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from prunesearch.core.costs import digits
from prunesearch.report.tables.adapted_table import adapted_head, adapted_lines, adapted_remark, adapted_rows
from prunesearch.report.tables.compared_table import (
    TITLE,
    compared_head,
    compared_lines,
    compared_remark,
    compared_rows_of,
)
from prunesearch.report.tables.rungs import rung_head, rung_note, rung_rows, rungs_skipped
from prunesearch.report.tables.stressed_table import stressed_head, stressed_remark, stressed_rows
from prunesearch.report.views.conditions import conditions, threads_text
from prunesearch.report.views.figures import CLOUD, signed
from prunesearch.report.views.figures_point import compared_figure, predicted_figure
from prunesearch.report.views.figures_search import (
    Contribution,
    contributions_figure,
    hypervolume_figure,
    stages_figure,
)
from prunesearch.report.views.parts import breakable, details, plot, point_view, section, small, table
from prunesearch.report.views.parts_samples import samples_view
from prunesearch.report.views.study_view import Item, StudyView
from prunesearch.study.front import Front
from prunesearch.study.front_items import ClassQuality

FRONT_LABEL = "Scatter plot of quality against cost; the same numbers stand in the table of all points"


def head(study: StudyView) -> Component:
    """Name, verdict, model, device and conditions."""
    front = study.front
    chip = html.Span(study.source, className="chip estimated" if study.estimated else "chip")
    if front is None:
        said = "The search is running, or was stopped: what follows is the front of its trials so far, with predicted "
        said += "costs and the quality on calibration data."
        lines = [html.P(said, className="lead")]
    else:
        c = front.conditions
        threads = threads_text(c.threads)
        where = f"{front.model.id} on {front.device.name} ({front.device.kind}{threads}), batch {c.batch_size}, "
        where += f"{c.dtype}, {c.attention}, {c.tokens} tokens"
        lines = [html.P(front.verdict.text, className="lead"), html.P(where, className="muted")]
        lines += [html.P(note, className="note small") for note in front.notes]
    problem = [html.P(study.problem, className="note")] if study.problem else []
    return html.Header([html.P(["prunesearch ", chip], className="eyebrow"), html.H1(study.name), *lines, *problem])


def front_remark(study: StudyView) -> str:
    """What is drawn in the figure of the front."""
    broken = sum(bool(study.broken(trial)) for trial in study.done)
    crosses = f" Crosses: the {broken:,} that break a constraint." if broken else ""
    if study.front is None:
        text = "Rings: the front of the trials so far. Grey: all trials. Choose a point in the plot or in the table."
        return text + crosses
    bars = "10th to 90th percentile of latency" if study.front.measured else "the mean error of what was predicted"
    text = f"Choose a point in the plot or in the table. Bars: 95 % interval of quality; {bars}."
    if study.front.measured:
        text += " Ticks: what the cost table predicted."
    if study.done:
        some = f", {CLOUD:,} of them and their front drawn" if len(study.done) > CLOUD else ""
        text += (
            f" Grey: the {len(study.done):,} trials{some}, by predicted cost and calibration quality; drag to zoom, "
        )
        text += "double-click for all."
    return text + crosses


def point_panel(study: StudyView, item: Item, prefix: str = "") -> list[Any]:
    """The chosen schedule."""
    return [html.H2(["Schedule ", html.Span(item.id)]), *point_view(study, item, prefix)]


def samples_panel(study: StudyView, item: Item) -> list[Any]:
    """What the chosen schedule does to data."""
    return [html.H2("What it does to data"), *samples_view(study.samples, item.id)]


def search_figures(study: StudyView, axis: str, found: list[Contribution]) -> dict[str, Any]:
    """The figures of the search by name, `found` of `contributions`; None where there is nothing to draw."""
    return {
        "hypervolume": hypervolume_figure(study, axis),
        "stages": stages_figure(study),
        "methods": contributions_figure(found),
    }


def search_section(figures: dict[str, Any], found: list[Contribution]) -> Component:
    """How the search went; `figures` of `search_figures`."""
    return html.Div(
        [
            html.Div(
                [
                    section(
                        "Hypervolume",
                        small(
                            "The share of the area under the unpruned model's cost and quality that the trials' front "
                            "covers, after each trial. Flat: the search finds nothing better."
                        ),
                        plot("hypervolume", figures["hypervolume"], "Line of the hypervolume over the trials"),
                    ),
                    section(
                        "What scorers and merges bring",
                        small(
                            "Mean of how far the trials with one lie above the trend of quality over cost, with its "
                            "standard error. They share trials: it goes with one, it need not come from it."
                        ),
                        plot("methods", figures["methods"], "Bars of quality by scorer and merge; the table has all"),
                        details("The numbers", html.Div(methods_table(found), id="methods-table")),
                    ),
                ],
                className="columns even",
            ),
            section(
                "Where schedules reduce",
                small(
                    "Each line is a schedule: tokens left after each block, then latency and quality, as shares of the "
                    "unpruned model's. Coloured: the front. Grey: other trials."
                ),
                plot(
                    "stages", figures["stages"], "Parallel coordinates of the schedules; the table has the stages", ""
                ),
            ),
        ]
    )


def methods_table(found: list[Contribution]) -> Component:
    """`contributions` as numbers, pairs of scorer and merge among them."""
    rows = []
    for c in found:
        gain = "" if c.gain is None or c.error is None else f"{100 * c.gain:+.2f} ± {100 * c.error:.2f}"
        rows.append([c.kind, breakable(c.name), str(c.trials), str(c.on_front), gain])
    head = ["", "name", "trials", "on their front", "points above trend"]
    return table(head, rows, (2, 3, 4), "scorers, merges and methods of the search")


def trust_section(study: StudyView) -> list[Any]:
    """How far the numbers can be trusted: predicted against measured, and all conditions."""
    front = study.front
    if front is None:
        return []
    t = front.cost_table
    said = f"Cost table {t.status} ({t.source}): mean error {t.mape:.1%}, worst {t.worst:.1%}, rank correlation "
    said += f"{digits(t.rank_correlation)}, against {t.against} ({t.schedules})."
    figure = predicted_figure(study)
    shown = [plot("predicted", figure, "Scatter plot of predicted against measured latency")] if figure else []
    left = section("Predicted against measured latency", small(said), *shown)
    both = html.Div([left, section("Conditions and provenance", conditions(study))], className="columns even")
    unlike = [*adapted_section(front), *stressed_section(front)]
    views = [*views_section(front), *classes_section(front), *groups_section(front)]
    more = [*compared_section(front), *views, *unlike, *ladder_section(front)]
    return [*more, both]


def views_section(front: Front) -> list[Any]:
    """The quality of every point in every view of the rows; nothing where there is one view."""
    if front.combined is None or not front.points:
        return []
    first, views = front.task.metric, front.views
    rows = []
    for name in (first, *views):
        cells = [f"{100 * front.unpruned.qualities[name].value:.1f}"]
        for point in front.points:
            found = point.qualities[name]
            cells.append(f"{100 * found.value:.1f} ({signed(found.difference.value) if found.difference else ''})")
        rows.append([f"{front.combined} of all" if name == first else name, *cells])
    head = ["view", "unpruned", *(point.id for point in front.points)]
    said = (
        f"{first}, %, of every point in every view of the same rows, and its change from the unpruned model's there. "
    )
    said += f"The first row, the {front.combined} of all, is what the search went by."
    shown = table(head, rows, range(1, len(head)), "quality in every view")
    return [section("Quality in every view", small(said), shown)]


def classes_section(front: Front) -> list[Any]:
    """The quality of every point class by class; nothing where rows have no classes."""
    return _parts_section(front, {point.id: point.classes for point in front.points}, "class")


def groups_section(front: Front) -> list[Any]:
    """The same group by group; nothing where no column says them."""
    return _parts_section(front, {point.id: point.groups for point in front.points}, "group", front.task.group)


def _parts_section(
    front: Front, parts: Mapping[str, Sequence[ClassQuality]], what: str, column: str | None = None
) -> list[Any]:
    known = {point: {one.name: one for one in mine} for point, mine in parts.items() if mine}
    if not known:
        return []
    worst = front.verdict.point if front.verdict.point in known else list(known)[-1]
    names = list(dict.fromkeys(name for point in (str(worst), *known) for name in known[point]))
    rows = []
    for name in names:
        each = [mine.get(name) for mine in known.values()]
        cells = ["" if one is None else f"{100 * one.quality:.1f} ({signed(one.change)})" for one in each]
        rows.append([name, str(max(one.rows for one in each if one is not None)), *cells])
    head = [what if column is None else column, "rows", *known]
    said = (
        f"{front.task.metric}, %, of every point in every {what}, and its change from the unpruned model's there; the "
        f"{what} that {worst} costs most first. Of few rows a change is known to a few points only."
    )
    shown = table(head, rows, range(1, len(head)), f"quality in every {what}")
    return [section(f"Quality in every {what}", small(said), shown)]


def adapted_section(front: Front) -> list[Any]:
    """Plans chosen row by row; nothing where nobody asked."""
    found = front.adapted
    if found is None:
        return []
    head = adapted_head(front.task.metric)
    shown = table(head, adapted_rows(found), [0, *range(2, len(head))], "plans chosen row by row")
    lines = map(small, adapted_lines(found))
    return [section("Plans chosen row by row", small(adapted_remark(found)), shown, *lines)]


def stressed_section(front: Front) -> list[Any]:
    """Points where rows are unlike; nothing where nobody asked."""
    found = front.stressed
    if found is None:
        return []
    head = stressed_head(found, front.task.metric)
    shown = table(head, stressed_rows(found), range(1, len(head)), "where rows are unlike")
    return [section("Where rows are unlike", small(stressed_remark(found)), shown, *map(small, found.notes))]


def compared_section(front: Front) -> list[Any]:
    """Methods at equal latency; nothing where nobody asked."""
    found = front.compared
    if found is None:
        return []
    metric = front.task.metric
    head = compared_head(found, metric)
    rows = [[breakable(row[0]), *row[1:]] for row in compared_rows_of(found)]
    shown = table(head, rows, range(1, len(head)), "methods at equal latency")
    figure = plot("compared", compared_figure(found, metric), "Change of quality by method; the table has the numbers")
    lines = compared_lines(found)
    verdict, plans = html.P(lines[-1]), [[breakable(one.name), breakable(one.text)] for one in found.methods]
    more = details("The plans, and the survey's table", table(["method", "plan"], plans), *map(small, lines[:-1]))
    return [section(TITLE, verdict, small(compared_remark(found)), figure, shown, more)]


def ladder_section(front: Front) -> list[Any]:
    """What one line of each runtime and precision would give the unpruned model; nothing where it was not measured."""
    if not front.ladder:
        return []
    said = "The UNPRUNED model as other runtimes and precisions would run it here, timed interleaved in one run, its "
    said += "quality on the same rows; then with the stages of the recommended plan on top."
    rows = rung_note(front)
    said += "" if rows is None else f" {rows[0].upper()}{rows[1:]}."
    shown = table(rung_head(front), rung_rows(front), range(2, 8), "the unpruned model in every runtime and precision")
    return [section("What one line of each gives", small(said), shown, *map(small, rungs_skipped(front)))]
