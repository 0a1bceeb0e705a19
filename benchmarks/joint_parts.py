"""What `joint.py` compares, kept in a folder as it comes: studies, a distilled student, qualities and timings.

One cost table, one set of fitted halves and one set of one-stage losses serve all studies of a model: what they find
differs by what they may do, and by nothing else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from prunesearch.commands.tuning.judging import Tuning, Wanted
from prunesearch.compress.fits import FILE, Fits, load_fits
from prunesearch.core.appended import Appended
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import HALVES, Change, Plan
from prunesearch.core.tables.registry import ALL_FREE
from prunesearch.cost.devices.device import clock_for
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.timing.loop import Job, Measurement, measure
from prunesearch.export.models.model_format import ModelOptions, ModelSource
from prunesearch.export.models.write import check_changes, find_model_format, write_format
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.forward.artefacts import loaded
from prunesearch.search.run import run
from prunesearch.search.solve.seed import spread
from prunesearch.search.steps import STEPS
from prunesearch.search.trials.constraints import feasible_records
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.setup import Setting
from prunesearch.study.trials import finished_trials, front_records
from prunesearch.tasks.quality import inputs_to_calibrate, statistics_of
from prunesearch.training.recover import Learnt
from prunesearch.training.settings import TrainingSettings

INT8 = (Change.parse("int8"),)
EAGER = "eager"
FORMATS = {"onnxruntime": "onnx", "openvino": "openvino"}  # what a runtime reads
_SHARED = ("cost_table.json", "sensitivities.json", FILE)
# of a front, spread over its latencies: one that is found together is denser, and thinned to 12 it lost up to 0.9
# points to ways that happened to have a plan just below a latency
_POINTS = {"tokens": 12, "width": 12, "joint": 24, "all": 24}
_EVERY = {"precision": ["float32", "int8"], "free": [*ALL_FREE]}
_ASKED: Mapping[str, Mapping[str, Any]] = {
    "tokens": {"precision": ["float32"]},
    "width": {"precision": ["float32"], "free": ["width"]},
    "joint": {"precision": ["float32", "int8"]},
    "all": _EVERY,
}


# -- studies -------------------------------------------------------------------------------------------------------


def price(config: Mapping[str, Any], root: Path) -> None:
    """Measure the cost table, fit halves of blocks and measure one-stage losses, for all studies."""
    if not (root / "shared" / _SHARED[1]).exists():
        run(RunConfig(**config, **_EVERY), "shared", root=root, steps=STEPS[:2])


def study(name: str, config: Mapping[str, Any], root: Path, seeds: Sequence[Plan] = ()) -> list[Plan]:
    """The plans that the search of one way found, slowest first, begun from what `price` left and from `seeds`.

    They are its front on calibration rows: no holdout row has a say in who is compared.
    """
    found = root / f"{name}.json"
    if not found.exists():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in _SHARED[1:]:
            if not (folder / file).exists():
                shutil.copyfile(root / "shared" / file, folder / file)
        if not (folder / _SHARED[0]).exists():
            table = CostTable.load(root / "shared" / _SHARED[0])
            cells = {variant: own for variant, own in table.changed.items() if variant in _ASKED[name]["precision"]}
            CostTable(**{**dict(table), "changed": cells}).save(folder / _SHARED[0])
        paths = write_seeds(seeds, root / f"{name}-seeds")
        more = {"start_from": paths, "trials": config["trials"] + len(paths)}  # as many of its own as any other way
        settings = RunConfig(**{**config, **_ASKED[name], **more})
        searched = cast(Any, run(settings, name, root=root, steps=STEPS[:3]))
        front = front_records(feasible_records(searched.study, finished_trials(searched.study)))
        chosen = spread(front, _POINTS[name], lambda record: record.predicted_ms)
        chosen.sort(key=lambda record: -record.predicted_ms)
        found.write_text(json.dumps([record.plan.to_dict() for record in chosen]) + "\n")
    return [Plan.from_dict(plan) for plan in json.loads(found.read_text())]


def write_seeds(plans: Sequence[Plan], folder: Path) -> list[str]:
    """Files of plans that a search starts from: those that reduce anything.

    Half of the trials of a joint search are spent on each precision. By themselves they found schedules in int8 that
    were up to 0.9 points behind those that the whole of a search of tokens finds (512 rows, 40 trials).
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, plan in enumerate(plan for plan in dict.fromkeys(plans) if len(plan) or plan.halves):
        path = folder / f"{number}.json"
        path.write_text(plan.to_json() + "\n")
        found.append(str(path))
    return found


def fits_of(root: Path) -> Fits:
    """The halves that were fitted, of all studies."""
    path = root / "shared" / FILE
    return load_fits(path) if path.exists() else {}


# -- a student -----------------------------------------------------------------------------------------------------


