"""Runs that `reliability.py` disturbs: forks of a process that has imported everything, and what they leave behind."""

from __future__ import annotations

import json
import os
import select
import signal
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

import prunesearch.search.samplers.guided  # noqa: F401  (which a run imports as it goes)
from prunesearch.cli.app import app
from prunesearch.cli.border import answer
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.pareto import hypervolume_2d
from prunesearch.search.trials.ask_tell import Search
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.storage.reader import TrialReader
from prunesearch.study.trials import study_place
from tests.support.known_device import known_table, write_model, write_profile

TRIALS = 24


class Child:
    """A command of prunesearch in a process of its own.

    Attributes:
        code: its exit code, negative where a signal ended it; None while it runs.
    """

    def __init__(self, words: list[str], folder: Path, log: Path) -> None:
        self.code: int | None = None
        self._log, self._told = log, log.with_suffix(".told")
        log.unlink(missing_ok=True)
        self._told.unlink(missing_ok=True)
        self.pid = os.fork()
        if not self.pid:
            _run(words, folder, log, self._told)
        self._handle = os.pidfd_open(self.pid)

    def wait(self, seconds: float | None) -> int | None:
        """Wait for its end, at most so long; its exit code, or None."""
        if self.code is None and select.select([self._handle], [], [], seconds)[0]:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._handle)
        return self.code

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait(None)

    def told(self) -> list[int]:
        """Numbers of the trials that the run had been told were written."""
        return [int(line) for line in self._told.read_text().split()] if self._told.exists() else []

    def lines(self) -> list[str]:
        """What it printed."""
        return self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()


def _run(words: list[str], folder: Path, log: Path, told: Path) -> None:
    """In the fork: run a command, and note every trial whose `tell` has come back."""
    code = 70
    try:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.chdir(folder)
        noted, tell = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND), Search.tell

        def noting(search: Search, *args: Any) -> Any:
            record = tell(search, *args)
            if record is not None:
                os.write(noted, f"{record.number}\n".encode())
            return record

        Search.tell = noting  # type: ignore[method-assign]
        code = answer(app, words)
    finally:
        os._exit(code)


class Runs:
    """Commands that are given in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._begun = folder, 0
        (folder / "t").mkdir()
        os.environ |= {"PRUNESEARCH_PROFILES": str(folder / "profiles"), "HF_HUB_OFFLINE": "1"}
        os.environ["TMPDIR"] = str(folder / "t")  # Ray's sockets need a short one

    def start(self, inside: Path, *words: object) -> Child:
        """Begin one in a folder."""
        self._begun += 1
        return Child([str(word) for word in words], inside, self.folder / f"{self._begun}.log")


class Study:
    """A study of the tiny model.

    Attributes:
        measured: costs are timed on this machine, in place of read from the profile of another.
    """

    def __init__(self, runs: Runs, name: str, storage: str | None, engine: str, root: Path | None) -> None:
        self.runs, self.name, self.storage, self.engine = runs, name, storage, engine
        self.folder = StudyFolder((root or runs.folder) / "studies", name)
        self.measured = False

    def begin(self) -> Child:
        """Begin or resume its run."""
        inside, given = self.folder.root.parent, self.runs.folder
        words: list[object] = ["run", "--model", given / "model", "--data", given / "data.parquet"]
        words += ["--study", self.name, "--space", given / "space.yaml", "--precision", "float32"]
        words += ["--batch-size", 8, "--eval-batch-size", 16]
        words += ["--trials", TRIALS, "--seeds", 4, "--search-samples", 24, "--sensitivity-samples", 8]
        words += ["--table-time", "20s", "--patience", "0s"] if self.measured else ["--device", "box"]
        words += [] if self.storage is None else ["--storage", self.storage]
        words += [] if self.engine == "local" else ["--engine", self.engine, "--workers", 2]
        return self.runs.start(inside, *words)

    def run_to_the_end(self) -> None:
        """Run until it ends well."""
        child = self.begin()
        if child.wait(None):
            raise SystemExit("\n".join(child.lines()))

    def finished(self) -> list[tuple[int, str, tuple[float, ...]]]:
        """Number, plan and values of the finished trials; none before there is a study."""
        place = study_place(self.folder, self.storage)
        reader = TrialReader(place["where"], place["name"])
        try:
            reader.refresh()
        except PruneSearchError:
            return []
        return [(t.number, str(t.plan), t.values) for t in reader.trials if t.state == TrialState.COMPLETE.name]

    def place(self) -> str:
        """How far the run is."""
        if (self.folder.path / "finish").exists():
            return "at the end"
        trials = len(self.finished())
        return "in the search" if trials else "before it"

    def front(self) -> dict[str, Any]:
        """What came of it, but for names, dates and seconds."""
        said = Front.load(self.folder.front).to_dict()
        kept = {name: said[name] for name in ("unpruned", "points", "verdict", "hypervolume", "selection", "dropped")}
        for point in kept["points"]:
            point.pop("trial", None)  # one that was under way has used up a number
        return json.loads(json.dumps(kept))  # type: ignore[no-any-return]

    def area(self) -> float:
        """Hypervolume of the finished trials' costs and losses, as shares of the worst of them."""
        values = [values for _, _, values in self.finished()]
        return hypervolume_2d([(cost, loss) for loss, cost in values], (AREA_MS, 1.0))

    def bytes(self) -> int:
        """What its folder takes."""
        return sum(-(-p.stat().st_size // 4096) * 4096 for p in self.folder.path.rglob("*") if p.is_file())


AREA_MS = 100.0  # more than the known machine takes


def make_inputs(runs: Runs) -> None:
    """A tiny ViT, pictures that it labels itself, a small space, and the profile of a machine that is not here."""
    write_model(runs.folder)
    write_profile(runs.folder / "profiles", "box", known_table())
