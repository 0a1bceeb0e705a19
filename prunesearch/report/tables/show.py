"""The result on a terminal: a table that fits 80 columns, and a small plot drawn in characters."""

from __future__ import annotations

import shlex
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunesearch.core.costs import COSTS, Cost, digits, find_cost
from prunesearch.report.tables.adapted_table import show_adapted
from prunesearch.report.tables.compared_table import show_compared
from prunesearch.report.tables.rungs import rung_head, rung_note, rung_rows
from prunesearch.report.tables.stressed_table import show_stressed
from prunesearch.report.tables.tuned_table import TUNED, tuned_table
from prunesearch.study.front import Front, trust
from prunesearch.study.front_items import CostAmount, FrontItem, Interval, Point

_BARS = "▁▂▃▄▅▆▇█"
_UNBOUNDED = 1000  # columns; wider than any table here
_CAN_GO = 3  # steps by which the table of points gets narrower
MINUS = "\u2212"


def show_front(front: Front, console: Console | None = None, *, plot: bool = True) -> None:
    """Print conditions, the table of points, schedules, plot, verdict and what to do next."""
    out = console or Console()
    for line in _header(front):
        out.print(line, soft_wrap=False)
    out.print()
    for left_out in range(_CAN_GO + 1):
        table = _points_table(front, left_out)
        if out.measure(table, options=out.options.update(width=_UNBOUNDED)).maximum <= out.width:
            break
    out.print(table)
    if front.points and front.loads:
        out.print()
        out.print(_loads_table(front))
    if front.points and front.combined:
        out.print()
        out.print(_qualities_table(front))
    if front.points:
        out.print()
        out.print(_schedules_table(front, out.width))
    if any(point.tuned for point in front.points):
        out.print()
        out.print(tuned_table(front))
    if plot and front.points:
        out.print()
        out.print(Text(front_plot(front)), no_wrap=True, overflow="crop")
    if front.ladder:
        out.print()
        out.print(_ladder_table(front))
    show_adapted(front, out)
    show_stressed(front, out)
    show_compared(front, out)
    out.print()
    for line in _footer(front):
        out.print(line)


def _header(front: Front) -> list[Text]:
    """Model, device and conditions; then how far the latencies can be trusted."""
    c, table = front.conditions, front.cost_table
    threads = f", {c.threads} threads" if c.threads else ""
    title = Text.assemble(
        (front.study, "bold"),
        f"  {front.model.id} on {front.device.name} ({front.device.kind}{threads})",
    )
    load = f"{front.across} over {len(front.loads)} loads" if front.loads else f"batch {c.batch_size}"
    how = Text(
        f"{load}, {c.dtype}, {c.attention}, {c.mode}, {c.tokens} tokens; "
        f"{front.task.metric} on {front.unpruned.rows or front.task.holdout:,} holdout rows",
        "dim",
    )
    said = Text("cost table: ")
    said.append(table.status, "bold yellow" if table.status == "estimated" else "")
    said.append(
        f", mean error {table.mape:.1%}, worst {table.worst:.1%}, rank {table.rank_correlation:.3f} "
        f"({table.schedules} {'public measurements' if table.status == 'estimated' else 'schedules'})"
    )
    lines = [title, how, said]
    if front.percentile is not None:
        p = front.percentile
        lines.append(
            Text(
                f"latency is p{p.value:g}: {p.factor:.3f} x the median, mean error {p.mape:.1%}; it covered "
                f"{p.coverage:.1%} of {p.timings:,} unseen forwards"
            )
        )
    if not front.measured:
        lines.append(Text(f"nothing below was measured on {front.device.name}: {trust(table)}", "yellow"))
    lines += [Text(note, "dim") for note in table.notes]
    if table.noisy and table.noise is not None:
        lines.append(
            Text(
                f"noisy machine: repeated measurements differ by {table.noise:.0%}; close other programs",
                "yellow",
            )
        )
    return lines


