"""What schedules do to a Whisper: word error rate and time, unpruned and reduced, decoding included.

    python benchmarks/whisper.py --model FOLDER --data CALIBRATION,HOLDOUT --study STUDY         # points of its front
    python benchmarks/whisper.py --model FOLDER --data ROWS --schedules "1:0.5 bipartite" …      # of one's own
    options: --speedups 1.5 2 3 --batch-sizes 1 8 --rows N --runs N --threads N --json

WER is `1 - word_accuracy` of `prunesearch run`: the texts of `generate` with the checkpoint's own settings, by
transformers' normaliser. Times are medians of interleaved runs: the encoder alone, and encoder and decoder for as many
tokens as a transcript has on average.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.schedule_text import read_schedule
from prunesearch.cost.devices.device import describe_device
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.front import Front
from prunesearch.tasks import load_task
from prunesearch.tasks.batching.batches import EvalSet
from prunesearch.tasks.kinds.seq2seq import Writing


def schedules_of(args: argparse.Namespace) -> dict[str, Schedule]:
    """What is compared, the unpruned model first."""
    named = {"unpruned": Schedule()}
    if args.study is not None:
        points = [p for p in Front.load(Path(args.study) / "front.json").points if len(p.to_schedule())]
        for wanted in args.speedups:
            near = min(points, key=lambda p: abs(p.speedup / wanted - 1))
            named[near.id] = near.to_schedule()
    return named | {text: read_schedule(text) for text in args.schedules}


@torch.inference_mode()
def timed(named: dict[str, Schedule], handle: Handle, run: Callable[[], object], runs: int) -> dict[str, float]:
    """Median milliseconds of `run` under each schedule, one after another in every round, after a first round."""
    took: dict[str, list[float]] = {name: [] for name in named}
    for round_ in range(runs + 1):
        for name, schedule in named.items():
            with handle.under(schedule):
                started = time.perf_counter()
                run()
                if round_ > 0:
                    took[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(found) for name, found in took.items()}


def bench(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each schedule."""
    task: Any = load_task(args.model, args.data, task="speech-recognition", batch_size=8)
    if not isinstance(task, Writing):
        raise PruneSearchError(f"--model must be one that writes (Whisper), but {args.model} is read for {task.name}")
    named = schedules_of(args)
    rows: dict[str, dict[str, Any]] = {name: {"schedule": name} for name in named}
    holdout: EvalSet = task.holdout if args.rows is None else task.holdout.take(args.rows)
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, holdout)
        for name, schedule in named.items():
            found = evaluator.evaluate(schedule)
            rows[name] |= {"wer": 1 - found.quality, "kl": found.loss, "rows": found.n}
            print(json.dumps(rows[name]), flush=True)
        encoder: Any = handle.encoder.base.get_submodule("encoder")
        for size in args.batch_sizes:
            sounds = task.timing_inputs(size)["input_features"]
            written = {"min_new_tokens": task.usual, "max_new_tokens": task.usual, "num_beams": 1, "do_sample": False}

            def encode(sounds: torch.Tensor = sounds) -> object:
                return encoder(sounds)

            def write(sounds: torch.Tensor = sounds, written: dict[str, Any] = written) -> object:
                return task.model.generate(sounds, **written)

            for what, run in (("encoder", encode), ("whole", write)):
                for name, ms in timed(named, handle, run, args.runs).items():
                    rows[name][f"{what}_ms_b{size}"] = ms
    return list(rows.values())


def show(results: list[dict[str, Any]], sizes: list[int]) -> None:
    """All rows, as people read them."""
    table = Table(title=f"{describe_device('cpu')['name']}, {torch.get_num_threads()} threads")
    table.add_column("schedule")
    for column in ("WER", *(f"{what}, batch {size}" for size in sizes for what in ("encoder", "with decoding"))):
        table.add_column(column, justify="right")
    base = results[0]
    for r in results:
        cells = []
        for size in sizes:
            for what in ("encoder", "whole"):
                name = f"{what}_ms_b{size}"
                cells.append(f"{r[name]:.0f} ms ({base[name] / r[name]:.2f}x)")
        table.add_row(r["schedule"], f"{r['wer']:.1%}", *cells)
    Console(width=140).print(table)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--study", default=None)
    parser.add_argument("--schedules", nargs="*", default=[])
    parser.add_argument("--speedups", nargs="+", type=float, default=[1.5, 2.0, 3.0])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    results = bench(args)
    if args.json:
        print(json.dumps({"device": describe_device("cpu"), "arguments": vars(args), "results": results}, indent=1))
    else:
        show(results, args.batch_sizes)


if __name__ == "__main__":
    main()
