"""The views of a point and of a study's conditions, as Dash components: served live, or frozen by `views.freeze`.

Texts go into components as text; none of them is ever read as markup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from dash import dcc, html
from dash.development.base_component import Component

from prunesearch.core.costs import Cost, digits, find_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import ENCODER, Stage
from prunesearch.core.tables.registry import CHANGES
from prunesearch.export import FORMATS, MODEL_FORMATS, ModelShape, export_schedule
from prunesearch.export.schedules.native import provenance_of
from prunesearch.report.tables.show import export_command
from prunesearch.report.views.axes import Drawn
from prunesearch.report.views.figures import Figure, percent_text, signed
from prunesearch.report.views.figures_point import piece_name, time_figure, time_rows, tokens_figure
from prunesearch.report.views.study_view import Item, StudyView
from prunesearch.study.front_items import Point

Children = list[Any]
_GRAPH: Any = {"displayModeBar": False, "displaylogo": False, "responsive": True}


LIVE: dict[str, Any] = {"aria-live": "polite"}  # attributes of what is read out when it changes


def named(label: str) -> dict[str, Any]:
    """Attributes that give a component its name for screen readers."""
    return {"aria-label": label}


def plot(name: str, figure: Figure | None, label: str, size: str = "") -> Component:
    """A figure with its description; `assets/theme.js` draws it in the colours of the page. None: hidden.

    The figure lies in a store and not in the graph, so that a change of colours or data redraws without a flash.
    """
    return html.Div(
        [
            dcc.Store(id={"kind": "figure", "name": name}, data=figure),
            dcc.Graph(id={"kind": "graph", "name": name}, config=_GRAPH, className="drawn"),
        ],
        role="img",
        id={"kind": "plot", "name": name},
        className=f"plot {size}".strip(),
        **named(label),
    )


def section(title: str, *children: Any) -> Component:
    """A part of a page with its heading."""
    return html.Section([html.H2(title), *children])


def small(text: str) -> Component:
    """A remark."""
    return html.P(text, className="muted small")


def table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[int] = (), caption: str = ""
) -> Component:
    """A table that scrolls sideways where it does not fit; `numbers` are its right-aligned columns.

    A cell is text or a component.
    """
    align = ["number" if i in numbers else "" for i in range(len(head))]
    cells = [html.Tr([html.Td(cell, className=c) for cell, c in zip(row, align, strict=True)]) for row in rows]
    titles = html.Tr([html.Th(text, scope="col", className=c) for text, c in zip(head, align, strict=True)])
    name = [html.Caption(caption, className="hidden-caption")] if caption else []
    body = html.Table([*name, html.Thead(titles), html.Tbody(cells)])
    return html.Div(body, className="scroll", tabIndex=0, role="region", **named(caption or "table"))


def facts(pairs: Sequence[tuple[str, str, str]]) -> Component:
    """A list of (name, value, remark)."""
    found = [html.Div([html.Dt(n), html.Dd([html.Strong(v), html.Span(r) if r else None])]) for n, v, r in pairs]
    return html.Dl(found, className="facts")


def code(text: str, label: str, wrap: bool = False) -> Component:
    """Something to copy."""
    button = html.Button("copy", className="copy", type="button", **named(f"copy {label}"))
    return html.Div([html.Pre(text, tabIndex=0, className="wrap" if wrap else ""), button], className="code")


def _amount_code(stage: Stage) -> str:
    return f"ps.{stage.amount!r}" if stage.amount.counts else repr(stage.keep)


def _place_code(stage: Stage) -> str:
    return str(stage.layer) if stage.place.part == ENCODER else f"ps.Place({stage.place.part!r}, {stage.layer})"


def python_lines(given: Plan | Schedule) -> str:
    """The lines that put this plan, or a schedule alone, on a model in Python."""
    plan = Plan.of(given)
    indent = ",\n" + " " * 13
    stages = "".join(
        f"    ps.Stage(layer={_place_code(s)}, keep={_amount_code(s)}{indent}"
        f'scorer="{s.scorer}"{indent}merge="{s.merge}"'
        + (f'{indent}selection="{s.selection}"' if s.selection != Stage.selection else "")
        + (f"{indent}params={dict(s.params)!r}" if s.params else "")
        + "),\n"
        for s in plan
    )
    made = f"schedule = ps.Schedule([\n{stages}])\n"
    if plan.changes:
        changes = "".join(f"    Change.parse({str(change)!r}),\n" for change in plan.changes)
        made += f"plan = ps.Plan(schedule, [\n{changes}])\n"
    more = "from prunesearch.core.plans.plan import Change\n" if plan.changes else ""
    fits = ", fits=ps.load_fits(STUDY)" if any(CHANGES.entry(c.kind).fitted for c in plan.changes) else ""
    return (
        f"import prunesearch as ps\n{more}\n{made}"
        f"handle = ps.apply_(model, {'plan' if plan.changes else 'schedule'}{fits})\noutputs = model(**batch)\n"
        "handle.remove()  # exactly as before"
    )


def _study_lines(study: StudyView, item: Item) -> str:
    """The same of a point with weights of its own, which are in the study."""
    return (
        f"import prunesearch as ps\n\nstudy = ps.load_study({study.name!r})\n"
        f"with study[{item.id!r}].applied(model):  # on its trained weights\n    outputs = model(**batch)"
    )


# -- a point -------------------------------------------------------------------------------------------


def point_view(study: StudyView, item: Item, prefix: str = "") -> Children:
    """All there is to see of one schedule: numbers, stages, tokens, where its time goes, how to use and export it.

    `prefix` keeps the figures of several points on one page apart.
    """
    name = f"{prefix}{item.id}"
    parts: Children = [point_facts(study, item)]
    if item.plan:
        parts += [html.H3("Stages"), stages_table(study, item)]
    if item.tokens:
        label = f"Bar chart of the tokens that leave each block under {item.id}: {', '.join(map(str, item.tokens))}"
        parts += [
            html.H3("Tokens leaving each block"),
            plot(f"tokens {name}", tokens_figure(study, item), label, "short"),
        ]
    base = study.unpruned
    rows = time_rows(study, [*([base] if base else []), item])
    if rows:
        label = "Bar chart of where the time goes; the table below has the same numbers"
        parts += [html.H3("Where the time goes"), plot(f"time {name}", time_figure(rows), label, "bars")]
        parts.append(details("The numbers", time_table(rows)))
    lines = python_lines(item.plan) if item.plan.weights is None else _study_lines(study, item)
    parts += [html.H3("Use it"), code(lines, "Python lines")]
    parts += [html.H3("Export it"), *exports(study, item)]
    return parts


def details(title: str, *children: Any) -> Component:
    """Something to open."""
    return html.Details([html.Summary(title), *children])


def _tuned_facts(study: StudyView, point: Point) -> list[tuple[str, str, str]]:
    """Of a tuned point: what it was before, and the second reference."""
    tuned = point.tuned
    if tuned is None:
        return []
    d = tuned.difference
    interval = "no interval is known" if d.ends is None else f"95 %: {signed(d.ends[0])} to {signed(d.ends[1])}"
    return [
        (f"{study.metric} before it was tuned", f"{100 * tuned.before.value:.1f} %", tuned.text),
        (
            "unpruned after the same training",
            f"{100 * tuned.equal.value:.1f} %",
            f"change to it {signed(d.value)}, {interval}",
        ),
    ]


def point_facts(study: StudyView, item: Item) -> Component:
    """Speed-up, costs and quality, each with what surrounds it."""
    pairs: list[tuple[str, str, str]] = []
    base = study.unpruned
    latency = item.costs.get("latency")
    if base is not None and latency is not None and "latency" in base.costs:
        pairs.append(("speed-up", f"{base.costs['latency'].value / latency.value:.2f}×", study.source))
    for name, amount in item.costs.items():
        row = find_cost(name)
        pairs.append((row.title, row.text(amount.value), _around(study, row, amount)))
    if item.quality is not None:
        low_high = percent_text(item.quality).partition(" % ")[2]
        remark = f"95 % interval {low_high}" if low_high else "so far: the front is judged on held-out data at the end"
        pairs.append((f"{study.metric}, {study.split}", f"{100 * item.quality.value:.1f} %", remark))
    if item.point is not None:
        d, f = item.point.difference, item.point.fidelity
        interval = "no interval is known" if d.ends is None else f"95 %: {signed(d.ends[0])} to {signed(d.ends[1])}"
        pairs.append(("change, paired", f"{signed(d.value)} points", interval))
        pairs += _tuned_facts(study, item.point)
        pairs.append(("same answer as unpruned", f"{100 * f.agreement:.1f} %", "of the holdout rows"))
        seen = item.point.quality.calibration
        calibration = "" if seen is None else f"calibration: {100 * seen:.1f} % {study.metric}"
        pairs.append(("KL from unpruned", f"{f.kl:.2g}", calibration))
    return facts(pairs)


def _around(study: StudyView, row: Cost, amount: Drawn) -> str:
    """`p10–p90: 8.1 to 8.9; predicted 8.3 ms`, or how a number that was not measured came to be."""
    if row.exact:
        base = study.unpruned
        whole = base.costs.get(row.name) if base else None
        return f"of {digits(whole.value)} unpruned, {row.predicted_by}" if whole else row.predicted_by
    around = ""
    if amount.low is not None and amount.high is not None:
        around = f"{digits(amount.low)} to {digits(amount.high)}"
    if not amount.measured:
        return "; ".join(text for text in (around, study.how(row.name, amount), "not re-measured") if text)
    said = f"{row.around}: {around}" if around else "measured"
    predicted = "" if amount.predicted is None else f"; predicted {row.text(amount.predicted)}"
    return f"{said}{predicted}"


def _left_by(study: StudyView, item: Item, stage: Stage) -> str:
    """Tokens behind a stage; before the first block those that it is given."""
    if not item.tokens or study.shape is None:
        return ""
    return str(item.tokens[stage.layer] if stage.place.site >= 0 else item.plan.flow(study.shape.geometry).n_in)


def stages_table(study: StudyView, item: Item) -> Component:
    """One row a stage."""
    rows = [
        [
            str(s.place),
            str(s.amount) if s.by_row else f"{100 * s.keep:.0f} %",
            _left_by(study, item, s),
            breakable(s.chosen_by),
            breakable(s.merge),
        ]
        for s in item.plan
    ]
    return table(["block", "kept", "tokens", "scorer", "merge"], rows, (0, 1, 2), f"stages of {item.id}")


def time_table(rows: Sequence[tuple[str, dict[str, float]]]) -> Component:
    """`time_rows` as numbers."""
    pieces = list(rows[0][1])
    body = [[piece_name(piece), *(f"{digits(row[piece])}" for _, row in rows)] for piece in pieces]
    body.append(["sum", *(digits(sum(row.values())) for _, row in rows)])
    head = ["ms of a batch", *(name for name, _ in rows)]
    return table(head, body, range(1, len(head)), "where the time goes, by the cost table")


def breakable(name: str) -> str:
    """A long name that may wrap on a phone."""
    return name.replace("_", "_\u200b")


def exports(study: StudyView, item: Item) -> Children:
    """The shell line, and a download for every format; what a format cannot say it says instead."""
    shape = study.shape
    if shape is None:
        return [small("The shape of the model is not known yet, and most formats need it.")]
    provenance: dict[str, Any] = {}
    parts: Children = []
    if study.front is not None and item.point is not None:
        provenance = dict(provenance_of(item.point, study.front))
        parts.append(code(export_command(study.front, item.id), "command", wrap=True))
    sizes = shape.depth, shape.tokens, shape.protected
    target = ModelShape(*sizes, provenance, part=shape.geometry.part, tower=shape.tower)
    stem = f"{study.name}-{item.id}"
    buttons, changed, refused = [], [], []
    for form in (FORMATS[name] for name in FORMATS):
        try:
            found = export_schedule(item.plan, form, target, lossy=True)
        except PruneSearchError as error:
            refused.append(html.Li([html.Strong(form.name), f": {error}"]))
            continue
        button = _download(form.name, found.text, stem, "; ".join(found.losses))
        if found.changes:
            changed.append(html.Li([button, f" changes it: {'; '.join(found.changes)}"]))
        else:
            buttons.append(button)
    parts.append(html.Div(buttons, className="buttons"))
    if changed:
        parts.append(details("Formats that can only come near", html.Ul(changed, className="small plain")))
    if refused:
        parts.append(details("Formats that cannot say it", html.Ul(refused, className="small")))
    if study.front is not None and item.point is not None:
        command = export_command(study.front, item.id).removesuffix("json")
        lines = "\n".join(f"{command}{name} -o PATH" for name in MODEL_FORMATS)
        parts.append(details("Whole models, by command", code(lines, "commands")))
    return parts


def _safe(text: str) -> str:
    """A file's name, whatever the study's."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)


