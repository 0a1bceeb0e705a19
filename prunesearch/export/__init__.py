"""Taking a schedule out of a study, or in from another tool: which point (`pick`), in which format (`FORMATS`).

A new format is one `Format` in a file of its own and one row in `FORMATS` (`core/tables/export_tables.py`); the
contract tests pick it up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.tables.export_tables import FORMATS, MODEL_FORMATS
from prunesearch.export.schedules.exchange import Exported, export_schedule, import_file, import_schedule
from prunesearch.export.schedules.format import Format, ModelShape
from prunesearch.export.schedules.model_shape import shape_of
from prunesearch.export.schedules.native import provenance_of

if TYPE_CHECKING:
    from prunesearch.study.front import Front

__all__ = [
    "FORMATS",
    "MODEL_FORMATS",
    "Exported",
    "Format",
    "ModelShape",
    "export",
    "export_schedule",
    "find_format",
    "import_file",
    "import_schedule",
]


def find_format(name: str) -> Format:
    """Return the format called `name`; raise `PruneSearchError` naming the nearest one on a miss."""
    if name not in FORMATS:
        raise PruneSearchError(f"unknown export format '{name}': {did_you_mean(name, [*FORMATS, *MODEL_FORMATS])}")
    found: Format = FORMATS[name]
    return found


def export(front: Front, spec: str, to: str = "json", *, lossy: bool = False) -> Exported:
    """Write the point that `spec` picks (see `pick.pick`), in the format named `to`.

    Args:
        front: the front of a study.
        spec: which point.
        to: a name in `FORMATS`.
        lossy: accept the nearest schedule that the format can say.

    Raises:
        PruneSearchError: for an unknown format or pick, when no point satisfies it, or when the schedule's meaning
            would change and `lossy` is False.
    """
    from prunesearch.export.pick import pick

    target = find_format(to)
    point = pick(front, spec)
    shape = shape_of(front, provenance_of(point, front))
    return export_schedule(point.to_plan(), target, shape, lossy=lossy)
