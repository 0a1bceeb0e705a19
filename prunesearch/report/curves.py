"""Latency-token curves of cost tables, as an HTML page without a network or as a PNG."""

from __future__ import annotations

import html
import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.plateaus import Plateau, block_curve, block_halves, plateaus
from prunesearch.cost.tables.table_records import Cell
from prunesearch.report.page import fill_template, inert_json, plotly_js, resource

# readable on light and on dark ground alike
_BLOCK, _ATTENTION, _MLP = "#3a87d0", "#cf7322", "#2a9d78"
_COLOURS = (_BLOCK, _ATTENTION, _MLP, "#b05fb0", "#93962b", "#c9505f", "#4aa0b5", "#7a7fd0")
_LOG_FROM = 20.0  # curves that differ by more than this factor share no linear axis
_PNG_WIDTH, _PNG_ROW = 1100, 420  # pixels


@dataclass(frozen=True)
class CurveRow:
    """One block at `tokens` tokens, in ms for a batch; `low` to `high` is what its band covers."""

    tokens: int
    ms: float
    low: float
    high: float
    attention: float
    mlp: float
    matters: bool


@dataclass(frozen=True)
class BlockCurve:
    """What is drawn of one table, with the words beside it.

    `details`: block, conditions and device. `trust`: where the numbers come from. `sized`: (tokens, ms) of the block
    with `+ log(size)` on the keys, where it was measured.
    """

    name: str
    details: tuple[str, ...]
    status: str
    trust: str
    batch_size: int
    rows: list[CurveRow]
    plateaus: list[Plateau]
    sized: list[tuple[int, float]]


def write_curves(
    path: str | os.PathLike[str],
    tables: Sequence[CostTable],
    title: str,
    draw: Callable[..., bytes] | None = None,
) -> None:
    """Write the curves of `tables` to `path`: `.html` (about 1.5 MB, plotly.js inside) or `.png` (needs kaleido).

    Args:
        draw: makes a PNG of a figure of plotly's; None for kaleido.

    Raises:
        PruneSearchError: for another suffix, no table, or a PNG that cannot be drawn on this machine.
    """
    target = Path(path)
    check_plot(target)
    if target.suffix.lower() == ".html":
        write_text_atomic(target, curves_html(tables, title))
        return
    image = _png(_curves(tables), title, target, draw)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(image)


def check_plot(target: Path) -> None:
    """Raise `PruneSearchError` for a file that `write_curves` cannot write."""
    if target.suffix.lower() not in (".html", ".png"):
        raise PruneSearchError(f"a plot must be called FILE.html or FILE.png, but got '{target.name}'")


def curves_html(tables: Sequence[CostTable], title: str) -> str:
    """Return a page with the latency of one block against tokens, a panel for each table.

    Each shows block and halves, the band from p10 to p90 (of an estimated table: its mean error, hatched), and the
    plateaus with their right edges. More than one table are also drawn together.
    """
    curves = _curves(tables)
    data = {
        "curves": [asdict(curve) for curve in curves],
        "panels": [curve_figure(curve) for curve in curves],
        "overview": _overview(curves) if len(curves) > 1 else None,
        "colours": {"block": _BLOCK, "attention": _ATTENTION, "mlp": _MLP, "all": _COLOURS},
    }
    parts = {
        "title": html.escape(title),
        "style": resource("assets/style.css") + resource("templates/curves.css"),
        "data": inert_json(data),
        "plotly": plotly_js(),
        "script": resource("templates/curves.js"),
    }
    return fill_template("curves.html", parts)


def block_curve_of(table: CostTable) -> BlockCurve:
    """Read off a table what its panel shows.

    Raises:
        PruneSearchError: if the table has no count at which both halves of a block are known.
    """
    found = plateaus(block_curve(table, biased=False))
    if not found:
        raise PruneSearchError("a curve needs a token count with both halves of a block, but the table has none")
    edges = {plateau.last for plateau in found}
    error = table.validation.mape if table.validation and table.status == "estimated" else 0.0
    rows = []
    for a, m in block_halves(table, biased=False):
        low, high = _band(a, m, error)
        rows.append(CurveRow(a.n, a.ms + m.ms, low, high, a.ms, m.ms, a.n in edges))
    return BlockCurve(
        name=table.model or table.shape.describe(),
        details=_details(table),
        status=table.status,
        trust=_trust(table),
        batch_size=table.conditions["batch_size"],
        rows=rows,
        plateaus=found,
        sized=[(point.tokens, point.ms) for point in block_curve(table, biased=True)],
    )


def _curves(tables: Sequence[CostTable]) -> list[BlockCurve]:
    if not tables:
        raise PruneSearchError("a plot needs at least one cost table: measure one with prunesearch profile")
    return [block_curve_of(table) for table in tables]


