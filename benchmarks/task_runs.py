"""Whole runs on every kind of model that is at hand: trained weights where there are some, else random ones.

    python benchmarks/task_runs.py [ROW ...] [--root FOLDER] [--json FILE] [--quick]     # none: all rows

A row makes its model and data in `FOLDER/ROW`, searches with stated settings, and is read off the study's front: the
holdout split, latencies re-measured. At 1.5x and 2x batches are sent to the two measured points around that speed, in
the shares that make its mean latency (as in `fixed_schedules.py`); where no point is as fast, the fastest is named.
Random weights show that the path works and how fast it is: quality against labels means nothing there, so that what is
told is agreement with the unpruned model and the divergence from it. Both flatter, since such a model answers nearly
alike whatever it is given: they say nothing of the quality that trained weights keep.

`--quick` shows that a row runs, and no numbers. The same call goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers as hf
from rich.console import Console
from rich.table import Table
from task_rows import ROWS, Row

from prunesearch.core.costs import digits
from prunesearch.core.errors import PruneSearchError
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front

SPEEDS = (1.5, 2.0)
COMMON = {"table_seconds": 20.0, "front_points": 8}
QUICK = {"trials": 3, "table_seconds": 3.0, "front_points": 2, "patience_s": 0.0, "sensitivity_units": 1.0}
_QUICK_ROWS = {"calibration": 8, "holdout": 8, "search_samples": 8, "sensitivity_samples": 8, "eval_batch_size": 4}


def settings_of(row: Row, made: dict[str, Any], quick: bool) -> dict[str, Any]:
    """All settings of a row's run, `made` by its maker."""
    return {**made, **COMMON, **row.settings, **({**QUICK, **_QUICK_ROWS} if quick else {})}


def at_speed(front: Front, speedup: float) -> dict[str, float] | None:
    """Quality, agreement and KL divergence (nats) at a speed, mixed from the points around; None where none is as fast.

    Means over rows (accuracies, agreement, divergence) are exactly what the mixture has.
    """
    unpruned = front.unpruned
    found = [(unpruned.latency.value, unpruned.quality.value, 1.0, 0.0)]
    found += [(p.latency.value, p.quality.value, p.fidelity.agreement, p.fidelity.kl) for p in front.points]
    wanted = unpruned.latency.value / speedup
    faster, slower = ([x for x in found if (x[0] <= wanted) == side] for side in (True, False))
    if not faster:
        return None
    low, high = max(faster), min(slower)
    share = (wanted - low[0]) / (high[0] - low[0])
    _, quality, agreement, kl = ((1 - share) * a + share * b for a, b in zip(low, high, strict=True))
    return {"quality": quality, "agreement": agreement, "kl": kl}


