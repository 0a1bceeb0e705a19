"""`prunesearch compare`: every method in the house on the user's model, at equal measured latency."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunesearch import __version__
from prunesearch.commands.tuning.judging import Wanted
from prunesearch.commands.tuning.learn_scorers import SCORERS_FOLDER, learn_scorers
from prunesearch.compress.fits import fits_for
from prunesearch.core.budget import Budget
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import plan as plan_steps
from prunesearch.core.events import step
from prunesearch.core.files import load_json
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.stage import ENCODER
from prunesearch.core.tables.rival_table import RIVALS
from prunesearch.core.tables.row_kinds import RivalRow
from prunesearch.core.tables.token_tables import SCORERS
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.forward.artefacts import loaded, read_weights
from prunesearch.search.costs.costing import Coster
from prunesearch.search.finish.illustrate import report_study
from prunesearch.search.finish.kept import Kept
from prunesearch.search.rivals.arena import Arena, Effort
from prunesearch.search.rivals.comparing import Comparing
from prunesearch.search.rivals.meeting import Timing, timing_of
from prunesearch.search.rivals.row_by_row import RowWork
from prunesearch.search.space.space import SpaceFile
from prunesearch.search.trials.search_rows import SEARCH_ROWS
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.settings.given_weights import PLAN
from prunesearch.study.setup import Setting, make_setting
from prunesearch.study.storage.alone import Alone
from prunesearch.study.trials import read_attributes, read_trials, study_place
from prunesearch.tasks.base import Task
from prunesearch.training.settings import TrainingSettings

_FOLDER = "compare"  # in that of the study: what was timed and judged
_COST = "latency"
_USUAL = "2x"  # where neither the call nor the study says how fast
_LEAST_ROWS = 64


@dataclass(frozen=True)
class CompareSettings:
    """What is asked for.

    Attributes:
        methods: names in `RIVALS`; empty: all that need no training, and learned ones that have weights in the study.
        budget: the latency that all are brought to, as `2x`, `60%` or `10ms`; None: the study's own, or 2x.
        rows: of the holdout split, at most; None: all.
        seconds: of timing, in all.
        train: rows for learned scorers that are asked for and have no weights, as `tune` takes them.
        training: how they are trained.
    """

    methods: tuple[str, ...] = ()
    budget: str | None = None
    rows: int | None = None
    seconds: float = 60.0
    train: Any = None
    training: TrainingSettings | None = None

    def __post_init__(self) -> None:
        for name in self.methods:
            RIVALS.entry(name)
        if self.budget is not None:
            self.bound(self.budget)
        if self.rows is not None and self.rows < _LEAST_ROWS:
            raise PruneSearchError(f"`rows >= {_LEAST_ROWS}` must hold, but got {self.rows}: intervals need as many")
        if not self.seconds > 0:
            raise PruneSearchError(f"`seconds > 0` must hold, but got {self.seconds}")

    @staticmethod
    def bound(text: str) -> Budget:
        """The latency that a text asks for.

        Raises:
            PruneSearchError: if it bounds something else.
        """
        found = Budget.parse(text)
        if found.cost(_COST) != _COST:
            raise PruneSearchError(
                f"methods are compared at equal latency, but budget '{text}' is of {found.kind}: give 2x, 60% or 10ms"
            )
        return found


def compare(
    folder: StudyFolder,
    front: Front,
    wanted: CompareSettings,
    *,
    task: Task | None = None,
    timing: Timing | None = None,
    row_work: type[RowWork] = RowWork,
) -> Front:
    """Bring methods to one latency on a finished study's model, judge them, and write it down.

    Nothing that the study knows is measured again: cost table, one-stage losses and trials are its own. The same call
    goes on where it was interrupted.

    Args:
        folder: of the study; its front and report are written again.
        front: its front.
        wanted: what is asked for.
        task: of a study of a caller's own model: the model with its data again.
        timing: what times plans; None: the device, as the study did.
        row_work: what chooses plans row by row, and times that.

    Returns:
        The front with `compared`.

    Raises:
        PruneSearchError: if methods cannot be compared on this study, in one line.
    """
    budget = wanted.budget or _own_budget(front)
    share = _share(front, CompareSettings.bound(budget))
    if front.model.part != ENCODER:
        raise PruneSearchError(
            f"methods are compared on encoders, but study '{front.study}' reduces a {front.model.part}: its front is "
            "what there is"
        )
    names = _train(folder, front, wanted, task)
    plan_steps(6)
    with Alone(folder):
        step(f"loading {front.model.id}")
        setting = make_setting(RunConfig(**front.config), task=task)
        _check(front, setting)
        place = study_place(folder, folder.load_config().get("storage"))
        trials, attributes = read_trials(**place), read_attributes(**place)
        fits = fits_for([record.plan for record in trials], folder.path)
        tensors, learnt = learnt_scorers(_place(folder, front))
        with (
            apply_(setting.task.model, Plan(), seed=setting.config.seed, fits=fits) as handle,
            _scorers(setting, tensors),
        ):
            space = SpaceFile.load(setting.config.space_path or handle.encoder.family.space)
            geometry = setting.geometry
            fitted = space.fit(geometry.depth, geometry.tokens, geometry.protected)
            costing = Coster(setting, folder, handle, fitted, None).find()
            rows = int(attributes.get(SEARCH_ROWS, setting.config.search_samples))
            kept = Kept(folder.path / _FOLDER, _conditions(setting, tensors))
            arena = Arena(front, folder, setting, handle, costing, trials, rows, share, kept, learnt)
            work = Comparing(arena, timing or timing_of(arena), wanted.seconds, wanted.rows, row_work)
            found = work.go(names, budget)
            front = front.model_copy(update={"compared": found})
            report_study(folder, front, setting, handle, trials)
        front.save(folder.front)
    return front


def _own_budget(front: Front) -> str:
    """The study's, where it is of latency."""
    asked = front.config.get("budget")
    if asked is not None and Budget.parse(str(asked)).cost(front.objectives[0]) == _COST:
        return str(asked)
    return _USUAL


