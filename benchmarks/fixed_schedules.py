"""Quality at equal MEASURED latency: the front of `prunesearch run` against the schedules that papers fix by hand.

    python benchmarks/fixed_schedules.py                      # demo, minilm, vit-small; searches first where needed
    options: --models NAME ... --root FOLDER (of the studies) --points N --holdout ROWS --seconds S --json

Rivals, each a family with one number to turn, off the shelf as prunesearch is (nothing is fine-tuned):
  tome        constant r: every block removes as many tokens, bipartite soft matching
  evit        one keep rate at 1/4, 1/2 and 3/4 of the depth, CLS attention, fused token
  dynamicvit  the same rate at the ends of the blocks before, dropped; its learned gate is replaced by CLS attention
  diffrate    the list published for DeiT-S 2.9 GMACs, as fractions over the relative depth, raised to a power; its two
              rates a block (prune, then merge) are one here: CLS attention, each into the most similar kept token
  pomt        one R at one block, at 1/4 of the depth; its score (maximum over heads of the attention received, plus
              the softmax of the summed values) is replaced by the mean attention received; fused token

The cost table spreads each family's members over the latencies that prunesearch's front covers; all of them and that
front are then measured interleaved in one run and evaluated on the same holdout rows. A rival is compared at ITS
measured latency t: there prunesearch sends batches to the two points of its front that lie around t, in the shares that
make the mean latency t. Differences are paired by row, with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from models import MODELS, config_of
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import SPACES
from prunesearch.cost.costs import OfOneModel, sum_of_pieces
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import apply_
from prunesearch.search.run import run
from prunesearch.search.solve.seed import spread
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import DEFAULT_ROOT, StudyFolder
from prunesearch.study.setup import make_setting
from prunesearch.study.trials import read_trials

OURS = "prunesearch"
Shape = tuple[int, int, int]  # blocks, tokens, protected tokens
Array = NDArray[np.float64]
# tokens that leave each block of DeiT-S under DiffRate's 2.9 GMACs, CLS included
DIFFRATE = (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3)
_FRONT_POINTS = 30
_Z = 1.96


def tome(shape: Shape) -> list[Schedule]:
    return _members("constant-r", shape, "cls_attention", "bipartite", r="all")


def evit(shape: Shape) -> list[Schedule]:
    return _members("multi-stage", shape, "cls_attention", "fuse", sites=_thirds(shape[0]), keep=_PERCENT)


def dynamicvit(shape: Shape) -> list[Schedule]:
    before = [max(0, site - 1) for site in _thirds(shape[0])]
    return _members("multi-stage", shape, "cls_attention", "drop", sites=sorted(set(before)), keep=_PERCENT)


def diffrate(shape: Shape) -> list[Schedule]:
    depth, tokens, protected = shape
    published = np.array([1.0, *((n - 1) / (DIFFRATE[0] - 1) for n in DIFFRATE)])
    fractions = np.interp(np.arange(1, depth + 1) / depth, np.arange(len(published)) / len(DIFFRATE), published)
    found: dict[Schedule, None] = {}
    for power in np.geomspace(0.02, 4.0, 120):
        kept = np.minimum.accumulate(np.maximum(np.ceil(fractions**power * (tokens - protected) - 1e-9), 1))
        counts = [protected + int(n) for n in kept]
        found[Schedule.from_counts(counts, tokens, protected, "cls_attention", "nearest")] = None
    return list(found)


def pomt(shape: Shape) -> list[Schedule]:
    return _members("multi-stage", shape, "attention_received", "fuse", sites=[shape[0] // 4], keep=_PERCENT)


RIVALS: dict[str, Callable[[Shape], list[Schedule]]] = {
    "tome": tome,
    "evit": evit,
    "dynamicvit": dynamicvit,
    "diffrate": diffrate,
    "pomt": pomt,
}
_PERCENT = [percent / 100 for percent in range(99, 1, -1)]


def _thirds(depth: int) -> list[int]:
    return [depth // 4, depth // 2, 3 * depth // 4]


def _members(kind: str, shape: Shape, scorer: str, merge: str, **keys: Any) -> list[Schedule]:
    """All schedules of a listed space of one method."""
    data = {"format": "prunesearch.space", "version": 1, "kind": kind, "scorers": [scorer], "merges": [merge], **keys}
    space = SPACES.load(kind).model_validate(data).fit(*shape)
    return [space.schedule(members, space.methods[0]) for members in space.shapes]


class Clamped(OfOneModel):
    """A table, where fewer tokens than it was measured at cost what its least do."""

    def __init__(self, table: CostTable) -> None:
        self.table, self.least = table, min(cell.n for cell in table.cells.mlp)

    @property
    def geometry(self) -> Geometry:
        return self.table.geometry

    def price(self, flow: Flow) -> float:
        return sum_of_pieces(self, flow)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        return self.table.attention(max(n, self.least), sized, layer)

    def mlp(self, n: int, layer: int) -> float:
        return self.table.mlp(max(n, self.least), layer)

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        return self.table.reduce(scorer, merge, max(n_in, self.least + 1), max(n_out, self.least))

    @property
    def stem(self) -> float:
        return self.table.stem

    def head(self, n: int) -> float:
        return self.table.head(max(n, self.least))


@dataclass(frozen=True)
class Point:
    """A schedule, measured and evaluated; `correct` and `kl` are of the holdout rows, `[n]`."""

    method: str
    schedule: Schedule
    predicted_ms: float
    ms: float
    correct: Array
    kl: Array


class Comparison:
    """One model: its study, and everything measured beside its front."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.args = name, args
        self.config: RunConfig = config_of(name)
        study = f"fixed-{name}"
        run(self.config, study, root=args.root)
        self.folder = StudyFolder.open(study, args.root)
        self.table = CostTable.load(self.folder.cost_table)

    def front(self) -> list[Schedule]:
        """Points of the calibration front, spread over its latencies; those that lost a race are not on it."""
        records = [r for r in read_trials(self.folder.database) if r.share == 1.0]
        keep = non_dominated([(r.predicted_ms, r.loss) for r in records])
        on_front = sorted((r for r, k in zip(records, keep, strict=True) if k), key=lambda r: -r.predicted_ms)
        return [r.schedule for r in spread(on_front, _FRONT_POINTS, lambda r: r.predicted_ms)]

    def rivals(self, fastest_ms: float) -> list[tuple[str, Schedule]]:
        """Members of every family, spread over the latencies from the unpruned model's down to `fastest_ms`."""
        shape = (self.table.shape.depth, self.table.shape.tokens, self.table.shape.protected)
        predict, found = Clamped(self.table).predict, []
        unpruned = predict(Schedule())
        for name, family in RIVALS.items():
            within = [s for s in family(shape) if fastest_ms <= predict(s) < unpruned]
            members = sorted(within, key=lambda s: -predict(s))
            found += [(name, s) for s in spread(members, self.args.points, predict)]
        return found

    def points(self) -> list[Point]:
        """Measure and evaluate all; the unpruned model first."""
        task, predict, front = make_setting(self.config).task, Clamped(self.table).predict, self.front()
        rivals = self.rivals(min(map(predict, front)))
        chosen = [(OURS, Schedule()), *((OURS, s) for s in front), *rivals]
        handle = apply_(task.model, Schedule(), seed=self.config.seed)
        samples = measure_schedules(
            task.model,
            task.timing_inputs(self.config.batch_size),
            [s for _, s in chosen],
            time_budget_s=self.args.seconds,
            min_rounds=20,
        )
        evaluator = Evaluator(task, handle, task.holdout.take(self.args.holdout))
        found = []
        for k, ((method, schedule), sample) in enumerate(zip(chosen, samples, strict=True), start=1):
            evaluation = evaluator.evaluate(schedule)
            rows = (evaluation.statistics[:, 0].double().numpy(), evaluation.kl.double().numpy())
            found.append(Point(method, schedule, predict(schedule), sample.median_ms, *rows))
            if k % 10 == 0:
                print(f"{self.name}: {k} of {len(chosen)} schedules evaluated", file=sys.stderr)
        return found

    def go(self) -> dict[str, Any]:
        """The comparison of every rival's point that prunesearch reaches."""
        points = self.points()
        ours = sorted((p for p in points if p.method == OURS), key=lambda p: p.ms)
        unpruned = points[0]
        rows = []
        for rival in (p for p in points if p.method != OURS):
            rows.append(
                {
                    "rival": rival.method,
                    "schedule": str(rival.schedule),
                    "predicted_ms": rival.predicted_ms,
                    "ms": rival.ms,
                    "speedup": unpruned.ms / rival.ms,
                    "accuracy": float(rival.correct.mean()),
                    "kl": float(rival.kl.mean()),
                    "compared": compare(ours, rival),
                }
            )
        front = [
            {"schedule": str(p.schedule), "ms": p.ms, "accuracy": p.correct.mean(), "kl": p.kl.mean()} for p in ours
        ]
        return {
            "model": self.name,
            "holdout_rows": len(unpruned.kl),
            "batch_size": self.config.batch_size,
            "unpruned": {"ms": unpruned.ms, "accuracy": float(unpruned.correct.mean())},
            "table_error": None if self.table.validation is None else self.table.validation.mape,
            "front": front,
            "rows": rows,
        }


