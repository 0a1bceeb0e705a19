"""What the steps of a run hand on, each to the next."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from optuna import Study

from prunesearch.core.plans.plan import Plan
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.pruning.apply import Handle
from prunesearch.search.costs.costing import Costing
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.plan_space import PlanSpace
from prunesearch.search.space.space import Space
from prunesearch.search.trials.evaluate import Evaluation, Evaluator
from prunesearch.study.folder import StudyFolder
from prunesearch.study.setup import Setting
from prunesearch.study.storage.alone import Alone
from prunesearch.study.trials import open_study, study_place
from prunesearch.tasks.batching.batches import EvalSet


@dataclass(frozen=True)
class Run:
    """What every step of a run stands on.

    Attributes:
        setting: what the run is of.
        folder: of the study, where a step finds what was done before, and leaves what it does.
        lock: of the folder; it is free while schedules are searched.
        handle: of the setting's model, without a schedule between two steps.
        space: of the run, as its file has it.
        meter: of the device's energy, where that is asked for and the device is at hand.
        began: when the model was loaded, in seconds of `time.monotonic`.
    """

    setting: Setting
    folder: StudyFolder
    lock: Alone
    handle: Handle
    space: Space
    meter: EnergyMeter | None = None
    began: float = field(default_factory=time.monotonic)

    def open_study(self) -> Study:
        """The Optuna study of the folder, made or resumed."""
        config = self.setting.config
        return open_study(objectives=config.objectives, **study_place(self.folder, config.storage))


@dataclass(frozen=True)
class Priced:
    """After the first step: every schedule of the space has a price, and some are within the bounds.

    Attributes:
        resumed: the study, where there is one.
    """

    run: Run
    costing: Costing
    resumed: Study | None


@dataclass(frozen=True)
class Probed:
    """After the second: what single stages lose, and the schedules that this says are worth a try.

    Attributes:
        space: the methods and the precisions that are worth proposing.
        split: calibration rows that trials are evaluated on.
        seeds: plans inside every bound, solved for.
        evaluator: on the split.
    """

    priced: Priced
    space: PlanSpace
    split: EvalSet
    sensitivities: Sensitivities
    seeds: list[Plan]
    evaluator: Evaluator


@dataclass(frozen=True)
class Searched:
    """After the third: a study with finished trials.

    Attributes:
        unpruned: the unpruned model on the rows of the search.
        stopped: why the search ended.
    """

    probed: Probed
    study: Study
    unpruned: Evaluation
    stopped: str | None
