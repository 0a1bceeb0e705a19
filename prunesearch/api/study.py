"""A study as a Python caller has it: its front, its trials, and what can be done with a point of it."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from prunesearch.commands.adapt import adapt as adapt_study
from prunesearch.commands.adapt import adapt_wanted
from prunesearch.commands.compare import CompareSettings
from prunesearch.commands.compare import compare as compare_methods
from prunesearch.commands.stress import StressSettings
from prunesearch.commands.stress import stress as stress_study
from prunesearch.commands.transfer import Transfer
from prunesearch.commands.transfer_table import transfer_study
from prunesearch.commands.tuning.judging import Wanted
from prunesearch.commands.tuning.learn_scorers import METHODS, LearntScorers, learn_scorers
from prunesearch.commands.tuning.tune import tune as tune_study
from prunesearch.commands.tuning.tune_elastic import ElasticWeights, tune_elastic
from prunesearch.commands.verify import Verification
from prunesearch.commands.verify import verify as verify_study
from prunesearch.compress.fits import Fits, fits_for
from prunesearch.core.files import write_text_atomic
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.export_tables import MODEL_FORMATS
from prunesearch.cost.devices.device import at_hand
from prunesearch.export.models.record import ModelExport
from prunesearch.export.pick import pick, plans_of
from prunesearch.export.point import TIMED_S, export_point
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.pruning.forward.artefacts import load_, read_weights, with_weights
from prunesearch.report.loggers import log_finished
from prunesearch.report.tables.frames import compared_rows, front_rows, trial_rows
from prunesearch.report.tables.show import show_front
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder, load_front
from prunesearch.study.front import Front
from prunesearch.study.front_items import Point
from prunesearch.study.setup import make_setting
from prunesearch.study.trials import TrialRecord, read_trials, study_place
from prunesearch.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import nn

    from prunesearch.tasks.base import Task


@dataclass(frozen=True)
class StudyPoint:
    """A point of a front: one plan, what it costs and how good it is. `record` has every number, as in `front.json`."""

    record: Point
    study: Study = field(repr=False)

    @property
    def id(self) -> str:
        """`p4`."""
        return self.record.id

    @property
    def schedule(self) -> Schedule:
        """Its stages; `plan` has what else is done to the model."""
        return self.plan.schedule

    @property
    def plan(self) -> Plan:
        """All that is done to the model, as `ps.apply_` takes it."""
        return self.record.to_plan()

    @property
    def speedup(self) -> float:
        """Latency of the unpruned model over its own."""
        return self.record.speedup

    @property
    def quality(self) -> float:
        """The metric on the holdout rows."""
        return self.record.quality.value

    @contextmanager
    def applied(self, model: nn.Module | None = None) -> Iterator[nn.Module]:
        """Within the block, `model` runs with this plan, in place; afterwards it is as before, to the last bit.

        Args:
            model: the one that was searched, or another of its class; None: the object that `ps.run` was given, or
                the model that the study is of, loaded anew.
        """
        chosen = self.study.model_or(model)
        with with_weights(chosen, self.plan, self.study.folder.weights) as plan, apply_(chosen, plan, fits=self._fits):
            yield chosen

    def apply_(self, model: nn.Module | None = None) -> Handle:
        """Put this plan into `model`, in place, until `handle.remove()`; its trained weights, if any, stay."""
        chosen, plan = self.study.model_or(model), self.plan
        if plan.weights is not None:
            load_(chosen, read_weights(self.study.folder.weights, plan.weights))
        return apply_(chosen, plan.on_own_weights, fits=self._fits)

    @property
    def _fits(self) -> Fits:
        return fits_for([self.plan], self.study.folder.path)

    def export(self, to: str = "json", path: str | Path | None = None, **options: Any) -> str | ModelExport:
        """Write it; see `Study.export`."""
        return self.study.export(self.id, to, path, **options)

    def to_pandas(self) -> pd.DataFrame:
        """Its row of `Study.to_pandas`."""
        return self.study.to_pandas().loc[[self.id]]

    def _repr_html_(self) -> str:
        row = self.study.to_pandas().loc[[self.id]].to_html(float_format=_digits)
        return f"<p><b>{self.id}</b> <code>{html.escape(str(self.plan))}</code></p>{row}"


@dataclass(frozen=True)
class Trials:
    """The finished trials of a study, read anew at every call: a run may be going on."""

    read: Callable[[], list[TrialRecord]]

    def __len__(self) -> int:
        return len(self.read())

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self.read())

    def to_pandas(self) -> pd.DataFrame:
        """One row a trial, by number: schedule, source, calibration quality and loss, predicted costs, seconds."""
        return _frame(trial_rows(self.read()), "trial")

    def _repr_html_(self) -> str:
        return str(self.to_pandas().to_html(max_rows=20, float_format=_digits))


@dataclass(frozen=True)
class Study:
    """What a search found. `task` is the caller's own model and data, where they were objects.

    `study["p4"]` is a point, `study.best("10ms")` the best inside a budget, `study.pick("knee")` what `--pick` takes.
    """

    folder: StudyFolder
    task: Task | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        place = StudyFolder(self.folder.root.absolute(), self.folder.name)  # programs change their folder
        object.__setattr__(self, "folder", place)

    @property
    def name(self) -> str:
        """Of the study."""
        return self.folder.name

    @property
    def front(self) -> Front:
        """The front, as `front.json` has it.

        Raises:
            PruneSearchError: if no run has come to its end yet.
        """
        return load_front(str(self.folder.path))[1]

    @property
    def verdict(self) -> str:
        """What to do, in a sentence."""
        return self.front.verdict.text

    @property
    def recommended(self) -> StudyPoint | None:
        """The point that the verdict recommends; None: keep the model as it is."""
        point = self.front.verdict.point
        return None if point is None else self[point]

    @property
    def points(self) -> list[StudyPoint]:
        """The front, slowest first."""
        return [StudyPoint(point, self) for point in self.front.points]

    @property
    def trials(self) -> Trials:
        """All finished trials."""
        storage = self.folder.load_config().get("storage")
        return Trials(lambda: read_trials(**study_place(self.folder, storage)))

    def __len__(self) -> int:
        return len(self.front.points)

    def __iter__(self) -> Iterator[StudyPoint]:
        return iter(self.points)

    def __getitem__(self, spec: str) -> StudyPoint:
        """The point that `spec` picks: an id (`p4`), a trial's number, or anything that `pick` takes."""
        return self.pick(spec)

    def pick(self, spec: str) -> StudyPoint:
        """One point: `best@10ms`, `fastest@0.99`, `knee`, `p3`, or a trial's number; see `export.pick`."""
        return StudyPoint(pick(self.front, str(spec)), self)

    def best(self, budget: str) -> StudyPoint:
        """The point of the highest quality inside a budget: `10ms`, `2x`, `60%`, `40mJ`, ..."""
        return self.pick(f"best@{budget}")

    def to_pandas(self) -> pd.DataFrame:
        """The front, the unpruned model first: quality with its interval, costs, tokens, schedule (`front_rows`)."""
        return _frame(front_rows(self.front), "id")

    def show(self) -> None:
        """Print the table and the verdict, as the command line does."""
        show_front(self.front)

    def export(
        self,
        spec: str,
        to: str = "json",
        path: str | Path | None = None,
        *,
        lossy: bool = False,
        opset: int | None = None,
        int8: bool = False,
        seconds: float | None = TIMED_S,
    ) -> str | ModelExport:
        """Write a point for use elsewhere: its schedule in another tool's format, or the model with it inside.

        Args:
            spec: which point, as `pick` takes it; or the `cascade` or `router` that `adapt` found (to `hf`, `onnx`).
            to: an exchange format or a model format (`prunesearch names`).
            path: of the file or folder; a schedule needs none. Its card is written beside it.
            lossy: accept the nearest schedule that the format can say.
            opset: of an ONNX file.
            int8: quantise a file for ONNX Runtime or OpenVINO.
            seconds: for timing a model against the unpruned one; None: not timed.

        Returns:
            A schedule as text, or what was found of the written model: errors, timings, quality. What changed or was
            lost on the way is told as events.
        """
        return export_point(
            self.front,
            spec,
            to,
            None if path is None else Path(path),
            lossy=lossy,
            opset=opset,
            int8=int8,
            seconds=seconds or None,
            task=self.task,
            weights=self.folder.weights,
            fits=fits_for(plans_of(self.front, spec), self.folder.path) if to in MODEL_FORMATS else {},
        )

    def report(self, path: str | Path) -> Path:
        """Copy the report, one HTML file that needs no network, to `path`."""
        self.front  # noqa: B018  # a study without a front has no report either, and this says so
        write_text_atomic(path, self.folder.report.read_text(encoding="utf-8"))
        return Path(path)

    def tune(
        self,
        pick: str | None = None,
        train: Any = None,
        **settings: Any,
    ) -> Study:
        """Train points under their schedules, judge them, and write what came of it into the study; see `docs/tune.md`.

        The same call goes on where it was interrupted.

        Args:
            pick: which point, as `pick` takes it; None: all of the front.
            train: rows to train on, none of which may be a calibration or holdout row: a file, folder or Hub id, a
                `datasets.Dataset`, or batches of one's own; None: the study's own rows that it does not use.
            settings: `epochs=3` or `time="30m"`, `parameters="full"`, `rate`, `batch_size`, ... (`TrainingSettings`).

        Returns:
            The study itself, whose points have their weights.
        """
        wanted = Wanted(TrainingSettings(**settings), pick, str(train) if isinstance(train, Path) else train)
        tune_study(self.folder, self.front, wanted, task=self.task)
        return self

    def tune_elastic(self, train: Any = None, **settings: Any) -> ElasticWeights:
        """Train one set of weights for all schedules near the front, into `STUDY/elastic`; see `docs/tune.md`.

        `ps.run(..., weights=found.folder)` searches on it. The same call goes on where it was interrupted.

        Args:
            train, settings: as of `tune`.

        Returns:
            The folder, and what the points of this study are on these weights.
        """
        wanted = Wanted(TrainingSettings(**settings), train=str(train) if isinstance(train, Path) else train)
        return tune_elastic(self.folder, self.front, wanted, task=self.task)

    def learn_scorers(self, train: Any = None, methods: Sequence[str] = METHODS, **settings: Any) -> LearntScorers:
        """Train scorers that have weights, without labels, into `STUDY/scorers`; see `docs/tune.md`.

        `ps.run(..., weights=found.folder)` searches with them. The same call goes on where it was interrupted.

        Args:
            train: as of `tune`.
            methods: names in `LEARNED` (`prunesearch names learned_scorers`).
            settings: `epochs`, `rate`, `batch_size`, `seed`, ... (`TrainingSettings`).

        Returns:
            The folder, and how every scorer does at single stages.
        """
        wanted = Wanted(TrainingSettings(**settings), train=str(train) if isinstance(train, Path) else train)
        return learn_scorers(self.folder, self.front, wanted, methods, task=self.task)

    def verify(self, *, device: str | None = None, seconds: float = 25.0) -> Verification:
        """Measure the front again here, predicted against measured."""
        return verify_study(self.folder, self.front, device=device, seconds=seconds, task=self.task)

    def adapt(self, **wanted: Any) -> Study:
        """Choose plans of the front row by row, a cascade and a router, and compare them with static ones.

        Thresholds are chosen on calibration rows and checked on the holdout; all is timed here on real rows. What is
        found is in `front.adapted`, table, report and dashboard; see `docs/adaptive.md`.

        Args:
            wanted: `keep=0.99`, `batch_sizes=(1, 8, 32)`, `rows=2048`, `block=0`, `batches=100` (`AdaptSettings`);
                `budget="20ms"` of batches of the first size, and `percentile=95` of them that it bounds;
                `learn_thresholds=True`, with `train=...` and `training=TrainingSettings(...)` as of `tune`.

        Returns:
            The study itself.
        """
        settings, learning = adapt_wanted(**wanted)
        adapt_study(self.folder, self.front, settings, learning=learning, task=self.task)
        return self

    def stress(self, **wanted: Any) -> Study:
        """Judge the points where rows are unlike: attacked, from other data, and class by class; see `docs/robust.md`.

        Args:
            wanted: `attacks=("fgsm", "pgd")`, `eps=2 / 255`, `data=...`, `rows=2048`, `attacked=256`
                (`StressSettings`).

        Returns:
            The study itself; what is found is in `front.stressed`, table, report and dashboard.
        """
        stress_study(self.folder, self.front, StressSettings(**wanted), task=self.task)
        return self

    def compare(self, budget: str | None = None, methods: Sequence[str] = (), **wanted: Any) -> Study:
        """Bring every method in the house to one measured latency on this study's model; see `docs/survey.md`.

        Table, report and dashboard have what is found, and `compared` as a data frame. Nothing that the study knows is
        measured again.

        Args:
            budget: the latency: `2x`, `60%` or `10ms`; None: the study's own, or 2x.
            methods: names of `ps.names("rivals")`; none: all that need no training, and learned ones that have weights.
                Learned ones that are named here and have none are trained first, without labels.
            wanted: `rows=2000`, `seconds=60.0`, `train=...`, `training=TrainingSettings(...)` (`CompareSettings`).

        Returns:
            The study itself.
        """
        compare_methods(self.folder, self.front, CompareSettings(tuple(methods), budget, **wanted), task=self.task)
        return self

    @property
    def compared(self) -> pd.DataFrame:
        """What `compare` found, a row a method (`compared_rows`); empty where nobody asked."""
        return _frame(compared_rows(self.front), "method")

    def transfer(self, to: str, *, dtype: str | None = None, mode: str | None = None) -> Transfer:
        """Price the front and its trials on the device of a profile."""
        return transfer_study(self.folder, self.front, to, dtype=dtype, mode=mode, task=self.task)

    def log(self, to: str) -> str:
        """Tell an experiment tracker of it (`prunesearch names logger`), and say where it went."""
        storage = self.folder.load_config().get("storage")
        return log_finished(to, self.name, storage=storage, root=self.folder.root)

    def model_or(self, model: nn.Module | None) -> nn.Module:
        """`model`, or the caller's own that was searched, or the one that the study names, loaded anew.

        Raises:
            PruneSearchError: if the study is of objects, and they are not at hand.
        """
        if model is not None:
            return model
        if self.task is not None:
            return self.task.model
        return make_setting(RunConfig(**{**self.front.config, "device": at_hand().first})).task.model

    def _repr_html_(self) -> str:
        table = self.to_pandas().to_html(float_format=_digits)
        return f"<h4>{html.escape(self.name)}</h4>{table}<p>{html.escape(self.verdict)}</p>"


def _digits(value: float) -> str:
    return f"{value:.4g}"


def _frame(rows: list[dict[str, Any]], index: str) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.set_index(index) if rows else frame