def compare(ours: list[Point], rival: Point) -> dict[str, Any] | None:
    """prunesearch minus the rival at its measured latency, paired by row; None where prunesearch is not as fast.

    Args:
        ours: by rising measured latency, the unpruned model among them.
    """
    faster = [p for p in ours if p.ms <= rival.ms]
    slower = [p for p in ours if p.ms > rival.ms]
    if not faster:
        return None
    low = faster[-1]
    high = slower[0] if slower else low
    share = (rival.ms - low.ms) / (high.ms - low.ms) if slower else 0.0
    accuracy = (1 - share) * low.correct + share * high.correct
    kl = (1 - share) * low.kl + share * high.kl
    return {
        "accuracy": float(accuracy.mean()),
        "kl": float(kl.mean()),
        "accuracy_difference": paired(accuracy - rival.correct),
        "kl_difference": paired(kl - rival.kl),
    }


def paired(differences: Array) -> dict[str, float]:
    """Mean of differences `[n]` with a 95 % interval (normal)."""
    mean = float(differences.mean())
    half = _Z * float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return {"value": mean, "low": mean - half, "high": mean + half}


def summary(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per rival: at how many latencies it was compared, and how it came out."""
    found = []
    for rival in RIVALS:
        mine = [r for r in rows if r["rival"] == rival and r["compared"] is not None]
        if not mine:
            continue
        accuracy = [r["compared"]["accuracy_difference"] for r in mine]
        kl = [r["compared"]["kl_difference"] for r in mine]
        worst = min(accuracy, key=lambda d: d["value"])
        found.append(
            {
                "rival": rival,
                "latencies": len(mine),
                "fastest": max(r["speedup"] for r in mine),
                "accuracy_mean": statistics.mean(d["value"] for d in accuracy),
                "accuracy_worst": worst,
                "accuracy_below": sum(d["value"] < 0 for d in accuracy),
                "accuracy_clearly_below": sum(d["high"] < 0 for d in accuracy),
                "kl_mean": statistics.mean(d["value"] for d in kl),
                "kl_above": sum(d["value"] > 0 for d in kl),
                "kl_clearly_above": sum(d["low"] > 0 for d in kl),
            }
        )
    return found


def show(result: dict[str, Any]) -> None:
    unpruned = result["unpruned"]
    title = (
        f"{result['model']}: batch {result['batch_size']}, unpruned {unpruned['ms']:.1f} ms, "
        f"{100 * unpruned['accuracy']:.2f} % of {result['holdout_rows']} rows; prunesearch minus rival"
    )
    table = Table(title=title, title_justify="left")
    columns = (
        "rival",
        "latencies",
        "up to",
        "accuracy, mean",
        "worst",
        "below",
        "clearly",
        "KL, mean",
        "above",
        "clearly",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "rival" else "right")
    for row in summary(result["rows"]):
        worst = row["accuracy_worst"]
        table.add_row(
            row["rival"],
            str(row["latencies"]),
            f"{row['fastest']:.2f}x",
            f"{100 * row['accuracy_mean']:+.2f}",
            f"{100 * worst['value']:+.2f} ({100 * worst['low']:+.2f} to {100 * worst['high']:+.2f})",
            str(row["accuracy_below"]),
            str(row["accuracy_clearly_below"]),
            f"{row['kl_mean']:+.4f}",
            str(row["kl_above"]),
            str(row["kl_clearly_above"]),
        )
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT, help="folder of the studies")
    parser.add_argument("--points", type=int, default=12, help="latencies for each rival")
    parser.add_argument("--holdout", type=int, default=2000, help="rows of the holdout split")
    parser.add_argument("--seconds", type=float, default=120.0, help="for measuring all schedules of a model")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = []
    try:
        for name in args.models:
            results.append(Comparison(name, args).go())
            if not args.json:
                show(results[-1])
    except PruneSearchError as error:
        sys.exit(f"fixed_schedules: {error}")
    if args.json:
        print(json.dumps([{**r, "summary": summary(r["rows"])} for r in results], indent=2, default=float))


if __name__ == "__main__":
    main()
