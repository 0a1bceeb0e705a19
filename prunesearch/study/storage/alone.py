"""One process at a time in a study folder, to measure and to finish: not twice, and not beside other work."""

from __future__ import annotations

from types import TracebackType

from filelock import FileLock, Timeout

from prunesearch.core.events import say
from prunesearch.study.folder import StudyFolder


class Alone:
    """The lock of a study folder; the operating system frees it when its process ends, however that comes.

    Processes of one machine share it, and those of several where the folder is on a file system with locks.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._lock = FileLock(folder.path / ".lock")
        self._name = folder.name

    def __enter__(self) -> Alone:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def take(self) -> bool:
        """Wait for the lock; say so, and return True, if another process has it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            say(f"another process measures for study {self._name}: waiting for it")
            self._lock.acquire()
            return True
        return False

    def release(self) -> None:
        """Let the next process in."""
        self._lock.release()
