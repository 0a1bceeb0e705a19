"""Plotly figures of single plans: tokens per block, where the time goes, predictions against measurements, methods."""

from __future__ import annotations

from collections.abc import Sequence

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.rival_table import RIVALS
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.report.views.axes import Drawn, plain
from prunesearch.report.views.figures import Figure, bars, signed
from prunesearch.report.views.study_view import Item, StudyView
from prunesearch.study.front_compared import Compared

PIECES = {"tower": "--s4", "attention": "--accent", "mlp": "--s3", "reduce": "--s2", "rest": "--faint"}
_PIECE_NAMES = {
    "tower": "tower and projector",
    "attention": "attention",
    "mlp": "MLP",
    "reduce": "scoring and merging",
    "rest": "embeddings and head",
}


def tokens_figure(study: StudyView, item: Item) -> Figure:
    """Tokens leaving each block, against those of the unpruned model; coloured where a stage reduces."""
    base = study.unpruned.tokens if study.unpruned else []
    blocks = list(range(len(item.tokens)))
    stages = {stage.place.site: stage for stage in item.plan}
    hover = [
        f"block {b}: {item.tokens[b]} of {base[b] if base else '?'} tokens"
        + (f"<br>{plain(stages[b].method)}" if b in stages else "")
        for b in blocks
    ]
    fits = len(blocks) * len(str(max(base or [0]))) <= 56
    return {
        "data": [
            {"type": "bar", "x": blocks, "y": base, "marker": {"color": "--grid"}, "hoverinfo": "skip"},
            {
                "type": "bar",
                "x": blocks,
                "y": item.tokens,
                "hovertext": hover,
                "hoverinfo": "text",
                "text": item.tokens if fits else None,
                "textposition": "auto",
                "textangle": 0,
                "constraintext": "none",
                "cliponaxis": False,
                "insidetextfont": {"color": ["--page" if b in stages else "--text" for b in blocks]},
                "marker": {"color": ["--accent" if b in stages else "--faint" for b in blocks]},
            },
        ],
        "layout": {
            "barmode": "overlay",
            "bargap": 0.15,
            "dragmode": False,
            "margin": {"t": 16},
            "xaxis": {
                "title": {"text": "block (coloured: a stage reduces here)"},
                "showgrid": False,
                "fixedrange": True,
                "tickmode": "linear",
                "dtick": 4 if len(blocks) > 16 else 1,
            },
            "yaxis": {"title": {"text": "tokens"}, "fixedrange": True, "rangemode": "tozero"},
        },
    }


def time_rows(study: StudyView, items: Sequence[Item]) -> list[tuple[str, dict[str, float]]]:
    """Name and ms of each piece for each item, by the cost table; empty where the table cannot price them.

    A table that nothing is ranked by has no parts to tell either.
    """
    if study.table is None or study.table.broken_promise:
        return []
    try:
        return [(item.id, _priced(study.table, item.plan)) for item in items]
    except PruneSearchError:
        return []


def _priced(table: CostTable, plan: Plan) -> dict[str, float]:
    return table.under(plan.changes).breakdown(plan.flow(table.geometry))


def time_figure(rows: Sequence[tuple[str, dict[str, float]]]) -> Figure:
    """Where a forward's time goes, one bar an item; `rows` of `time_rows`."""
    names = [plain(name) for name, _ in rows][::-1]
    traces = []
    for piece, shade in PIECES.items():
        if any(piece not in row for _, row in rows):  # of a model without one
            continue
        values = [row[piece] for _, row in rows][::-1]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": _PIECE_NAMES[piece],
                "y": names,
                "x": values,
                "marker": {"color": shade},
                "hovertext": [f"{_PIECE_NAMES[piece]}: {value:.3g} ms" for value in values],
                "hoverinfo": "text",
            }
        )
    return {
        "data": traces,
        "layout": {
            "barmode": "stack",
            "bargap": 0.35,
            "dragmode": False,
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.04, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
            "margin": {"t": 40},
            "xaxis": {"title": {"text": "ms of a batch, by the cost table"}, "fixedrange": True},
            "yaxis": {"fixedrange": True, "type": "category"},
        },
    }


def piece_name(piece: str) -> str:
    """What a piece of the cost table's breakdown is called."""
    return _PIECE_NAMES[piece]


def predicted_figure(study: StudyView) -> Figure | None:
    """Predicted against measured latency of the front; None where nothing was measured."""
    known = [study.unpruned, *study.items] if study.unpruned else study.items
    pairs: list[tuple[Item, Drawn, float]] = []
    for item in known:
        amount = item.costs.get("latency")
        if amount is not None and amount.predicted is not None:
            pairs.append((item, amount, amount.predicted))
    if not pairs:
        return None
    values = [v for _, amount, predicted in pairs for v in (amount.value, predicted)]
    ends = [0.94 * min(values), 1.06 * max(values)]
    line = {"color": "--faint", "dash": "dot", "width": 1.5}
    hover = [
        f"<b>{plain(item.id)}</b><br>{predicted:.3g} ms predicted<br>{amount.value:.3g} ms measured "
        f"({signed(amount.value / predicted - 1)} %)"
        for item, amount, predicted in pairs
    ]
    return {
        "data": [
            {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "line": line, "hoverinfo": "skip"},
            {
                "type": "scatter",
                "mode": "markers",
                "x": [predicted for _, _, predicted in pairs],
                "y": [amount.value for _, amount, _ in pairs],
                "error_y": bars([amount for _, amount, _ in pairs]),
                "marker": {"color": "--accent", "size": 9},
                "hovertext": hover,
                "hoverinfo": "text",
            },
        ],
        "layout": {
            "xaxis": {"title": {"text": "predicted, ms"}},
            "yaxis": {"title": {"text": "measured median, ms"}},
        },
    }


def compared_figure(found: Compared, metric: str) -> Figure:
    """The change of quality of every method at one latency, with its interval, the best on top."""
    methods = [one for one in found.methods if one.quality.difference is not None][::-1]
    changes = [one.quality.difference for one in methods if one.quality.difference is not None]
    ends = [change.ends or (change.value, change.value) for change in changes]
    hover = [
        f"<b>{plain(one.name)}</b> {one.speedup:.2f}x<br>{signed(change.value)} points<br>{plain(one.text)}"
        for one, change in zip(methods, changes, strict=True)
    ]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": [100 * change.value for change in changes],
                "y": [plain(one.name) for one in methods],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * (high - c.value) for (_, high), c in zip(ends, changes, strict=True)],
                    "arrayminus": [100 * (c.value - low) for (low, _), c in zip(ends, changes, strict=True)],
                    "color": "--faint",
                },
                "marker": {"size": 9, "color": ["--accent" if RIVALS.entry(m.name).ours else "--s2" for m in methods]},
                "hovertext": hover,
                "hoverinfo": "text",
            }
        ],
        "layout": {
            "dragmode": False,
            "margin": {"t": 16},
            "xaxis": {"title": {"text": f"change of {metric}, points (95 %)"}, "fixedrange": True},
            "yaxis": {"fixedrange": True, "type": "category", "automargin": True},
        },
    }