def student_plan(depth: int) -> Plan:
    """Every other block left out, the first and the last ones kept (the student of DistilBERT, Sanh et al. 2019)."""
    out = [block for block in range(depth) if block % 2]
    return Plan(changes=[Change("skip", block, {"part": half}) for block in out for half in HALVES])


def distil(setting: Setting, plan: Plan, epochs: float, root: Path) -> Learnt:
    """Train the model without the halves that `plan` leaves out on what the whole model answers, and on labels."""
    wanted = Wanted(TrainingSettings(epochs=epochs))
    work = Tuning(StudyFolder.create("student", root), wanted, setting)
    return work.learn(plan, "the student", 1.0)


# -- runtimes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """A model's plans in one runtime.

    Attributes:
        runtime: `eager`, or one of `FORMATS`.
        setting: the model with its data.
        fits: weights of halves.
        root: where graphs, qualities and timings are kept.
        students: plans that have weights of their own.
    """

    runtime: str
    setting: Setting
    fits: Fits
    root: Path
    students: Mapping[Plan, Mapping[str, Tensor]]

    def able(self, plan: Plan) -> bool:
        """Whether the runtime holds a plan."""
        if self.runtime == EAGER:
            return True
        try:
            check_changes(plan, find_model_format(FORMATS[self.runtime]))
        except PruneSearchError:
            return False
        return True

    @cached_property
    def _inputs(self) -> dict[str, Tensor]:
        return dict(self.setting.task.timing_inputs(self.setting.config.batch_size))

    def graph(self, plan: Plan) -> Path:
        """The file of a plan's graph, written now where it is not there."""
        to = find_model_format(FORMATS[self.runtime])
        path = self.root / "graphs" / self.runtime / f"{_digest(plan)}{to.suffix}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            task = self.setting.task
            with loaded(task.model, self.students.get(plan, {})):
                source = ModelSource(
                    task.answering,
                    plan.schedule,
                    self._inputs,
                    changes=plan.changes,
                    fits=self.fits,
                    seed=0,
                    calibration=inputs_to_calibrate(task, self._inputs),
                )
                write_format(source, to, path, ModelOptions())
        return path

    def judge(self, plan: Plan, split: str, rows: int) -> Tensor:
        """The metric's numbers `[rows, k]` of a plan on the first rows of a split, kept once they are known."""
        path = self.root / "judged" / self.runtime / f"{split}-{rows}" / f"{_digest(plan)}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(".part.npy")
            np.save(scratch, self._judged(plan, split, rows).numpy())
            scratch.rename(path)
        return torch.from_numpy(np.load(path))

    def _judged(self, plan: Plan, split: str, rows: int) -> Tensor:
        task = self.setting.task
        chosen = task.splits[split].take(rows)
        if self.runtime != EAGER:
            forward = find_model_format(FORMATS[self.runtime]).load(self.graph(plan))
            fixed = {name: value.shape[-1] for name, value in self._inputs.items() if name in chosen.padding}
            return statistics_of(task, lambda **given: forward(given), chosen, fixed)
        weights = self.students.get(plan, {})
        with loaded(task.model, weights), apply_(task.model, plan, seed=0, fits=self.fits):
            return statistics_of(task, task.model, chosen)

    def time(self, plans: Sequence[Plan], seconds: float, rounds: int = 15) -> Measurement[str]:
        """Forwards of all plans, and of the unpruned model in eager float32, interleaved in this process.

        Under the names of the plans, and `EAGER` in another runtime.
        """
        task, inputs = self.setting.task, self._inputs
        model = task.model if self.runtime == EAGER else task.answering
        jobs: dict[str, Job] = {}
        if self.runtime != EAGER:  # a graph that is not there yet is written with a schedule of its own
            load = find_model_format(FORMATS[self.runtime]).load
            jobs = {str(plan): Job.among_runtimes(partial(load(self.graph(plan)), inputs)) for plan in plans}
        with apply_(model, Plan(), seed=0, fits=self.fits) as handle:
            eager = partial(_forward, model, inputs)
            if self.runtime == EAGER:
                jobs = {str(plan): Job(eager, partial(handle.set, plan)) for plan in plans}
            else:
                jobs[EAGER] = Job.among_runtimes(eager)
            asked = [self.runtime, torch.get_num_threads(), *jobs]
            return measure(
                jobs,
                clock=clock_for("cpu"),
                sentinel=str(plans[0]),
                time_budget_s=seconds,
                min_rounds=rounds,
                label=f"timing {len(jobs)} forwards in {self.runtime}",
                keep=Appended(self.root / f"timed-{self.runtime}.part", asked),
                tolerance=0.003,
            )


def _forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    return model(**inputs)


def _digest(plan: Plan) -> str:
    return hashlib.sha256(str(plan).encode()).hexdigest()[:16]