def _points_table(front: Front, left_out: int = 0) -> Table:
    """One row a point, the unpruned model first; numbers only, so that the columns stay narrow.

    Args:
        left_out: what a narrow terminal does without, up to `_CAN_GO`: first the costs that are counted, which are no
            result of a measurement, unless they were minimised; then the spreads of the others, then the interval of a
            quality whose change has one.
    """
    counted, spreads, intervals = left_out < 1, left_out < 2, left_out < _CAN_GO
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    precise = any(point.variant for point in front.points)
    if precise:
        table.add_column("", no_wrap=True)
    table.add_column("speed", justify="right", no_wrap=True)
    known = [row for name, row in COSTS.entries().items() if name in front.unpruned.costs]
    first = [row for row in known if not row.exact]
    last = [row for row in known if row.exact and (counted or row.name in front.objectives)]
    for row in first:
        around = any("(" in _cell(row, item.costs[row.name], True) for item in [front.unpruned, *front.points])
        left = around or row.by_load or row.predicted_by == "predicted"
        table.add_column(_cost_title(front, row, spreads), justify="left" if left else "right", no_wrap=True)
    table.add_column(f"{_metric(front)}, %", no_wrap=True)
    table.add_column("change, 95 %", no_wrap=True)
    for row in last:
        table.add_column(row.head, justify="right", no_wrap=True)

    def add(name: str, variant: str, speed: float, item: FrontItem, change: str, style: str) -> None:
        costs, more = ([_cell(row, item.costs[row.name], spreads) for row in rows] for rows in (first, last))
        named = [name, variant or front.conditions.dtype] if precise else [name]
        table.add_row(*named, f"{speed:.2f}×", *costs, _quality(item.quality, intervals), change, *more, style=style)

    add("unpruned", "", 1.0, front.unpruned, "", "dim")
    within = {p.id for p in front.within_budget()}
    for point in front.points:
        style = "bold" if point.id == front.verdict.point else "" if point.id in within else "dim"
        add(_mark(point, front), point.variant, point.speedup, point, change_text(point.difference), style)
    return table


def _ladder_table(front: Front) -> Table:
    """What one line of each would give the unpruned model, and the best plan's stages on top of it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for place, title in enumerate(rung_head(front)):
        table.add_column(title, justify="right" if place > 1 else "left", no_wrap=True)
    for row in rung_rows(front):
        table.add_row(*row)
    return table


def _metric(front: Front) -> str:
    """What the quality that counts is called."""
    return next(iter(front.unpruned.qualities))


def _items(front: Front) -> list[tuple[str, FrontItem]]:
    return [("unpruned", front.unpruned), *((_mark(p, front), p) for p in front.points)]


def _loads_table(front: Front) -> Table:
    """What every load has its own of under every load, with the factor that is saved there."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    names = list(front.unpruned.loads[0])
    for load in front.loads:
        for name in names:
            unit = find_cost(name).unit
            title = f"{unit}, {load.batch_size} x {load.tokens} tokens"
            table.add_column(title, justify="right", no_wrap=True)
    for shown, item in _items(front):
        each = zip(item.loads, front.unpruned.loads, strict=True)
        pairs = [(mine[name].value, base[name].value) for mine, base in each for name in names]
        table.add_row(shown, *(f"{digits(mine)} ({base / mine:.2f}×)" for mine, base in pairs))
    return table


