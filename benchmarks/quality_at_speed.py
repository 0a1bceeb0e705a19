"""Quality kept at equal measured latency: prunesearch against fixed schedules and random search.

    python benchmarks/quality_at_speed.py                        # the bundled demo
    python benchmarks/quality_at_speed.py --model M --data D     # anything `prunesearch run` takes
    options: --study NAME --targets 1.5 2 --batch-size N --trials N --holdout N --json

Rivals, each brought to the target by the same cost table, then all measured interleaved in one run:
  tome    constant r: the same number of tokens removed in every block, bipartite soft matching
  evit    three sites at 1/4, 1/2 and 3/4 of the depth, one keep rate, CLS attention, fused token
  random  random search over the same space (with the methods that prunesearch's screening chose), with as many
          evaluation units as prunesearch spent, sensitivities included
Every method chooses on calibration data; quality is that of the holdout split, paired with the unpruned model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.registry import MERGES
from prunesearch.core.schedule import Schedule, kept_count
from prunesearch.cost.table import CostTable
from prunesearch.cost.validate import measure_schedules
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.results.front import Front
from prunesearch.results.store import DEFAULT_ROOT, StudyFolder
from prunesearch.search.config import RunConfig
from prunesearch.search.evaluate import Evaluator
from prunesearch.search.objectives import Objective
from prunesearch.search.run import default_study, load_study_task, run
from prunesearch.search.sensitivity import Sensitivities
from prunesearch.search.space import Space, SpaceFile
from prunesearch.search.study import Search, finished_trials, open_study
from prunesearch.tasks.base import Task
from prunesearch.tasks.metrics import paired_difference


def constant_r(depth: int, tokens: int, protected: int) -> Iterable[Schedule]:
    """ToMe's constant schedules, from r = 1 on, while every block still has tokens to give (half of them at most)."""
    for r in range(1, tokens):
        counts, n = [], tokens
        for _ in range(depth):
            n -= min(r, (n - protected) // 2)
            counts.append(n)
        yield Schedule.from_counts(counts, tokens, protected, merge="bipartite")
        if r >= (tokens - protected) // 2:
            return


def three_sites(depth: int, tokens: int, protected: int) -> Iterable[Schedule]:
    """EViT's schedules: one keep rate, applied at three blocks."""
    sites = [depth // 4, depth // 2, 3 * depth // 4]
    for percent in range(99, 9, -1):
        ratios = [percent / 100 if layer in sites else 1.0 for layer in range(depth)]
        schedule = Schedule.from_ratios(ratios, "cls_attention", "fuse")
        if kept_count(schedule.stages[-1].keep, tokens - protected) >= 2:
            yield schedule


def slowest_within(
    schedules: Iterable[Schedule], predict: Callable[[Schedule], float], limit: float
) -> Schedule | None:
    """The mildest schedule of a one-parameter family that meets the limit."""
    fitting = [(predict(s), s) for s in schedules]
    fitting = [(latency, s) for latency, s in fitting if latency <= limit]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def clamped(table: CostTable) -> Callable[[Schedule], float]:
    """`table.predict` for schedules with fewer tokens than the table was measured at: those cost what its least do."""
    least = min(cell.n for cell in table.cells.mlp)
    shape = table.shape

    def predict(schedule: Schedule) -> float:
        n, biased, total = shape.tokens, False, table.stem
        stages = {s.layer: s for s in schedule}
        for layer, n_out in enumerate(schedule.counts(shape.depth, shape.tokens, shape.protected)):
            total += table.attention(max(n, least), biased)
            stage = stages.get(layer)
            if stage is not None:
                n_in = max(n, least + 1)
                total += table.reduce(stage.scorer, stage.merge, n_in, max(n_out, least))
                biased = biased or MERGES.entry(stage.merge).makes_sizes
            total += table.mlp(max(n_out, least))
            n = n_out
        return total

    return predict


class Bench:
    """One model: its study, its task, and the rivals."""

    def __init__(self, config: RunConfig, study: str, seed: int) -> None:
        self.front: Front = run(config, study)
        self.config, self.seed = config, seed
        self.folder = StudyFolder.open(study)
        self.task: Task = load_study_task(config, quiet=True)
        self.handle: Handle = apply_(self.task.model, Schedule())
        self.table = CostTable.load(self.folder.cost_table)
        encoder = self.handle.encoder
        self.shape = (encoder.depth, self.task.tokens, encoder.protected)
        self.space = Space(SpaceFile.load(Path(config.space) if config.space else None), *self.shape)
        self.unpruned_ms = self.table.predict(Schedule())

    def prunesearch(self, limit: float) -> Schedule | None:
        """The best finished trial of the study on calibration data."""
        return self._best(finished_trials(open_study(self.folder.database)), limit)

    def _best(self, records: list[Any], limit: float) -> Schedule | None:
        fitting = [r for r in records if r.predicted_ms <= limit]
        return min(fitting, key=lambda r: r.loss).schedule if fitting else None

    def random_records(self) -> list[Any]:
        """Random search over the same space and split until it has spent what prunesearch spent."""
        split = self.task.calibration.take(self.config.search_samples)
        evaluator = Evaluator(self.task, self.handle, split)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(directions=["minimize", "minimize"])
        methods = Sensitivities.load(self.folder.path / "sensitivities.json").methods
        space = self.space.with_methods(methods)
        objectives = [Objective("latency", self.table, self.unpruned_ms)]
        search = Search(study, "random", space, objectives, evaluator.evaluate, seed=self.seed)
        records, units = [], 0.0
        for record in search.run(10_000, None):
            records.append(record)
            units += record.predicted_ms / self.unpruned_ms
            print(f"\rrandom search: {units:.0f} of {self.front.search.evaluations:.0f} units", end="", file=sys.stderr)
            if units >= self.front.search.evaluations:
                break
        print(file=sys.stderr)
        return records

    def compare(self, targets: list[float]) -> list[dict[str, Any]]:
        """Rows of the table: every method at every target speed-up."""
        rows: list[dict[str, Any]] = []
        random_records, predict = self.random_records(), clamped(self.table)
        for target in targets:
            limit = self.unpruned_ms / target
            found = {
                "prunesearch": self.prunesearch(limit),
                "tome": slowest_within(constant_r(*self.shape), predict, limit),
                "evit": slowest_within(three_sites(*self.shape), predict, limit),
                "random": self._best(random_records, limit),
            }
            rows += [{"target": target, "method": m, "schedule": s} for m, s in found.items() if s is not None]
        self._measure(rows)
        return rows

    def _measure(self, rows: list[dict[str, Any]]) -> None:
        evaluator = Evaluator(self.task, self.handle, self.task.holdout)
        reference = evaluator.unpruned()
        inputs = self.task.timing_inputs(self.config.batch_size)
        schedules = [Schedule(), *(row["schedule"] for row in rows)]
        samples = measure_schedules(self.task.model, inputs, schedules, time_budget_s=40, min_rounds=40)
        for row, sample in zip(rows, samples[1:], strict=True):
            found = evaluator.evaluate(row["schedule"])
            value, low, high = paired_difference(reference.correct, found.correct)
            row |= {
                "speedup": samples[0].median_ms / sample.median_ms,
                "quality": found.quality,
                "unpruned_quality": reference.quality,
                "difference": value,
                "low": low,
                "high": high,
                "kl": found.loss,
                "schedule": str(row["schedule"]),
            }


def show(name: str, bench: Bench, rows: list[dict[str, Any]]) -> None:
    unpruned = rows[0]["unpruned_quality"]
    title = (
        f"{name}: batch {bench.config.batch_size}, unpruned {100 * unpruned:.2f} %, "
        f"{bench.front.search.evaluations:.0f} evaluation units each for prunesearch and random"
    )
    table = Table(title=title, title_justify="left")
    for column in ("target", "method", "measured", "holdout", "difference [95 %]", "KL", "schedule"):
        table.add_column(column, justify="left" if column in ("method", "schedule") else "right")
    for row in rows:
        table.add_row(
            f"{row['target']:.2f}x",
            row["method"],
            f"{row['speedup']:.2f}x",
            f"{100 * row['quality']:.2f} %",
            f"{100 * row['difference']:+.2f} [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]",
            f"{row['kl']:.4f}",
            row["schedule"],
            end_section=row["method"] == "random",
        )
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--study", help=f"name under {DEFAULT_ROOT}/; run first if it is not there")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--holdout", type=int, help="rows of the holdout split")
    parser.add_argument("--targets", type=float, nargs="+", default=[1.5, 2.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        config = RunConfig.build(
            model=args.model, data=args.data, batch_size=args.batch_size, trials=args.trials, holdout=args.holdout
        )
        study = args.study or default_study(config)
        bench = Bench(config, study, args.seed)
        rows = bench.compare(args.targets)
    except PruneSearchError as error:
        sys.exit(f"quality_at_speed: {error}")
    if args.json:
        print(json.dumps({"study": study, "device": bench.table.device, "rows": rows}, indent=2))
    else:
        show(study, bench, rows)
        ours = {r["target"]: r["quality"] for r in rows if r["method"] == "prunesearch"}
        for rival in ("tome", "evit", "random"):
            gains = [ours[r["target"]] - r["quality"] for r in rows if r["method"] == rival and r["target"] in ours]
            if gains:
                mean = 100 * statistics.mean(gains)
                print(f"prunesearch - {rival}: {mean:+.2f} points, mean over the {len(gains)} target(s) both reach")


if __name__ == "__main__":
    main()
