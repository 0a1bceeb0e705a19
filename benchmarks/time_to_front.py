"""Where a run's time goes: loading, cost table, losses, trials, holdout, re-measuring, ladder; and the first front.

    python benchmarks/time_to_front.py                        # the bundled demo
    python benchmarks/time_to_front.py bert                   # BERT-base with random weights, 128 tokens, batch 8
    python benchmarks/time_to_front.py FOLDER --data FILE --task fidelity
    options: --seeds 0 1 2  --threads 2  --accuracy quick  --results FILE (one JSON a run, appended)  --studies FOLDER

Every run is a process of its own, so that its memory is its own: the most that was resident. The first front is that of
five plans, solved and evaluated on calibration rows; the run says so on screen. A machine that is busy with something
else gives other times: a table that was noisy is marked, and the processor's seconds stand beside those of the clock.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prunesearch.core.events import Event, FrontGrew, Note, StepBegun, listening

# what the step of a run begins with, by the part that it is
PARTS = {
    "loading": "loading",
    "cost table": "table",
    "sensitivities": "losses",
    "search": "trials",
    "holdout": "holdout",
    "re-measuring": "measuring",
    "not re-measured": "measuring",
    "ladder": "ladder",
}
_FIRST = 5  # plans of a first front
_ROWS, _TOKENS = {"calibration": 2000, "holdout": 4000}, 128  # of the text model


class Watch:
    """A listener that notes when each part of a run begins, and when the first front is there."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.began: dict[str, tuple[float, float]] = {}  # by the clock, and of the processor
        self.first: tuple[float, float] | None = None
        self.notes: list[str] = []

    def __call__(self, event: Event) -> None:
        """Note the time of an event."""
        now = self.now()
        if isinstance(event, StepBegun):
            part = next((part for said, part in PARTS.items() if event.text.startswith(said)), None)
            if part is not None:
                self.began.setdefault(part, now)
        elif isinstance(event, FrontGrew) and self.first is None and len(event.points) >= _FIRST:
            self.first = now
        elif isinstance(event, Note):
            self.notes.append(event.text)

    def now(self) -> tuple[float, float]:
        """Seconds since the start, and seconds of the processor, all threads together."""
        return time.monotonic() - self.started, time.process_time()

    def parts(self, end: tuple[float, float], which: int) -> dict[str, float]:
        """Seconds of each part, up to `end`: 0 by the clock, 1 of the processor."""
        marks = [*self.began.items(), ("end", end)]
        return {part: round(marks[k + 1][1][which] - at[which], 1) for k, (part, at) in enumerate(marks[:-1])}


def bert() -> tuple[Any, Any]:
    """BERT-base with random weights, and random texts."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=4, initializer_range=0.1)).eval()
    data = {}
    for role, rows in _ROWS.items():
        ids = torch.randint(1000, 30_000, (rows, _TOKENS))
        data[role] = ({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, None)
    return model, data


def one(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run once, in this process."""
    import torch

    from prunesearch.api import verbs

    torch.set_num_threads(args.threads)
    settings: dict[str, Any] = {"seed": seed, "accuracy": args.accuracy}
    if args.model == "bert":
        model, data = bert()
    else:
        model, data = args.model, args.data
        settings |= {"task": args.task} if args.task else {}
    watch = Watch()
    root = args.studies or Path(tempfile.mkdtemp(prefix="time-to-front-"))
    with listening(watch):
        found = verbs.run(model, data, study=f"{args.name}-{seed}", root=root, **settings)
    end = watch.now()
    front, loaded = found.front, watch.began.get("table", (0.0, 0.0))
    point = front.point(front.verdict.point) if front.verdict.point else None
    return {
        "subject": args.name,
        "seed": seed,
        "accuracy": args.accuracy,
        "threads": args.threads,
        "parts": watch.parts(end, 0),
        "cpu": watch.parts(end, 1),
        "first_front_s": None if watch.first is None else round(watch.first[0] - loaded[0], 1),
        "first_front_cpu_s": None if watch.first is None else round(watch.first[1] - loaded[1], 1),
        "end_s": round(end[0] - loaded[0], 1),
        "end_cpu_s": round(end[1] - loaded[1], 1),
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "trials": front.search.trials,
        "units": round(front.search.evaluations, 1),
        "table_mape": front.cost_table.mape,
        "noisy": front.cost_table.noisy,
        "points": len(front.points),
        "rows": sorted({p.rows for p in front.points if p.rows}, reverse=True),
        "hypervolume": None if front.hypervolume is None else round(front.hypervolume.value, 4),
        "verdict": None if point is None else round(point.speedup, 2),
        "notes": [note for note in watch.notes if "noisy" in note or "waited" in note],
    }


def show(runs: list[dict[str, Any]], console: Console) -> None:
    """Print a row a run."""
    table = Table(box=None, header_style="bold")
    parts = [part for part in dict.fromkeys(PARTS.values()) if any(part in run["parts"] for run in runs)]
    for title in ("", *parts, "first front", "end", "MiB", "trials", "table", "hypervolume", "verdict"):
        table.add_column(title, justify="right" if title else "left")
    for run in runs:
        spent = (f"{run['parts'].get(part, 0):.0f} ({run['cpu'].get(part, 0):.0f})" for part in parts)
        first = "-" if run["first_front_s"] is None else f"{run['first_front_s']:.0f} ({run['first_front_cpu_s']:.0f})"
        table.add_row(
            f"{run['subject']} {run['seed']}",
            *spent,
            first,
            f"{run['end_s']:.0f} ({run['end_cpu_s']:.0f})",
            str(run["mib"]),
            str(run["trials"]),
            f"{run['table_mape']:.1%}" + (" noisy" if run["noisy"] else ""),
            "-" if run["hypervolume"] is None else f"{run['hypervolume']:.4f}",
            "-" if run["verdict"] is None else f"{run['verdict']:.2f}x",
        )
    console.print("seconds of each part (of the processor); first front and end count from when the model was loaded")
    console.print(table)


def main(words: list[str] | None = None) -> None:
    """Run every seed in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="folder of a model, or `bert`; none: the demo")
    parser.add_argument("--data")
    parser.add_argument("--task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--accuracy", default="standard")
    parser.add_argument("--studies", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    args.name = "demo" if args.model is None else Path(args.model).name
    if args.inside:
        print(json.dumps(one(args, args.seeds[0])))
        return
    runs = []
    given = sys.argv[1:] if words is None else words
    for seed in args.seeds:
        command = [sys.executable, __file__, *given, "--inside", "--seeds", str(seed)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs.append(json.loads(said.splitlines()[-1]))
        if args.results is not None:
            with args.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(runs[-1]) + "\n")
    show(runs, Console(width=150))


if __name__ == "__main__":
    main()
