"""How the parts of a run grow: seconds and MiB by tokens, depth, rows, trials and points of a front.

    python benchmarks/scaling.py            # a small text encoder with random weights, this CPU; about 15 minutes
    options: --only tokens depth rows trials points  --threads N  --json FILE

Every row is a process of its own, so that its memory is its own: the most that was resident, beyond what it was before
the part began. The processor's seconds stand beside those of the clock: on a machine with other work they are what it
would take alone, but for what stops by the clock. What dominates is written beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TOKENS, DEPTHS = (64, 256, 1024, 4096), (4, 12, 24, 48)
ROWS, TRIALS, POINTS = (128, 512, 2048, 8192), (100, 1000, 10_000), (12, 100, 1000)
_EXAMPLE = Path(__file__).resolve().parents[1] / "studies/example"
SECONDS = 50.0  # of a cost table, at most, as a run has it
_WIDTH, _HEADS, _BATCH, _CLASSES = 192, 3, 1, 4


@dataclass(frozen=True)
class Growth:
    """A part of a run against what it grows with: `measure(size)` does it once; `dominated` says by what."""

    name: str
    sizes: tuple[int, ...]
    measure: Callable[[int], None]
    dominated: str


def _encoder(tokens: int, depth: int) -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=_WIDTH, num_attention_heads=_HEADS, intermediate_size=4 * _WIDTH, num_hidden_layers=depth,
        max_position_embeddings=max(tokens, 512), num_labels=_CLASSES, initializer_range=0.1,
    )  # fmt: skip
    ids = torch.randint(1000, 30_000, (_BATCH, tokens))
    return BertForSequenceClassification(config).eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _table(tokens: int, depth: int) -> None:
    """A cost table, as a run measures it by default."""
    from prunesearch.commands.profile import grid
    from prunesearch.core.accuracy import ACCURACIES, STANDARD
    from prunesearch.core.plans.schedule import Schedule
    from prunesearch.cost.measure import measure_table
    from prunesearch.cost.shape import describe_shape
    from prunesearch.pruning.apply import apply_
    from prunesearch.search.space.space import SpaceFile

    model, inputs = _encoder(tokens, depth)
    with apply_(model, Schedule()) as handle:
        shape = describe_shape(model, handle, inputs)
    measure_table(
        model, inputs, counts=grid(shape, 10), methods=SpaceFile.load(None).methods(), time_budget_s=SECONDS,
        error=ACCURACIES[STANDARD].table_error,
    )  # fmt: skip


def _solve(tokens: int, depth: int) -> None:
    """A front by dynamic programming, over the default space."""
    from prunesearch.core.plans.schedule import Schedule
    from prunesearch.cost.counting.flops import MacCosts
    from prunesearch.pruning.apply import apply_
    from prunesearch.search.solve.losses import Sensitivities
    from prunesearch.search.solve.solver import solver_for
    from prunesearch.search.space.plan_space import PlanSpace
    from prunesearch.search.space.space import SpaceFile

    model, _ = _encoder(tokens, depth)
    with apply_(model, Schedule()) as handle:
        costs = MacCosts.of(handle.encoder, tokens)
        space = SpaceFile.load(None).fit(depth, tokens, handle.encoder.protected)
    planned = PlanSpace(space, [()], "float32")
    solver_for(planned, costs, float("inf")).solve(Sensitivities.free(space), 150)


def _evaluate(rows: int) -> None:
    """A trial on so many rows, with the unpruned model's outputs beside it."""
    import torch

    from prunesearch.core.plans.plan import Plan
    from prunesearch.core.plans.schedule import Schedule
    from prunesearch.core.plans.stage import Stage
    from prunesearch.pruning.apply import apply_
    from prunesearch.search.trials.evaluate import Evaluator
    from prunesearch.tasks.objects import task_of

    model, _ = _encoder(64, 4)
    ids = torch.randint(1000, 30_000, (rows, 64))
    data = ({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, None)
    task = task_of(model, {"calibration": data, "holdout": data})
    with apply_(model, Schedule()) as handle:
        Evaluator(task, handle, task.calibration).evaluate(Plan(Schedule([Stage(1, 0.5)])))


def _trials(trials: int) -> None:
    """Asking and telling, without the forwards."""
    from engines import overhead

    with tempfile.TemporaryDirectory() as folder:
        overhead("guided", trials, Path(folder))


def _points(points: int) -> None:
    """Which points stand, the table on screen and the report, of a front of so many."""
    from prunesearch.core.files import load_json
    from prunesearch.report.report import write_report
    from prunesearch.report.tables.show import show_front
    from prunesearch.search.finish.candidates import standing
    from prunesearch.study.front import Front

    found = Front.load(_EXAMPLE / "front.json")
    first = found.points[0]
    many = [
        first.model_copy(update={"id": f"p{k}", "trial": k, "text": f"{first.text} #{k}"}) for k in range(1, points + 1)
    ]
    standing(many, found.unpruned, ["latency"])
    front = found.model_copy(update={"points": many})
    with tempfile.TemporaryDirectory() as folder:
        show_front(front, Console(file=io.StringIO(), width=100))
        write_report(Path(folder) / "report.html", front)
        front.save(Path(folder) / "front.json")
        load_json(Path(folder) / "front.json", "front")


_FORWARDS = "forwards: rounds of unseen schedules"
GROWTHS = (
    Growth("cost table, by tokens (12 blocks)", TOKENS, lambda n: _table(n, 12), _FORWARDS),
    Growth("cost table, by depth (256 tokens)", DEPTHS, lambda n: _table(256, n), _FORWARDS),
    Growth("solving, by tokens (12 blocks)", TOKENS, lambda n: _solve(n, 12), "the grid of counts"),
    Growth("solving, by depth (256 tokens)", DEPTHS, lambda n: _solve(256, n), "blocks times counts"),
    Growth("a trial, by rows (64 tokens)", ROWS, _evaluate, "forwards"),
    Growth("guided search, by trials", TRIALS, _trials, "fits of the loss model, and candidates' prices"),
    Growth("a front, by points", POINTS, _points, "the report's figures"),
)


def _alone(which: int, size: int, threads: int, pipe: Any) -> None:
    import torch

    import prunesearch.api.verbs  # noqa: F401  (libraries are loaded before it is timed)

    torch.set_num_threads(threads)
    before, started, worked = _most_mib(), time.monotonic(), time.process_time()
    GROWTHS[which].measure(size)
    pipe.send((time.monotonic() - started, time.process_time() - worked, _most_mib() - before))


def _most_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(which: int, size: int, threads: int) -> tuple[float, float, float]:
    """Seconds by the clock and of the processor, and MiB, of a part at a size, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_alone, args=(which, size, threads, theirs))
    process.start()
    theirs.close()
    try:
        found: tuple[float, float, float] = mine.recv()
    except EOFError:
        raise SystemExit(f"{GROWTHS[which].name}: nothing at {size:,}, see above") from None
    process.join()
    return found


def main(words: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["tokens", "depth", "rows", "trials", "points"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words)
    table = Table(box=None, header_style="bold")
    for title in ("", "size", "seconds", "processor", "MiB", "what dominates"):
        table.add_column(title, justify="left" if title in ("", "what dominates") else "right")
    rows = []
    for which, growth in enumerate(GROWTHS):
        if not any(f"by {word}" in growth.name for word in args.only):
            continue
        for size in growth.sizes:
            seconds, cpu, mib = measured(which, size, args.threads)
            found = {"seconds": round(seconds, 2), "cpu": round(cpu, 2), "mib": round(mib)}
            rows.append({"part": growth.name, "size": size, **found})
            first = size == growth.sizes[0]
            table.add_row(
                growth.name if first else "", f"{size:,}", f"{seconds:.1f}", f"{cpu:.1f}", f"{mib:.0f}",
                growth.dominated if first else "",
            )  # fmt: skip
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    Console().print(table)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
