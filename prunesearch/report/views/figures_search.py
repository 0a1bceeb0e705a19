"""Plotly figures of a search: how its front grew, where schedules reduce, what each method brings."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.plans.stage import Stage
from prunesearch.report.views.axes import plain
from prunesearch.report.views.figures import Figure
from prunesearch.report.views.study_view import StudyView, spread_over, staircase
from prunesearch.study.storage.reader import Trial

_FAINT_LINES = 150  # schedules behind those of the front
KINDS = ("scorer", "merge", "method")
_LEAST_TRIALS = 8  # for a trend of quality over cost


def hypervolume_history(costs: Sequence[float], qualities: Sequence[float], most: tuple[float, float]) -> list[float]:
    """After each trial, the area that its front and those before it cover, as a share of the whole.

    Args:
        costs: lower is better; NaN adds nothing.
        qualities: higher is better.
        most: cost and quality that span the whole: the unpruned model's. Cost runs from it down to 0, quality from 0
            up to it; a quality above it counts in full.
    """
    # staircase of (cost, quality), both rising
    xs: list[float] = []
    ys: list[float] = []
    area, found = 0.0, []
    limit, top = most
    for x, y in zip(costs, qualities, strict=True):
        if x < limit and y > 0:
            place = bisect.bisect_right(xs, x)
            if not place or ys[place - 1] < y:
                start, edge = x, place
                level = ys[place - 1] if place else 0.0
                while True:  # over the steps that it rises above
                    end = xs[edge] if edge < len(xs) else limit
                    area += (end - start) * (y - level)
                    if edge == len(xs) or ys[edge] >= y:
                        break
                    start, level, edge = end, ys[edge], edge + 1
                low = place - 1 if place and xs[place - 1] == x else place
                xs[low:edge], ys[low:edge] = [x], [y]
        found.append(area / (limit * top))
    return found


def hypervolume_figure(study: StudyView, axis: str) -> Figure | None:
    """Hypervolume after each trial; None before there are two trials."""
    trials = study.done
    x, y = study.columns(axis, trials)
    known = [v for v in x if not math.isnan(v)]
    if len(known) < 2:
        return None
    base = study.unpruned
    limit = base.costs[axis].value if base and axis in base.costs else max(known)
    # a translator with random weights has a BLEU of 0, and correlations may be below
    top = base.quality.value if base and base.quality and base.quality.value > 0 else 1.0
    history = hypervolume_history(x, y, (limit, top))
    steps = [0, *(i for i in range(1, len(history)) if history[i] != history[i - 1]), len(history) - 1]
    # of a long staircase a screen shows a few hundred steps
    steps = spread_over(list(dict.fromkeys(steps)), 600)
    minutes = _minutes(trials)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "x": [i + 1 for i in steps],
                "y": [round(100 * history[i], 4) for i in steps],
                "line": {"color": "--accent", "width": 2, "shape": "hv"},
                "customdata": [minutes[i] for i in steps],
                "hovertemplate": "after %{x} trials%{customdata}: %{y:.2f} %<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "trials"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "hypervolume, %"}},
            "uirevision": f"{study.key}/hypervolume",
        },
    }


def _minutes(trials: Sequence[Trial]) -> list[str]:
    """For each trial, when it was finished, as in `, 3.2 min`; empty where that was not kept (in a report)."""
    began = min((t.started for t in trials if t.started is not None), default=None)
    if began is None:
        return [""] * len(trials)
    return ["" if t.completed is None else f", {(t.completed - began).total_seconds() / 60:.1f} min" for t in trials]


def stages_figure(study: StudyView) -> Figure | None:
    """Parallel coordinates: the share of tokens left after each block, then cost and quality as shares of unpruned."""
    base, shape = study.unpruned, study.shape
    if base is None or shape is None or not study.items or "latency" not in base.costs:
        return None
    latency = base.costs["latency"].value
    tried = [t for t in study.done if "schedule" in t.attrs and t.number_of("latency") is not None]
    best = max((t.number_of("quality") or 0 for t in tried), default=1.0)
    top = (base.quality.value if base.quality else best) or 1.0
    names = [*(f"block {b}" for b in range(shape.depth)), "latency", plain(study.metric)]

    def line(counts: Sequence[int], ms: float, quality: float) -> list[float | None]:
        shares = [count / shape.tokens for count in counts]
        return [*(round(100 * v, 2) for v in (*shares, ms / latency, quality / top)), None]

    faint: list[float | None] = []
    for trial in spread_over(tried, _FAINT_LINES):
        ms, quality = trial.number_of("latency"), trial.number_of("quality")
        faint += line(shape.counts(trial.plan), ms or 0.0, quality or 0.0)
    traces: list[Figure] = []
    if faint:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [*names, None] * (len(faint) // (len(names) + 1)),
                "y": faint,
                "line": {"color": "--faint", "width": 0.8},
                "opacity": 0.35,
                "hoverinfo": "skip",
            }
        )
    verdict = study.front.verdict.point if study.front else None
    for item in study.items:
        quality = item.quality.value if item.quality else 0.0
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": plain(item.id),
                "x": names,
                "y": line(item.tokens, item.costs["latency"].value, quality)[:-1],
                "line": {"color": "--warm" if item.id == verdict else "--accent", "width": 2},
                "opacity": 1 if item.id == verdict else 0.65,
                "hovertemplate": f"<b>{plain(item.id)}</b> %{{x}}: %{{y:.0f}} %<extra></extra>",
                "customdata": [[study.key, item.id]] * len(names),
            }
        )
    return {
        "data": traces,
        "layout": {
            "xaxis": {"type": "category", "tickangle": -45, "fixedrange": True},
            "yaxis": {"title": {"text": "share of the unpruned model, %"}, "rangemode": "tozero"},
        },
    }


@dataclass(frozen=True)
class Contribution:
    """A scorer, merge or method in a search: in how many trials, how many of their front, what quality goes with it.

    `kind` is `scorer`, `merge` or `method` (a scorer with a merge); a merge that ignores scores has no scorer.
    `gain`: mean of how far those trials lie above the trend of quality over cost, with its standard error; None where
    there are too few trials to tell.
    """

    kind: str
    name: str
    trials: int
    on_front: int
    gain: float | None
    error: float | None


def contributions(study: StudyView, axis: str) -> list[Contribution]:
    """What each scorer, each merge and each pair of them brings: by kind, best first."""
    trials = [t for t in study.done if "schedule" in t.attrs and len(t.plan)]
    x, y = study.columns(axis, trials)
    trials = [t for t, cost in zip(trials, x, strict=True) if not math.isnan(cost)]
    y = [quality for quality, cost in zip(y, x, strict=True) if not math.isnan(cost)]
    x = [cost for cost in x if not math.isnan(cost)]
    front = set(staircase(x, y))
    above = _above_trend(np.array(x), np.array(y)) if len(trials) >= _LEAST_TRIALS else None
    users: dict[tuple[str, str], list[int]] = {}
    for i, trial in enumerate(trials):
        for part in {part for stage in trial.plan for part in _parts(stage)}:
            users.setdefault(part, []).append(i)
    found = []
    for (kind, name), places in users.items():
        gain = error = None
        if above is not None and len(places) > 1:
            gain = float(above[places].mean())
            error = float(above[places].std(ddof=1) / math.sqrt(len(places)))
        found.append(Contribution(kind, name, len(places), len(front & set(places)), gain, error))
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(found, key=lambda c: (order[c.kind], -(c.gain if c.gain is not None else -math.inf), -c.trials))


def _parts(stage: Stage) -> list[tuple[str, str]]:
    """What a stage is an example of; one whose merge ignores scores is of that merge alone."""
    if stage.method == stage.merge:
        return [("merge", stage.merge)]
    return [("scorer", stage.chosen_by), ("merge", stage.merge), ("method", stage.method)]


def contributions_figure(found: Sequence[Contribution]) -> Figure | None:
    """Bars of what goes with each scorer and each merge; None where there is nothing to tell."""
    known = [c for c in found if c.kind != "method" and c.gain is not None and c.error is not None][::-1]
    if not known:
        return None
    hover = [f"{c.kind} {plain(c.name)}: {c.trials} trials, {c.on_front} on the trials' front" for c in known]
    errors = {"type": "data", "array": [100 * (c.error or 0) for c in known], "color": "--muted", "thickness": 1.2}
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": [f"{c.kind} {plain(c.name)}" for c in known],
                "x": [100 * (c.gain or 0) for c in known],
                "error_x": errors,
                "marker": {"color": ["--accent" if (c.gain or 0) >= 0 else "--faint" for c in known]},
                "hovertext": hover,
                "hoverinfo": "text",
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "above the trend, points"}, "fixedrange": True, "zeroline": True},
            "yaxis": {"fixedrange": True, "type": "category", "ticksuffix": " "},
        },
    }


def _above_trend(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quality less the median quality of the trials nearest in cost (a twentieth of all, at least five)."""
    order = np.argsort(x, kind="stable")
    half = max(2, len(x) // 40)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(y[order], half, mode="edge"), 2 * half + 1)
    # neighbouring windows share nearly all trials: of many, a few hundred say as much
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), 400)).astype(int))
    trend = np.interp(np.arange(len(x)), places, np.median(windows[places], axis=1))
    above = np.empty(len(x))
    above[order] = y[order] - trend
    return above
