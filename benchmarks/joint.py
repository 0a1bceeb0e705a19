"""Tokens and precision: each alone, one after the other, and searched together, at equal MEASURED latency.

    python benchmarks/joint.py --trials 60 --out benchmarks/results/joint.json

Four ways on the bundled demo: tokens only (a study with `--precision float32`), int8 only (the unpruned model), int8 of
the best token schedules (the points of that study, put into int8), and joint (a study of both, which begins with what
one has after the other: the schedules of the tokens' front, in int8). With `--root` both studies are kept, and the same
call goes on where one was interrupted. Every plan of all four is evaluated on the same holdout rows and timed in one
interleaved run; the table says the best quality that each way has at or below a latency.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import apply_
from prunesearch.search.run import run
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting

INT8 = (Change.parse("int8"),)
WAYS = ("tokens only", "int8 only", "int8 after tokens", "joint")
LATENCIES = 12


@dataclass(frozen=True)
class Tried:
    """A plan: median milliseconds of a batch, and the metric on all holdout rows."""

    plan: Plan
    ms: float
    quality: float


def plans_of(tokens: Front, joint: Front) -> dict[str, list[Plan]]:
    """The plans of every way; the unpruned model in float32 is in those that may be left unpruned."""
    schedules = [Plan(), *(point.to_plan() for point in tokens.points)]
    return {
        "tokens only": schedules,
        "int8 only": [Plan(), Plan(changes=INT8)],
        "int8 after tokens": [Plan(plan.schedule, INT8) for plan in schedules],
        "joint": [Plan(), *(point.to_plan() for point in joint.points)],
    }


def seeds_of(tokens: Front, folder: Path) -> list[str]:
    """Files of the plans that one has who puts the best token schedules into int8: what a joint search starts from.

    Half of the trials of a joint search are spent on each precision. By themselves they found schedules in int8 that
    were up to 0.9 points behind those that the whole of a search of tokens finds (512 rows, 40 trials).
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, plan in enumerate(plan for plan in plans_of(tokens, tokens)["int8 after tokens"] if len(plan)):
        path = folder / f"{number}.json"
        path.write_text(plan.to_json() + "\n")
        found.append(str(path))
    return found


def best_within(tried: Sequence[Tried], ms: float) -> Tried | None:
    """Of the plans that take at most `ms`, the one of the highest quality."""
    return max((one for one in tried if one.ms <= ms), key=lambda one: one.quality, default=None)


def rows_of(ways: Mapping[str, Sequence[Tried]], latencies: Sequence[float]) -> list[dict[str, float | None]]:
    """For each latency, the best quality of each way; None where it has no plan so fast."""
    rows: list[dict[str, float | None]] = []
    for ms in latencies:
        found = {way: best_within(tried, ms) for way, tried in ways.items()}
        rows.append({"ms": ms, **{way: None if one is None else one.quality for way, one in found.items()}})
    return rows


def table(rows: Sequence[Mapping[str, float | None]], base_ms: float) -> str:
    """The rows in Markdown."""
    lines = [f"| ms at most | speed-up | {' | '.join(WAYS)} |", f"|---|---|{'---|' * len(WAYS)}"]
    for row in rows:
        ms = row["ms"] or 0.0
        cells = ["–" if (value := row[way]) is None else f"{100 * value:.2f}" for way in WAYS]
        lines.append(f"| {ms:.1f} | {base_ms / ms:.2f}× | {' | '.join(cells)} |")
    return "\n".join(lines)


def known_of(*fronts: Front) -> dict[Plan, float]:
    """The qualities that studies have found on all holdout rows."""
    found = {point.to_plan(): point.quality.value for front in fronts for point in front.points}
    return {Plan(): fronts[0].unpruned.quality.value, **found}


def tried_plans(
    config: RunConfig, plans: Sequence[Plan], seconds: float, known: Mapping[Plan, float]
) -> dict[Plan, Tried]:
    """Evaluate every plan that is not known on all holdout rows, and time all of them interleaved."""
    setting = make_setting(config)
    task = setting.task
    with apply_(task.model, Plan(), seed=config.seed) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        quality = {plan: known[plan] if plan in known else evaluator.evaluate(plan).quality for plan in plans}
        samples = measure_schedules(
            task.model, task.timing_inputs(config.batch_size), plans, time_budget_s=seconds, min_rounds=15
        )
    return {plan: Tried(plan, s.median_ms, quality[plan]) for plan, s in zip(plans, samples, strict=True)}


def main() -> None:
    """Run both studies, try every plan, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--search-samples", type=int, default=1024)
    parser.add_argument("--table-time", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=120.0, help="of timing all plans")
    parser.add_argument("--root", type=Path, default=None, help="of the studies; none: thrown away")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    settings = {
        "trials": given.trials,
        "search_samples": given.search_samples,
        "table_seconds": given.table_time,
        "patience_s": 1.0,
    }
    with tempfile.TemporaryDirectory() as scratch:
        root = given.root or Path(scratch)
        tokens = run(RunConfig(precision=["float32"], **settings), "tokens", root=root)
        seeds = seeds_of(tokens, root / "seeds")
        joint = run(RunConfig(precision=["float32", "int8"], start_from=seeds, **settings), "joint", root=root)
    plans = plans_of(tokens, joint)
    every = list(dict.fromkeys(plan for some in plans.values() for plan in some))
    tried = tried_plans(RunConfig(**settings), every, given.seconds, known_of(joint, tokens))
    ways = {way: [tried[plan] for plan in plans[way]] for way in WAYS}
    base = tried[Plan()]
    fastest = min(one.ms for one in tried.values())
    rows = rows_of(ways, np.geomspace(base.ms, fastest * 1.02, LATENCIES).tolist())
    print(f"unpruned float32: {base.ms:.1f} ms, {100 * base.quality:.2f} %")
    for way in WAYS:
        for one in sorted(ways[way], key=lambda one: -one.ms):
            print(f"{way:18} {one.ms:7.1f} ms {base.ms / one.ms:5.2f}x {100 * one.quality:6.2f} %  {one.plan}")
    print(table(rows, base.ms))
    if given.out is not None:
        points = {way: [[str(one.plan), one.ms, one.quality] for one in ways[way]] for way in WAYS}
        given.out.write_text(json.dumps({"settings": settings, "rows": rows, "points": points}, indent=1) + "\n")


if __name__ == "__main__":
    main()