def _share(front: Front, budget: Budget) -> float:
    """The share of the unpruned latency that a budget leaves.

    Raises:
        PruneSearchError: if it leaves all of it.
    """
    unpruned = front.unpruned.latency.value
    share = budget.limit(unpruned) / unpruned
    if share >= 1:
        raise PruneSearchError(
            f"methods must be faster than the unpruned model ({unpruned:.3g} ms), but got {budget.text}: give 2x"
        )
    return share


def _check(front: Front, setting: Setting) -> None:
    """Refuse what has no equal latency here."""
    if not setting.target.here:
        raise PruneSearchError(
            "methods are compared at measured latency, but the study's device is not at hand: run it there"
        )
    if setting.weights is not None and setting.weights.own:
        raise PruneSearchError(
            f"methods are compared on the model's own weights, but study '{front.study}' was run on trained ones "
            "(--weights): compare a study without"
        )


# -- learned scorers ---------------------------------------------------------------------------------------------------


def _place(folder: StudyFolder, front: Front) -> Path:
    """Where weights of learned scorers are: those that the study was run on, or that were trained for it."""
    given = front.config.get("weights")
    return folder.path / SCORERS_FOLDER if given is None else Path(str(given))


def learnt_scorers(place: Path) -> tuple[dict[str, Tensor], dict[str, Effort]]:
    """The weights that `learn-scorers` left in a folder, and what each took; nothing where it left none."""
    if not (place / PLAN).exists():
        return {}, {}
    data = load_json(place / PLAN, "plan")
    facts, name = data.get("provenance", {}), Plan.from_dict(data).weights
    efforts = {scorer: Effort(**took) for scorer, took in facts.get("learnt", {}).items()}
    return ({} if name is None else read_weights(place / "weights", name)), efforts


@contextmanager
def _scorers(setting: Setting, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the model has the weights of learned scorers."""
    with loaded(setting.task.model, tensors):
        yield


def _train(folder: StudyFolder, front: Front, wanted: CompareSettings, task: Task | None) -> list[str]:
    """The methods that take part; learned scorers that were asked for and have no weights are trained first."""
    known = learnt_scorers(_place(folder, front))[1]
    learned = {name: row.scorer for name, row in RIVALS.entries().items() if _learned(row)}
    if not wanted.methods:
        return [name for name in RIVALS if name not in learned or learned[name] in known]
    names = list(dict.fromkeys(wanted.methods))
    asked = [learned[name] for name in names if name in learned]
    if set(asked) - set(known):
        training = Wanted(wanted.training or TrainingSettings(), train=wanted.train)
        learn_scorers(folder, front, training, list(dict.fromkeys([*known, *asked])), task=task)
    return names


def _learned(row: RivalRow) -> bool:
    return bool(row.scorer) and SCORERS.entry(row.scorer).learned


def _conditions(setting: Setting, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What else than plans could change what is timed and judged."""
    config, task = setting.config, setting.task
    return {
        "prunesearch": __version__,
        "rows": [task.holdout.n, *config.robust, config.severity, config.robust_rows, config.over],
        "metric": task.metric,
        "asked": [config.eval_batch_size, config.batch_size, config.mode, config.concurrency],
        "machine": [platform.node(), torch.__version__, torch.get_num_threads()],
        "learned": told_apart(tensors),
    }


def told_apart(tensors: Mapping[str, Tensor]) -> float:
    """One number that tells weights from others, whatever order a file gives them in: sums round by their order."""
    return math.fsum(float(value.double().abs().sum()) for value in tensors.values())


def chosen_methods(texts: Sequence[str]) -> tuple[str, ...]:
    """Names as typed, one by one or with commas."""
    return tuple(name for text in texts for name in text.split(",") if name)
