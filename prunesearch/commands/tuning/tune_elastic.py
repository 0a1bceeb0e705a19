"""`prunesearch tune STUDY --elastic`: one training whose weights serve every plan near the front of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prunesearch import __version__
from prunesearch.commands.tuning.judging import Judging, Tuning, Wanted, to_recover
from prunesearch.compress.fits import fits_for
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import plan as plan_steps
from prunesearch.core.events import say, step
from prunesearch.core.files import load_json, write_bytes_atomic, write_text_atomic
from prunesearch.core.plans.plan import Plan
from prunesearch.export.models.card import model_card
from prunesearch.export.schedules.native import schedule_json
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import find_encoder
from prunesearch.pruning.forward.artefacts import weights_path
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.settings.given_weights import PLAN
from prunesearch.study.setup import make_setting
from prunesearch.study.trials import TrialRecord, read_trials, study_place
from prunesearch.tasks.base import Task
from prunesearch.training.elastic import near_the_front
from prunesearch.training.processes import alone_together, target_of
from prunesearch.training.recover import Learnt, School

ELASTIC = "elastic"  # the folder, in that of the study
_SHARE = 0.7  # of the time asked for: a step has four passes of the student, one of the second reference has one


@dataclass(frozen=True)
class ElasticWeights:
    """Weights for a whole front, in a folder that `run --weights` takes.

    Attributes:
        folder: with `plan.json`, `weights/` and a card.
        judged: the unpruned model and every point of the study that has what to recover: its quality on the model's own
            weights (`before`) and on these (`after`) on the holdout split, with paired differences to `before`, to the
            user's model (`to_unpruned`) and to the unpruned model after the same training (`to_equal`).
        equal: quality of that model.
    """

    folder: Path
    judged: list[dict[str, Any]]
    equal: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> ElasticWeights:
        """What `tune_elastic` wrote.

        Raises:
            PruneSearchError: if it is not there, or not that.
        """
        data = load_json(folder / PLAN, "plan", "give the folder that `prunesearch tune STUDY --elastic` wrote")
        facts = data.get("provenance", {})
        if "equal_quality" not in facts:
            raise PruneSearchError(f"{folder} must be of an elastic training, but it is of another")
        return cls(folder, facts["judged"], facts["equal_quality"])


def tune_elastic(
    folder: StudyFolder,
    front: Front,
    wanted: Wanted,
    *,
    task: Task | None = None,
    model: nn.Module | None = None,
    school: type[School] = School,
) -> ElasticWeights:
    """Train one set of weights for every plan near a study's front, judge it at its points, and write it down.

    The same call goes on where it was interrupted.

    Args:
        folder: of the study.
        front: its front.
        wanted: rows, and how long; epochs are passes over the rows, each with four plans.
        task, model: as `tune` takes them.
        school: what trains.

    Raises:
        PruneSearchError: for bad input, in one line.
    """
    storage = folder.load_config().get("storage")
    trials = [r for r in read_trials(**study_place(folder, storage)) if r.rows is None]
    near = _near(trials)
    if not near:
        raise PruneSearchError(
            f"an elastic training draws plans that study '{folder.name}' has tried, but none of them has stages, or "
            "halves of blocks that are smaller or left out: nothing would be elastic"
        )
    plan_steps(4)
    config = RunConfig(**front.config)
    target = target_of(config)
    with alone_together(folder, target.device) as first:
        step(f"loading {front.model.id}")
        setting = make_setting(config, target=target, task=task, model=model)
        find_encoder(setting.task.model)  # decoders are not trained yet
        fits = fits_for([*near, *(point.to_plan() for point in front.points)], folder.path)
        work = Tuning(folder, wanted, setting, school, fits)
        learnt = work.learn_elastic(near, _SHARE)
        equal = work.reference(learnt)
        if first:
            _judge(work, learnt, equal, front)
    return ElasticWeights.load(folder.path / ELASTIC)


def _judge(work: Tuning, learnt: Learnt, equal: Learnt | None, front: Front) -> None:
    """Judge the weights at the points of the study, and write them down."""
    setting = work.setting
    step("judging the points of the study on rows that no training has seen")
    with apply_(setting.task.model, Plan(), seed=setting.config.seed, fits=work.fits) as handle:
        judging = Judging.of(work, equal, handle)
        plans = {p.id: p.to_plan().on_own_weights for p in front.points if to_recover(p.to_plan())}
        judged = judging.on_shared({"unpruned": Plan(), **plans}, learnt)
    speeds = {p.id: p.speedup for p in front.points}
    judged = [{**row, "speedup": speeds.get(row["point"], 1.0)} for row in judged]
    better = sum(row["calibration_after"] > row["calibration_before"] for row in judged)
    say(f"on the calibration rows {better} of {len(judged)} are better than on the model's own weights")
    _write(work.folder, judging, learnt, judged, front)


def _near(trials: Sequence[TrialRecord]) -> list[Plan]:
    """The plans to draw: of the precision that most were tried in, since costs and losses of two are two fronts."""
    reduced = [r for r in trials if to_recover(r.plan)]
    if not reduced:
        return []
    ((most, _),) = Counter(r.plan.whole for r in reduced).most_common(1)
    return near_the_front([(r.plan.shaped, r.predicted_ms, r.loss) for r in reduced if r.plan.whole == most])


def _write(folder: StudyFolder, judging: Judging, learnt: Learnt, judged: list[dict[str, Any]], front: Front) -> None:
    place = folder.path / ELASTIC
    names = [learnt.name, *([] if judging.equal is None else [judging.equal.name])]
    for name in names:
        write_bytes_atomic(weights_path(place / "weights", name), weights_path(folder.weights, name).read_bytes())
    metric, equal = judging.task.metric, judging.equal_quality
    plan = Plan(weights=learnt.name)
    facts = {
        "model": {"id": front.model.id},
        "metric": metric,
        "tuned": judging.work.told(learnt),
        "equal": None if judging.equal is None else judging.equal.name,
        "equal_quality": equal.model_dump(),
        "judged": judged,
        "prunesearch": __version__,
    }
    remarks = [
        f"Its weights (`{learnt.name}`) serve plans near the front of study `{front.study}`; each step trained the "
        "unpruned model, the smallest plan and two others.",
        *(
            f"{row['point']} ({row['text']}): {metric} on held-out rows {row['before']['value']:.4f} on the model's "
            f"own weights, {row['after']['value']:.4f} on these."
            for row in judged
        ),
        f"The unpruned model after the same training alone: {equal.value:.4f}.",
        "`prunesearch run --weights FOLDER ...` searches on it.",
    ]
    write_text_atomic(place / "README.md", model_card(plan, {}, remarks=remarks))
    write_text_atomic(place / PLAN, schedule_json(plan, facts))  # last: where it lies, the training is finished
