"""What the cells of images, sounds and videos have in common: an encoded file, held or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.sources import one_line


def file_bytes(cell: Any, base: Path | None, kind: str, forms: str = "bytes or a path") -> bytes:
    """The encoded bytes of a cell: bytes, `{"bytes", "path"}`, or a path from `base`.

    Args:
        cell: as the table holds it.
        base: folder that relative paths start from.
        kind: of the content, for messages.
        forms: that a cell of this kind may have, for messages.

    Raises:
        PruneSearchError: for another form, or a file that cannot be read.
    """
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, str):
        raise PruneSearchError(f"a cell of {kind} must hold {forms}, but got {cell!r:.60}: check the column")
    path = Path(cell) if base is None else base / cell
    try:
        return path.read_bytes()
    except OSError as error:
        raise PruneSearchError(f"{kind} file '{path}' cannot be read: {one_line(error)}") from error
