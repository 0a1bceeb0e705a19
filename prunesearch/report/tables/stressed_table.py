"""Points on attacked rows, on other data and class by class, as rows of text for the terminal and for pages."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from prunesearch.study.front import Front
from prunesearch.study.front_compared import Stressed
from prunesearch.study.front_items import MetricValue


def stressed_head(found: Stressed, metric: str) -> list[str]:
    """The titles of `stressed_rows`."""
    head = ["", f"{metric}, %", "change", "worst class", "there"]
    head += ["worst group", "there"] if found.plans[0].groups else []
    head += ["other data", "change"] if found.data is not None else []
    for attack in dict.fromkeys(one.attack for one in found.attacked):
        head += [attack, "from unpruned", "to unpruned"]
    return head


def stressed_rows(found: Stressed) -> list[list[str]]:
    """One row a plan."""
    rows = []
    for one in found.plans:
        row = [one.name, *_value(one.quality)]
        for parts in (one.classes, one.groups) if found.plans[0].groups else (one.classes,):
            worst = parts[0] if parts else None
            row += ["", ""] if worst is None else [worst.name, f"{100 * worst.quality:.1f} ({100 * worst.change:+.1f})"]
        if found.data is not None:
            row += ["", ""] if one.shifted is None else _value(one.shifted)
        for attack in dict.fromkeys(other.attack for other in found.attacked):
            mine = next((a for a in found.attacked if (a.name, a.attack) == (one.name, attack)), None)
            row += ["", "", ""] if mine is None else _percents(mine.own, mine.from_unpruned, mine.to_unpruned)
        rows.append(row)
    return rows


def stressed_remark(found: Stressed) -> str:
    """What the figures are of."""
    said = f"Quality on {found.rows:,} holdout rows, and the class that loses most. "
    if found.data is not None:
        said += f"Other data: {found.shifted_rows:,} rows of {found.data}. "
    if found.attacked:
        said += (
            f"Attacks: {found.attacked_rows:,} rows, every channel of a pixel within {255 * (found.eps or 0):.3g}/255; "
            "a plan on rows that mislead it, on rows that mislead the unpruned model, and that model on rows that "
            "mislead the plan."
        )
    return said.strip()


def show_stressed(front: Front, console: Console | None = None) -> None:
    """Print every plan's qualities, then what should be known; nothing where nobody asked."""
    found, out = front.stressed, console or Console()
    if found is None:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for title in stressed_head(found, front.task.metric):
        table.add_column(title, justify="left" if title in ("", "worst class", "worst group") else "right")
    for row in stressed_rows(found):
        table.add_row(*row)
    out.print()
    out.print("Where rows are unlike", style="bold", markup=False)
    out.print(table)
    for line in (stressed_remark(found), *found.notes):
        out.print(line, markup=False)


def _value(value: MetricValue) -> list[str]:
    change = "" if value.difference is None else f"{100 * value.difference.value:+.1f}"
    return [f"{100 * value.value:.1f}", change]


def _percents(*values: float) -> list[str]:
    return [f"{100 * value:.1f}" for value in values]
