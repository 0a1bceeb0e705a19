"""Plans chosen row by row as rows of text, for the terminal and for pages."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from prunesearch.core.costs import digits
from prunesearch.study.front import Front
from prunesearch.study.front_records import Adapted, LearntInfo, RowPlans, RowPriced


def adapted_head(metric: str) -> list[str]:
    """The titles of `adapted_rows`."""
    return ["batch", "", f"{metric}, %", "change", "mean ms", "p50", "p95", "worst", "by plan"]


def adapted_rows(found: Adapted) -> list[list[str]]:
    """One row a contestant and batch size, fewer rows of a batch first."""
    sizes = [latency.batch_size for latency in found.contestants[0].latencies]
    rows = []
    for place, size in enumerate(sizes):
        for one in found.contestants:
            spread = one.latencies[place]
            times = [digits(value) for value in (spread.mean, spread.p50, spread.p95, spread.worst)]
            by_plan = "" if spread.by_plan is None else digits(spread.by_plan)
            rows.append([str(size), one.name, f"{100 * one.quality.value:.1f}", _change(one), *times, by_plan])
    return rows


def adapted_lines(found: Adapted) -> list[str]:
    """What is chosen between, then what should be known, then the verdicts."""
    said = []
    for one in found.contestants:
        if one.left is not None:
            left = one.left
            said.append(
                f"{one.name}: {one.plans[0]}; behind the last block {left.mean:.0f} tokens on average (p50 "
                f"{left.p50:.0f}, p95 {left.p95:.0f}, most {left.worst:.0f})"
            )
            said += [] if one.priced is None else [_priced(one, one.priced)]
            said += [] if one.learnt is None else [_learnt(one, one.learnt)]
        elif one.decides:
            each = ", ".join(f"{name} for {share:.0%}" for name, share in zip(one.plans, one.shares, strict=True))
            how = f"after block {one.block}" if one.block is not None else f"by {one.by}"
            said.append(f"{one.name}: {each} of the rows, {how}")
    return [*said, *found.notes, *(f"batch {duel.batch_size}: {duel.text}" for duel in found.duels)]


def adapted_remark(found: Adapted) -> str:
    """How it was found."""
    return (
        f"Thresholds keep {found.keep:.0%} of the unpruned quality on calibration rows; quality on {found.rows:,} "
        "holdout rows; times of real batches in eager torch, interleaved. By plan: batches hold rows of one plan."
    )


def show_adapted(front: Front, console: Console | None = None) -> None:
    """Print quality and the spread of latency of every contestant, then the verdicts; nothing where nobody asked."""
    found, out = front.adapted, console or Console()
    if found is None:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for title in adapted_head(front.task.metric):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    kinds = {one.name: one.kind for one in found.contestants}
    for row in adapted_rows(found):
        table.add_row(*row, style="" if kinds[row[1]] == "static" else "bold")
    out.print()
    out.print("Plans chosen row by row", style="bold", markup=False)
    out.print(table)
    for line in adapted_lines(found):
        out.print(line, markup=False)


def _priced(one: RowPlans, priced: RowPriced) -> str:
    found = next(latency for latency in one.latencies if latency.batch_size == priced.batch_size)
    return (
        f"{one.name}: by the cost table at the counts of calibration rows {digits(priced.mean)} ms in batches of "
        f"{priced.batch_size} (p95 {digits(priced.p95)}; the host's wait and masks {digits(priced.counting)} a stage), "
        f"measured {digits(found.mean)} ({digits(found.p95)})"
    )


def _learnt(one: RowPlans, learnt: LearntInfo) -> str:
    change = learnt.difference
    ends = "" if change.ends is None else f" (95 %: {100 * change.ends[0]:+.2f} to {100 * change.ends[1]:+.2f})"
    return (
        f"{one.name}: {learnt.steps} steps, {learnt.seconds:.0f} s, {learnt.rows:,} rows without labels; "
        f"{100 * change.value:+.2f} points{ends} over the thresholds that training began with, as fast: {learnt.begun}"
    )


def _change(one: RowPlans) -> str:
    change = one.quality.difference
    return "" if change is None else f"{100 * change.value:+.1f}"  # its interval is in front.json
