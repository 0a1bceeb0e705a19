"""`prunesearch tune --model M --schedule S`: a schedule that is known already, without a study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prunesearch import __version__
from prunesearch.commands.tuning.judging import Judging, Outcome, Tuning, Wanted
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import plan as plan_steps
from prunesearch.core.events import say, step
from prunesearch.core.files import load_json, write_text_atomic
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.models.card import model_card
from prunesearch.export.schedules.native import schedule_json
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import find_encoder
from prunesearch.pruning.forward.artefacts import with_weights
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.settings.given_weights import PLAN
from prunesearch.study.setup import make_setting
from prunesearch.tasks.base import Task
from prunesearch.training.processes import alone_together, target_of
from prunesearch.training.recover import Learnt, School


@dataclass(frozen=True)
class TunedSchedule:
    """A plan with weights of its own, in a folder: `plan.json`, `weights/` and a card."""

    folder: Path
    plan: Plan

    @classmethod
    def load(cls, folder: Path) -> TunedSchedule:
        """What `tune_schedule` wrote.

        Raises:
            PruneSearchError: if it is not there, or not that.
        """
        data = load_json(folder / PLAN, "plan", "give the folder that `prunesearch tune --schedule` wrote")
        return cls(folder, Plan.from_dict(data))

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Within the block, `model` runs with stages and weights, in place; afterwards it is as it was."""
        with with_weights(model, self.plan, self.folder / "weights") as plan, apply_(model, plan):
            yield model


def tune_schedule(
    config: RunConfig,
    schedule: Schedule,
    wanted: Wanted,
    path: Path,
    *,
    task: Task | None = None,
    model: nn.Module | None = None,
    school: type[School] = School,
) -> TunedSchedule | None:
    """Train a model under a schedule, judge it, and write plan, weights and card into a folder.

    The same call goes on where it was interrupted.

    Args:
        config: model, data and device.
        schedule: of one's own, or from elsewhere; it must have stages.
        wanted: rows, and how they are trained.
        path: of the folder; it is made.
        task: a model with its data, in place of the configuration's.
        model: the same, with the data that the configuration names.
        school: what trains.

    Returns:
        None where the trained weights are not better on the calibration rows; no plan is written then.

    Raises:
        PruneSearchError: for bad input, in one line.
    """
    if not len(schedule):
        raise PruneSearchError("a schedule with token stages is tuned, but it has none: nothing would be recovered")
    plan_steps(4)
    folder = StudyFolder.create(path.name, path.parent)
    target = target_of(config)
    with alone_together(folder, target.device) as first:
        step("loading the model")
        setting = make_setting(config, target=target, task=task, model=model)
        find_encoder(setting.task.model)  # decoders are not trained yet
        for note in setting.notes:
            say(note)
        plan = Plan(schedule)
        work = Tuning(folder, wanted, setting, school)
        learnt = work.learn(plan, "the schedule")
        equal = work.reference(learnt)
        better = first and _judge(work, plan, learnt, equal)
    if not first:
        better = (folder.path / PLAN).exists()
    return TunedSchedule.load(folder.path) if better else None


def _judge(work: Tuning, plan: Plan, learnt: Learnt, equal: Learnt | None) -> bool:
    """Judge the plan on its weights, and write both down if they are better than the model's own; whether they are."""
    setting, folder = work.setting, work.folder.path
    step("judging it on rows that no training has seen")
    with apply_(setting.task.model, Plan(), seed=setting.config.seed) as handle:
        outcome = Judging.of(work, equal, handle).outcome(plan, learnt, "the schedule")
    if outcome is None:
        return False
    _write(folder, outcome, setting.source.shown, setting.task.metric, None if equal is None else equal.name)
    return True


def _write(folder: Path, outcome: Outcome, model: str, metric: str, equal: str | None) -> None:
    quality, tuned = outcome.quality, outcome.tuned
    facts = {
        "model": {"id": model},
        "metric": metric,
        "quality": quality.model_dump(),
        "fidelity": outcome.fidelity.model_dump(),
        "tuned": tuned.model_dump(),
        "equal": equal,
        "prunesearch": __version__,
    }
    write_text_atomic(folder / PLAN, schedule_json(outcome.plan, facts))
    speed = "" if tuned.speedup is None else f" It was measured at {tuned.speedup:.2f}x the unpruned model's speed."
    remarks = [
        f"Its weights (`{outcome.plan.weights}`) were trained under this schedule: {tuned.text}.{speed}",
        f"{metric} on held-out rows: {tuned.before.value:.4f} before, {quality.value:.4f} after; the unpruned model "
        f"after the same training {tuned.equal.value:.4f}.",
        "In Python: `with ps.load_tuned(FOLDER).applied(model): ...`",
    ]
    write_text_atomic(folder / "README.md", model_card(outcome.plan, {}, remarks=remarks))
