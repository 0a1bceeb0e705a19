"""Writing files so that a reader never sees half of one, and reading JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from prunesearch.core.errors import CorruptFileError, PruneSearchError


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path` through a temporary file beside it and `os.replace`.

    A run that is killed leaves either the old file or the new one, never a torn one.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def load_json(path: str | os.PathLike[str], what: str, way_out: str = "") -> dict[str, Any]:
    """Read a JSON object; `what` names the file in errors, and `way_out` ends them.

    Raises:
        PruneSearchError: if the file cannot be read.
        CorruptFileError: if it is not a JSON object.
    """
    end = f": {way_out}" if way_out else ""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PruneSearchError(f"{what} {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CorruptFileError(f"{what} {path} is not JSON ({error}){end}") from None
    if not isinstance(data, dict):
        raise CorruptFileError(f"{what} {path} must be a JSON object{end}")
    return data


def data_folder(name: str) -> Path:
    """Return the folder of shipped data `name`: inside an installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / name
