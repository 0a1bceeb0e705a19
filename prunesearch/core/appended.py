"""Records that come one after another, kept as they come: a process that was interrupted loses the last half second."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import parse_json

_EVERY_S = 0.5  # between two writes: what is being timed is left alone


class Appended:
    """A file of records, a line of JSON each, behind one that says under what conditions they came.

    A file of other conditions, or one that is damaged, is begun anew; a last line that was not written to its end goes.

    Args:
        path: of the file; it is made when there is something to keep. None: nothing is kept.
        conditions: plain data; what must be the same for records of before to count.
        every_s: seconds that records may wait to be written.
        now: tells seconds.

    Attributes:
        found: the records that were there.
    """

    def __init__(
        self,
        path: Path | None = None,
        conditions: Any = None,
        *,
        every_s: float = _EVERY_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._every_s, self._now = path, every_s, now
        self._head = _line({"conditions": conditions})
        self._waiting: list[bytes] = []
        self._size = 0  # of what was written whole
        self._written = now()
        self.found: list[Any] = [] if path is None else self._read(path)

    @property
    def due(self) -> bool:
        """Whether what waits has waited long enough."""
        return self._path is not None and self._now() >= self._written + self._every_s

    def add(self, record: Any) -> None:
        """Keep a record of plain data; it is written by the next `flush`."""
        if self._path is not None:
            self._waiting.append(_line(record))

    def flush(self) -> None:
        """Write what waits.

        Raises:
            PruneSearchError: if the file cannot be written; what was there stays.
        """
        self._written = self._now()
        if self._path is None or not self._waiting:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("r+b" if self._size else "wb", buffering=0) as file:
                file.seek(self._size)
                rest = memoryview(b"".join(self._waiting if self._size else [self._head, *self._waiting]))
                while rest:
                    rest = rest[file.write(rest) :]
                self._size = file.tell()
        except OSError as error:
            raise PruneSearchError(
                f"{self._path} cannot be written ({error.strerror}): make room there, then give the same command "
                "again; what was measured is kept"
            ) from None
        self._waiting.clear()

    def remove(self) -> None:
        """Take the file away: what it was for is done."""
        self._size = 0
        self._waiting.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, path: Path) -> list[Any]:
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if not whole.startswith(self._head):
            return []
        try:
            found = [parse_json(line.decode()) for line in whole[len(self._head) :].split(b"\n")[:-1]]
        except ValueError:
            return []
        self._size = len(whole)
        if len(whole) < len(data):
            os.truncate(path, len(whole))
        return found


def _line(record: Any) -> bytes:
    return json.dumps(record, separators=(",", ":"), sort_keys=True).encode() + b"\n"