def _band(attention: Cell, mlp: Cell, error: float) -> tuple[float, float]:
    """p10 to p90 of a block, as if its halves varied independently; of an estimate, its mean relative error."""
    ms = attention.ms + mlp.ms
    down = math.hypot(attention.median_ms - attention.p10_ms, mlp.median_ms - mlp.p10_ms)
    up = math.hypot(attention.p90_ms - attention.median_ms, mlp.p90_ms - mlp.median_ms)
    return ms - math.hypot(down, error * ms), ms + math.hypot(up, error * ms)


def _details(table: CostTable) -> tuple[str, ...]:
    c = table.conditions
    threads = f", {c['threads']} threads" if c.get("threads") else ""
    how = f"batch {c['batch_size']}, {c['dtype']}, {c['attention']}, {c['mode']}{threads}"
    return (*([table.shape.describe()] if table.model else []), how, str(table.device.get("name", c["device"])))


def _trust(table: CostTable) -> str:
    """Where the numbers come from, in a few words."""
    if table.status == "estimated":
        checked = table.validation
        if checked is None:
            return "estimated, unchecked"
        return f"estimated ±{100 * checked.mape:.2g} %, checked against {checked.against}"
    return "measured on a noisy machine" if table.noise.noisy else "measured"


# -- figures -------------------------------------------------------------------------------------------


def curve_figure(curve: BlockCurve) -> dict[str, Any]:
    """The plotly figure of one table."""
    dash = "dash" if curve.status == "estimated" else "solid"
    x = [row.tokens for row in curve.rows]

    def line(name: str, y: list[float], colour: str, width: float, **more: Any) -> dict[str, Any]:
        style = {"color": colour, "width": width, "dash": dash}
        return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": style, **more}

    traces = [
        *_band_traces(curve, x),
        line("attention half", [row.attention for row in curve.rows], _ATTENTION, 1.5, hoverinfo="skip"),
        line("MLP half", [row.mlp for row in curve.rows], _MLP, 1.5, hoverinfo="skip"),
        line("block", [row.ms for row in curve.rows], _BLOCK, 2.5, hoverinfo="skip"),
    ]
    if curve.sized:
        # thin and dotted: the same line but for what token sizes cost
        traces.append(
            {
                **line("block, with token sizes", [ms for _, ms in curve.sized], _BLOCK, 1.5, hoverinfo="skip"),
                "x": [n for n, _ in curve.sized],
                "line": {"color": _BLOCK, "width": 1.5, "dash": "dot"},
            }
        )
    traces += [_plateau_trace(curve), *_point_traces(curve)]
    layout = {
        "xaxis": {"title": {"text": "tokens"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": f"ms for a batch of {curve.batch_size}"}, "rangemode": "tozero"},
    }
    return {"data": traces, "layout": layout}


def _band_traces(curve: BlockCurve, x: list[int]) -> list[dict[str, Any]]:
    outline = {"type": "scatter", "mode": "lines", "x": x, "line": {"width": 0}, "hoverinfo": "skip"}
    fill: dict[str, Any] = {"fill": "tonexty", "fillcolor": "rgba(58,135,208,0.22)"}
    name = "p10 to p90"
    if curve.status == "estimated":
        name = "mean error of the estimate"
        hatch = {
            "shape": "/",
            "fgcolor": "rgba(58,135,208,0.75)",
            "bgcolor": "rgba(0,0,0,0)",
            "size": 7,
            "solidity": 0.2,
        }
        fill = {"fill": "tonexty", "fillpattern": hatch}
    return [
        {**outline, "y": [row.low for row in curve.rows], "showlegend": False},
        {**outline, "y": [row.high for row in curve.rows], "name": name, **fill},
    ]


def _plateau_trace(curve: BlockCurve) -> dict[str, Any]:
    """A bar along each plateau that holds more than one count."""
    x: list[int | None] = []
    y: list[float | None] = []
    for plateau in curve.plateaus:
        if plateau.first < plateau.last:
            x += [plateau.first, plateau.last, None]
            y += [plateau.ms, plateau.ms, None]
    style = {"color": "rgba(176,95,176,0.45)", "width": 9}
    return {"type": "scatter", "mode": "lines", "name": "plateau", "x": x, "y": y, "line": style, "hoverinfo": "skip"}


def _point_traces(curve: BlockCurve) -> list[dict[str, Any]]:
    """Counts that matter as full points, the others as rings."""
    traces = []
    for name, matters in (("right edge", True), ("on a plateau", False)):
        rows = [row for row in curve.rows if row.matters == matters]
        marker = {"color": _BLOCK, "size": 8 if matters else 7, "symbol": "circle" if matters else "circle-open"}
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [row.tokens for row in rows],
                "y": [row.ms for row in rows],
                "marker": marker,
                "hovertext": [_hover(row, curve) for row in rows],
                "hoverinfo": "text",
            }
        )
    return traces


