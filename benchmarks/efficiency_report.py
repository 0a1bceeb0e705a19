"""What `search_efficiency.py` reports of its runs: a table, a verdict and curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OURS = "prunesearch"


def verdict(report: dict[str, Any]) -> dict[str, Any] | None:
    """How prunesearch compares to the best other sampler at the end; None if either is missing."""
    samplers = report["samplers"]
    rivals = {name: s["checkpoints"][-1]["median"] for name, s in samplers.items() if name != OURS}
    if OURS not in samplers or not rivals:
        return None
    best = max(rivals, key=lambda name: rivals[name])
    points = samplers[OURS]["checkpoints"]
    reached = next((p["units"] for p in points if p["median"] >= rivals[best]), None)
    return {"best_rival": best, "units_to_reach_it": reached, "final_ratio": points[-1]["median"] / rivals[best]}


def show(report: dict[str, Any]) -> None:
    samplers = report["samplers"]
    if not samplers:
        print(f"{report['model']}: no run is there")
        return
    units = [p["units"] for p in next(iter(samplers.values()))["checkpoints"]]
    title = (
        f"{report['model']}: hypervolume on {report['holdout_rows']} holdout rows after so many units "
        f"({report['rows']} calibration rows), median and range over seeds"
    )
    table = Table(title=title, title_justify="left")
    for column in ("sampler", "seeds", "trials", *(f"{u:g}" for u in units), "CPU s", "overhead"):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    for name, summary in samplers.items():
        areas = [f"{p['median']:.4f}\n[{p['low']:.3f}, {p['high']:.3f}]" for p in summary["checkpoints"]]
        cpu = f"{summary['checkpoints'][-1]['cpu_s']:.0f}"
        table.add_row(
            name, str(summary["seeds"]), f"{summary['trials']:g}", *areas, cpu, f"{100 * summary['overhead']:.1f} %"
        )
    Console(width=190).print(table)
    found = verdict(report)
    if found is not None:
        reached = "never" if found["units_to_reach_it"] is None else f"after {found['units_to_reach_it']:g} units"
        print(f"best rival: {found['best_rival']}; prunesearch has its final hypervolume {reached}", end="")
        print(f" and ends at {found['final_ratio']:.3f} of it\n")


def plot(reports: list[dict[str, Any]], path: Path) -> None:
    """Curves with the range over seeds, a row for each model: against units, and against CPU seconds."""
    import plotly.graph_objects as go
    from plotly.colors import qualitative
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=len(reports),
        cols=2,
        subplot_titles=[f"{r['model']}: by {axis}" for r in reports for axis in ("units", "CPU seconds")],
    )
    for row, report in enumerate(reports, start=1):
        for k, (name, summary) in enumerate(report["samplers"].items()):
            points, colour = summary["checkpoints"], qualitative.D3[k % len(qualitative.D3)]
            for column, key in enumerate(("units", "cpu_s"), start=1):
                x = [p[key] for p in points]
                figure.add_scatter(
                    row=row,
                    col=column,
                    x=x + x[::-1],
                    y=[p["high"] for p in points] + [p["low"] for p in points][::-1],
                    fill="toself",
                    opacity=0.15,
                    line={"width": 0},
                    fillcolor=colour,
                    hoverinfo="skip",
                    showlegend=False,
                )
                line = go.Scatter(x=x, y=[p["median"] for p in points], name=name, line={"color": colour})
                line.update(mode="lines+markers", legendgroup=name, showlegend=row == 1 and column == 1)
                figure.add_trace(line, row=row, col=column)
    figure.update_xaxes(type="log")
    figure.update_yaxes(title_text="hypervolume, holdout")
    figure.update_layout(height=420 * len(reports), template="plotly_white")
    figure.write_html(path, include_plotlyjs=True)
