"""Hypervolume on held-out rows against what the search spent: prunesearch and the samplers it competes with.

    python benchmarks/search_efficiency.py --out runs            # all models, 5 seeds, 300 units: hours
    python benchmarks/search_efficiency.py --out runs --models demo --samplers prunesearch random --units 60
    options: --seeds N --rows N --holdout N --json --plot FILE.html --report (only of what is there)

Every run is written to --out as soon as it is finished, and skipped when it is there: interrupt it and start it again,
or start it once for each model (pin each to a core of its own: taskset -c 0 env OMP_NUM_THREADS=1 python ...). To
measure a changed prunesearch, delete its runs (prunesearch-*.json); with the cost table, delete all.

All samplers search one space with one cost table on one calibration subset. A unit is the evaluation of the unpruned
model on that subset: a trial costs its predicted latency over the unpruned one's, times the part of the rows it ran on.
prunesearch pays for its one-stage losses in the same unit; it has its seeds and its racing. The others have neither;
with `+seeds` behind its name (`tpe+seeds`) one begins with the same solved seeds, and pays for the losses that they are
solved from. All proposals are brought inside the budget, and none is evaluated twice. At every checkpoint the front on
the CALIBRATION rows is noted; afterwards its schedules are evaluated on the holdout rows, and what is reported is the
area between that front and the point (latency share 1, divergence 0.5 nats).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from efficiency_report import OURS, plot, show, verdict
from models import MODELS, Bench, open_bench

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.core.pareto import hypervolume_2d, non_dominated
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import SAMPLERS
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.costs.reach import seeds_within
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.sensitivity import measure_sensitivities
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.trials import open_study
from prunesearch.tasks.batching.batches import EvalSet

RIVALS = ("tpe", "nsga2", "random", "evolution", "reinforce")
SEEDED = "+seeds"
CHECKPOINTS = (10, 20, 30, 60, 150, 300)
REFERENCE = (1.0, 0.5)  # latency share, nats


class ForwardClock:
    """CPU seconds that the process spends inside the model's forward."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seconds, self._began = 0.0, 0.0
        self._hooks = [model.register_forward_pre_hook(self._begin), model.register_forward_hook(self._end)]

    def _begin(self, *_: object) -> None:
        self._began = time.process_time()

    def _end(self, *_: object) -> None:
        self.seconds += time.process_time() - self._began

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


@dataclass(frozen=True)
class Trial:
    """A trial that was told; `units` is what the run had spent by then, `cpu_s` and `wall_s` the time it had taken."""

    schedule: Schedule
    share: float
    loss: float
    full: bool
    units: float
    cpu_s: float
    wall_s: float


