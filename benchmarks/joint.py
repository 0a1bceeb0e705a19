"""Tokens, precision, width, rank and skip: each alone, one after the other, and together, at equal MEASURED latency.

    python benchmarks/joint.py --trials 60 --root studies --out benchmarks/results/joint.json

Six ways on the bundled demo, or another model (`--model`, a name of `models.py`): tokens only (a study with
`--precision float32`), int8 only (the unpruned model), int8 of the best token schedules (the points of that study, put
into int8), joint (a study of both, which begins with what one has after the other: the schedules of the tokens' front,
in int8), width only (`--free width`, in float32), and all (`--free tokens,precision,width,rank,skip`, which begins with
the points of the joint study). With `--root` the studies are kept, and the same call goes on where one was interrupted.
Every plan is evaluated on the same holdout rows and timed in one interleaved run; the table says the best quality that
each way has at or below a latency. `--survey` tells of each technique alone what the survey's second table guesses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from models import MODELS, config_of

from prunesearch.compress.fits import FILE, Fits, load_fits
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.tables.export_tables import MODEL_FORMATS
from prunesearch.core.tables.registry import CHANGES
from prunesearch.cost.counting.size import SizeCosts
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.export.models.write import check_changes, find_model_format
from prunesearch.pruning.apply import apply_
from prunesearch.search.run import run
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.setup import Setting, make_setting

INT8 = (Change.parse("int8"),)
WAYS = ("tokens only", "int8 only", "int8 after tokens", "joint", "width only", "all")
LATENCIES = 12


@dataclass(frozen=True)
class Tried:
    """A plan: median milliseconds of a batch, and the metric on all holdout rows."""

    plan: Plan
    ms: float
    quality: float


def plans_of(fronts: Mapping[str, Front]) -> dict[str, list[Plan]]:
    """The plans of every way; the unpruned model in float32 is in those that may be left unpruned."""
    found = {name: [Plan(), *(point.to_plan() for point in front.points)] for name, front in fronts.items()}
    schedules = found["tokens"]
    every = {
        "tokens only": schedules,
        "int8 only": [Plan(), Plan(changes=INT8)],
        "int8 after tokens": [Plan(plan.schedule, INT8) for plan in schedules],
        "joint": found.get("joint", []),
        "width only": found.get("width", []),
        "all": found.get("all", []),
    }
    return {way: plans for way, plans in every.items() if plans}


def write_seeds(plans: Sequence[Plan], folder: Path) -> list[str]:
    """Files of plans that a search starts from.

    Half of the trials of a joint search are spent on each precision. By themselves they found schedules in int8 that
    were up to 0.9 points behind those that the whole of a search of tokens finds (512 rows, 40 trials).
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, plan in enumerate(plan for plan in plans if len(plan) or plan.halves):
        path = folder / f"{number}.json"
        path.write_text(plan.to_json() + "\n")
        found.append(str(path))
    return found


def best_within(tried: Sequence[Tried], ms: float) -> Tried | None:
    """Of the plans that take at most `ms`, the one of the highest quality."""
    return max((one for one in tried if one.ms <= ms), key=lambda one: one.quality, default=None)


def rows_of(ways: Mapping[str, Sequence[Tried]], latencies: Sequence[float]) -> list[dict[str, float | None]]:
    """For each latency, the best quality of each way; None where it has no plan so fast."""
    rows: list[dict[str, float | None]] = []
    for ms in latencies:
        found = {way: best_within(tried, ms) for way, tried in ways.items()}
        rows.append({"ms": ms, **{way: None if one is None else one.quality for way, one in found.items()}})
    return rows


def table(rows: Sequence[Mapping[str, float | None]], base_ms: float) -> str:
    """The rows in Markdown."""
    ways = [way for way in WAYS if way in rows[0]]
    lines = [f"| ms at most | speed-up | {' | '.join(ways)} |", f"|---|---|{'---|' * len(ways)}"]
    for row in rows:
        ms = row["ms"] or 0.0
        cells = ["–" if (value := row[way]) is None else f"{100 * value:.2f}" for way in ways]
        lines.append(f"| {ms:.1f} | {base_ms / ms:.2f}× | {' | '.join(cells)} |")
    return "\n".join(lines)


def known_of(rows: int, fronts: Sequence[Front]) -> dict[Plan, float]:
    """The qualities that studies have found on all `rows` of the holdout split."""
    points = [point for front in fronts for point in front.points if point.rows == rows]
    return {Plan(): fronts[0].unpruned.quality.value, **{point.to_plan(): point.quality.value for point in points}}


def tried_plans(
    setting: Setting, plans: Sequence[Plan], seconds: float, fronts: Sequence[Front], fits: Fits
) -> dict[Plan, Tried]:
    """Evaluate every plan that is not known on all holdout rows, and time all of them interleaved."""
    task, config = setting.task, setting.config
    known = known_of(task.holdout.n, fronts)
    with apply_(task.model, Plan(), seed=config.seed, fits=fits) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        quality = {plan: known[plan] if plan in known else evaluator.evaluate(plan).quality for plan in plans}
        samples = measure_schedules(
            task.model, task.timing_inputs(config.batch_size), plans, time_budget_s=seconds, min_rounds=15
        )
    return {plan: Tried(plan, s.median_ms, quality[plan]) for plan, s in zip(plans, samples, strict=True)}


# -- the survey's second table --------------------------------------------------------------------------------------

TECHNIQUES = {"weight pruning": "width only", "quantisation": "int8 only", "token pruning": "tokens only", "all": "all"}
WITHIN = 0.99  # of the unpruned quality


