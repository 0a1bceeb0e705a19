"""The file of a local study: Optuna's journal, one operation a line, whole after a kill, a full disk or a power cut."""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages.journal import JournalFileBackend

from prunesearch.core.errors import PruneSearchError

_SYNC_S = 1.0  # between two waits for the disk


class StudyFile(JournalFileBackend):
    """Optuna's file of operations; it is read by Optuna, and written so that nothing can spoil it.

    Optuna's own writer waits for the disk at every line, waits half a minute for the lock of a process that was killed,
    and writes on behind what a full disk has cut, so that both lines are lost and the file cannot be opened again.

    - The lock is the operating system's, which frees it when its process ends.
    - What was begun and not finished at the end of the file is removed before the next line; no whole line ever is,
      since other processes may have read it.
    - The operations of `together` are written in one piece.
    - The disk is waited for once a second: a power cut may take the last second, a killed process nothing.

    Args:
        path: the file; it is made if it is not there.

    Raises:
        ValueError: if the file is something else.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        self._guard = lock_of(path)
        self._held: list[dict[str, Any]] | None = None
        self._synced = 0.0
        with path.open("rb") as file:
            if file.read(1) not in (b"", b"{"):
                raise ValueError("it is no journal")

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write operations, or keep them until `together` ends.

        Raises:
            PruneSearchError: if the disk is full or the file may not be written; what was there stays.
        """
        if self._held is not None:
            self._held += logs
            return
        with self._guard:
            self._write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what is appended within the block in one piece as it ends, while no other process writes."""
        with self._guard:
            held: list[dict[str, Any]] = []
            self._held = held
            try:
                yield
            finally:
                self._held = None
            self.append_logs(held)

    def _write(self, data: bytes) -> None:
        try:
            with FileIO(self.path, "ab+") as file:
                _cut(file)
                rest = memoryview(data)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError:
                    _cut(file)
                    raise
                if time.monotonic() > self._synced + _SYNC_S:
                    os.fsync(file.fileno())
                    self._synced = time.monotonic()
        except OSError as error:
            raise PruneSearchError(
                f"{self.path} cannot be written ({error.strerror}): make room there, then give the same command again; "
                "finished trials are kept"
            ) from None


def lock_of(path: Path) -> FileLock:
    """The lock of a study's file. It is not Optuna's `.lock`, which Optuna's own tools would wait for and take away."""
    return FileLock(path.with_name(f".{path.name}-lock"))


def _cut(file: FileIO) -> None:
    """Remove a last line that was not written to its end."""
    size = os.fstat(file.fileno()).st_size
    if size == 0 or os.pread(file.fileno(), 1, size - 1) == b"\n":
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(b"\n") + 1
    file.truncate(end)
