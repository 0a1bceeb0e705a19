"""`prunesearch models`: the table of model families, what each protects and what does not work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunesearch.pruning.families.find import FAMILIES
from prunesearch.pruning.families.rows import REFUSED


@dataclass(frozen=True)
class FamilyRow:
    """One family, in words; `tasks` are those that heads of it serve, `blocks` the path of its blocks."""

    family: str
    tasks: tuple[str, ...]
    protects: str
    limits: str
    blocks: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form."""
        return asdict(self) | {"tasks": list(self.tasks)}


def list_families() -> list[FamilyRow]:
    """All families by name, those that were registered included."""
    return [
        FamilyRow(f.model_type, f.tasks, f.protects, f.limits, f.blocks)
        for f in (row.target for _, row in sorted(FAMILIES.entries().items()))
    ]


def list_refused() -> dict[str, str]:
    """Families that cannot be reduced, with the reason."""
    return {name: why for name, (why, _) in sorted(REFUSED.items())}


def show_families(rows: list[FamilyRow], refused: dict[str, str], console: Console | None = None) -> None:
    """Print the table; fits 80 columns."""
    out = console or Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for title, width in (("family", 18), ("tasks", None), ("never reduced", 20)):
        table.add_column(title, overflow="fold", max_width=width)
    for row in rows:
        tasks = Text(", ".join(row.tasks))
        if row.limits:
            tasks.append(f"\n{row.limits}", "dim")
        table.add_row(row.family, tasks, row.protects)
    out.print(table)
    out.print()
    for why in dict.fromkeys(refused.values()):
        out.print(Text(f"not {', '.join(n for n, w in refused.items() if w == why)}: {why}", "dim"))
    out.print(Text("a family is config.model_type; docs/families.md says how to add your own", "dim"))