def record(name: str, row: Row, front: Front, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What a finished run says, ready for JSON."""
    chosen = None if front.verdict.point is None else front.point(front.verdict.point)
    return {
        "row": name,
        "model": row.model,
        "family": front.model.family,
        "weights": "trained" if row.trained else "random",
        "note": row.note,
        "task": front.task.name,
        "metric": front.task.metric,
        "rows": {"calibration": front.task.calibration, "holdout": front.task.holdout},
        "tokens": front.model.tokens,
        "depth": front.model.depth,
        "conditions": front.conditions.model_dump(mode="json"),
        "device": front.device.name,
        "unpruned": {"quality": front.unpruned.quality.model_dump(), "ms": front.unpruned.latency.value},
        "verdict": {"text": front.verdict.text, "speedup": None if chosen is None else chosen.speedup},
        "at": {f"{speed:g}": at_speed(front, speed) for speed in SPEEDS},
        "fastest": max((p.speedup for p in front.points), default=1.0),
        "points": [
            {"text": p.text, "speedup": p.speedup, "ms": p.latency.value, "quality": p.quality.value}
            | p.fidelity.model_dump()
            for p in front.points
        ],
        "table_error": front.cost_table.mape,
        "notes": [*front.task.notes, *front.notes],
        "settings": settings,
        "seconds": seconds,
    }


def do(name: str, root: Path, quick: bool) -> dict[str, Any]:
    """Make the row's model and data if they are not there, run or go on, and return its record."""
    row, study = ROWS[name], f"{name}-quick" if quick else name
    folder = root / name
    made_file = folder / "made.json"
    with clocked(root / f"{study}.seconds") as clock:
        if row.register is not None:
            row.register()
        if made_file.exists():
            made = json.loads(made_file.read_text())
        else:
            folder.mkdir(parents=True, exist_ok=True)
            made = row.make(folder)
            made_file.write_text(json.dumps(made))
        settings = settings_of(row, made, quick)
        front = run(RunConfig(**settings), study, root=root / "studies")
    return record(name, row, front, settings, clock[0])


@contextmanager
def clocked(path: Path) -> Iterator[list[float]]:
    """Add the time that the block takes to what the file says of earlier sessions; the sum is there when it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before, began = float(path.read_text()) if path.exists() else 0.0, time.perf_counter()
    total = [before]
    try:
        yield total
    finally:
        total[0] = before + time.perf_counter() - began
        path.write_text(f"{total[0]:.1f}\n")


def cells(found: dict[str, Any]) -> list[str]:
    """The line of a record."""
    trained, unpruned = found["weights"] == "trained", found["unpruned"]
    verdict = found["verdict"]["speedup"]
    line = [
        found["model"] if trained else f"{found['model']} (random weights)",
        found["task"],
        found["metric"] if trained else "agreement",
        f"{unpruned['quality']['value']:.3f}" if trained else "",
        ("" if not trained else "unpruned" if verdict is None else f"{verdict:.2f}x"),
    ]
    for at in found["at"].values():
        line += (
            [f"none (to {found['fastest']:.2f}x)", ""] if at is None else [_kept(at, found, trained), digits(at["kl"])]
        )
    ms, batch = unpruned["ms"], found["conditions"]["batch_size"]
    return [
        *line,
        f"{digits(ms)} (b {batch}, {found['tokens']})",
        f"{found['table_error']:.1%}",
        f"{found['seconds']:.0f}",
    ]


def _kept(at: dict[str, float], found: dict[str, Any], trained: bool) -> str:
    """Trained: the metric and its share of the unpruned model's; random: the agreement."""
    if not trained:
        return f"{at['agreement']:.1%}"
    whole = found["unpruned"]["quality"]["value"]
    return f"{at['quality']:.3f}" + (f" ({at['quality'] / whole:.1%})" if whole > 0 else "")


def show(records: list[dict[str, Any]]) -> None:
    """Print the table, and where a model differs from what it is named after."""
    table = Table(title="runs, by kind of task", title_justify="left")
    for title in ("model", "task", "metric"):
        table.add_column(title)
    for title in ("unpruned", "verdict", "at 1.5x", "KL", "at 2x", "KL", "ms (batch, tokens)", "table error", "s"):
        table.add_column(title, justify="right")
    for found in records:
        table.add_row(*cells(found))
    console = Console(width=190)
    console.print(table)
    for found in records:
        if found["note"]:
            console.print(f"{found['model']}: {found['note']}", markup=False)
    threads = sorted({str(found["conditions"]["threads"]) for found in records})
    console.print(
        f"threads: {', '.join(threads)}; at 1.5x and 2x: the mixture of the measured points around; random weights: "
        "agreement with the unpruned model",
        markup=False,
    )


def main() -> None:
    """Parse, run, print; a row that cannot run is told and the others go on."""
    parser = argparse.ArgumentParser(description="Whole runs on every kind of task.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--root", type=Path, default=Path("studies/task-runs"))
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--quick", action="store_true", help="tiny settings: whether it runs, no numbers")
    given = parser.parse_args()
    unknown = set(given.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    records, failed = [], []
    for name in given.rows or ROWS:
        try:
            records.append(do(name, given.root, given.quick))
        except PruneSearchError as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(f"{name}: {records[-1]['seconds']:.0f} s", file=sys.stderr)
        if given.json is not None:
            content = {"quick": given.quick, "results": records}
            given.json.write_text(json.dumps(content, indent=1) + "\n")
    if records:
        show(records)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
