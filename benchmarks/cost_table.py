"""How well does the cost table predict schedules it has not seen? Side by side with two baselines, in one run.

    python benchmarks/cost_table.py                          # DeiT-Tiny, DeiT-Small, MiniLM; batch 1 and 8; this CPU
    options: --shapes NAME … --batch-sizes N … --device cpu|cuda:0 --dtype … --mode … --unseen N --seconds S --json

Every row judges three predictors on the same random schedules, which mix scorers and merges, by the same medians:
  prunesearch   the table of `prunesearch run`, measured inside whole forwards, interleaved with the unseen schedules
  MACs x c      multiply-adds times one constant, which is fitted to the very schedules it is judged on
  cell by cell  attention, MLP and stages of one block timed by themselves, each ten times in a row, then added up
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor

from prunesearch.commands.profile import grid
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage, parse_method
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.counting.flops import closed_form_gmacs
from prunesearch.cost.devices.device import clock_for, describe_device
from prunesearch.cost.measure import measure_table
from prunesearch.cost.shape import Shape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.surface import Line, ReducePoint, ReduceSurface
from prunesearch.cost.timing.loop import undisturbed
from prunesearch.cost.timing.unseen import draw_unseen
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.search.space.space import SpaceFile
from prunesearch.tasks.loading import check_dtype
from prunesearch.tasks.shapes import load_shape, random_inputs

REPEATS = 10
COUNTS = 14


class CellByCell:
    """The baseline table: block 0 alone, hot weights, one cell after the other, medians added up."""

    def __init__(self, model: Any, handle: Handle, inputs: dict[str, Tensor], shape: Shape, counts: Sequence[int]):
        self.model, self.handle, self.inputs, self.shape = model, handle, inputs, shape
        self.widths = [*counts, shape.tokens]
        self.clock = clock_for(next(iter(inputs.values())).device)
        handle.set(Schedule())
        with torch.inference_mode(), handle.observing() as hidden:
            model(**inputs)
            self.x = hidden[0]

    def median_ms(self, run: Callable[[], object]) -> float:
        run()
        took = []
        for _ in range(REPEATS):
            begin = self.clock.mark()
            run()
            took += self.clock.between_ms([begin, self.clock.mark()])
        return float(np.median(took))

    def measure(self, methods: Sequence[str]) -> None:
        layout, block = self.handle.encoder.family.layout, self.handle.encoder.blocks[0]
        with undisturbed():
            self.attention, self.mlp = {}, {}
            for n in self.widths:
                x = self.x[:, :n]
                self.attention[n] = self.median_ms(lambda x=x: layout.attend(block, x, None, {}))
                self.mlp[n] = self.median_ms(lambda x=x: layout.feed(block, x))
            points = []
            top = self.shape.tokens
            for method, n in itertools.product(methods, self.widths[:-1:3]):
                scorer, merge = parse_method(method)
                keep = (n - self.shape.protected) / (top - self.shape.protected)
                self.handle.set(Schedule([Stage(0, keep, scorer, merge)]))
                whole = self.median_ms(self._first_block)
                ms = max(whole - self.attention[top] - self.mlp[n], 0.0)
                points.append(ReducePoint(scorer, merge, top, n, ms, REPEATS))
            self.handle.set(Schedule())
            whole = self.median_ms(lambda: self.model(**self.inputs))
        self.rest = max(whole - self.shape.depth * (self.attention[top] + self.mlp[top]), 0.0)
        self.reduce = ReduceSurface(points, top, self.shape.protected)
        self.lines = Line("attention", self.attention), Line("the MLP", self.mlp)

    def _first_block(self) -> object:
        self.handle.begin()
        return self.handle.run_block(0, self.x, None, {})

    def predict(self, schedule: Schedule) -> float:
        attention, mlp = self.lines
        total = self.rest
        for step in schedule.flow(self.shape.geometry):
            if step.stage is not None:
                total += self.reduce(step.stage.scorer, step.stage.merge, step.n_in, step.n_out)
            total += attention(step.n_in) + mlp(step.n_out)
        return total


def errors(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    relative = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    rank = float(spearmanr(predicted, measured)[0])
    return {"mape": float(relative.mean()), "worst": float(relative.max()), "rank": rank}


def bench(name: str, rows: int, args: argparse.Namespace) -> dict[str, Any]:
    """One row: all three predictors on one shape and batch size."""
    model = load_shape(name, dtype=check_dtype(args.dtype), device=args.device)
    inputs = random_inputs(model, rows)
    methods = SpaceFile.load(None).methods()
    with apply_(model, Schedule()) as handle:
        from prunesearch.cost.shape import describe_shape

        shape = describe_shape(model, handle, inputs)
        counts = grid(shape, COUNTS)
        started = time.monotonic()
        baseline = CellByCell(model, handle, inputs, shape, counts)
        baseline.measure(methods)
        baseline_s = time.monotonic() - started
        table: CostTable = measure_table(
            model, inputs, counts=counts, methods=methods, time_budget_s=args.seconds, mode=args.mode,
            unseen=args.unseen, patience_s=60.0, label=f"{name}, batch {rows}",
        )  # fmt: skip
        schedules = draw_unseen(shape, counts, methods, count=args.unseen, seed=1, between=args.mode != "compile")
        checked = table.validated()
        if [str(s) for s in schedules] != checked.schedules[1:]:
            raise PruneSearchError("the schedules of the table's validation must be those drawn here, but are others")
        macs = [closed_form_gmacs(handle.encoder, s, shape.tokens) for s in schedules]
    measured = np.array(checked.measured_ms[1:])
    # the constant that makes the sum of squared RELATIVE errors least
    ratio = np.array(macs) / measured
    constant = ratio.sum() / (ratio**2).sum()
    mixed = sum(len({stage.method for stage in s}) > 1 for s in schedules)
    merging = sum(any(MERGES.entry(stage.merge).makes_sizes for stage in s) for s in schedules)
    return {
        "shape": name,
        "batch": rows,
        "unpruned_ms": checked.measured_ms[0],
        "unseen": checked.unseen,
        "mixing_methods": mixed,
        "with_sizes": merging,
        "prunesearch": {"mape": checked.mape, "worst": checked.worst, "rank": checked.rank_correlation},
        "macs": errors((constant * np.array(macs)).tolist(), measured.tolist()),
        "cell_by_cell": errors([baseline.predict(s) for s in schedules], measured.tolist()),
        "seconds": table.seconds,
        "walks": table.walks,
        "cells": len(table.cells),
        "cell_by_cell_seconds": baseline_s,
        "noise": table.noise.model_dump(),
    }


def show(results: list[dict[str, Any]], device: dict[str, Any]) -> None:
    table = Table(
        title=f"{device['name']}, {device.get('threads')} threads; error on unseen schedules: mean / worst, rank"
    )
    for column in ("shape", "batch", "ms", "prunesearch", "MACs x c", "cell by cell", "s", "noisy"):
        table.add_column(column, justify="right")
    for r in results:
        cells = [
            f"{100 * r[k]['mape']:.1f} / {100 * r[k]['worst']:.1f} %, {r[k]['rank']:.3f}"
            for k in ("prunesearch", "macs", "cell_by_cell")
        ]
        noisy = "yes" if r["noise"]["noisy"] else ""
        table.add_row(r["shape"], str(r["batch"]), f"{r['unpruned_ms']:.1f}", *cells, f"{r['seconds']:.0f}", noisy)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["deit-tiny", "deit-small", "minilm-l6"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--mode", default="eager")
    parser.add_argument("--unseen", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device, results = describe_device(args.device), []
    for name, rows in itertools.product(args.shapes, args.batch_sizes):
        results.append(bench(name, rows, args))
        last = results[-1]
        print(f"{name} b{rows}: {last['prunesearch']} in {last['seconds']:.0f} s", file=sys.stderr, flush=True)
    if args.json:
        print(json.dumps({"device": device, "arguments": vars(args), "results": results}, indent=1))
    else:
        show(results, device)


if __name__ == "__main__":
    main()
