"""Taking a schedule out of a study: which point (`pick`), and in which format (`FORMATS`).

An exporter is a function `(point, front) -> str`, the text of one file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunesearch.core.registry import Entry, Registry

if TYPE_CHECKING:
    from prunesearch.results.front import Front

FORMATS = Registry(
    "export format",
    {
        "json": Entry("prunesearch.export.native:to_json", "prunesearch schedule, for Schedule.from_json"),
    },
)


def export(front: Front, spec: str, to: str = "json") -> str:
    """Return the text of the point that `spec` picks (see `pick.pick`), in the format named `to`.

    Raises:
        PruneSearchError: for an unknown format or pick, or when no point satisfies it.
    """
    from prunesearch.export.pick import pick

    write = FORMATS.load(to)
    text: str = write(pick(front, spec), front)
    return text
