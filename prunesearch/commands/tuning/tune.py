"""`prunesearch tune`: the points of a front trained under their schedules, and judged as everything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from prunesearch.commands.tuning.judging import Judging, Tuning, Wanted, to_recover
from prunesearch.compress.fits import fits_for
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import plan as plan_steps
from prunesearch.core.events import step
from prunesearch.core.files import write_text_atomic
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.tables.registry import CHANGES
from prunesearch.core.tables.training_tables import PARAMETERS
from prunesearch.export.models.card import model_card
from prunesearch.export.pick import pick
from prunesearch.export.schedules.native import provenance_of
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import find_encoder
from prunesearch.pruning.forward.artefacts import weights_path
from prunesearch.search.finish.illustrate import report_study
from prunesearch.search.finish.tuned import with_tuned
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.front_items import Point
from prunesearch.study.setup import make_setting
from prunesearch.study.trials import TrialRecord, read_trials, study_place
from prunesearch.tasks.base import Task
from prunesearch.training.processes import alone_together, target_of
from prunesearch.training.recover import Learnt, School


def tune(
    folder: StudyFolder,
    front: Front,
    wanted: Wanted,
    *,
    task: Task | None = None,
    model: nn.Module | None = None,
    school: type[School] = School,
) -> Front:
    """Train the weights of points of a study under their schedules, and write the front with what came of it.

    The same call goes on where it was interrupted. A point whose trained weights are not better on the calibration rows
    keeps what it has.

    Args:
        folder: of the study.
        front: its front.
        wanted: what is asked for.
        task: of a study of a caller's own model: the model with its data again.
        model: the same, with the data that the study names.
        school: what trains.

    Raises:
        PruneSearchError: for bad input, in one line; trainings that are done are kept.
    """
    points = _asked(front, wanted.pick, wanted.settings.parameters)
    plan_steps(len(points) + 3)
    config = RunConfig(**front.config)
    target = target_of(config)
    with alone_together(folder, target.device) as first:
        step(f"loading {front.model.id}")
        setting = make_setting(config, target=target, task=task, model=model)
        find_encoder(setting.task.model)  # decoders are not trained yet
        fits = fits_for([point.to_plan() for point in front.points], folder.path)
        work, share = Tuning(folder, wanted, setting, school, fits), 1 / (len(points) + 1)  # the second reference's too
        learnt: dict[str, Learnt] = {}
        for point in points:  # the slowest first: as many steps of any other fit into its time
            steps = next((found.amount.steps for found in learnt.values()), None)
            learnt[point.id] = work.learn(point.to_plan().on_own_weights, point.id, share, steps)
        equal = work.reference(next(iter(learnt.values())))
        if first:
            front = _judge(work, front, points, learnt, equal)
    return front if first else Front.load(folder.front)


def _judge(
    work: Tuning, front: Front, points: Sequence[Point], learnt: Mapping[str, Learnt], equal: Learnt | None
) -> Front:
    """Judge the points, and write the front with what came of it, the report, and a card for each."""
    folder, setting = work.folder, work.setting
    step(f"judging {len(points)} tuned points on rows that no training has seen")
    with apply_(setting.task.model, Plan(), seed=setting.config.seed, fits=work.fits) as handle:
        judging = Judging.of(work, equal, handle)
        tuned = [found for point in points if (found := _judged(judging, point, learnt[point.id])) is not None]
        front = with_tuned(front, tuned, blind=judging.blind)
        report_study(folder, front, setting, handle, _trials(folder))
    front.save(folder.front)
    for point in tuned:
        _write_card(folder, front, point)
    return front


def _judged(judging: Judging, point: Point, learnt: Learnt) -> Point | None:
    """The point on its trained weights; None where it stays as it is."""
    first, old = next(iter(point.qualities.items()))
    before = None if point.tuned is None else point.tuned.before
    if before is None and point.rows in (None, judging.task.holdout.n):
        before = old  # else it is of fewer rows than what it is compared with
    found = judging.outcome(point.to_plan().on_own_weights, learnt, point.id, before)
    if found is None:
        return None
    return point.model_copy(
        update={
            "plan": found.plan.to_dict(),
            "text": str(found.plan),
            "qualities": {**point.qualities, first: found.quality},
            "fidelity": found.fidelity,
            "classes": found.classes,
            "groups": found.groups,
            "rows": judging.task.holdout.n,
            "tuned": found.tuned,
        }
    )


def _trials(folder: StudyFolder) -> list[TrialRecord]:
    return read_trials(**study_place(folder, folder.load_config().get("storage")))


def _asked(front: Front, spec: str | None, parameters: str) -> list[Point]:
    """The points to train: those that reduce tokens, or have halves of blocks smaller or left out."""
    if front.combined is not None:
        raise PruneSearchError(
            f"weights are trained for one quality, but study '{front.study}' has {len(front.unpruned.qualities) - 1} "
            "(--robust): tune a study without"
        )
    chosen = [pick(front, spec)] if spec is not None else front.points
    able = [point for point in chosen if to_recover(point.to_plan())]
    if not able:
        named = f"{chosen[0].id} ({chosen[0].text}) has none" if chosen else "the front has no point"
        raise PruneSearchError(
            f"points with token stages, or blocks that are smaller or left out, are tuned, but {named}: nothing is to "
            "be recovered"
        )
    smaller = next((point for point in able if any(map(_fitted, point.to_plan().changes))), None)
    if smaller is not None and PARAMETERS.entry(parameters).replaces:
        raise PruneSearchError(
            f"parameters '{parameters}' stand in the places of linear layers, but {smaller.id} ({smaller.text}) has "
            "others there: choose --parameters full or norms, or another --pick"
        )
    return able


def _fitted(change: Change) -> bool:
    return CHANGES.entry(change.kind).fitted


def _write_card(folder: StudyFolder, front: Front, point: Point) -> None:
    """The model card of the weights, beside them."""
    plan = point.to_plan()
    path = weights_path(folder.weights, str(plan.weights))
    write_text_atomic(path.with_suffix(".md"), model_card(plan, provenance_of(point, front)))
