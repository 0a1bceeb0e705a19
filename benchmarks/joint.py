"""Tokens, precision, width, rank and skip: each alone, one after the other, and together, at equal MEASURED latency.

    python benchmarks/joint.py --root FOLDER --runtime eager onnxruntime --survey --out benchmarks/results/joint.json

Six ways on the bundled demo, or another model (`--model`, a name of `models.py`): tokens only (a study with
`--precision float32`), int8 only (the unpruned model), int8 of the best token schedules (the points of that study, put
into int8), width only (`--free width`, in float32), joint (a study of tokens and precision, which begins with what the
ways before it have), and all (`--free tokens,precision,width,rank,skip`, which begins with what joint and width have).

All studies share one cost table, one set of fitted halves and one of one-stage losses. Every plan is judged on the same
calibration and holdout rows, in each runtime by itself, and timed in one interleaved run of one process a runtime. At a
latency each way's plan is the one of the highest quality on CALIBRATION rows among those measured to be that fast; what
is reported is its quality on the holdout rows, with intervals paired by row. `--survey` tells of each technique alone
what the survey's second table guesses, a distilled student of half the blocks among them.

It comes in pieces (`--until price`, `search`, `judge`, `time`), and all that is done stays in --root: the same call
goes on where one was stopped. What is timed wants a machine that does nothing else: price and time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joint_parts import EAGER, FORMATS, INT8, Runs, distil, fits_of, price, student_plan, study
from joint_survey import STUDENT, Settings, as_table, survey_rows
from models import MODELS, TUNED, config_of
from torch import Tensor

from prunesearch.core.plans.plan import Plan
from prunesearch.search.solve.seed import spread
from prunesearch.study.setup import make_setting
from prunesearch.tasks.metrics.metric import Interval, Metric

ALONE = ("tokens only", "int8 only", "int8 after tokens", "width only")
TOGETHER = ("joint", "all")
LATENCIES = 12
PIECES = ("price", "search", "judge", "time")


@dataclass(frozen=True)
class Tried:
    """A plan: median milliseconds of a batch, the metric on calibration rows, and its numbers on the holdout rows."""

    plan: Plan
    ms: float
    seen: float
    rows: Tensor
    metric: Metric

    @property
    def quality(self) -> float:
        """On the holdout rows."""
        return self.metric.value(self.rows)

    def over(self, other: Tried) -> Interval:
        """How much better than another it is, with the 95 % interval, paired by row."""
        return self.metric.difference(other.rows, self.rows)


def plans_of(fronts: Mapping[str, Sequence[Plan]]) -> dict[str, list[Plan]]:
    """The plans of every way; the unpruned model in float32 is in those that may be left unpruned."""
    found = {name: [Plan(), *front] for name, front in fronts.items()}
    schedules = found["tokens"]
    every = {
        "tokens only": schedules,
        "int8 only": [Plan(), Plan(changes=INT8)],
        "int8 after tokens": [Plan(plan.schedule, INT8) for plan in schedules],
        "width only": found.get("width", []),
        "joint": found.get("joint", []),
        "all": found.get("all", []),
    }
    return {way: list(dict.fromkeys(plans)) for way, plans in every.items() if plans}


def search(config: Mapping[str, Any], root: Path, *, alone: bool) -> dict[str, list[Plan]]:
    """Every study; the ways that are joint begin with what the others found. Not `alone`: these two and tokens only."""
    found = {"tokens": study("tokens", config, root)}
    if alone:
        found["width"] = study("width", config, root)
    ways = plans_of(found)
    found["joint"] = study("joint", config, root, [*ways["int8 after tokens"], *ways["tokens only"]])
    narrow = [Plan(plan.schedule, (*INT8, *plan.changes)) for plan in found.get("width", [])]
    found["all"] = study("all", config, root, [*found["joint"], *narrow])
    return found


def best_within(tried: Sequence[Tried], ms: float) -> Tried | None:
    """Of the plans that take at most `ms`, the one of the highest quality on the calibration rows."""
    return max((one for one in tried if one.ms <= ms), key=lambda one: (one.seen, -one.ms), default=None)


def rows_of(ways: Mapping[str, Sequence[Tried]], latencies: Sequence[float]) -> list[dict[str, Any]]:
    """For each latency, each way's plan; and how far those found together are ahead of the best of the others."""
    rows: list[dict[str, Any]] = []
    for ms in latencies:
        found = {way: best_within(tried, ms) for way, tried in ways.items()}
        row: dict[str, Any] = {"ms": ms, **{w: None if one is None else one.quality for w, one in found.items()}}
        others = [one for way in ALONE if (one := found.get(way)) is not None]
        best = max(others, key=lambda one: one.quality, default=None)
        for way in TOGETHER:
            mine = found.get(way)
            row[f"{way} ahead"] = None if mine is None or best is None else list(mine.over(best))
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]], base_ms: float) -> str:
    """The rows in Markdown."""
    ways = [way for way in (*ALONE, *TOGETHER) if way in rows[0]]
    ahead = [f"{way} ahead" for way in TOGETHER if way in ways]
    lines = [f"| speed-up | ms at most | {' | '.join([*ways, *ahead])} |", "|---" * (len(ways) + len(ahead) + 2) + "|"]
    for row in rows:
        cells = ["–" if (value := row[way]) is None else f"{100 * value:.2f}" for way in ways]
        cells += ["–" if (value := row[way]) is None else _points(value) for way in ahead]
        lines.append(f"| {base_ms / row['ms']:.2f}x | {row['ms']:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _points(interval: Sequence[float]) -> str:
    value, low, high = (100 * end for end in interval)
    return f"{value:+.2f} [{low:+.1f}, {high:+.1f}]"


def best_rows(base: Tried, eager_ms: float, ways: Mapping[str, Sequence[Tried]]) -> list[dict[str, Any]]:
    """For each way its fastest plan within 1 % (on calibration rows), against the unpruned model there and in eager."""
    rows = []
    for way, tried in ways.items():
        near = [one for one in tried if one.seen >= 0.99 * base.seen]
        best = min(near, key=lambda one: one.ms, default=None)
        if best is not None:
            said = {"way": way, "ms": best.ms, "quality": best.quality, "change": list(best.over(base))}
            rows.append({**said, "same": base.ms / best.ms, "eager": eager_ms / best.ms, "plan": str(best.plan)})
    return rows


def best_table(rows: Sequence[Mapping[str, Any]], runtime: str) -> str:
    """Those in Markdown."""
    lines = [f"| within 1 % in {runtime} | over unpruned float32 there | over eager float32 | quality | change |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        change = _points(row["change"])
        lines.append(
            f"| {row['way']} | {row['same']:.2f}x | {row['eager']:.2f}x | {100 * row['quality']:.2f} | {change} |"
        )
    return "\n".join(lines)


def draw(ways: Mapping[str, Sequence[Tried]], base: Tried, metric: str, path: Path) -> None:
    """What each way has at or below a latency: quality on the holdout rows over speed-up."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={"template": "plotly_white", "width": 900, "height": 520})
    for way, tried in ways.items():
        fastest = sorted(tried, key=lambda one: -one.ms)
        kept = [one for one in fastest if best_within(tried, one.ms) is one]
        figure.add_scatter(
            x=[base.ms / one.ms for one in kept],
            y=[100 * one.quality for one in kept],
            name=way,
            mode="lines+markers",
            line={"shape": "vh"},
        )
    figure.update_xaxes(title="speed-up over the unpruned float32 model, measured", type="log")
    figure.update_yaxes(title=f"{metric} on the holdout rows, %")
    if path.suffix == ".html":
        figure.write_html(path, config={"displayModeBar": False})
    else:  # kaleido draws it
        figure.write_image(path, scale=2)


class Comparison:
    """All pieces of one call."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.root = asked, asked.root / asked.model
        self.config = config_of(asked.model, **_settings(asked))
        self.given = self.config.model_dump(exclude_unset=True)
        self.fronts: dict[str, list[Plan]] = {}
        self.told: dict[str, Any] = {"model": asked.model, "settings": _settings(asked), "runtimes": {}}

    def price(self) -> None:
        """The cost table and what goes with it."""
        price(self.given, self.root)

    def search(self) -> None:
        """The studies, and the student."""
        self.fronts = search(self.given, self.root, alone=self.asked.ways == "all")
        self.setting = make_setting(self.config)
        self.ways, self.students = plans_of(self.fronts), {}
        if self.asked.survey:
            plan = student_plan(self.setting.geometry.depth)
            learnt = distil(self.setting, plan, self.asked.epochs, self.root)
            self.students[plan] = learnt.weights
            self.trained = learnt.trained.seconds
            self.ways[STUDENT] = [plan]
        fits = fits_of(self.root)
        self.runs = [Runs(name, self.setting, fits, self.root, self.students) for name in self.asked.runtime]

    def judge(self) -> None:
        """Qualities of all plans in all runtimes, and the graphs that they are in."""
        for runs in self.runs:
            for plan in self._plans(runs):
                self._rows(runs, plan)

    def time(self) -> None:
        """One interleaved run a runtime."""
        for runs in self.runs:
            runs.time(self._plans(runs), self.asked.seconds)

    def _plans(self, runs: Runs) -> list[Plan]:
        """Of all ways, what the runtime holds, of graphs a few a way; the unpruned model first."""
        most = 10**6 if runs.runtime == EAGER else self.asked.graphs
        some = [plan for plans in self.ways.values() for plan in spread(plans, most, plans.index)]
        return [plan for plan in dict.fromkeys([Plan(), *some]) if runs.able(plan)]

    def _rows(self, runs: Runs, plan: Plan) -> tuple[Tensor, Tensor]:
        rows = self.asked.rows
        return runs.judge(plan, "calibration", rows // 2), runs.judge(plan, "holdout", rows)

    def tables(self, runs: Runs) -> None:
        """What came of it in a runtime, printed and noted."""
        plans, metric = self._plans(runs), self.setting.task.scoring
        measured = runs.time(plans, self.asked.seconds)
        ms = {name: samples.median_ms for name, samples in measured.samples.items()}
        tried = {}
        for plan in plans:
            seen, rows = self._rows(runs, plan)
            tried[plan] = Tried(plan, ms[str(plan)], metric.value(seen), rows, metric)
        base, eager_ms = tried[Plan()], ms.get(EAGER, ms[str(Plan())])
        ways = {way: [tried[plan] for plan in some if plan in tried] for way, some in self.ways.items()}
        student = ways.pop(STUDENT, [])
        fastest = min(one.ms for some in ways.values() for one in some)
        rows = rows_of(ways, np.geomspace(base.ms, fastest * 1.02, LATENCIES).tolist())
        best = best_rows(base, eager_ms, ways)
        low, high = (100 * end for end in metric.interval(base.rows)[1:])
        print(f"\n{runs.runtime}: unpruned float32 {base.ms:.1f} ms (eager {eager_ms:.1f}), {100 * base.quality:.2f} %")
        print(f"[{low:.1f}, {high:.1f}] on {len(base.rows)} rows; {measured.noise.why or 'a quiet machine'}")
        print(f"{table(rows, base.ms)}\n\n{best_table(best, runs.runtime)}")
        survey = []
        if self.asked.survey and runs.runtime == EAGER:
            about = Settings(self.setting, runs.fits, self.trained)
            survey = survey_rows(about, {**ways, STUDENT: student}, base)
            print(f"\n{as_table(survey)}")
        if self.asked.picture is not None and runs.runtime == self.asked.runtime[0]:
            draw(ways, base, self.setting.task.metric, self.asked.picture)
        points = {w: [[str(o.plan), o.ms, o.seen, o.quality] for o in some] for w, some in ways.items()}
        self.told["runtimes"][runs.runtime] = {
            "unpruned_ms": base.ms,
            "eager_ms": eager_ms,
            "rows": len(base.rows),
            "noise": measured.noise.why,
            "table": rows,
            "within 1 %": best,
            "points": points,
            "survey": survey,
        }


def _settings(asked: argparse.Namespace) -> dict[str, Any]:
    return {
        "trials": asked.trials,
        "search_samples": asked.search_samples,
        "table_seconds": asked.table_time,
        "patience_s": 1.0,
    }


def main() -> None:
    """Go through the pieces, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS, *TUNED], default="demo")
    parser.add_argument("--root", type=Path, required=True, help="where all that is done is kept")
    parser.add_argument("--runtime", nargs="+", choices=[EAGER, *FORMATS], default=[EAGER])
    parser.add_argument("--ways", choices=["all", "fewer"], default="all", help="fewer: without width only")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--search-samples", type=int, default=512)
    parser.add_argument(
        "--rows",
        type=int,
        default=4000,
        help="holdout rows; half as many of calibration choose",
    )
    parser.add_argument("--table-time", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=200.0, help="of timing all plans in a runtime")
    parser.add_argument("--graphs", type=int, default=8, help="plans of each way in another runtime, at most")
    parser.add_argument("--survey", action="store_true", help="the survey's second table too, with a student")
    parser.add_argument("--epochs", type=float, default=4.0, help="of the student's training")
    parser.add_argument("--until", choices=PIECES, default=None, help="stop behind this piece")
    parser.add_argument("--picture", type=Path, default=None, help="a PNG, which needs kaleido, or an HTML page")
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    comparison = Comparison(asked)
    pieces: dict[str, Callable[[], None]] = {name: getattr(comparison, name) for name in PIECES}
    for name, piece in pieces.items():
        piece()
        if name == asked.until:
            return
    for runs in comparison.runs:
        comparison.tables(runs)
    if asked.out is not None:
        asked.out.write_text(json.dumps(comparison.told, indent=1) + "\n")


if __name__ == "__main__":
    main()
