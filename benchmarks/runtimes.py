"""Does a pruned model's speed-up survive outside eager torch? Each runtime against its own unpruned model, in one run.

    python benchmarks/runtimes.py                       # the bundled demo at point p7 of studies/example; DeiT-Small
    options: --batch-size N --seconds S --threads N --models demo deit-small --int8 --json

Per model: eager torch, `torch.compile` (halves of blocks, as `handle.compile()` deploys it), `torch.export`, ONNX
Runtime, ONNX Runtime int8, OpenVINO; the unpruned and the pruned model of every runtime are timed interleaved. `error`
is the greatest difference of a logit from eager torch's with the same schedule; of the demo, accuracy on its 4000
holdout rows too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.devices.device import clock_for, describe_device
from prunesearch.cost.graphs.graph_running import Forward
from prunesearch.cost.timing.loop import Job, measure
from prunesearch.cost.timing.modes import Compiled
from prunesearch.export.models.model_format import ModelOptions, ModelSource
from prunesearch.export.models.write import find_model_format, write_format
from prunesearch.export.pick import pick
from prunesearch.pruning.apply import apply_
from prunesearch.study.front import Front
from prunesearch.tasks.quality import quality_of
from prunesearch.tasks.shapes import load_shape, random_inputs

ROOT = Path(__file__).parents[1]
POINT = "p7"
# keeps 70, 49 and 34 % at blocks 3, 6 and 9, EViT's and DynamicViT's sites
DEIT = Schedule([Stage(3, 0.7, "cls_attention", "drop"), Stage(6, 0.49, "cls_attention", "drop"),
                 Stage(9, 0.343, "cls_attention", "drop")])  # fmt: skip
WRITTEN = {"torch.export": "torch-export", "ONNX Runtime": "onnx", "OpenVINO": "openvino"}


def demo(batch: int) -> tuple[ModelSource, Any]:
    from prunesearch.study.config import RunConfig
    from prunesearch.study.setup import make_setting

    task = make_setting(RunConfig()).task
    front = Front.load(ROOT / "studies" / "example" / "front.json")
    point = pick(front, POINT)
    return ModelSource(task.model, point.to_schedule(), task.timing_inputs(batch)), task


def shape(name: str, batch: int) -> tuple[ModelSource, Any]:
    torch.manual_seed(0)
    model = load_shape(name)
    return ModelSource(model, DEIT, random_inputs(model, batch)), None


def logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    out: Tensor = model(**batch).logits
    return out


@contextmanager
def forwards(source: ModelSource, int8: bool) -> Iterator[dict[tuple[str, bool], Job]]:
    """Jobs by (runtime, pruned); each run returns logits."""
    model, inputs = source.model, dict(source.inputs)
    schedules = {False: Schedule(), True: source.schedule}
    jobs: dict[tuple[str, bool], Job] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for runtime, name in {**WRITTEN, **({"ONNX Runtime, int8": "onnx"} if int8 else {})}.items():
            to = find_model_format(name)
            for pruned, schedule in schedules.items():
                path = Path(scratch) / f"{runtime}-{pruned}{to.suffix}"
                options = ModelOptions(int8=runtime.endswith("int8"))
                write_format(replace(source, schedule=schedule), to, path, options)
                loaded = to.load(path)
                jobs[runtime, pruned] = Job.among_runtimes(lambda loaded=loaded: loaded(inputs)["logits"])
        with apply_(model, Schedule()) as handle, torch.inference_mode():
            plain = handle.encoder
            compiled = Compiled(model, handle, inputs)
            layouts = {"eager torch": plain, "torch.compile": handle.encoder}
            del compiled

            def prepare(name: str, schedule: Schedule) -> None:
                handle.lay_out(layouts[name].family.layout)
                handle.set(schedule)

            for name in layouts:
                for pruned, schedule in schedules.items():
                    job = Job.among_runtimes(lambda: logits(model, inputs), lambda n=name, s=schedule: prepare(n, s))
                    job.prepare()
                    job.run()  # compiles
                    jobs[name, pruned] = job
            yield jobs


def bench(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    source, task = demo(args.batch_size) if name == "demo" else shape(name, args.batch_size)
    rows = []
    with forwards(source, args.int8) as jobs:
        outputs = {}
        for key, job in jobs.items():
            job.prepare()
            outputs[key] = job.run().clone()
        found = measure(jobs, clock=clock_for("cpu"), sentinel=("eager torch", False), time_budget_s=args.seconds,
                        min_rounds=15, tolerance=0.005)  # fmt: skip
        for runtime in dict.fromkeys(key[0] for key in jobs):
            unpruned, pruned = (found.samples[runtime, flag].median_ms for flag in (False, True))
            error = (outputs[runtime, True] - outputs["eager torch", True]).abs().max()
            row = {"model": name, "runtime": runtime, "unpruned_ms": unpruned, "pruned_ms": pruned}
            rounds = len(found.samples[runtime, True])
            rows.append(row | {"speedup": unpruned / pruned, "error": float(error), "rounds": rounds})
    if task is not None:
        add_accuracy(rows, source, task)
    for row in rows:
        row |= {"schedule": str(source.schedule), "noise": found.noise.why}
    return sorted(
        rows, key=lambda r: ["eager torch", "torch.compile", *WRITTEN, "ONNX Runtime, int8"].index(r["runtime"])
    )


def by_name(run: Forward, **inputs: Tensor) -> Any:
    return run(inputs)


def add_accuracy(rows: list[dict[str, Any]], source: ModelSource, task: Any) -> None:
    """Accuracy of the pruned (and for int8 the unpruned) model on the holdout rows."""
    with tempfile.TemporaryDirectory() as scratch:
        for row in rows:
            runtime = row["runtime"]
            if runtime == "eager torch":
                with apply_(source.model, source.schedule), torch.inference_mode():
                    row["accuracy"] = quality_of(task, source.model, task.holdout).value
            elif runtime in WRITTEN or runtime.endswith("int8"):
                to = find_model_format(WRITTEN.get(runtime, "onnx"))
                path = Path(scratch) / f"{runtime}{to.suffix}"
                write_format(source, to, path, ModelOptions(int8=runtime.endswith("int8")))
                run = to.load(path)
                row["accuracy"] = quality_of(task, partial(by_name, run), task.holdout).value


def show(rows: list[dict[str, Any]], device: dict[str, Any], batch: int) -> None:
    where = f"{device['name']}, {torch.get_num_threads()} threads, float32, batch {batch}"
    table = Table(title=f"{where}; each against its own unpruned")
    for column in ("model", "runtime", "unpruned ms", "pruned ms", "speed-up", "error", "accuracy"):
        table.add_column(column, justify="left" if column in ("model", "runtime") else "right")
    for r in rows:
        accuracy = f"{r['accuracy']:.4f}" if "accuracy" in r else ""
        numbers = [f"{r['unpruned_ms']:.2f}", f"{r['pruned_ms']:.2f}", f"{r['speedup']:.2f}x", f"{r['error']:.1e}"]
        table.add_row(r["model"], r["runtime"], *numbers, accuracy)
    Console(width=120).print(table)
    for model, noise in dict.fromkeys((r["model"], r["noise"]) for r in rows):
        if noise:
            print(f"noisy ({model}): {noise}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "deit-small"])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device, rows = describe_device("cpu"), []
    for name in args.models:
        rows += bench(name, args)
        print(f"{name}: done", file=sys.stderr, flush=True)
    if args.json:
        print(json.dumps({"device": device, "arguments": vars(args), "results": rows}, indent=1))
    else:
        show(rows, device, args.batch_size)


if __name__ == "__main__":
    main()
