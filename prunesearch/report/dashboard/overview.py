"""The first page: every study, how it is going, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from dash import dcc, html
from dash.development.base_component import Component

from prunesearch.core.costs import find_cost
from prunesearch.report.dashboard.library import SearchProgress, progress
from prunesearch.report.views.parts import facts, named
from prunesearch.report.views.study_view import StudyView


def overview(studies: Sequence[StudyView]) -> Component:
    """A card a study."""
    if not studies:
        return html.P("No study yet: `prunesearch run` makes one, and it will show up here.", className="muted")
    going = [progress(study) for study in studies]
    running = sum(how.state == "running" for how in going)
    plural = "study" if len(studies) == 1 else "studies"
    said = f"{len(studies)} {plural}, {running} running"
    cards = [_card(study, how) for study, how in zip(studies, going, strict=True)]
    return html.Div([html.P(said, className="muted"), html.Ul(cards, className="cards")])


def study_address(key: str) -> str:
    """Path of a study's page."""
    return f"/study/{quote(key, safe='')}"


def _card(study: StudyView, how: SearchProgress) -> Component:
    title = html.H2(dcc.Link(study.name, href=study_address(study.key)))
    chips = [html.Span(how.state, className=f"chip {how.state}")]
    if study.estimated:
        chips.append(html.Span(study.source, className="chip estimated"))
    verdict = study.front.verdict.text if study.front else ""
    said = [html.P(verdict, className="small")] if verdict else []
    error = [html.P(f"last failure: {how.last_error}", className="small warm")] if how.last_error else []
    problem = [html.P(study.problem, className="note small")] if study.problem else []
    body = [html.Div([title, html.Div(chips)], className="card-head"), *said, _facts(study, how), _bar(how)]
    return html.Li([*body, *error, *problem], className="card")


def _facts(study: StudyView, how: SearchProgress) -> Component:
    front, config = study.front, study.config
    model = front.model.id if front else str(config.get("model") or "the bundled demo" if config else "unknown")
    task = front.task.name if front else str(config.get("task", "unknown"))
    budget = study.budget.text if study.budget else str(config.get("budget") or "none")
    pace = "" if how.pace is None else f"{how.pace:.3g} trials a minute"
    wanted = f" of {how.wanted}" if how.wanted else ""
    count = len(study.items)
    found = f"{count} point{'s' if count > 1 else ''}" if count else "nothing yet"
    return facts(
        [
            ("model", _short(model), task),
            ("device", study.device, "" if study.batch_size is None else f"batch {study.batch_size}"),
            ("budget", budget, ""),
            ("best at budget", *_best(study)),
            ("trials", f"{how.done}{wanted}", pace),
            ("failures", str(how.failed), f"front: {found}"),
        ]
    )


def _short(model: str) -> str:
    """Of a folder its last two names."""
    return "/".join(Path(model).parts[-2:]) if model.startswith(("/", ".", "~")) else model


def _best(study: StudyView) -> tuple[str, str]:
    """Quality and cost of the best point in budget, else of the verdict's; by calibration quality."""
    item = study.best_at_budget()
    if item is None and study.front is not None:
        if study.front.budget is not None:
            return "none", "no point meets it"
        item = study.item(study.front.verdict.point)
    if item is None or item.quality is None:
        return "–", "no front yet" if study.front is None else "no budget, and the unpruned model is best"
    axis = study.budget.axis if study.budget else "latency"
    cost = find_cost(axis).text(item.costs[axis].value) if axis in item.costs else ""
    why = "" if study.budget else " (no budget: the verdict)"
    return f"{100 * item.quality.value:.1f} %", f"{item.id}, {cost}{why}"


def _bar(how: SearchProgress) -> Component | None:
    if how.wanted is None or how.state == "finished":
        return None
    label = f"{how.done} of {how.wanted} trials"
    return html.Progress(max=str(how.wanted), value=str(min(how.done, how.wanted)), **named(label))