class Run:
    """One search of one model by one sampler with one seed."""

    def __init__(self, bench: Bench, sampler: str, seed: int, rows: int) -> None:
        self.bench, self.sampler, self.seed = bench, sampler, seed
        self.split: EvalSet = bench.task.calibration.take(rows)
        self.evaluator = Evaluator(bench.task, bench.handle, self.split)
        self.spent = self.setup_cpu_s = self.trials_cpu_s = self.trials_forward_s = 0.0
        self.failed = self.raced = 0
        self.scratch = tempfile.TemporaryDirectory()

    def go(self, units: float) -> dict[str, Any]:
        """Search until `units` are spent; the run as it is written to disk."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        clock = ForwardClock(self.bench.task.model)
        cpu, wall = time.process_time(), time.monotonic()
        search = self._search()
        self.setup_cpu_s = time.process_time() - cpu
        forward = clock.seconds
        trials = []
        for schedule, loss, full in self._trials(search, units):
            now = (self.spent, time.process_time() - cpu, time.monotonic() - wall)
            share = self.bench.table.predict(schedule) / self.bench.unpruned_ms
            trials.append(Trial(schedule, share, loss, full, *now))
        self.trials_cpu_s = time.process_time() - cpu - self.setup_cpu_s
        self.trials_forward_s = clock.seconds - forward
        clock.close()
        return self._record(trials, units)

    def _search(self) -> Search:
        study = open_study(Path(self.scratch.name) / "s.journal")
        bench, config = self.bench, self.bench.config
        objectives = [Objective("latency", bench.table, bench.unpruned_ms)]
        rival = self.sampler.removesuffix(SEEDED)
        if self.sampler not in (OURS, f"{rival}{SEEDED}"):
            harshest = Schedule([bench.space.stage(0, len(bench.space.keeps) - 1, bench.space.methods[0])])
            return Search(study, rival, bench.space, objectives, [harshest], seed=self.seed, race=False)
        sensitivities = self._sensitivities(config)
        seeds = seeds_within(bench.space, sensitivities, objectives, 24, "")
        found = [seed.schedule for seed in seeds]
        if rival != OURS:
            search = Search(study, rival, bench.space, objectives, found, seed=self.seed, race=False)
            search.enqueue(found)
            return search
        search = Search(study, config.sampler, bench.space, objectives, found, sensitivities, self.seed)
        search.enqueue(found[: config.first_seeds])
        return search

    def _sensitivities(self, config: RunConfig) -> Sensitivities:
        bench = self.bench
        found = measure_sensitivities(
            bench.task,
            bench.handle,
            self.split,
            bench.space,
            bench.table,
            bench.unpruned_ms,
            samples=config.sensitivity_samples,
            units=config.sensitivity_units,
            seed=self.seed,
        )
        self.spent += found.passes / self.split.n
        return found

    def _trials(self, search: Search, units: float) -> Iterator[tuple[Schedule, float, bool]]:
        """Evaluate until `units` are spent: the schedule, its loss, and whether it ran on all rows."""
        while self.spent < units:
            proposal = search.ask()
            if proposal is None:
                return
            rival, began = proposal.rival, time.monotonic()
            evaluation = self.evaluator.evaluate(proposal.schedule, rival=rival)
            share = self.bench.table.predict(proposal.schedule) / self.bench.unpruned_ms
            self.spent += share * evaluation.n / self.split.n
            record = search.tell(proposal, evaluation, time.monotonic() - began)
            if record is None:
                self.failed += 1
                continue
            full = evaluation.n == self.split.n
            self.raced += not full
            yield proposal.schedule, record.loss, full

    def _record(self, trials: list[Trial], units: float) -> dict[str, Any]:
        fronts = [_front_at(trials, point) for point in (*[c for c in CHECKPOINTS if c < units], units)]
        return {
            "sampler": self.sampler,
            "seed": self.seed,
            "rows": self.split.n,
            "units": units,
            "trials": len(trials),
            "failed": self.failed,
            "raced": self.raced,
            "setup_cpu_s": self.setup_cpu_s,
            "trials_cpu_s": self.trials_cpu_s,
            "trials_forward_cpu_s": self.trials_forward_s,
            "checkpoints": fronts,
        }


def _front_at(trials: list[Trial], units: float) -> dict[str, Any]:
    """The calibration front of what was finished by the time that `units` were spent."""
    done = [t for t in trials if t.units <= units]
    full = [t for t in done if t.full]
    keep = non_dominated([(t.share, t.loss) for t in full])
    front = [t for t, kept in zip(full, keep, strict=True) if kept]
    return {
        "units": units,
        "trials": len(done),
        "cpu_s": done[-1].cpu_s if done else 0.0,
        "wall_s": done[-1].wall_s if done else 0.0,
        "front": [{"schedule": t.schedule.to_dict(), "share": t.share, "loss": t.loss} for t in front],
    }


class Holdout:
    """Divergence of schedules on the holdout rows; what was evaluated once is kept in a file."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows
        kept = _read(path) if path.exists() else {"rows": rows, "kl": {}}
        if kept["rows"] != rows:
            raise PruneSearchError(
                f"'{path}' holds divergences on {kept['rows']} holdout rows, but --holdout {rows} is asked for: give "
                "the same value, or delete it"
            )
        self.known: dict[str, float] = kept["kl"]

    def missing(self, runs: Iterable[dict[str, Any]]) -> list[Schedule]:
        """Schedules of the runs' fronts that were not evaluated."""
        found = {key: None for run in runs for key in _keys(run) if key not in self.known}
        return [Schedule.from_json(key) for key in found]

    def evaluate(self, bench: Bench, schedules: list[Schedule]) -> None:
        evaluator = Evaluator(bench.task, bench.handle, bench.task.holdout.take(self.rows))
        for i, schedule in enumerate(schedules, start=1):
            self.known[schedule.to_json(None)] = evaluator.evaluate(schedule).loss
            if i % 20 == 0 or i == len(schedules):
                write_text_atomic(self.path, json.dumps({"rows": self.rows, "kl": self.known}))
                _say(f"{bench.name}: {i} of {len(schedules)} front schedules on {self.rows} holdout rows")

    def hypervolume(self, checkpoint: dict[str, Any]) -> float:
        points = [(p["share"], self.known[_key(p)]) for p in checkpoint["front"]]
        return hypervolume_2d(points, REFERENCE)


def _key(point: dict[str, Any]) -> str:
    return Schedule.from_dict(point["schedule"]).to_json(None)


