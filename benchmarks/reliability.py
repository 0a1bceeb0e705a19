"""What do a kill, a full disk, a database that is away, and processes beside each other cost a run? Nothing.

    python benchmarks/reliability.py [--only kill-local-journal ...] [--times 50] [--seconds 280] [--seed 0]

A tiny model is searched with the cost table of a profile, first undisturbed; then the same command is disturbed at
random instants and given again until it ends, over and over. Runs are forks of this process, which has imported
everything, so that the instants fall into a run and not into its start. Rows of the table, and of
`results/reliability.json`:

  kill-ENGINE-STORAGE   kill -9, by the local engine or two Ray workers, with the study's own file, SQLite or PostgreSQL
  disk-full             a file system of its own (tmpfs; needs root) that is full after a random number of bytes
  database-away-5s      PostgreSQL is stopped for 5 s at a random instant of a run
  processes-N           so many processes on one study at a time, in its own file and in PostgreSQL
  every-S-seconds       killed every so many seconds, cost table and all timed on this machine: does it end?

`lost` are finished trials that a run had been told were written, or that were read before, and are gone or say
something else; `twice` those of one plan that was evaluated before; `fronts` how many of the fronts that disturbed runs
ended with are the undisturbed one (plans, qualities, costs, intervals, verdict), where one process proposes alone; with
several workers what is proposed hangs on who is first, and the front's hypervolume is compared (98 % at least).
`unclear` are ends without an exit code of 0, or where that cannot be without one line of why and 2. A row goes on where
an earlier call left it (`--seconds` ends it early).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from gpu.provenance import commit_of
from reliability_runs import TRIALS, Runs, Study, make_inputs

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.cost.devices.device import describe_device
from tests.support.postgres import Server, server

RESULTS = Path(__file__).parent / "results" / "reliability.json"
COUNTS = ("times", "runs", "lost", "twice", "fronts", "unclear")
KILLS = [f"kill-{engine}-{storage}" for engine in ("local", "ray") for storage in ("journal", "sqlite", "postgresql")]


class Bench:
    """Inputs and the undisturbed run, and what disturbed ones came to."""

    def __init__(self, folder: Path, rng: random.Random, deadline: float) -> None:
        self.runs, self.rng, self.deadline = Runs(folder), rng, deadline
        make_inputs(self.runs)
        self._studies = 0
        self._undisturbed: dict[str, tuple[Study, float]] = {}
        self.postgres: Server | None = None

    @property
    def server(self) -> Server:
        """PostgreSQL, for what asks for it."""
        if self.postgres is None:
            raise PruneSearchError("this needs a PostgreSQL that runs: install it, or leave it out (--only)")
        return self.postgres

    def fresh(self, storage: str, engine: str = "local", root: Path | None = None) -> Study:
        """A study that is not there yet."""
        self._studies += 1
        url = {"journal": None, "sqlite": f"sqlite:///{self.runs.folder}/{self._studies}.db"}.get(storage)
        if storage == "postgresql":
            url = self.server.url
        return Study(self.runs, f"s{self._studies}", url, engine, root)

    def undisturbed(self, engine: str) -> tuple[Study, float]:
        """A whole run, and the seconds that it took."""
        if engine not in self._undisturbed:
            study, began = self.fresh("journal", engine), time.monotonic()
            study.run_to_the_end()
            self._undisturbed[engine] = study, time.monotonic() - began
        return self._undisturbed[engine]

    def ended(self, study: Study, engine: str = "local") -> dict[str, int]:
        """What a disturbed run that has ended comes to."""
        plans = Counter(plan for _, plan, _ in study.finished())
        whole, _ = self.undisturbed(engine)
        same = study.front() == whole.front() if engine == "local" else study.area() >= 0.98 * whole.area()
        missing = max(0, TRIALS - len(plans))
        return {"runs": 1, "lost": missing, "twice": sum(plans.values()) - len(plans), "fronts": int(same)}

    @property
    def over(self) -> bool:
        """Whether the time of this call is."""
        return time.monotonic() > self.deadline


def kill(name: str, bench: Bench, times: int) -> Iterator[dict[str, int]]:
    """Kill runs at random instants; a run that ends is followed by a new one."""
    _, engine, storage = name.split("-")
    study: Study | None = None
    _, whole = bench.undisturbed(engine)
    known: set[Any] = set()
    killed = 0
    while (killed < times and not bench.over) or study is not None:
        study, known = (bench.fresh(storage, engine), set()) if study is None else (study, known)
        child = study.begin()
        enough = killed >= times or bench.over
        if child.wait(None if enough else bench.rng.uniform(0, whole)) is None:
            child.kill()
            killed += 1
            yield {"times": 1, study.place(): 1}
        now = set(study.finished())
        told = set(child.told()) - {number for number, _, _ in now}
        yield {"lost": len(known - now) + len(told)}
        known = now
        if child.code == 0:
            yield bench.ended(study, engine)
            study = None
        elif child.code is not None and child.code > 0:
            print(f"exit code {child.code}: {child.lines()[-1:]}", flush=True)
            yield {"unclear": 1}
            study = None


def disk_full(bench: Bench, times: int) -> Iterator[dict[str, int]]:
    """The disk of the study is full after a random number of bytes, and there is room again when the run has ended."""
    whole, _ = bench.undisturbed("local")
    need = whole.bytes()
    for _ in range(times):
        if bench.over:
            return
        with small_disk(bench.runs.folder / "disk", 4 * need) as disk:
            study, filler = bench.fresh("journal", root=disk), disk / "filler"
            room = bench.rng.randrange(4096, need)
            free = os.statvfs(disk)
            filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))
            child = study.begin()
            child.wait(None)
            known, lines = set(study.finished()), child.lines()
            told = set(child.told()) - {number for number, _, _ in known}
            clear = child.code == 2 and lines[-1:] and lines[-1].startswith("prunesearch: ")
            filler.unlink()
            study.run_to_the_end()
            lost = len(known - set(study.finished())) + len(told)
            found = bench.ended(study)
            full = int(child.code != 0)  # else it had room enough
            yield {**found, "times": 1, "lost": found["lost"] + lost, "unclear": full - int(bool(clear)), "full": full}


def database_away(bench: Bench, times: int) -> Iterator[dict[str, int]]:
    """PostgreSQL is stopped, which breaks every connection, and comes back after five seconds.

    A run that meets it for the first time then refuses the storage in a line, and has nothing to lose yet.
    """
    _, whole = bench.undisturbed("local")
    for _ in range(times):
        if bench.over:
            return
        study = bench.fresh("postgresql")
        child = study.begin()
        child.wait(bench.rng.uniform(0, whole))
        bench.server.stop()
        time.sleep(5)
        bench.server.start()
        child.wait(None)
        refused = child.code == 2 and "cannot be used" in child.lines()[-1] and not child.told()
        unclear = int(child.code != 0 and not refused)
        if child.code:
            study.run_to_the_end()
        told = set(child.told()) - {number for number, _, _ in study.finished()}
        found = bench.ended(study)
        lost = found["lost"] + len(told)
        yield {**found, "times": 1, "unclear": unclear, "lost": lost, "refused at its start": int(refused)}


def processes(many: int, bench: Bench, times: int) -> Iterator[dict[str, int]]:
    """The same command so many times at once."""
    for turn in range(times):
        if bench.over:
            return
        study = bench.fresh(("journal", "postgresql")[turn % 2])
        children = [study.begin() for _ in range(many)]
        unclear = sum(child.wait(None) != 0 for child in children)
        told = [number for child in children for number in child.told()]
        finished = {number for number, _, _ in study.finished()}
        found = bench.ended(study)
        same = int(study.area() >= 0.98 * bench.undisturbed("local")[0].area())
        twice = found["twice"] + len(told) - len(set(told))
        lost = found["lost"] + len(set(told) - finished)
        yield {**found, "times": 1, "unclear": unclear, "lost": lost, "twice": twice, "fronts": same}


def every(seconds: int, bench: Bench, times: int) -> Iterator[dict[str, int]]:
    """Killed every so many seconds until it ends, with a table that takes longer than that."""
    for _ in range(times):
        if bench.over:
            return
        study = bench.fresh("journal")
        study.measured = True
        began, kills = time.monotonic(), 0
        while (child := study.begin()).wait(seconds) is None:
            child.kill()
            kills += 1
            if time.monotonic() > began + 200:
                yield {"times": 1, "runs": 1, "kills": kills, "unclear": 1}
                return
        plans = Counter(plan for _, plan, _ in study.finished())
        yield {
            **{"times": 1, "runs": 1, "kills": kills, "seconds": round(time.monotonic() - began)},
            **{"unclear": int(child.code != 0), "lost": TRIALS - len(plans), "fronts": int(bool(study.front()))},
            "twice": sum(plans.values()) - len(plans),
        }


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes."""
    place.mkdir(exist_ok=True)
    if os.system(f"mount -t tmpfs -o size={size} tmpfs {place}"):
        raise SystemExit("a file system of its own cannot be made here: run it as root")
    try:
        yield place
    finally:
        os.system(f"umount {place}")


