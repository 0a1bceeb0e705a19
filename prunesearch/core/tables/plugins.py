"""Rows that installed packages bring: entry points of the group `prunesearch.scorers`, `prunesearch.merges`, and so on.

    [project.entry-points."prunesearch.scorers"]
    query_norm = "my_package.scorers:query_norm"

An entry point names the thing, or a row with its facts. Finding them reads the packages' metadata once and imports
nothing; a plug-in is imported when its name is used or described, so that a broken one hurts nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from prunesearch.core.errors import PruneSearchError

PREFIX = "prunesearch."


@cache
def _installed() -> tuple[EntryPoint, ...]:
    """Every entry point that is meant for prunesearch."""
    found = entry_points()
    return tuple(point for group in found.groups if group.startswith(PREFIX) for point in found.select(group=group))


def find(group: str, installed: Callable[[], Iterable[EntryPoint]] = _installed) -> Mapping[str, Callable[[], Any]]:
    """What packages bring for a table, by name; the call imports it.

    Args:
        group: `scorers` for `prunesearch.scorers`.
        installed: all entry points.
    """
    return {point.name: partial(_load, point) for point in installed() if point.group == f"{PREFIX}{group}"}


def _load(point: EntryPoint) -> Any:
    """Import a plug-in.

    Raises:
        PruneSearchError: in one line, whatever its package raises.
    """
    try:
        return point.load()
    except Exception as error:
        package = f" of package '{point.dist.name}'" if point.dist is not None else ""
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise PruneSearchError(
            f"plug-in '{point.name}' ({point.group}){package} cannot be loaded ({reason}): mend or uninstall it"
        ) from error