def _qualities_table(front: Front) -> Table:
    """The qualities that were combined into the one that counts, one a row: the unpruned model's, and every change."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(f"{_metric(front)}, %, by view", no_wrap=True)
    for shown, _ in _items(front):
        table.add_column(shown, justify="right", no_wrap=True)
    for name in front.unpruned.qualities:
        changes = [point.qualities[name].difference for point in front.points]
        said = ["" if change is None else _signed(change.value) for change in changes]
        first = name == _metric(front)
        title = f"{front.combined} of all" if first else name
        table.add_row(title, _quality(front.unpruned.qualities[name], False), *said, style="bold" if first else "")
    return table


def _cost_title(front: Front, row: Cost, spreads: bool) -> str:
    if row.by_load:
        return _latency_title(front, spreads)
    if front.unpruned.costs[row.name].measured is not None:
        return f"{row.head} an input" if row.per == "input" else row.head
    return f"{row.head}, predicted" if row.predicted_by == "predicted" else row.head


def _latency_title(front: Front, spreads: bool) -> str:
    said: list[str] = [front.across] if front.across else []
    said += [f"p{front.percentile.value:g}"] if front.percentile is not None else []
    if front.measured and said:
        return f"ms, {' '.join(said)}"
    if front.measured:
        return "ms, p10–p90" if spreads else "ms, median"
    return f"ms, {trust(front.cost_table)}" if front.cost_table.status == "estimated" else "ms, predicted"


def _schedules_table(front: Front, width: int) -> Table:
    """Tokens leaving each block as bars, and the stages; a long schedule wraps between two stages."""
    room = max(20, width - 9 - max(6, front.model.depth))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("tokens", no_wrap=True, min_width=6)
    precise = any(point.variant for point in front.points)
    said = "plan (block:kept method | precision)" if precise else "schedule (block:kept method)"
    table.add_column(said, overflow="fold")
    for point in front.points:
        style = "bold" if point.id == front.verdict.point else ""
        bars = token_bars(point.tokens, front.model.tokens)
        table.add_row(Text(_mark(point, front), style), bars, Text(_wrap(short_schedule(point), room)))
    return table


def short_schedule(point: Point) -> str:
    """Its stages with neighbours of one method taken together: `3:0.90, 6:0.70 value_norm+fuse > 9:0.50 bipartite`."""
    plan = point.to_plan()
    groups = groupby(plan, key=lambda stage: stage.method)
    stages = " > ".join(
        f"{', '.join(f'{stage.place}:{stage.amount}' for stage in some)} {method}" for method, some in groups
    )
    return " | ".join(
        [stages or str(plan.schedule), *([plan.done] if plan.changes else []), *([TUNED] if plan.weights else [])]
    )


def _wrap(schedule: str, width: int) -> str:
    """Break the short form of a schedule into lines of at most `width`, between two methods where that is enough."""
    lines: list[str] = []
    for part in schedule.split(" > "):
        if lines and len(lines[-1]) + len(part) + 5 <= width:
            lines[-1] += f" > {part}"
        else:
            lines.append(part)
    return " >\n".join(lines)


def _footer(front: Front) -> list[Text]:
    """Budget, verdict, next steps."""
    lines = []
    if front.budget is not None:
        count = f"{len(front.within_budget())} of {len(front.points)} points meet it"
        each = " under every load" if front.budget.each else ""
        lines.append(
            Text(f"budget   {front.budget.text} = {front.budget.limit:.2f} {front.budget.unit}{each}: {count}")
        )
    for constraint in front.constraints:
        broken = f"; {constraint.broken} candidates broke it and were dropped" if constraint.broken else ""
        lines.append(Text(f"bound    {constraint.text} = {digits(constraint.limit)}{broken}"))
    if front.dropped:
        plural = "point" if front.dropped == 1 else "points"
        why = "once measured end to end" if front.measured else "on held-out data"
        outside = " or out of bounds" if front.budget is not None or front.constraints else ""
        lines.append(Text(f"dropped  {front.dropped} {plural}, dominated{outside} {why}", "dim"))
    lines += [Text(f"note     {note}", "yellow") for note in front.notes]
    ladder = rung_note(front)
    lines += [] if ladder is None else [Text(f"ladder   {ladder}", "dim")]
    lines += [
        Text(f"skipped  {rung.runtime}{f' in {rung.precision}' if rung.precision else ''}: {rung.skipped}", "dim")
        for rung in front.ladder
        if rung.skipped
    ]
    lines.append(Text.assemble("verdict  ", (front.verdict.text, "bold")))
    if front.points:
        lines.append(Text(f"next     {export_command(front, suggested_pick(front))}"))
        lines.append(Text("         or --pick fastest@0.99, knee, or a point's id"))
    return lines


def suggested_pick(front: Front) -> str:
    """What to offer first: the verdict's point, else the best within the budget, else the knee."""
    if front.verdict.point is not None:
        return front.verdict.point
    return f"best@{front.budget.text}" if front.budget and front.within_budget() else "knee"


def export_command(front: Front, spec: str) -> str:
    """The shell line that exports a pick of this study; the name is quoted where a shell needs it."""
    return f"prunesearch export {shlex.quote(front.study)} --pick {shlex.quote(spec)} --to json"


