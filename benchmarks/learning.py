"""Frozen rules, learned scorers, recovery and one elastic network, at equal MEASURED latency; and elastic rivals.

    python benchmarks/learning.py --model M --data D --train T --out FOLDER --epochs 1.5
    options: --ways NAME ... --picks best@1.5x ... --scorer-epochs E --seed N --seconds S --json FILE

Ways, each a front of its own, all on the same rows with the same training settings:
  frozen    `run`: the user's model as it is, scorers are rules
  scorers   `learn-scorers`, then `run --weights STUDY/scorers`
  recovered `tune` of the points of the frozen front that --picks names, one training each
  elastic   `tune --elastic`, then `run --weights STUDY/elastic`
  both      `learn-scorers` on the elastic network, then a run with both
  tome, evit, dynamicvit, random
            rivals of `fixed_schedules.py` (random: three sites, random tokens dropped), each with ONE elastic training
            over its own ladder: the same rows, epochs and sandwich as ours, weights of its own

Every plan of every way is evaluated on all calibration and holdout rows with its weights, and all are timed interleaved
in one process. At a speed-up, each way's plan is the one of the highest quality on CALIBRATION rows among those that
were measured to be that fast. Two references: the user's model, and the unpruned model after the same training.
Everything is kept under --out: interrupt it, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixed_schedules import RIVALS, Shape, _members, _thirds
from torch import Tensor

import prunesearch as ps
from prunesearch.commands.tuning.judging import Tuning, Wanted
from prunesearch.core.files import write_text_atomic
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.forward.artefacts import loaded, read_weights
from prunesearch.search.finish.items import paired_difference_to
from prunesearch.search.solve.seed import spread
from prunesearch.search.trials.evaluate import Evaluation, Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.setup import Setting, make_setting
from prunesearch.training.settings import TrainingSettings

OURS = ("frozen", "scorers", "recovered", "elastic", "both")
SPEEDUPS = (1.2, 1.35, 1.5, 1.75, 2.0)
_LADDER = 12  # rungs of a rival


@dataclass(frozen=True)
class Way:
    """A way's plans, each with the weights that the model has under it, and what its trainings took."""

    plans: list[tuple[Schedule, Mapping[str, Tensor]]]
    seconds: float = 0.0
    steps: int = 0


@dataclass(frozen=True)
class Judged:
    """A plan of a way: milliseconds of a batch, quality on calibration rows, and on the holdout rows."""

    schedule: Schedule
    ms: float
    seen: float
    found: Evaluation


def best_within(tried: Sequence[Judged], ms: float) -> Judged | None:
    """Of the plans that take at most `ms`, the one of the highest quality on the calibration rows."""
    return max((one for one in tried if one.ms <= ms), key=lambda one: one.seen, default=None)


def ladder_of(name: str, shape: Shape) -> list[Plan]:
    """The plans of a rival that one elastic training serves, from the slowest to the fastest."""
    if name == "random":
        keeps = [percent / 100 for percent in range(99, 1, -1)]
        members = _members("multi-stage", shape, "random", "drop", sites=_thirds(shape[0]), keep=keeps)
    else:
        members = RIVALS[name](shape)

    def tokens(member: Schedule) -> int:
        return sum(member.counts(*shape))

    ladder = spread([m for m in members if len(m)], _LADDER, lambda m: -tokens(m))
    return [Plan(member) for member in sorted(ladder, key=tokens, reverse=True)]


