"""Plotly figures of fronts, as plain dictionaries.

A colour `--name` is a variable of the style sheet: `assets/theme.js` looks it up when it draws, so that one figure
serves light and dark. All names that a user can choose go through `plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from prunesearch.core.costs import COSTS, Cost, digits, find_cost
from prunesearch.report.views.axes import Drawn, plain
from prunesearch.report.views.study_view import Item, StudyView, staircase

Figure = dict[str, Any]
SERIES = ("--accent", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7", "--s8")
CLOUD = 1000  # trials drawn; of more, all that are on their front and an even choice of the others
_LABELS = 12  # points that get their names written beside them
MINUS = "\u2212"


def _cost(name: str) -> Callable[[Item], float | None]:
    return lambda item: _value(item.costs.get(name))


def colours() -> dict[str, tuple[str, Callable[[Item], float | None]]]:
    """What points can be coloured by: what it is called, and how it is read off an item."""
    return {
        **{name: (f"{row.title}, {row.unit}", _cost(name)) for name, row in COSTS.entries().items()},
        "stages": ("number of stages", lambda item: float(len(item.plan))),
        "agreement": (
            "same answer as unpruned, %",
            lambda item: None if item.point is None else 100 * item.point.fidelity.agreement,
        ),
        "kl": ("divergence from unpruned", lambda item: None if item.point is None else item.point.fidelity.kl),
    }


def front_figure(
    studies: Sequence[StudyView],
    axis: str = "latency",
    colour: str | None = None,
    chosen: Collection[tuple[str, str | None]] = (),
) -> Figure:
    """Quality against a cost; the first study with its trials and budget, the others over it.

    Args:
        studies: at least one.
        axis: a name in `COSTS`; studies that do not know it are left out.
        colour: a name in `colours()`, or None for one colour a study.
        chosen: key of the study and id of the item, of those to bring out.
    """
    cost, main = find_cost(axis), studies[0]
    known = [study for study in studies if axis in study.axes]
    several = len(known) > 1
    traces: list[Figure] = [cloud(main, axis)]
    for study in known:
        shade = SERIES[studies.index(study) % len(SERIES)]
        traces += [*_band(study, axis, shade), *_unpruned(study, cost, shade, several)]
        traces += _points(study, cost, shade, {name for key, name in chosen if key == study.key}, colour, several)
    layout: Figure = {
        "xaxis": {"title": {"text": _cost_title(known or [main], cost)}},
        "yaxis": {"title": {"text": f"{plain(main.metric_title)}, %" + ("" if main.front else ", calibration")}},
        "uirevision": f"{main.key}/{axis}",
        "showlegend": several,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "margin": {"t": 56 if several else 28},
    }
    frame = _frame(known, axis)
    if frame:
        layout["xaxis"]["range"], layout["yaxis"]["range"] = frame
    if main.budget is not None and main.budget.axis == axis:
        layout |= _budget_line(main.budget.limit, main.budget.text, cost)
    return {"data": traces, "layout": layout}


def cloud(study: StudyView, axis: str) -> Figure:
    """All complete trials, faint: predicted cost, calibration quality. At most `CLOUD` of them are drawn."""
    trials = study.done
    x, y = study.columns(axis, trials)
    chosen = range(len(trials))
    if len(trials) > CLOUD:
        even = np.linspace(0, len(trials) - 1, CLOUD).astype(int)
        chosen = sorted({*map(int, even), *staircase(x, y)})  # type: ignore[assignment]
    cost = find_cost(axis)
    drawn = [i for i in chosen if x[i] == x[i]]
    broken = {i: study.broken(trials[i]) for i in drawn}
    marker = {"color": "--faint", "size": 5, "opacity": 0.45}
    if any(broken.values()):
        marker |= {"symbol": ["x-thin-open" if broken[i] else "circle" for i in drawn]}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "trials",
        "showlegend": False,
        "x": [_short(x[i]) for i in drawn],
        "y": [_short(100 * y[i]) for i in drawn],
        "marker": marker,
        "text": [f"{trials[i].number}{''.join(f', breaks {plain(bound)}' for bound in broken[i])}" for i in drawn],
        "hovertemplate": f"trial %{{text}}<br>%{{x:.3g}} {cost.unit} predicted<br>"
        f"%{{y:.1f}} % {_template(study.metric)}, calibration<extra></extra>",
    }


def _points(
    study: StudyView, cost: Cost, shade: str, chosen: set[str | None], colour: str | None, several: bool
) -> list[Figure]:
    items = [item for item in study.items if item.quality is not None]
    if not items:
        return []
    amounts = [item.costs[cost.name] for item in items]
    verdict = study.front.verdict.point if study.front else None
    label = [plain(item.id) if len(items) <= _LABELS or item.id in {*chosen, verdict} else "" for item in items]
    marker: Figure = {
        "color": [shade if item.id in chosen else "--card" for item in items],
        "size": [15 if item.id in chosen else 10 for item in items],
        "symbol": "circle",
        "line": {"color": shade, "width": 2},
    }
    title, shade_of = colours()[colour] if colour else ("", lambda item: None)
    shades = [shade_of(item) for item in items]
    if colour and any(value is not None for value in shades):
        bar = {"title": {"text": plain(title), "side": "right"}, "thickness": 12, "len": 0.9, "outlinewidth": 0}
        marker |= {"color": shades, "colorscale": "Viridis", "showscale": not several, "colorbar": bar}
    ends = {
        "type": "scatter",
        "mode": "markers+text",
        "name": plain(f"{study.name} ({study.device})"),
        "x": [a.value for a in amounts],
        "y": [_percent(item.quality) for item in items],
        "error_x": bars(amounts),
        "error_y": bars([item.quality for item in items], 100),
        "marker": marker,
        "text": label,
        "textposition": "top left",
        "textfont": {"color": "--text"},
        "hovertext": [hover(study, item) for item in items],
        "hoverinfo": "text",
        "customdata": [[study.key, item.id] for item in items],
        "cliponaxis": False,
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": ends["x"],
        "y": ends["y"],
        "line": {"color": shade, "width": 1, "dash": "dash" if study.estimated else "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [line, *_predicted(items, amounts), ends]


def _predicted(items: Sequence[Item], amounts: Sequence[Drawn]) -> list[Figure]:
    """A tick at what the cost table said of each point that was measured, joined to it."""
    x: list[float | None] = []
    y: list[float | None] = []
    for item, amount in zip(items, amounts, strict=True):
        if amount.predicted is not None:
            x += [amount.predicted, amount.value, None]
            y += [_percent(item.quality)] * 2 + [None]
    if not x:
        return []
    symbols = ["line-ns-open", "circle", "circle"] * (len(x) // 3)
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "predicted",
            "showlegend": False,
            "x": x,
            "y": y,
            "line": {"color": "--muted", "width": 1.5},
            "marker": {"symbol": symbols, "size": [10, 0, 0] * (len(x) // 3), "color": "--muted", "line": {"width": 2}},
            "hoverinfo": "skip",
        }
    ]


def _band(study: StudyView, axis: str, shade: str) -> list[Figure]:
    """Around an estimated front, its mean error, hatched."""
    if not study.estimated:
        return []
    known = [(i.costs[axis], _percent(i.quality)) for i in study.items]
    edge = [(a.low, q) for a, q in known if a.low is not None]
    edge += [(a.high, q) for a, q in reversed(known) if a.high is not None]
    if len(edge) < 4:
        return []
    pattern = {"shape": "/", "fgcolor": shade, "bgcolor": "rgba(0,0,0,0)", "size": 8, "solidity": 0.15}
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "mean error of the estimate",
            "x": [x for x, _ in edge],
            "y": [y for _, y in edge],
            "fill": "toself",
            "fillpattern": pattern,
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]


def _unpruned(study: StudyView, cost: Cost, shade: str, several: bool) -> list[Figure]:
    base = study.unpruned
    if base is None or base.quality is None:
        return []
    amount = base.costs[cost.name]
    return [
        {
            "type": "scatter",
            "mode": "markers+text",
            "name": "unpruned",
            "showlegend": False,
            "x": [amount.value],
            "y": [_percent(base.quality)],
            "error_x": bars([amount]),
            "error_y": bars([base.quality], 100),
            "marker": {
                "color": "--card",
                "size": 11,
                "symbol": "diamond",
                "line": {"color": shade if several else "--text", "width": 2},
            },
            "text": ["unpruned"],
            "textposition": "bottom left",
            "textfont": {"color": "--text"},
            "hovertext": [hover(study, base)],
            "hoverinfo": "text",
            "cliponaxis": False,
        }
    ]


def hover(study: StudyView, item: Item) -> str:
    """What a point says when it is pointed at."""
    lines = [f"<b>{plain(item.id)}</b> {plain(study.name)}"]
    for name, amount in item.costs.items():
        around = (
            "" if amount.low is None or amount.high is None else f" ({digits(amount.low)} to {digits(amount.high)})"
        )
        lines.append(f"{find_cost(name).text(amount.value)}{around} {plain(study.how(name, amount))}")
    if item.quality is not None:
        lines.append(f"{plain(study.metric)} {percent_text(item.quality)} ({study.split})")
    if item.point is not None:
        lines.append(f"{signed(item.point.difference.value)} points, {item.point.speedup:.2f}× faster")
    lines += [plain(stage) for stage in str(item.plan.schedule).split(" > ") if len(item.plan)]
    lines += [plain(str(change)) for change in item.plan.changes]
    return "<br>".join(lines)


def bars(amounts: Sequence[Drawn | None], scale: float = 1.0) -> Figure:
    """Error bars from `low` to `high`."""
    return {
        "type": "data",
        "symmetric": False,
        "color": "--faint",
        "thickness": 1.2,
        "width": 3,
        "array": [0 if a is None or a.high is None else scale * (a.high - a.value) for a in amounts],
        "arrayminus": [0 if a is None or a.low is None else scale * (a.value - a.low) for a in amounts],
    }


def percent_text(amount: Drawn) -> str:
    """`82.8 % (81.6 to 83.9)`."""
    around = (
        "" if amount.low is None or amount.high is None else f" ({100 * amount.low:.1f} to {100 * amount.high:.1f})"
    )
    return f"{100 * amount.value:.1f} %{around}"


def signed(fraction: float) -> str:
    """Percentage points with a sign and two decimals; zero has none."""
    text = f"{abs(fraction) * 100:.2f}"
    return text if float(text) == 0 else (MINUS if fraction < 0 else "+") + text


def _cost_title(studies: Sequence[StudyView], cost: Cost) -> str:
    """`latency of a batch of 8, ms, estimated ±20 %`, as far as the studies agree."""
    batches = {study.batch_size for study in studies}
    batch = f" of {batches.pop()}" if cost.per == "batch" and len(batches) == 1 and None not in batches else ""
    known = [(study, item.costs.get(cost.name)) for study in studies for item in study.items]
    said = {study.how(cost.name, amount) for study, amount in known if amount is not None}
    how = f", {plain(said.pop())}" if len(said) == 1 and not said & {"measured", "counted"} else ""
    return f"{cost.title}{batch}, {cost.unit}{how}"


def _frame(studies: Sequence[StudyView], axis: str) -> tuple[list[float], list[float]] | None:
    """Bad trials would squeeze the front into a corner: the first view frames what is on it."""
    x: list[float] = []
    y: list[float] = []
    for study in studies:
        base = study.unpruned
        for item in [*([base] if base else []), *study.items]:
            if item.quality is not None and axis in item.costs:
                amount = item.costs[axis]
                x += [v for v in (amount.value, amount.low, amount.high, amount.predicted) if v is not None]
                y += [100 * v for v in (item.quality.value, item.quality.low, item.quality.high) if v is not None]
        if study is studies[0] and study.budget is not None and study.budget.axis == axis:
            x.append(study.budget.limit)
    return (_padded(x), _padded(y)) if x else None


def _padded(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    pad = 0.1 * (high - low or 1)
    return [low - pad, high + pad]


def _budget_line(limit: float, text: str, cost: Cost) -> Figure:
    line = {"color": "--warm", "width": 1.5, "dash": "dot"}
    shape = {"type": "line", "x0": limit, "x1": limit, "yref": "paper", "y0": 0, "y1": 1, "line": line}
    said = f"budget {text}" if text.endswith(cost.unit) else f"budget {text} = {cost.text(limit)}"
    note = {"x": limit, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False, "text": plain(said)}
    return {"shapes": [shape], "annotations": [{**note, "font": {"color": "--warm"}}]}


def _value(amount: Drawn | None) -> float | None:
    return None if amount is None else amount.value


def _percent(amount: Drawn | None) -> float | None:
    return None if amount is None else 100 * amount.value


def _short(value: float) -> float:
    """Six digits: a screen shows no more, and a page of thousands of points halves."""
    return float(f"{value:.6g}")


def _template(text: str) -> str:
    """Text inside a hover template, where braces after a percent sign would be read."""
    return plain(text).replace("%{", "% {")