def _keys(run: dict[str, Any]) -> Iterator[str]:
    for checkpoint in run["checkpoints"]:
        yield from map(_key, checkpoint["front"])


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise CorruptFileError(f"'{path}' is not JSON ({error}): delete it, and it is made again") from None
    if not isinstance(data, dict):
        raise CorruptFileError(f"'{path}' must hold an object: delete it, and it is made again")
    return data


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Runs:
    """The runs of one model in its folder of --out."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.args, self.folder = name, args, args.out / name
        self._bench: Bench | None = None
        self.holdout = Holdout(self.folder / "holdout.json", args.holdout)

    @property
    def bench(self) -> Bench:
        if self._bench is None:
            self._bench = open_bench(self.name, self.folder / "cost_table.json", seconds=self.args.table_seconds)
        return self._bench

    def complete(self) -> None:
        """Make the runs that are not there; seeds in the outer loop, so that what is there is balanced."""
        for seed in range(self.args.seeds):
            for sampler in self.args.samplers:
                path = self._path(sampler, seed)
                if path.exists():
                    continue
                began = time.monotonic()
                record = Run(self.bench, sampler, seed, self.args.rows).go(self.args.units)
                write_text_atomic(path, json.dumps(record))
                took = time.monotonic() - began
                _say(f"{self.name} {sampler} seed {seed}: {record['trials']} trials, {took:.0f} s")
            self.judge()

    def judge(self) -> None:
        """Evaluate the fronts of all runs that are there on the holdout rows."""
        missing = self.holdout.missing(self.there())
        if missing:
            self.holdout.evaluate(self.bench, missing)

    def there(self) -> list[dict[str, Any]]:
        """The runs that are finished.

        Raises:
            PruneSearchError: if one was made with other settings.
        """
        found = []
        for sampler in self.args.samplers:
            for seed in range(self.args.seeds):
                path = self._path(sampler, seed)
                if not path.exists():
                    continue
                run = _read(path)
                for setting in ("rows", "units"):
                    asked = getattr(self.args, setting)
                    if run[setting] != asked:
                        raise PruneSearchError(
                            f"'{path}' was made with --{setting} {run[setting]}, but {asked} is asked for: give the "
                            "same value, or another --out"
                        )
                found.append(run)
        return found

    def _path(self, sampler: str, seed: int) -> Path:
        return Path(self.folder / f"{sampler}-{seed}.json")

    def report(self) -> dict[str, Any]:
        """Medians and ranges over seeds at every checkpoint, of the runs whose fronts were judged."""
        runs = [r for r in self.there() if all(key in self.holdout.known for key in _keys(r))]
        rows: dict[str, Any] = {}
        for sampler in self.args.samplers:
            mine = [r for r in runs if r["sampler"] == sampler]
            if mine:
                rows[sampler] = self._summary(mine)
        return {"model": self.name, "rows": self.args.rows, "holdout_rows": self.args.holdout, "samplers": rows}

    def _summary(self, runs: list[dict[str, Any]]) -> dict[str, Any]:
        points = []
        for same in zip(*(r["checkpoints"] for r in runs), strict=True):
            areas = [self.holdout.hypervolume(c) for c in same]
            points.append(
                {
                    "units": same[0]["units"],
                    "median": statistics.median(areas),
                    "low": min(areas),
                    "high": max(areas),
                    "cpu_s": statistics.median(c["cpu_s"] for c in same),
                    "wall_s": statistics.median(c["wall_s"] for c in same),
                }
            )
        overheads = [r["trials_cpu_s"] / r["trials_forward_cpu_s"] - 1 for r in runs]
        return {
            "seeds": len(runs),
            "trials": statistics.median(r["trials"] for r in runs),
            "raced": statistics.median(r["raced"] for r in runs),
            "setup_cpu_s": statistics.median(r["setup_cpu_s"] for r in runs),
            "overhead": statistics.median(overheads),
            "checkpoints": points,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    rivals = [name for name in SAMPLERS if name != "guided"]  # that one is prunesearch: it needs one-stage losses
    known = [OURS, *rivals, *(f"{name}{SEEDED}" for name in rivals)]
    parser.add_argument("--samplers", nargs="+", default=[OURS, *RIVALS], choices=known, metavar="SAMPLER")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1")
    parser.add_argument("--units", type=float, default=300)
    parser.add_argument("--rows", type=int, default=128, help="calibration rows of a trial")
    parser.add_argument("--holdout", type=int, default=1000, help="rows that the fronts are judged on")
    parser.add_argument("--table-seconds", type=float, default=40.0, help="for measuring a cost table")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="write the curves as HTML")
    args = parser.parse_args()
    try:
        reports = []
        for name in args.models:
            runs = Runs(name, args)
            if not args.report:
                runs.complete()
            reports.append(runs.report())
    except PruneSearchError as error:
        sys.exit(f"search_efficiency: {error}")
    if args.plot is not None:
        plot(reports, args.plot)
    if args.json:
        print(json.dumps([{**r, "verdict": verdict(r)} for r in reports], indent=2))
    else:
        for report in reports:
            show(report)


if __name__ == "__main__":
    main()