def change_text(difference: Interval) -> str:
    """A paired difference in percentage points: `-0.4 (-1.0, +0.1)`."""
    around = "" if difference.ends is None else f" ({', '.join(map(_signed, difference.ends))})"
    return f"{_signed(difference.value)}{around}"


def token_bars(tokens: list[int], start: int) -> str:
    """One bar a block; a full bar is the sequence at the start."""
    top = len(_BARS) - 1
    return "".join(_BARS[min(top, round(count / start * top))] for count in tokens)


def _mark(point: Point, front: Front) -> str:
    return f"{point.id} *" if point.id == front.verdict.point else point.id


def _cell(row: Cost, amount: CostAmount, spreads: bool) -> str:
    """What counts, and where it was measured what surrounds it, with the digits that a measurement carries."""
    text, found = row.cell(amount.value), amount.measured
    if found is None or not spreads or found.median is not None:
        return text
    low, high = (found.p10, found.p90) if found.p10 is not None else (found.low, found.high)
    if low is None or high is None:
        return text
    places = row.places(amount.value)
    return f"{text} ({row.cell(low, places)}–{row.cell(high, places)})"


def _quality(quality: Interval, interval: bool) -> str:
    around = ""
    if interval and quality.ends is not None:
        low, high = quality.ends
        around = f" ({low * 100:.1f}–{high * 100:.1f})"
    return f"{quality.value * 100:.1f}{around}"


def _signed(fraction: float) -> str:
    """Percentage points with a sign; zero has none."""
    text = f"{abs(fraction) * 100:.1f}"
    if float(text) == 0:
        return text
    return (MINUS if fraction < 0 else "+") + text


def front_plot(front: Front, width: int = 60, height: int = 12) -> str:
    """Quality (up) against latency (right), drawn in characters.

    Args:
        front: the front of a study.
        width: columns of the whole text, at least 30.
        height: rows of the plotting area, at least 3.

    Returns:
        Lines joined by newlines: `o` a point, `*` the verdict's, `U` the unpruned model, `┊` the budget.
    """
    margin = 6
    columns, rows = max(width, 30) - margin - 1, max(height, 3)
    base = front.unpruned
    marks = [(base.latency.value, base.quality.value, "U")] + [
        (p.latency.value, p.quality.value, "*" if p.id == front.verdict.point else "o") for p in front.points
    ]
    limit = front.budget.limit if front.budget and front.budget.cost == "latency" else None
    x_low, x_high = _span([x for x, _, _ in marks] + ([limit] if limit else []))
    y_low, y_high = _span([y for _, y, _ in marks])
    grid = [[" "] * columns for _ in range(rows)]
    if limit is not None:
        for row in grid:
            row[_place(limit, x_low, x_high, columns)] = "┊"
    for x, y, mark in sorted(marks, key=lambda m: "oU*".index(m[2])):
        grid[rows - 1 - _place(y, y_low, y_high, rows)][_place(x, x_low, x_high, columns)] = mark
    lines = []
    for index, row in enumerate(grid):
        label = {0: f"{y_high * 100:.1f}", rows - 1: f"{y_low * 100:.1f}"}.get(index, "")
        lines.append(f"{label:>{margin - 1}} │{''.join(row)}".rstrip())
    lines.append(" " * margin + "└" + "─" * columns)
    left, right = (f"{x:.4g} ms" if x < 9999.5 else f"{x:,.0f} ms" for x in (x_low, x_high))
    lines.append(" " * (margin + 1) + left + right.rjust(columns - len(left)))
    legend = f"{_metric(front)} % against latency; U unpruned"
    legend += ", * verdict" if front.verdict.point else ""
    legend += ", ┊ budget" if limit is not None else ""
    lines.append(" " * (margin + 1) + legend)
    return "\n".join(lines)


def _span(values: list[float]) -> tuple[float, float]:
    """The range of the values, opened a little so that nothing sits on the frame."""
    low, high = min(values), max(values)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def _place(value: float, low: float, high: float, cells: int) -> int:
    """Index of the cell in which `value` falls."""
    return min(cells - 1, max(0, round((value - low) / (high - low) * (cells - 1))))
