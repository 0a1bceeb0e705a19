"""Does an early stage hold better on altered rows than a late one? One stage at every block, at equal fractions kept.

    python benchmarks/early_late.py [STUDY-OR-MODEL-CONFIG] [--views corruptions] [--rows 128] [--keep 0.6 0.3]

A plan holds by what its change from the unpruned model is on altered rows, mean over views, less what it is on the same
rows as they are. Early and late blocks are the first and the last half of those that have a stage; the interval of 95 %
of their difference is of the bootstrap over rows, each with all its views.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from prunesearch.commands.stress import judged
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.finish.robustness import rank_correlation
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import load_front
from prunesearch.study.setup import make_setting
from prunesearch.tasks.data.split import view_of_split

_DRAWS = 2000


def held(right: Mapping[str, Tensor], unpruned: Mapping[str, Tensor]) -> Tensor:
    """Of each row `[n]`: a plan's change over the altered views, mean, less that on the row as it is (view ``)."""
    changes = {view: right[view] - unpruned[view] for view in right}
    altered = torch.stack([change for view, change in changes.items() if view])
    return altered.mean(0) - changes[""]


def interval(rows: Tensor) -> tuple[float, float, float]:
    """Mean, and the ends of its interval of 95 %, of the bootstrap."""
    generator = torch.Generator().manual_seed(0)
    draws = rows[torch.randint(len(rows), (_DRAWS, len(rows)), generator=generator)].mean(1)
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return float(rows.mean()), low, high


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge a stage at every block in every view, and print the table and the answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="whose model and data they are")
    parser.add_argument("--views", nargs="+", default=["corruptions"])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.6, 0.3])
    parser.add_argument("--scorer", default="cls_attention")
    parser.add_argument("--merge", default="fuse")
    asked = parser.parse_args(arguments)
    config = {**load_front(str(Path(asked.study)))[1].config, "robust": asked.views, "robust_rows": asked.rows}
    setting = make_setting(RunConfig(**config))
    task, blocks = setting.task, range(setting.geometry.depth - 1)
    splits = {"": task.splits["holdout"], **{v: task.splits[view_of_split("holdout", v)] for v in task.views}}
    print(f"{len(splits) - 1} views of {asked.rows} rows, {asked.scorer}+{asked.merge}")
    print("| keep | block | change, rows as they are | change, views | holds |\n|---|---|---|---|---|")
    with apply_(task.model, Plan()) as handle:

        def right(plan: Plan) -> dict[str, Tensor]:
            return {v: judged(task, handle, plan, s.take(asked.rows).batches).right.double() for v, s in splits.items()}

        unpruned = right(Plan())
        for keep in asked.keep:
            each = []
            for block in blocks:
                found = right(Plan(Schedule([Stage(block, keep, asked.scorer, asked.merge)])))
                each.append(held(found, unpruned))
                clean = float((found[""] - unpruned[""]).mean())
                mean = float(each[-1].mean())
                print(f"| {keep} | {block} | {100 * clean:+.1f} | {100 * (clean + mean):+.1f} | {100 * mean:+.1f} |")
            half = len(each) // 2
            early, late = torch.stack(each[:half]).mean(0), torch.stack(each[-half:]).mean(0)
            value, low, high = interval(early - late)
            answer = "yes" if low > 0 else "no" if high < 0 else "neither"
            rank = rank_correlation(list(blocks), [float(rows.mean()) for rows in each])
            print(
                f"\nkeep {keep}: an early stage holds better: {answer}; {100 * value:+.2f} points (95 %: "
                f"{100 * low:+.2f} to {100 * high:+.2f}) beside late ones, rank correlation with the block "
                f"{rank or 0.0:+.2f}\n"
            )


if __name__ == "__main__":
    main()
