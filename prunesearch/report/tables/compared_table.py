"""Methods at equal latency as rows of text, for the terminal and for pages."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from prunesearch.core.costs import digits
from prunesearch.core.tables.rival_table import RIVALS
from prunesearch.study.front import Front
from prunesearch.study.front_compared import Compared, ComparedMethod

TITLE = "Methods at equal latency"
_CAN_GO = ("worst view", "rows", "kernels", "varies")  # on a narrow terminal
_UNBOUNDED = 1000


def compared_head(found: Compared, metric: str) -> list[str]:
    """The titles of `compared_rows_of`."""
    robust = ["worst view"] if any(one.views for one in found.methods) else []
    titles = ["method", f"{metric}, %", "change (95 %)", "speed", "MACs", "min", "rows"]
    return [*titles, "kernels", "varies", "spread", *robust, "survey"]


def compared_rows_of(found: Compared) -> list[list[str]]:
    """One row a method, the best first."""
    robust = any(one.views for one in found.methods)
    return [
        [
            one.name,
            f"{100 * one.quality.value:.1f}",
            _change(one),
            f"{one.speedup:.2f}x",
            _share(one.macs, found.macs),
            f"{one.seconds / 60:.1f}" if one.seconds else "0",
            _many(one.rows),
            "" if one.kernels is None else f"{one.kernels:.0f}",
            "" if one.varies is None else f"{one.varies:.2f}",
            "none" if one.by_row is None else f"{one.by_row.p95 / one.by_row.mean:.2f}",
            *([_worst_view(one)] if robust else []),
            _survey(one),
        ]
        for one in found.methods
    ]


def compared_lines(found: Compared) -> list[str]:
    """What should be known, why methods are left out, the verdict."""
    said = [*found.notes, *(f"{name} is left out: {why}" for name, why in found.left_out.items())]
    return [*said, *survey_lines(found), found.verdict]


def compared_remark(found: Compared) -> str:
    """How it was found."""
    speed = f"{digits(1 / found.share)}x"
    typed = "" if found.budget == speed else f" ({found.budget})"
    return (
        f"Every method at {speed}{typed}, its plan chosen by latency alone, all timed "
        f"interleaved in one run; qualities on {found.rows:,} holdout rows, changes paired with the unpruned model. "
        "Min, rows: to find or train it, rows in forwards of the unpruned model, beyond the cost table "
        f"({found.table_seconds:.0f} s) that all need. Kernels: operations that a stage adds. Varies: how unlike the "
        "fate of tokens is in two inputs, 0 to 1. Spread: of latency over inputs (p95 over mean). Survey: of the "
        "methods that it ranks higher or lower in cost, adaptability and complexity, how many our figures have so."
    )


def survey_lines(found: Compared) -> list[str]:
    """A line each method that the survey has: its cells, and our figures."""
    return [
        f"survey, {one.name}: "
        + "; ".join(
            f"{cell.column} {cell.said}, here {_figure(cell.column, cell.ours)}"
            + (f", agrees with {cell.agree} of {cell.pairs}" if cell.pairs else "")
            for cell in one.survey
        )
        for one in found.methods
        if one.survey
    ]


def show_compared(front: Front, console: Console | None = None) -> None:
    """Print the table and what is said of it; nothing where nobody asked."""
    found, out = front.compared, console or Console()
    if found is None:
        return
    out.print()
    out.print(f"{TITLE}: {digits(1 / found.share)}x", style="bold", markup=False)
    out.print(_table(found, out))
    for line in compared_lines(found):
        out.print(line, markup=False)


def _table(found: Compared, out: Console) -> Table:
    """Within the terminal: what is the same for all is left out, then what pages have room for."""
    head, rows = compared_head(found, ""), compared_rows_of(found)
    head[1] = "%"
    same = [i for i, title in enumerate(head) if title == "spread" and {row[i] for row in rows} <= {"none"}]
    going = [head.index(title) for title in _CAN_GO if title in head]
    for many in range(len(going) + 1):
        gone = {*same, *going[:many]}
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        for i, title in enumerate(head):
            if i not in gone:
                table.add_column(title, justify="right" if i else "left", no_wrap=True)
        for row, one in zip(rows, found.methods, strict=True):
            cells = [cell for i, cell in enumerate(row) if i not in gone]
            table.add_row(*cells, style="bold" if RIVALS.entry(one.name).ours else "")
        if out.measure(table, options=out.options.update(width=_UNBOUNDED)).maximum <= out.width:
            break
    return table


def _share(macs: float | None, unpruned: float | None) -> str:
    return "" if macs is None or not unpruned else f"{macs / unpruned:.0%}"


def _change(one: ComparedMethod) -> str:
    change = one.quality.difference
    if change is None:
        return ""
    around = "" if change.ends is None else f" ({100 * change.ends[0]:+.1f} {100 * change.ends[1]:+.1f})"
    return f"{100 * change.value:+.1f}{around}"


def _many(rows: int) -> str:
    return str(rows) if rows < 1000 else f"{rows / 1000:.0f}k"


def _worst_view(one: ComparedMethod) -> str:
    if not one.views:
        return ""
    view, change = min(one.views.items(), key=lambda found: found[1].value)
    return f"{100 * change.value:+.1f} {view}"


def _survey(one: ComparedMethod) -> str:
    """`12/17`: pairs in the survey's order, of all of its columns."""
    pairs, agree = (sum(getattr(cell, name) for cell in one.survey) for name in ("pairs", "agree"))
    return f"{agree}/{pairs}" if pairs else ""


def _figure(column: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    return {"cost": f"{value / 60:.1f} min", "adaptability": f"{value:.2f}"}.get(column, f"{value:.0f} kernels a stage")
