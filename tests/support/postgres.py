"""A real PostgreSQL for a test, on loopback, run by a user that is not root; gone afterwards."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.paths import DEV


def _programs() -> Path | None:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return installed[-1] if installed else None


def _as_user(command: list[str]) -> list[str]:
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command


@dataclass(frozen=True)
class Server:
    """A server: the URL of its empty database, and how to end and begin it."""

    url: str
    stop: Callable[[], object]
    start: Callable[[], object]


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server that runs; the test is skipped where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    pytest.importorskip("psycopg", reason=DEV)
    folder = Path(tempfile.mkdtemp(prefix="prunesearch-pg-"))
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, quiet = str(folder / "data"), {"check": True, "capture_output": True, "cwd": "/"}
    control = [str(programs / "pg_ctl"), "-D", data, "-w"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"

    def control_it(*words: str) -> None:
        subprocess.run(_as_user([*control, *words]), **quiet)

    running = Server(
        f"postgresql+psycopg://{user}@127.0.0.1:{port}/postgres",
        stop=lambda: control_it("-m", "immediate", "stop"),
        start=lambda: control_it("-l", str(folder / "log"), "-o", options, "start"),
    )
    try:
        initdb = [str(programs / "initdb"), "-D", data, "-U", user, "-A", "trust"]
        subprocess.run(_as_user(initdb), **quiet)
        running.start()
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
