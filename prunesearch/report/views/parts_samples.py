"""What a schedule does to data, as components: patches over the picture, words marked, answers that changed."""

from __future__ import annotations

import base64
from typing import Any

from dash import html
from dash.development.base_component import Component

from prunesearch.report.pictures import overlay_svg, token_spans
from prunesearch.report.views.parts import named, small
from prunesearch.report.views.shown_samples import ShownRow, ShownSamples, ShownStage, ShownTrace

LEGEND = (
    "Dark or struck through: dropped. One colour: merged into one token. Plain: kept. Boxed words are never reduced. "
    "A later stage shows what became of all tokens of the start."
)


def samples_view(samples: ShownSamples | None, point: str) -> list[Any]:
    """The rows that were traced under a point: first some ordinary ones, then where pruning changed the answer."""
    if samples is None or not samples.traces:
        return [small("No rows were traced: they are drawn when a run ends.")]
    mine = samples.of(point)
    if not mine:
        others = ", ".join(dict.fromkeys(trace.point for trace in samples.traces))
        return [small(f"None were traced under {point}; there are some for {others}.")]
    same = [_sample(samples.row(t.row), t) for t in mine if not t.disagrees]
    worst = [_sample(samples.row(t.row), t) for t in mine if t.disagrees]
    parts: list[Any] = [small(LEGEND), html.Div(same, className="samples")]
    if worst:
        parts += [
            html.H3("Where pruned and unpruned disagree"),
            small(
                "The calibration rows looked at whose answer changed, those furthest from the unpruned outputs first."
            ),
            html.Div(worst, className="samples"),
        ]
    return parts


def _sample(row: ShownRow, trace: ShownTrace) -> Component:
    answer = f"both say {trace.pruned}"
    if trace.disagrees:
        answer = f"unpruned says {trace.unpruned}, pruned says {trace.pruned}"
    title = f"calibration row {row.index}: {row.label}"
    draw = _picture if row.picture is not None else _words
    head = [html.H3(title), html.P(answer, className="warm" if trace.disagrees else "muted small")]
    if row.picture is None:
        return html.Div([*head, *(draw(row, stage, title) for stage in trace.stages)])
    shown = [_plain_picture(row, title), *(draw(row, stage, title) for stage in trace.stages)]
    strip = html.Div(shown, className="strip", tabIndex=0, role="group", **named(title))
    return html.Div([*head, strip])


def _caption(stage: ShownStage, of_picture: int | None = None) -> str:
    """What a stage leaves; how many are `of_picture`, where others stand behind the picture."""
    where = "before the first block" if stage.at_input else f"after block {stage.layer}"
    part = "" if of_picture is None else f" ({of_picture} of the picture)"
    return f"{where}: {stage.tokens} tokens{part}, {stage.method}"


def _plain_picture(row: ShownRow, title: str) -> Component:
    picture = html.Img(src=row.picture, alt=f"{title}, as the model sees it")
    return html.Figure([html.Div(picture, className="overlaid"), html.Figcaption("as the model sees it")])


def _picture(row: ShownRow, stage: ShownStage, title: str) -> Component:
    rows, columns = row.grid or (1, 1)
    owner = stage.owner[row.leading : row.leading + rows * columns]
    svg = overlay_svg(owner, (rows, columns), stage.owner)
    overlay = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    dropped = sum(o < 0 for o in owner)
    caption = _caption(stage, len({o for o in owner if o >= 0}) if row.trailing else None)
    alt = f"{title}, {caption}; {dropped} of {len(owner)} dropped"
    both = [html.Img(src=row.picture, alt=alt), html.Img(src=overlay, alt="", className="over")]
    return html.Figure([html.Div(both, className="overlaid"), html.Figcaption(caption.replace("+", "+\u200b"))])


def _words(row: ShownRow, stage: ShownStage, title: str) -> Component:
    words = row.words or []
    places = range(len(words))
    special = [i < row.leading or i >= len(words) - row.trailing for i in places]
    nodes: list[Any] = [html.Span(_caption(stage), className="muted")]
    for place, span in enumerate(token_spans(words, stage.owner, special)):
        joined = span["text"].startswith("##")
        shown = span["text"][2:] if joined else span["text"].lstrip("Ġ▁")
        if place and not joined:
            nodes.append(" ")
        style = {} if span["group"] is None else {"--hue": str(round(span["group"] * 137.5 % 360))}
        nodes.append(html.Span(shown, className=f"token {span['state']}", title=span["state"], style=style))
    return html.P(nodes, className="stage-text")