def survey_rows(setting: Setting, ways: Mapping[str, Sequence[Tried]], base: Tried, fits: Fits) -> list[dict[str, str]]:
    """For each technique alone: its fastest plan within 1 %, what that saves, who holds it, what changing it takes."""
    size = SizeCosts(setting.task.model, setting.geometry)
    rows = []
    for name, way in TECHNIQUES.items():
        near = [one for one in ways.get(way, ()) if one.quality >= WITHIN * base.quality]
        if not near:
            continue
        best = min(near, key=lambda one: one.ms)
        saved = 1 - size.predict(best.plan) / size.predict(Plan())
        rows.append(
            {
                "technique": name,
                "accuracy kept": f"{best.quality / base.quality:.1%}",
                "saving": f"{base.ms / best.ms:.2f}× faster, {saved:.0%} smaller",
                "deployment": ", ".join(held_by(best.plan)) or "eager torch alone",
                "another setting": f"{switching_ms(setting, best.plan, fits):.3g} ms",
            }
        )
    return rows


def held_by(plan: Plan) -> list[str]:
    """The model formats that hold a plan."""
    found = []
    for name in MODEL_FORMATS:
        try:
            check_changes(plan, find_model_format(name))
        except PruneSearchError:
            continue
        found.append(name)
    return found


def switching_ms(setting: Setting, plan: Plan, fits: Fits) -> float:
    """What it takes to put a plan on the model that is loaded, its weights made ready."""
    with apply_(setting.task.model, Plan(), fits=fits) as handle:
        begun = time.perf_counter()
        handle.set(plan)
        return (time.perf_counter() - begun) * 1e3


def as_table(rows: Sequence[Mapping[str, str]]) -> str:
    """In Markdown."""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row[name] for name in names)} |" for row in rows)])


def draw(ways: Mapping[str, Sequence[Tried]], base: Tried, path: Path) -> None:
    """The front of each way: quality over speed-up."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={"template": "plotly_white", "width": 900, "height": 520})
    for way, tried in ways.items():
        kept: list[Tried] = []
        for one in sorted(tried, key=lambda one: (one.ms, -one.quality)):
            if not kept or one.quality > kept[-1].quality:
                kept.append(one)
        figure.add_scatter(
            x=[base.ms / one.ms for one in kept],
            y=[100 * one.quality for one in kept],
            name=way,
            mode="lines+markers",
            line={"shape": "vh"},
        )
    figure.update_xaxes(title="speed-up over the unpruned float32 model, measured", type="log")
    figure.update_yaxes(title="accuracy on the holdout rows, %")
    figure.write_image(path, scale=2)


def studies(config: Mapping[str, Any], root: Path) -> dict[str, Front]:
    """Every study; the ways that are joint begin with what was found before."""
    found = {"tokens": run(RunConfig(**config, precision=["float32"]), "tokens", root=root)}
    after = plans_of(found)["int8 after tokens"]
    both = {"precision": ["float32", "int8"]}
    seeds = write_seeds(after, root / "seeds")
    found["joint"] = run(RunConfig(**config, **both, start_from=seeds), "joint", root=root)
    found["width"] = run(RunConfig(**config, precision=["float32"], free=["width"]), "width", root=root)
    seeds = write_seeds(plans_of(found)["joint"], root / "more-seeds")
    every = ["tokens", *CHANGES]
    found["all"] = run(RunConfig(**config, **both, free=every, start_from=seeds), "all", root=root)
    return found


def main() -> None:
    """Run the studies, try every plan, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="demo")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--search-samples", type=int, default=1024)
    parser.add_argument("--table-time", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=120.0, help="of timing all plans")
    parser.add_argument("--root", type=Path, default=None, help="of the studies; none: thrown away")
    parser.add_argument("--survey", action="store_true", help="print the survey's second table too")
    parser.add_argument("--picture", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    settings = {
        "trials": given.trials,
        "search_samples": given.search_samples,
        "table_seconds": given.table_time,
        "patience_s": 1.0,
    }
    config = config_of(given.model, **settings)
    asked = config.model_dump(exclude_unset=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = given.root or Path(scratch)
        fronts = studies(asked, root)
        fits = {**load_fits(root / "width" / FILE), **load_fits(root / "all" / FILE)}
    plans = plans_of(fronts)
    every = list(dict.fromkeys(plan for some in plans.values() for plan in some))
    setting = make_setting(config)
    tried = tried_plans(setting, every, given.seconds, list(fronts.values()), fits)
    ways = {way: [tried[plan] for plan in some] for way, some in plans.items()}
    base = tried[Plan()]
    fastest = min(one.ms for one in tried.values())
    rows = rows_of(ways, np.geomspace(base.ms, fastest * 1.02, LATENCIES).tolist())
    print(f"unpruned float32: {base.ms:.1f} ms, {100 * base.quality:.2f} %")
    for way, some in ways.items():
        for one in sorted(some, key=lambda one: -one.ms):
            print(f"{way:18} {one.ms:7.1f} ms {base.ms / one.ms:5.2f}x {100 * one.quality:6.2f} %  {one.plan}")
    print(table(rows, base.ms))
    survey = survey_rows(setting, ways, base, fits) if given.survey else []
    if survey:
        print(as_table(survey))
    if given.picture is not None:
        draw(ways, base, given.picture)
    if given.out is not None:
        points = {way: [[str(one.plan), one.ms, one.quality] for one in some] for way, some in ways.items()}
        told = {"model": given.model, "settings": settings, "rows": rows, "points": points, "survey": survey}
        given.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