class Ways:
    """Makes the ways of one model with its data."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.root = asked, asked.out / "studies"
        self.settings = {"epochs": asked.epochs, "seed": asked.seed}
        self.study = self._run("frozen")
        self.setting: Setting = make_setting(RunConfig(**self.study.front.config))

    def _run(self, name: str, weights: Path | None = None) -> ps.Study:
        asked = self.asked
        given: dict[str, Any] = {} if weights is None else {"weights": str(weights)}
        return ps.run(
            asked.model, asked.data, study=name, root=self.root, precision="float32", seed=asked.seed, **given
        )

    def make(self, name: str) -> Way:
        """The way of that name."""
        return getattr(self, name)() if name in OURS else self.rival(name)

    def frozen(self) -> Way:
        """As it is."""
        return self._of(self.study)

    def scorers(self) -> Way:
        """With learned scorers."""
        found = self.study.learn_scorers(self.asked.train, epochs=self.asked.scorer_epochs, seed=self.asked.seed)
        return self._of(self._run("scorers", found.folder), found.folder)

    def elastic(self) -> Way:
        """On weights for a whole front."""
        found = self.study.tune_elastic(self.asked.train, **self.settings)
        return self._of(self._run("elastic", found.folder), found.folder)

    def both(self) -> Way:
        """Learned scorers on such weights."""
        self.elastic()
        study = ps.load_study("elastic", root=self.root)
        found = study.learn_scorers(self.asked.train, epochs=self.asked.scorer_epochs, seed=self.asked.seed)
        return self._of(self._run("both", found.folder), found.folder)

    def recovered(self) -> Way:
        """Points with a training each; a pick that trains no better stays out."""
        for pick in self.asked.picks:
            if self.study[pick].record.recovered is None:
                self.study.tune(pick, self.asked.train, **self.settings)
        points = [point.record for point in self.study if point.record.recovered is not None]
        weights = [read_weights(self.study.folder.weights, str(point.to_plan().weights)) for point in points]
        told = [point.tuned for point in points if point.tuned is not None]
        plans = [(point.to_plan().schedule, own) for point, own in zip(points, weights, strict=True)]
        return Way(plans, sum(t.seconds for t in told), sum(t.steps for t in told))

    def rival(self, name: str) -> Way:
        """A rival's ladder on weights of its own."""
        encoder = self.setting.geometry
        ladder = ladder_of(name, (encoder.depth, encoder.tokens, encoder.protected))
        learnt = self._work().learn_elastic(ladder, 1.0)
        return Way([(one.schedule, learnt.weights) for one in ladder], learnt.trained.seconds, learnt.trained.steps)

    def equal(self) -> Mapping[str, Tensor]:
        """The unpruned model after the same training."""
        work = self._work()
        settings = work.wanted.settings
        in_epoch = len(work.rows.learnt) / (settings.batch_size * settings.accumulate)
        return work.unpruned(math.ceil(self.asked.epochs * in_epoch)).weights

    def _work(self) -> Tuning:
        wanted = Wanted(TrainingSettings(**self.settings), train=self.asked.train)
        return Tuning(StudyFolder(self.root, "frozen"), wanted, self.setting)

    def _of(self, study: ps.Study, folder: Path | None = None) -> Way:
        plans = [(p.to_plan().schedule, str(p.to_plan().weights)) for p in study.front.points if len(p.to_plan())]
        if folder is None:
            own = [s for s, _ in plans]
            return Way([(schedule, {}) for schedule in own])
        told = json.loads((folder / "plan.json").read_text())["provenance"]["tuned"]
        known = {name: read_weights(folder / "weights", name) for _, name in plans}
        return Way([(s, known[name]) for s, name in plans], told["seconds"], told["steps"])


