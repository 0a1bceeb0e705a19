"""What asking and telling cost in a long study, and what a second Ray worker brings.

    python benchmarks/engines.py --trials 10000     # overhead of a trial, nothing evaluated
    python benchmarks/engines.py --scaling          # seconds a trial on the demo: this process, 1 and 2 Ray workers

Overhead: milliseconds of one ask and one tell (median of the last 200 trials; wall time and this process's CPU time)
and memory, in a space as the default one is on a model of 12 blocks and 197 tokens, on an SQLite file. The evaluation
is made up, 1,024 rows each. Scaling: the same schedules for each engine, one thread of PyTorch each, no races; from the
first result to the last, so that neither Ray's start nor the loading of models counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import ENGINES, SAMPLERS
from prunesearch.cost.costs import OfOneModel, sum_of_pieces
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.engines.engine import EngineContext
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.space import Space, SpaceFile
from prunesearch.search.steps import load_evaluate
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.config import RunConfig
from prunesearch.study.trials import open_study

DEPTH, TOKENS, ROWS = 12, 197, 1024
CHECKPOINTS = (100, 1_000, 10_000)
LAST = 200  # trials that a median is taken of


@dataclass(frozen=True)
class FlatCosts(OfOneModel):
    """Milliseconds that grow with the tokens of each block, as a table's do."""

    depth: int = DEPTH
    tokens: int = TOKENS
    stem: float = 1.0

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.depth, self.tokens, 1)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        return 0.01 * n + 2e-5 * n * n + (0.05 if sized else 0.0)

    def mlp(self, n: int, layer: int) -> float:
        return 0.02 * n

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        return 0.2

    def head(self, n: int) -> float:
        return 0.1

    def price(self, flow: Flow) -> float:
        return sum_of_pieces(self, flow)


def one_stage(space: Space) -> Sensitivities:
    """What `made_up` loses with one stage, without its luck."""
    free = Sensitivities.free(space)
    keeps, layers = np.array(space.keeps), np.array(space.layers)
    loss = (1 - keeps) ** 2 / (1 + layers[:, None]) / 2
    return free.with_loss(np.broadcast_to(loss[..., None], free.loss.shape).copy())


def made_up(schedule: Schedule, generator: torch.Generator) -> Evaluation:
    """Loses more the more is removed, and the earlier."""
    loss = sum((1 - s.keep) ** 2 / (1 + s.layer) for s in schedule)
    kl = loss * torch.rand(ROWS, generator=generator)
    right = torch.rand(ROWS, generator=generator) > 0.1 + min(0.5, loss / 5)
    return Evaluation(right[:, None].float(), kl, right)


def resident_mb() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def overhead(sampler: str, trials: int, folder: Path) -> list[dict[str, float]]:
    """Ask and tell `trials` times; a row at each checkpoint."""
    space = Space(SpaceFile.load(None), DEPTH, TOKENS, 1)
    space = space.with_methods(space.methods[:6])
    costs = FlatCosts()
    study = open_study(folder / f"{sampler}.journal")
    objective = Objective("latency", costs, costs.predict(Schedule()))
    search = Search(study, sampler, space, [objective], sensitivities=one_stage(space), seed=1)
    generator = torch.Generator().manual_seed(0)
    asks: list[float] = []
    tells: list[float] = []
    cpu: list[float] = []
    rows = []
    before = resident_mb()
    for done in range(1, trials + 1):
        started, cpu_before = time.perf_counter(), time.process_time()
        proposal = search.ask()
        asked, cpu_asked = time.perf_counter(), time.process_time() - cpu_before
        if proposal is None:
            raise SystemExit(f"{sampler}: nothing new after {done} trials")
        evaluation = made_up(proposal.schedule, generator)
        evaluated, cpu_before = time.perf_counter(), time.process_time()
        search.tell(proposal, evaluation, 0.0)
        tells.append(time.perf_counter() - evaluated)
        cpu.append(cpu_asked + time.process_time() - cpu_before)
        asks.append(asked - started)
        if done in CHECKPOINTS or done == trials:
            ask, tell = (1e3 * statistics.median(times[-LAST:]) for times in (asks, tells))
            both = sorted(1e3 * (a + t) for a, t in zip(asks[-LAST:], tells[-LAST:], strict=True))
            rows.append(
                {
                    "trials": done,
                    "ask_ms": ask,
                    "tell_ms": tell,
                    "both_ms": statistics.median(both),
                    "cpu_ms": 1e3 * statistics.median(cpu[-LAST:]),
                    "p90_ms": both[int(0.9 * len(both))],
                    "grown_mb": resident_mb() - before,
                    "resident_mb": resident_mb(),
                }
            )
            print(f"{sampler:>8} {done:>7,} " + _line(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _line(row: dict[str, float]) -> str:
    return " ".join(f"{name} {row[name]:.2f}" for name in row if name != "trials")


def scaling(trials: int, rows: int) -> list[dict[str, float | str]]:
    """Evaluate the same `trials` schedules of the demo with each engine."""
    config = RunConfig(search_samples=rows)
    load = partial(load_evaluate, config.model_dump(mode="json"), rows)
    evaluate = load()
    space = Space(SpaceFile.load(None), 9, 65, 1)
    draw = random.Random(0)
    schedules = [Schedule([])]
    while len(schedules) < trials:
        found = space.neighbour(schedules[-1], draw)
        schedules += [found] if found not in schedules and found.stages else []
    rows_of: list[dict[str, float | str]] = []
    for name, workers in (("local", 1), ("ray", 1), ("ray", 2), ("local", 1)):
        with tempfile.TemporaryDirectory() as folder:
            costs = FlatCosts(9, 65)
            objective = Objective("latency", costs, 10 * costs.predict(Schedule()))
            search = Search(open_study(Path(folder) / "s.journal"), "random", space, [objective], race=False)
            search.enqueue(schedules)
            engine = ENGINES.load(name)(EngineContext(evaluate, load, workers if name == "ray" else None))
            busy, times = os.getloadavg()[0], []
            for _ in engine.run(search, trials):
                times.append(time.perf_counter())
        seconds = (times[-1] - times[0]) / (len(times) - 1)
        mean = statistics.mean(record.seconds for record in search.known.values())
        rows_of.append({"engine": name, "workers": workers, "s_a_trial": seconds, "s_evaluating": mean, "load": busy})
        print(" ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows_of[-1].items()))
    return rows_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--samplers", nargs="+", default=["random"], choices=list(SAMPLERS))
    parser.add_argument("--scaling", action="store_true", help="compare engines in place of measuring the overhead")
    parser.add_argument("--rows", type=int, default=512, help="calibration rows of an evaluation, with --scaling")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.scaling:
        engines = scaling(min(options.trials, 24), options.rows)
        if options.json:
            print(json.dumps({"python": platform.python_version(), "scaling": engines}, indent=2))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {name: overhead(name, options.trials, Path(folder)) for name in options.samplers}
    if options.json:
        print(json.dumps({"python": platform.python_version(), "overhead": found}, indent=2))


if __name__ == "__main__":
    main()
