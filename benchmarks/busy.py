"""How far the cost table is off from 16 to 4,096 tokens, on a quiet machine and beside one process that is busy.

    python benchmarks/busy.py                                # a small text encoder; this CPU; about 20 minutes
    options: --tokens N … --seconds S --depth N --width N --threads N --json

Each row measures the table as `prunesearch run` does, and its error on whole random schedules that it has not seen. One
run of a length follows the other, quiet and busy in turns, so that both see the same machine. Where the error is beyond
what is promised, a run does not rank by the table; the last column says so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, BertForSequenceClassification

from prunesearch.commands.profile import grid
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.devices.device import describe_device
from prunesearch.cost.measure import measure_table
from prunesearch.cost.shape import describe_shape
from prunesearch.pruning.apply import apply_
from prunesearch.search.space.space import SpaceFile

COUNTS = 10  # widths that a table is measured at


def _spin() -> None:
    """Keep one core busy, as somebody's script does."""
    value = 1.0
    while True:
        value = (value * 1.0000001) % 10.0


@contextmanager
def neighbour(there: bool) -> Iterator[None]:
    """Within the block, one other process is busy, if it is to be `there`."""
    if not there:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    time.sleep(2.0)  # until it has come up
    try:
        yield
    finally:
        process.terminate()
        process.join()


def bench(tokens: int, busy: bool, args: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=args.width, num_hidden_layers=args.depth, num_attention_heads=args.width // 32,
        intermediate_size=4 * args.width, max_position_embeddings=max(args.tokens), vocab_size=1000,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    ids = torch.randint(5, 999, (1, tokens), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with apply_(model, Schedule()) as handle:
        shape = describe_shape(model, handle, inputs)
    widths = grid(shape, COUNTS)
    with neighbour(busy):
        table = measure_table(
            model, inputs, counts=widths, methods=SpaceFile.load(None).methods(), time_budget_s=args.seconds,
            label=f"{tokens} tokens, {'busy' if busy else 'quiet'}",
        )  # fmt: skip
    checked = table.validated()
    return {
        "tokens": tokens,
        "busy": busy,
        "unpruned_ms": checked.measured_ms[0],
        "mape": checked.mape,
        "worst": checked.worst,
        "rank": checked.rank_correlation,
        "unseen": checked.unseen,
        "walks": table.walks,
        "seconds": table.seconds,
        "others": table.noise.others,
        "broken_promise": table.broken_promise,
    }


def show(results: list[dict[str, Any]], device: dict[str, Any]) -> None:
    """All rows, as people read them."""
    table = Table(title=f"{device['name']}, {torch.get_num_threads()} threads; error on unseen schedules")
    for column in (
        "tokens",
        "beside it",
        "ms",
        "mean",
        "worst",
        "rank",
        "unseen",
        "walks",
        "s",
        "others took",
        "ranked by",
    ):
        table.add_column(column, justify="right")
    for r in results:
        others = "unknown" if r["others"] is None else f"{r['others']:.0%}"
        table.add_row(
            str(r["tokens"]), "1 busy process" if r["busy"] else "nothing of ours", f"{r['unpruned_ms']:.4g}",
            f"{r['mape']:.1%}", f"{r['worst']:.1%}", f"{r['rank']:.3f}", str(r["unseen"]), str(r["walks"]),
            f"{r['seconds']:.0f}", others, "no" if r["broken_promise"] else "yes",
        )  # fmt: skip
    Console(width=140).print(table)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", nargs="+", type=int, default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    results = []
    for tokens in args.tokens:
        for busy in (False, True):
            results.append(bench(tokens, busy, args))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    if args.json:
        print(json.dumps({"device": describe_device("cpu"), "arguments": vars(args), "results": results}, indent=1))
    else:
        show(results, describe_device("cpu"))


if __name__ == "__main__":
    main()
