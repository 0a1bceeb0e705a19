"""Plans chosen row by row against the best static plan at equal measured mean latency, on trained models.

    python benchmarks/adaptive.py search [--models demo minilm-sst2 kwt1-fsdd] [--batch-sizes 1 8]
    python benchmarks/adaptive.py judge [...] [--keep 0.99] [--rows 1024] [--batches 100] [--no-learning]
    python benchmarks/adaptive.py write                # the table of docs/adaptive.md, of results/adaptive/*.json

`search` makes a study of token stages (float32) for each model and batch size, since which plan is fast hangs on that;
the same call goes on. `judge` does what `prunesearch adapt STUDY --learn-thresholds` does with each and keeps what it
finds, one file a study; thresholds that were learnt before are taken again. Fine-tuned models are made by
`fine_tuned.py`. Every study needs its device at hand; `judge` wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import models
from pydantic import BaseModel

import prunesearch as ps
from prunesearch.core.costs import digits
from prunesearch.core.files import write_text_atomic
from prunesearch.report.tables.adapted_table import adapted_lines
from prunesearch.study.front import Front
from prunesearch.study.front_records import Adapted, RowDuel, RowPlans
from prunesearch.training.settings import TrainingSettings

RESULTS = Path(__file__).resolve().parent / "results" / "adaptive"
_MODELS, _TRIALS = ("demo", "minilm-sst2", "kwt1-fsdd"), 40
_BATCH = 32  # rows of a step where thresholds are learnt
HEAD = ["model", "batch", "chosen by row", "quality", "mean ms (p50, p95, worst)", "static", "mean ms (p95)"]
HEAD += ["change (95 %)", "verdict"]


class Judged(BaseModel):
    """What `adapt` found on a study, with what a reader has to know of it; `note` is added by hand, and no figure."""

    model: str
    device: str
    conditions: dict[str, Any]
    metric: str
    cost_table_error: float
    adapted: Adapted
    note: str = ""


def name_of(model: str, rows: int) -> str:
    """Of a study."""
    return f"adaptive-{model}-b{rows}"


def search(asked: argparse.Namespace) -> None:
    """A study for each model and batch size."""
    for model, rows in itertools.product(asked.models, asked.batch_sizes):
        settings = models.config_of(model, batch_size=rows, precision=["float32"], trials=_TRIALS, accuracy="quick")
        ps.run(settings.model, settings.data, study=name_of(model, rows), **_rest(settings))


def _rest(config: Any) -> dict[str, Any]:
    given = config.model_dump(exclude_unset=True)
    return {name: value for name, value in given.items() if name not in ("model", "data")}


def judge(asked: argparse.Namespace) -> None:
    """Adapt every study, and keep what is found."""
    models._examples("kwt1_task")  # the family of KWT-1 is registered
    for model, rows in itertools.product(asked.models, asked.batch_sizes):
        learning = {"learn_thresholds": asked.learning}
        if asked.learning:
            learning["training"] = TrainingSettings(batch_size=_BATCH)
            learning["train"] = training_file(model)
        wanted = {"keep": asked.keep, "rows": asked.rows, "batches": asked.batches, "batch_sizes": (rows,)}
        front = ps.load_study(name_of(model, rows)).adapt(**learning, **wanted).front
        asked.results.mkdir(parents=True, exist_ok=True)
        found = judged(model, front)
        write_text_atomic(asked.results / f"{model}-b{rows}.json", found.model_dump_json(indent=1) + "\n")


def training_file(model: str) -> str | None:
    """Rows to learn on: those that a fine-tuned model was trained on; None: what the demo ships."""
    folder = models.fine_tuned.ROOT / model
    return next((str(path.resolve()) for path in folder.glob("train.*")), None)


def judged(model: str, front: Front) -> Judged:
    """What is kept of a front.

    Raises:
        PruneSearchError: if it was not adapted.
    """
    if front.adapted is None:
        raise ps.PruneSearchError(f"study '{front.study}' was not adapted: prunesearch adapt {front.study}")
    threads = front.conditions.threads
    return Judged(
        model=model,
        device=f"{front.device.name}, {threads} thread{'' if threads == 1 else 's'}",
        conditions=front.conditions.model_dump(),
        metric=front.task.metric,
        cost_table_error=front.cost_table.mape,
        adapted=front.adapted,
    )


def rows_of_table(found: Judged) -> Iterator[list[str]]:
    """A row for each duel: both sides' quality on the holdout and milliseconds, and who wins."""
    named = {one.name: one for one in found.adapted.contestants}
    rows = next(iter(named.values()))
    for duel in found.adapted.duels:
        mine, other = named[duel.adaptive], named[duel.static]
        place = [latency.batch_size for latency in rows.latencies].index(duel.batch_size)
        ms, theirs = mine.latencies[place], other.latencies[place]
        spread = ", ".join(digits(value) for value in (ms.p50, ms.p95, ms.worst))
        yield [
            f"{found.model} ({found.adapted.rows:,} rows)",
            str(duel.batch_size),
            f"{mine.name}: {_plans(mine)}",
            f"{100 * mine.quality.value:.1f}",
            f"{digits(ms.least)} ({spread})",
            f"{other.name} {100 * other.quality.value:.1f}",
            f"{digits(theirs.mean)} ({digits(theirs.p95)})",
            _change(duel),
            _verdict(mine, duel),
        ]


def _plans(mine: RowPlans) -> str:
    if mine.left is not None:
        return f"`{mine.plans[0]}`, {mine.left.mean:.0f} tokens ({mine.left.p50:.0f} to {mine.left.worst:.0f})"
    shares = zip(mine.plans, mine.shares, strict=True)
    return ", ".join(f"{plan} {share:.0%}" for plan, share in shares)


def _change(duel: RowDuel) -> str:
    ends, change = duel.difference.ends, f"{100 * duel.difference.value:+.1f}"
    return change if ends is None else f"{change} ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})"


def _verdict(mine: RowPlans, duel: RowDuel) -> str:
    if mine.decides and 1.0 in mine.shares:
        return "static: nothing is decided"
    return {"adaptive": "adaptive wins", "static": "static wins", "neither": "static: no gain shown"}[duel.winner]


def write(asked: argparse.Namespace) -> None:
    """Print the table, and what was found on each model in words."""
    kept = [Judged.model_validate_json(path.read_text()) for path in sorted(asked.results.glob("*.json"))]
    lines = [HEAD, ["---"] * len(HEAD), *(row for one in kept for row in rows_of_table(one))]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    for one in kept:
        said = [one.note, *adapted_lines(one.adapted)]
        print("\n".join(["", f"{one.model}, batch {one.conditions['batch_size']}, {one.device}:", *said]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["search", "judge", "write"])
    parser.add_argument("--models", nargs="+", default=_MODELS)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--keep", type=float, default=0.99)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--no-learning", dest="learning", action="store_false")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    {"search": search, "judge": judge, "write": write}[asked.step](asked)


if __name__ == "__main__":
    main()