def _hover(row: CurveRow, curve: BlockCurve) -> str:
    """What a point says; made of numbers alone, so nothing in it can be markup."""
    plateau = next(p for p in curve.plateaus if p.first <= row.tokens <= p.last)
    where = "" if plateau.first == plateau.last else f"<br>plateau {plateau.first} to {plateau.last}"
    return (
        f"<b>{row.tokens} tokens: {row.ms:.4g} ms</b> {curve.status}<br>{row.low:.4g} to {row.high:.4g} ms<br>"
        f"attention {row.attention:.4g}, MLP {row.mlp:.4g} ms{where}"
    )


def _overview(curves: list[BlockCurve]) -> dict[str, Any]:
    """All blocks in one figure."""
    traces = []
    for place, curve in enumerate(curves):
        dash = "dash" if curve.status == "estimated" else "solid"
        colour = _COLOURS[place % len(_COLOURS)]
        label = "<br>".join(html.escape(text, quote=False) for text in (curve.name, *curve.details))
        edges = [row.matters for row in curve.rows]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": [row.tokens for row in curve.rows],
                "y": [row.ms for row in curve.rows],
                "line": {"color": colour, "width": 2, "dash": dash},
                "marker": {"size": 6, "color": colour, "symbol": ["circle" if e else "circle-open" for e in edges]},
                "hovertext": [f"{label}<br>{row.tokens} tokens: {row.ms:.4g} ms {curve.status}" for row in curve.rows],
                "hoverinfo": "text",
            }
        )
    levels = [row.ms for curve in curves for row in curve.rows if row.ms > 0]
    log = bool(levels) and max(levels) > _LOG_FROM * min(levels)
    y = {"type": "log", **_log_ticks(min(levels), max(levels))} if log else {"rangemode": "tozero"}
    layout = {
        "xaxis": {"title": {"text": "tokens"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": f"ms for a batch{', log scale' if log else ''}"}, **y},
    }
    return {"data": traces, "layout": layout}


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """1, 2, 5 of every decade, written out: plotly's own ticks between two decades are bare digits."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _png(curves: list[BlockCurve], title: str, target: Path, draw: Callable[..., bytes] | None) -> bytes:
    """All panels in one picture, two abreast."""
    way_out = f"write {target.with_suffix('.html').name} instead"
    if draw is None and importlib.util.find_spec("kaleido") is None:
        raise PruneSearchError(f"a PNG needs the package kaleido: pip install 'prunesearch[png]', or {way_out}")
    from plotly.subplots import make_subplots

    columns = min(2, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=[_heading(curve) for curve in curves], vertical_spacing=0.3 / rows
    )
    named: set[str] = set()
    for place, curve in enumerate(curves):
        panel, at = curve_figure(curve), {"row": place // columns + 1, "col": place % columns + 1}
        for trace in panel["data"]:
            name = trace.get("name")
            figure.add_trace({**trace, "showlegend": name is not None and name not in named}, **at)
            named.add(name)
        figure.update_xaxes(panel["layout"]["xaxis"], **at)
        figure.update_yaxes(panel["layout"]["yaxis"], **at)
    figure.update_layout(
        template="plotly_white",
        title={"text": html.escape(title, quote=False), "yref": "container", "y": 0.98, "yanchor": "top"},
        width=_PNG_WIDTH,
        height=_PNG_ROW * rows + 200,
        margin={"t": 140},
        legend={"orientation": "h", "yanchor": "top", "y": -0.16 / rows},
    )
    figure.update_annotations(font_size=13)
    try:
        options = {"format": "png", "scale": 2}
        return figure.to_image(**options) if draw is None else draw(figure, **options)
    except Exception as error:  # kaleido, its driver and the browser raise a dozen kinds; a user needs one line
        raise PruneSearchError(
            f"the PNG could not be drawn ({type(error).__name__} in kaleido): it needs Chrome or Chromium, on the PATH "
            f"or as BROWSER_PATH; or {way_out}"
        ) from error


def _heading(curve: BlockCurve) -> str:
    """Over a panel of the picture; lines short enough for half its width."""
    lines = [html.escape(text, quote=False) for text in (curve.name, *curve.details[-2:], curve.trust)]
    return f"<b>{lines[0]}</b><br>{lines[1]}<br>{lines[2]}; {lines[3].partition(',')[0]}"
