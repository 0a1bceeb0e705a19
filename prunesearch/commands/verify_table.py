"""What `prunesearch verify` prints: predicted against measured, cost by cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from prunesearch.commands.verify import Check, Verification
from prunesearch.core.costs import Cost, digits, find_cost
from prunesearch.study.front import Front, trust


def show_verification(found: Verification, front: Front, console: Console | None = None) -> None:
    """Print the costs of now point by point; fits 80 columns."""
    out = console or Console()
    out.print(f"{found.study}: predictions ({trust(front.cost_table)}) against {found.device['name']}", markup=False)
    for difference in found.differences:
        out.print(f"not the study's conditions: {difference}", style="yellow", markup=False)
    for note in found.notes:
        out.print(note, style="yellow", markup=False)
    ids = [f"{p.id} !" if p.id in found.lost else p.id for p in found.points]
    for name, errors in found.errors.items():
        row, checks = find_cost(name), [p.costs[name] for p in found.points]
        if row.exact and name not in front.objectives and errors.worst == 0:
            continue  # the same numbers again, which nobody asked for
        out.print(f"{row.title}, {checks[0].how} now", style="bold", markup=False)
        out.print(_table(row, ids, checks))
        for index, load in enumerate(front.loads if found.points[0].loads else []):
            if name in found.points[0].loads[index]:
                out.print(f"batch {load.batch_size}, {load.tokens} tokens", markup=False)
                out.print(_table(row, ids, [p.loads[index][name] for p in found.points]))
        out.print(
            f"error of the predictions: mean {errors.mape:.1%}, worst {errors.worst:.1%}, rank correlation "
            f"{errors.rank_correlation:.3f}",
            markup=False,
        )
    if found.lost:
        out.print(f"! dominated as measured now: {', '.join(found.lost)}", style="yellow", markup=False)


def _table(row: Cost, ids: Sequence[str], checks: Sequence[Check]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    around = f" ({row.around})" if any(_around(check) for check in checks) else ""
    for name in ("", "predicted", f"{checks[0].how}{around}", "error", "saves", "in the study"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    base = checks[0].value
    for name, check in zip(ids, checks, strict=True):
        predicted = "" if check.predicted is None else row.text(check.predicted)
        study = "" if check.study is None else row.text(check.study)
        error = "" if check.error is None else f"{check.error:+.1%}"
        saves = f"{base / check.value:.2f}×" if check.value else ""
        table.add_row(name, predicted, f"{row.text(check.value)}{_around(check)}", error, saves, study)
    return table


def _around(check: Check) -> str:
    now = check.now
    if now is None:
        return ""
    low, high = (now.p10, now.p90) if now.p10 is not None else (now.low, now.high)
    return "" if low is None or high is None else f" ({digits(low)}–{digits(high)})"