def judge(ways: Ways, made: Mapping[str, Way]) -> dict[str, Any]:
    """Every plan of every way, evaluated with its weights and timed in one run; the table as data."""
    setting, asked = ways.setting, ways.asked
    task, model = setting.task, setting.task.model
    found: dict[str, list[Judged]] = {}
    every = [(name, plan, weights) for name, way in made.items() for plan, weights in way.plans]
    scorers: dict[str, Tensor] = {}
    for _, _, weights in every:
        scorers |= {key: value for key, value in weights.items() if key.startswith("scorers/")}
    with loaded(model, scorers):  # what they say does not change how long they take
        inputs = task.timing_inputs(setting.config.batch_size)
        timed = measure_schedules(model, inputs, [Plan(), *(plan for _, plan, _ in every)], time_budget_s=asked.seconds)
    whole = timed[0].median_ms
    with apply_(model, Plan(), seed=setting.config.seed) as handle:
        calibration, holdout = (Evaluator(task, handle, split) for split in (task.calibration, task.holdout))
        user = holdout.unpruned()
        for (name, plan, weights), samples in zip(every, timed[1:], strict=True):
            with loaded(model, weights):
                seen = calibration.evaluate(plan, rows=calibration.split.n).quality
                judged = Judged(plan, samples.median_ms, seen, holdout.evaluate(plan, rows=holdout.split.n))
            found.setdefault(name, []).append(judged)
        with loaded(model, ways.equal()):
            equal = holdout.evaluate(Plan(), rows=holdout.split.n)
    rows = [
        _row(name, speed, best_within(tried, whole / speed), best_within(found["frozen"], whole / speed), user, equal)
        for speed in SPEEDUPS
        for name, tried in found.items()
    ]
    spent = {name: {"seconds": way.seconds, "steps": way.steps} for name, way in made.items()}
    return {
        "model": str(asked.model),
        "metric": task.metric,
        "holdout": task.holdout.n,
        "epochs": asked.epochs,
        "scorer_epochs": asked.scorer_epochs,
        "seed": asked.seed,
        "batch_size": setting.config.batch_size,
        "user": user.quality,
        "equal": equal.quality,
        "unpruned_ms": whole,
        "spent": spent,
        "rows": rows,
        "plans": {
            name: [[str(j.schedule), j.ms, j.seen, j.found.quality] for j in tried] for name, tried in found.items()
        },
    }


def _row(
    name: str, speed: float, one: Judged | None, frozen: Judged | None, user: Evaluation, equal: Evaluation
) -> dict[str, Any]:
    row: dict[str, Any] = {"way": name, "speedup": speed}
    if one is None:
        return row
    row |= {"plan": str(one.schedule), "ms": one.ms, "quality": one.found.quality}
    for key, reference in (("to_user", user), ("to_equal", equal), ("to_frozen", frozen and frozen.found)):
        if reference is not None:
            difference = paired_difference_to(reference, one.found)
            row[key] = [difference.value, difference.low, difference.high]
    return row


def show(result: Mapping[str, Any]) -> None:
    """Print the table."""
    user, equal = result["user"], result["equal"]
    print(
        f"{result['metric']} on {result['holdout']} rows: user's model {user:.4f}, after the same training {equal:.4f}"
    )
    print(f"{'':11}" + "".join(f"{name:>26}" for name in result["spent"]))
    for speed in SPEEDUPS:
        cells = []
        for row in (row for row in result["rows"] if row["speedup"] == speed):
            if "quality" not in row:
                cells.append(f"{'-':>26}")
                continue
            change = row.get("to_frozen")
            around = "" if not change else f" {100 * change[0]:+.1f} ({100 * change[1]:+.1f},{100 * change[2]:+.1f})"
            cells.append(f"{100 * row['quality']:.1f}{around}".rjust(26))
        print(f"{speed:>8.2f}x  " + "".join(cells))
    spent = ", ".join(f"{name} {way['steps']} steps in {way['seconds']:.0f} s" for name, way in result["spent"].items())
    print(f"accuracy in points, change to frozen with 95 % interval; spent: {spent}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", default=[*OURS, "tome", "evit", "dynamicvit", "random"])
    parser.add_argument("--picks", nargs="+", default=["best@1.5x", "best@2x"])
    parser.add_argument("--epochs", type=float, default=1.5)
    parser.add_argument("--scorer-epochs", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    ways = Ways(asked)
    made = {name: ways.make(name) for name in dict.fromkeys(["frozen", *asked.ways])}
    result = judge(ways, made)
    write_text_atomic(asked.json or asked.out / "learning.json", json.dumps(result, indent=1) + "\n")
    show(result)


if __name__ == "__main__":
    main()