SCENARIOS: dict[str, tuple[int, Callable[[Bench, int], Iterator[dict[str, int]]]]] = {
    **{name: (50, partial(kill, name)) for name in KILLS},
    "disk-full": (20, disk_full),
    "database-away-5s": (5, database_away),
    "processes-2": (4, partial(processes, 2)),
    "processes-8": (4, partial(processes, 8)),
    "every-5-seconds": (1, partial(every, 5)),
}


def load(path: Path) -> dict[str, Any]:
    """Results of earlier calls."""
    empty: dict[str, Any] = {"rows": {}, "parts": []}
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def show(rows: dict[str, dict[str, int]]) -> None:
    """The table."""
    print(f"{'':24} {'times':>6} {'runs':>6} {'lost':>6} {'twice':>6} {'fronts':>7} {'unclear':>8}")
    for name in SCENARIOS:
        if name in rows:
            row = rows[name]
            more = ", ".join(f"{value} {key}" for key, value in row.items() if key not in COUNTS)
            cells = [row.get(key, 0) for key in COUNTS]
            print("{:24} {:6} {:6} {:6} {:6} {:7} {:8}".format(name, *cells) + f"   {more}")


def main() -> int:
    """Disturb, count, print; 1 where anything was lost, done twice, unclear or came out otherwise."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--only", nargs="+", choices=[*SCENARIOS], default=[*SCENARIOS])
    options.add_argument("--times", type=int, help="disturbances of a row at most")
    options.add_argument("--seconds", type=float, default=float("inf"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--results", type=Path, default=RESULTS)
    args = options.parse_args()
    found = load(args.results)
    rows = found["rows"]
    with tempfile.TemporaryDirectory(prefix="rely-") as name, contextlib.ExitStack() as stack:
        deadline = time.monotonic() + args.seconds
        bench = Bench(Path(name), random.Random(f"{args.seed}/{len(found['parts'])}"), deadline)
        for scenario in args.only:
            target, run = SCENARIOS[scenario]
            row = rows.setdefault(scenario, {})
            times = min(args.times or target, target) - row.get("times", 0)
            if times < 1 or bench.over:
                continue
            if ("local" not in scenario and bench.postgres is None) or "postgresql" in scenario:
                bench.postgres = bench.postgres or stack.enter_context(server())
            part: dict[str, Any] = {"row": scenario, "seed": args.seed, "commit": commit_of()}
            found["parts"].append(part)
            found["device"], began = describe_device("cpu"), time.monotonic()
            for counted in run(bench, times):
                for key, value in counted.items():
                    row[key] = row.get(key, 0) + value
                part |= {"seconds": round(time.monotonic() - began), "load_1m": round(os.getloadavg()[0], 1)}
                part |= {"date": datetime.now(UTC).isoformat(timespec="seconds")}
                write_text_atomic(args.results, json.dumps(found, indent=1) + "\n")  # a killed one goes on there
    show(rows)
    return int(any(map(is_wrong, rows.values())))


def is_wrong(row: dict[str, int]) -> bool:
    """Whether anything of a row is not as it must be."""
    return any(row.get(key) for key in ("lost", "twice", "unclear")) or row.get("fronts", 0) < row.get("runs", 0)


if __name__ == "__main__":
    sys.exit(main())
