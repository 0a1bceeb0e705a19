"""`prunesearch learn-scorers STUDY`: scorers whose weights are trained on the user's rows, without labels."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunesearch import __version__
from prunesearch.commands.tuning.judging import SCRATCH, Tuning, Wanted
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import plan as plan_steps
from prunesearch.core.events import say, step, track
from prunesearch.core.files import load_json, write_text_atomic
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.token_tables import LEARNED
from prunesearch.export.models.card import model_card
from prunesearch.export.schedules.native import schedule_json
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import find_encoder
from prunesearch.pruning.forward.artefacts import loaded, save_weights, weights_path
from prunesearch.search.space.space import SpaceFile
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.settings.given_weights import PLAN
from prunesearch.study.setup import Setting, make_setting
from prunesearch.tasks.base import Task
from prunesearch.tasks.objects import digest_of
from prunesearch.training.processes import alone_together, target_of
from prunesearch.training.scorers.lesson import ScorerSchool
from prunesearch.training.trainer import Trained

SCORERS_FOLDER = "scorers"  # in that of the study
METHODS = ("saliency", "leave_one_out")  # where none are asked for
_KEEPS = (0.5, 0.25)  # of the stages that scorers are judged at, one at a time, what is not kept is dropped
_BLOCKS = 3  # that have such a stage, at most
_ROWS = 1024  # of the holdout split, at most


@dataclass(frozen=True)
class LearntScorers:
    """Weights of learned scorers, in a folder that `run --weights` takes.

    Attributes:
        folder: with `plan.json`, `weights/` and a card.
        judged: of every rule of the study's space, every learned scorer and the control: its divergence on holdout rows
            at each of some stages (`losses`, by the stage), and the geometric mean of its ratio to the control's.
        best_rule: the one of the least such mean; it was chosen on the same rows, which flatters it.
    """

    folder: Path
    judged: list[dict[str, Any]]
    best_rule: str

    @classmethod
    def load(cls, folder: Path) -> LearntScorers:
        """What `learn_scorers` wrote.

        Raises:
            PruneSearchError: if it is not there, or not that.
        """
        data = load_json(folder / PLAN, "plan", "give the folder that `prunesearch learn-scorers STUDY` wrote")
        facts = data.get("provenance", {})
        if "best_rule" not in facts:
            raise PruneSearchError(f"{folder} must be of learned scorers, but it is of another training")
        return cls(folder, facts["judged"], facts["best_rule"])


def learn_scorers(
    folder: StudyFolder,
    front: Front,
    wanted: Wanted,
    methods: Sequence[str] = METHODS,
    *,
    task: Task | None = None,
    model: nn.Module | None = None,
) -> LearntScorers:
    """Train learned scorers on rows of one's own, and a control; compare them with the rules, and write them down.

    The same call goes on where it was interrupted.

    Args:
        folder: of the study.
        front: its front.
        wanted: rows and epochs; of the settings `parameters` and `augment` mean nothing here.
        methods: names in `LEARNED`.
        task, model: as `tune` takes them.

    Raises:
        PruneSearchError: for bad input, in one line.
    """
    control = next(name for name, row in LEARNED.entries().items() if row.control)
    names = [*dict.fromkeys(name for name in methods if name != control), control]
    for name in names:
        LEARNED.entry(name)
    if wanted.settings.seconds is not None:
        raise PruneSearchError("scorers are trained for so many epochs each, but got --time: use --epochs")
    plan_steps(len(names) + 2)
    config = RunConfig(**front.config)
    target = target_of(config)
    with alone_together(folder, target.device) as first:
        step(f"loading {front.model.id}")
        setting = make_setting(config, target=target, task=task, model=model)
        find_encoder(setting.task.model)  # decoders are not trained yet
        rows = Tuning(folder, wanted, setting).rows
        school = ScorerSchool(setting.task, rows, wanted.settings, folder.path / SCRATCH)
        tensors: dict[str, Tensor] = {} if setting.weights is None else dict(setting.weights.tensors)
        learnt: dict[str, Trained] = {}
        for name in names:
            step(f"learning {name}: {LEARNED.entry(name).help}")
            found, learnt[name] = school.learn(name, _key(name, wanted, setting, rows.digest))
            tensors |= found
        if first:
            _judge_and_write(folder, front, wanted, setting, school, tensors, learnt)
    return LearntScorers.load(folder.path / SCORERS_FOLDER)


def _judge_and_write(
    folder: StudyFolder,
    front: Front,
    wanted: Wanted,
    setting: Setting,
    school: ScorerSchool,
    tensors: Mapping[str, Tensor],
    learnt: Mapping[str, Trained],
) -> None:
    """Compare what was learnt with the control, which comes last, and with the rules; write all but the control."""
    step("judging scorers at single stages on holdout rows")
    names, rows = list(learnt), school.rows
    control = names[-1]
    judged = _judged(setting, tensors, names, control)
    rules = [row for row in judged if not row["learned"]]
    best = min(rules, key=lambda row: float(row["to_control"]))["scorer"]
    _say(judged, best, control)
    weights = {name: value for name, value in tensors.items() if f"/{control}/" not in name}
    told = _told(wanted, rows.said, len(rows.learnt), school, learnt)
    batch = school.amount.batch_size * school.amount.accumulate
    each = {name: {"seconds": found.seconds, "rows": found.steps * batch} for name, found in learnt.items()}
    facts = {"tuned": told, "judged": judged, "best_rule": best, "learnt": each}
    _write(folder, front, setting, weights, facts)


def _key(name: str, wanted: Wanted, setting: Setting, rows: str) -> str:
    """What tells a training from all others of the study."""
    on = None if setting.weights is None else setting.weights.name
    facts = ["scorer", name, wanted.settings.to_dict(), rows, digest_of(setting.task), on, __version__]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _judged(
    setting: Setting, tensors: Mapping[str, Tensor], names: Sequence[str], control: str
) -> list[dict[str, Any]]:
    """Divergences of every scorer at single stages; see `LearntScorers`."""
    task, depth = setting.task, setting.geometry.depth
    blocks = sorted({round(i * max(depth - 2, 0) / max(_BLOCKS - 1, 1)) for i in range(_BLOCKS)})
    rules = SpaceFile.load(setting.config.space_path).scorers
    cells = [(block, keep) for block in blocks for keep in _KEEPS]
    found: list[dict[str, Any]] = []
    with apply_(task.model, Plan(), seed=setting.config.seed) as handle, loaded(task.model, tensors):
        evaluator = Evaluator(task, handle, task.holdout.take(_ROWS))
        scorers = list(dict.fromkeys([*rules, *names]))
        for scorer in track(scorers, len(scorers), "scorers"):
            losses = {}
            for block, keep in cells:
                losses[f"{block}:{keep}"] = evaluator.evaluate(Schedule([Stage(block, keep, scorer, "drop")])).loss
            found.append({"scorer": scorer, "learned": scorer in LEARNED, "losses": losses})
    base = next(row["losses"] for row in found if row["scorer"] == control)
    for row in found:
        logs = [math.log(max(loss, 1e-12) / max(base[cell], 1e-12)) for cell, loss in row["losses"].items()]
        row["to_control"] = math.exp(sum(logs) / len(logs))
    return sorted(found, key=lambda row: row["to_control"])


def _say(judged: Sequence[Mapping[str, Any]], best: str, control: str) -> None:
    """A line each learned scorer: whether it beats the control, and the best rule."""
    rule = next(row["to_control"] for row in judged if row["scorer"] == best)
    for row in judged:
        if row["learned"] and row["scorer"] != control:
            ratio = row["to_control"]
            beats = "has learnt something" if ratio < 1 else f"is no better than {control}: it has learnt nothing"
            than = "less" if ratio < rule else "not less"
            say(
                f"{row['scorer']} {beats} ({ratio:.2f} times its divergence), and {than} than the best rule's, "
                f"{best} ({rule:.2f})"
            )


def _told(wanted: Wanted, data: str, rows: int, school: ScorerSchool, learnt: Mapping[str, Trained]) -> dict[str, Any]:
    amount = school.amount
    batch = amount.batch_size * amount.accumulate
    steps = sum(found.steps for found in learnt.values())
    return {
        "parameters": f"scorers {', '.join(learnt)}",
        "data": data,
        "rows": rows,
        "labels": False,
        "epochs": steps * batch / rows,
        "steps": steps,
        "seconds": sum(found.seconds for found in learnt.values()),
        "batch_size": batch,
        "learning_rate": amount.rate,
        "seed": wanted.settings.seed,
    }


def _write(
    folder: StudyFolder, front: Front, setting: Setting, weights: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    place = folder.path / SCORERS_FOLDER
    name = save_weights(place / "weights", weights, {"format": "pt", "tuned": facts["tuned"]["parameters"]})
    equal = None if setting.weights is None else setting.weights.equal
    if equal is not None and setting.weights is not None:
        source = weights_path(setting.weights.folder, equal)
        (place / "weights" / source.name).write_bytes(source.read_bytes())
    plan = Plan(weights=name)
    more = {"model": {"id": front.model.id}, "metric": setting.task.metric, "equal": equal, "prunesearch": __version__}
    remarks = [
        f"`{name}` has the weights of {facts['tuned']['parameters']}, trained without labels on "
        f"{facts['tuned']['data']}; the model's own are as they were.",
        *(
            f"{row['scorer']}: {row['to_control']:.3f} times the divergence of the control, geometric mean over "
            f"{len(row['losses'])} single stages"
            for row in facts["judged"]
        ),
        "`prunesearch run --weights FOLDER ...` searches with them.",
    ]
    write_text_atomic(place / "README.md", model_card(plan, {}, remarks=remarks))
    write_text_atomic(place / PLAN, schedule_json(plan, {**more, **facts}))
