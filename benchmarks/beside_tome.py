"""A ViT-S under ToMe's schedule (r = 13 in each of twelve blocks): prunesearch beside ToMe, same blocks and weights.

    python benchmarks/beside_tome.py                  # batch 1, 8 and 32, one and two threads, beside ToMe's formula
    python benchmarks/beside_tome.py --tome FOLDER    # beside ToMe's own functions, from a checkout of its repository
    options: --batches N ... --threads N ... --seconds S (each) --json

Both run in Hugging Face's `ViTModel` (float32, random weights, scaled_dot_product_attention), forward by forward in
turn, in an order drawn anew each round. The ratio is ToMe's median latency over ours: above 1 we are faster. `free` is
the bound: the same forward where a stage cuts its tokens off and its sizes are known beforehand, so that merging costs
nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from kernels import TOKENS, R, tome_functions, vit
from papers import ToMe, Tool, patched
from rich.console import Console
from rich.table import Table
from torch import Tensor

import prunesearch as ps

DEPTH = 12


class Free(Tool):
    """Cuts tokens off: what would be left to pay if matching and merging cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, Tensor] = {}

    def between(self, block: int, x: Tensor) -> Tensor:
        return x[:, : x.shape[1] - R].contiguous()

    def bias(self) -> Tensor | None:
        return None if self.size is None else self.size

    def before(self, block: int, x: Tensor) -> Tensor:
        if block:
            shape = (len(x), 1, 1, x.shape[1])
            self.size = self.known.setdefault(x.shape[1], torch.zeros(shape))
        return x


def measure(batch: int, seconds: float, functions: Any) -> dict[str, float]:
    """Median seconds of a forward of each."""
    models = {name: vit(DEPTH) for name in ("ours", "tome", "free")}
    pixels = torch.randn(batch, 3, 224, 224)
    schedule = ps.Schedule.from_counts([TOKENS - R * (i + 1) for i in range(DEPTH)], TOKENS, 1, merge="bipartite")
    around: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
        "ours": lambda model: ps.apply_(model, schedule),
        "tome": lambda model: patched(model, ToMe([R] * DEPTH, functions=functions)),
        "free": lambda model: patched(model, Free()),
    }
    samples: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack, torch.inference_mode():
        for name, model in models.items():
            stack.enter_context(around[name](model))
        outputs = {name: model(pixel_values=pixels).last_hidden_state for name, model in models.items()}
        near = float((outputs["ours"] - outputs["tome"]).abs().max())
        end, names = time.perf_counter() + seconds, list(models)
        while time.perf_counter() < end or len(samples["ours"]) < 5:
            random.shuffle(names)
            for name in names:
                start = time.perf_counter()
                models[name](pixel_values=pixels)
                samples[name].append(time.perf_counter() - start)
    return {**{name: statistics.median(found) for name, found in samples.items()}, "apart": near}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tome", type=Path, help="a checkout of ToMe's repository")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for batch in args.batches:
            found = measure(batch, args.seconds, tome_functions(args.tome))
            rows.append({"threads": threads, "batch": batch, **found})
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(title="ToMe's latency over that of ...", title_justify="left")
    for column in ("threads", "batch", "prunesearch", "free merges", "prunesearch, ms", "ToMe, ms", "outputs apart"):
        table.add_column(column, justify="right")
    for row in rows:
        ratios = (f"{row['tome'] / row[name]:.3f}" for name in ("ours", "free"))
        ms = (f"{1e3 * row[name]:.1f}" for name in ("ours", "tome"))
        table.add_row(str(row["threads"]), str(row["batch"]), *ratios, *ms, f"{row['apart']:.1e}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
