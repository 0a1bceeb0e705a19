"""Under what conditions the numbers of a study hold, and how far they can be trusted."""

from __future__ import annotations

import json

from dash import html
from dash.development.base_component import Component

from prunesearch.core.costs import digits
from prunesearch.report.views.parts import details
from prunesearch.report.views.study_view import StudyView
from prunesearch.study.front import Front

Pairs = list[tuple[str, str]]
_ENDED = {
    "trials": "all trials that were asked for are done",
    "timeout": "its time was up",
    "converged": "its front had stopped growing, as far as the calibration rows can tell",
    "exhausted": "there was nothing new to try",
}


def conditions(study: StudyView) -> Component | None:
    """Model, data, device, conditions, search and provenance; None before there is a front."""
    front = study.front
    if front is None:
        return None
    pairs = [*_model(front), *_costs(front), *_search(front)]
    listed = [part for name, value in pairs if value for part in (html.Dt(name), html.Dd(value))]
    config = html.Pre(json.dumps(front.config, indent=2), tabIndex=0)
    return html.Div([html.Dl(listed, className="conditions"), details("Configuration of the run", config)])


def threads_text(threads: int | None) -> str:
    """`, 1 thread`, `, 2 threads`, or nothing where they do not count."""
    return f", {threads} thread{'' if threads == 1 else 's'}" if threads else ""


def _model(front: Front) -> Pairs:
    m, task = front.model, front.task
    rows = f"{task.holdout} holdout rows; the search saw {task.calibration} calibration rows"
    if front.combined is not None:
        rows = f"the {front.combined} of {len(front.views)} views, {front.unpruned.rows or 'some'} holdout rows in all"
    return [
        ("model", f"{m.id} ({m.class_name}, {m.depth} blocks, {m.tokens} tokens, {m.protected} protected)"),
        ("task", f"{task.name}: {task.metric} on {rows}"),
        ("data", "; ".join(task.notes)),
    ]


def _costs(front: Front) -> Pairs:
    c, d, t = front.conditions, front.device, front.cost_table
    threads = threads_text(c.threads)
    more = {k: v for k, v in d.model_dump().items() if k not in ("name", "kind", "threads") and v is not None}
    noise = "" if t.noise is None else f", noise {t.noise:.1%}"
    noisy = " (noisy machine)" if t.noisy else ""
    error = f"mean {t.mape:.1%}, worst {t.worst:.1%}, rank correlation {t.rank_correlation:.3f}"
    percentile = ""
    if front.percentile is not None:
        p = front.percentile
        percentile = f"p{p.value:g} counts: {p.factor:.3g} times the median, mean error {p.mape:.1%}"
    loads = [f"batch {x.batch_size}, {x.tokens} tokens (weight {x.weight:g})" for x in front.loads]
    return [
        ("device", f"{d.name} ({d.kind}{threads}); {', '.join(f'{k} {v}' for k, v in more.items())}"),
        ("latency", f"batch {c.batch_size}, {c.dtype}, {c.attention} attention, {c.mode} mode, {c.tokens} tokens"),
        ("percentile", percentile),
        ("loads", f"{front.across}: {'; '.join(loads)}" if loads else ""),
        ("cost table", f"{t.status}, {t.source}, {t.cells} cells in {t.seconds:.0f} s{noise}{noisy}"),
        ("its error", f"{error}, against {t.against} ({t.schedules})"),
        ("fitted to this model", "; ".join(t.notes)),
    ]


def _search(front: Front) -> Pairs:
    s, b, chosen = front.search, front.budget, front.selection
    trials = f"{s.sampler}, {s.trials} trials ({s.seeds} seeds, {s.failed} failed)"
    spent = f"worth {s.evaluations:.1f} evaluations of the unpruned model, {s.seconds:.0f} s"
    saved = f"; racing saved {s.saved:.1f}" if s.saved else ""
    h = front.hypervolume
    area = "" if h is None else f"{digits(h.value)} (share of the unpruned {h.cost} by divergence, holdout rows)"
    why = "measured end to end" if front.measured else "judged on held-out data"
    bounds = [f"{x.text}, {digits(x.limit)} (broken by {x.broken} candidates in the end)" for x in front.constraints]
    selection = ""
    if chosen is not None:
        found = f"{100 * chosen.calibration:+.2f} points on calibration, {100 * chosen.holdout:+.2f} on holdout"
        selection = f"difference to unpruned: {found} (p = {chosen.p_value:.2g})"
    return [
        ("budget", "none" if b is None else f"{b.text} = {digits(b.limit)} {b.unit}"),
        ("constraints", "; ".join(bounds)),
        ("search", f"{trials}, {spent}{saved}"),
        ("ended", _ENDED[s.stopped] if s.stopped else ""),
        ("selection", selection),
        ("front", f"{len(front.points)} points; {front.dropped} dropped as dominated once {why}"),
        ("hypervolume", area),
        ("made", f"{front.created} by prunesearch {front.prunesearch}"),
    ]
