"""Writing files so that a reader never sees half of one, and reading JSON that may hold anything."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from prunesearch.core.errors import CorruptFileError, PruneSearchError

_PAIR = re.compile(r"\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w")
_HALF = re.compile(r"\\u[dD][89a-fA-F]\w\w|\\U0000[dD][89a-fA-F]\w\w")
_READ = 2**25  # bytes of a file that are all read; of a larger one, pieces
_PIECE, _APART = 256, 2**18  # bytes of a piece, and from one to the next
_MANY = 64  # files, beyond which names and sizes alone tell


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) as `write_bytes_atomic` does."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it and `os.replace`.

    A run that is killed leaves either the old file or the new one, never a torn one.

    Raises:
        OSError: naming `path`, not the temporary file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        error.filename, error.filename2 = str(target), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def parse_json(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What a JSON text says.

    Args:
        text: of a whole file, or a line of it.
        pairs: makes an object of its keys and values; None: a dictionary, in which the last of equal keys counts.

    Raises:
        ValueError: for its form, nesting too deep, half of a character, or a number of more digits than Python reads.
    """
    check_writable(text)
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_writable(text: str) -> None:
    """Raise if a JSON or YAML text escapes half of a character, which no file could be written with again.

    Raises:
        ValueError: naming it.
    """
    half = _HALF.search(_PAIR.sub("", text))
    if half is not None:
        raise ValueError(f"{half[0]} is half of a character")


def load_json(path: str | os.PathLike[str], what: str, way_out: str = "") -> dict[str, Any]:
    """Read a JSON object; `what` names the file in errors, and `way_out` ends them.

    Raises:
        PruneSearchError: if the file cannot be read.
        CorruptFileError: if it is not a JSON object.
    """
    end = f": {way_out}" if way_out else ""
    try:
        data = parse_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PruneSearchError(f"{what} {path} cannot be read: {error.strerror}{end}") from None
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


def digest_of_files(files: Sequence[Path]) -> str:
    """A digest that tells files from others of the same names.

    Of large files it looks at pieces, of safetensors at the beginning of every tensor, and of many files at names and
    sizes: enough for weights that were trained further, or a table with other rows, and fast.

    Args:
        files: that are there.
    """
    found = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        found.update(f"{file.parent.name}/{file.name}:{size}".encode())
        if len(files) > _MANY:
            continue
        with file.open("rb") as stream:
            places = _tensors(stream) if size > _READ and file.suffix == ".safetensors" else []
            for place, count in [(0, size)] if size <= _READ else [*_pieces(size), *places]:
                stream.seek(place)
                found.update(stream.read(count))
    return found.hexdigest()[:16]


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    return ((place, _PIECE) for place in range(0, size, _APART))


def _tensors(stream: BinaryIO) -> list[tuple[int, int]]:
    """Where the tensors of a safetensors file begin, as pieces; nothing where its header cannot be read."""
    start = 8 + int.from_bytes(stream.read(8), "little")
    header = stream.read(start - 8) if start < _READ else b""
    return [(start + int(place), _PIECE) for place in re.findall(rb'"data_offsets":\s*\[(\d+),', header)]
