"""A stage in the tower against a stage behind it, at equal times to the first token.

    python benchmarks/tower.py --model examples/shapes-vlm --data DATA/questions.parquet --out FILE.json

Every plan is one stage: at input/0, or in a block of the tower, by several methods at several shares of the tokens.
Times are medians of forwards that are interleaved in random order; answers are those of holdout rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import prunesearch as ps
from benchmarks.pictures import TIMES, medians
from prunesearch.core.plans.plan import Plan
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import make_setting

SHARES = (0.5, 0.3, 0.22, 0.15, 0.1)
AT_INPUT = ("random+drop@diversity", "key_norm+drop", "position_stride+drop")
IN_TOWER = ("key_norm+drop", "bipartite", "random+drop@diversity")
_CALIBRATION = 16  # rows, of which nothing is asked


def plans_of(reach: int, shares: Sequence[float] = SHARES) -> dict[str, list[Plan]]:
    """The plans by where their one stage is."""
    blocks = [f"tower/{block}" for block in range(reach)]
    places = {"input/0": (["input/0"], AT_INPUT), "tower": (blocks, IN_TOWER)}
    return {
        name: [Plan.parse(f"{at}:{share} {how}") for at in sites for how in methods for share in shares]
        for name, (sites, methods) in places.items()
    }


def best(rows: list[dict[str, Any]], where: str, ms: float) -> dict[str, Any] | None:
    """The best of the plans at a place that take no longer."""
    fast = [row for row in rows if row["where"] == where and row["ms"] <= ms]
    return max(fast, key=lambda row: (row["quality"], -row["ms"]), default=None)


def main() -> None:
    """Judge and time everything, and print both places side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    config = RunConfig(model=given.model, data=given.data, batch_size=1, calibration=_CALIBRATION, holdout=given.rows)
    setting = make_setting(config)
    task: Any = setting.task
    tower: Any = setting.geometry.tower
    known: list[dict[str, Any]] = json.loads(given.out.read_text())["rows"] if given.out.is_file() else []
    with ps.apply_(task.model, Plan()) as handle, torch.inference_mode():
        every = {"unpruned": [Plan()], **plans_of(tower.reach, given.shares)}
        judge = Evaluator(task, handle, task.holdout.take(given.rows))
        inputs = task.timing_inputs(1)

        def forward(plan: Plan) -> None:
            with handle.under(plan):
                task.model(**inputs)

        done = {row["plan"] for row in known}
        for where, plans in every.items():
            for plan in plans:
                if str(plan) not in done:
                    known.append({"where": where, "plan": str(plan), "quality": judge.evaluate(plan).quality})
                    given.out.write_text(json.dumps({"rows": known}, indent=1) + "\n")
        runs = {row["plan"]: partial(forward, Plan.parse(row["plan"])) for row in known}
        took = medians(runs, given.seconds)
    rows = [{**row, "ms": round(took[row["plan"]], 3)} for row in known]
    given.out.write_text(
        json.dumps({"rows": rows, "holdout": given.rows, "threads": torch.get_num_threads()}, indent=1)
    )
    whole = rows[0]["ms"]
    print(f"unpruned {whole:.2f} ms, {rows[0]['quality']:.1%} of {given.rows} rows")
    least = min(row["ms"] for row in rows)
    for step in range(1, TIMES + 1):
        ms = least + (whole - least) * step / TIMES
        found = {where: best(rows, where, ms) for where in plans_of(1)}
        said = "   ".join(f"{w}: {r['quality']:.1%} ({r['plan']})" if r else f"{w}: -" for w, r in found.items())
        print(f"{ms:7.2f} ms  {said}")


if __name__ == "__main__":
    main()