def _download(name: str, text: str, stem: str, remark: str) -> Component:
    """A link to the file itself: made in memory, working without a server too."""
    suffix = "json" if _is_json(text) else "txt"
    ending = suffix if name == suffix else f"{name}.{suffix}"
    data = base64.b64encode(text.encode()).decode()
    return html.A(
        name,
        href=f"data:text/plain;charset=utf-8;base64,{data}",
        download=f"{_safe(stem)}.{ending}",
        className="button",
        title=remark,
        **named(f"download as {name}"),
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# -- all points ----------------------------------------------------------------------------------------


def points_table(study: StudyView, chosen: str | None, href: str) -> Component:
    """One row an item, the unpruned model first; names are links to `href` + `?point=` + name."""
    axes = study.axes
    verdict = study.front.verdict.point if study.front else None
    rows = []
    base = study.unpruned
    for item in [*([base] if base else []), *study.items]:
        name: Any = item.id
        if item is not base:
            marked: dict[str, Any] = {"aria-current": "true"} if item.id == chosen else {}
            link = html.Span(dcc.Link(item.id, href=f"{href}?point={quote(item.id)}", className="point"), **marked)
            name = html.Span([link, " verdict" if item.id == verdict else ""])
        rows.append([name, *_row(study, item, axes), str(len(item.plan)), _done_to(study, item)])
    heads = [find_cost(a).head for a in axes]
    head = ["point", "speed-up", *heads, f"{study.metric}, %", "95 %", "change", "stages", "precision"]
    return table(head, rows, range(1, len(head)), f"all points of {study.name}")


def _done_to(study: StudyView, item: Item) -> str:
    """What a point's weights are: their precision, and whether they were trained for it."""
    return (item.plan.done or study.dtype) + (", tuned" if item.plan.weights is not None else "")


def _row(study: StudyView, item: Item, axes: Sequence[str]) -> list[str]:
    base = study.unpruned
    speed = ""
    if base is not None and "latency" in base.costs and "latency" in item.costs:
        speed = f"{base.costs['latency'].value / item.costs['latency'].value:.2f}×"
    quality = interval = ""
    if item.quality is not None:
        quality = f"{100 * item.quality.value:.1f}"
        if item.quality.low is not None and item.quality.high is not None:
            interval = f"{100 * item.quality.low:.1f}–{100 * item.quality.high:.1f}"
    change = signed(item.point.difference.value) if item.point else ""
    return [speed, *(digits(item.costs[axis].value) for axis in axes), quality, interval, change]
