"""Tables of names in the help of options."""

from __future__ import annotations

from typing import Any

from prunesearch.core.tables.names import Registry
from prunesearch.core.tables.registry import RUNTIMES


def listed(table: Registry[Any], default: str = "") -> str:
    """The names of a table for the help of an option, the default first and marked."""
    names = sorted(table, key=lambda name: name != default)
    return ", ".join(f"{name} (default)" if name == default else name for name in names)


def explained(table: Registry[Any], default: str = "") -> str:
    """As `listed`, each with its line of help: for tables of a few rows, whose names say little."""
    names = sorted(table, key=lambda name: name != default)
    marks = {default: " (default)"}
    return "; ".join(f"{name}{marks.get(name, '')}: {table.entry(name).help}" for name in names)


def modes() -> str:
    """The rows of `RUNTIMES` that `--mode` takes."""
    return ", ".join(name for name in RUNTIMES if RUNTIMES.entry(name).by_torch)


def runtimes() -> str:
    """What `--runtime` takes: torch, and what else costs are measured in."""
    rows = {name: RUNTIMES.entry(name) for name in RUNTIMES}
    return ", ".join(["torch", *(name for name, row in rows.items() if row.table and not row.by_torch)])
