"""The study: an Optuna study of schedules, how it is opened and what its trials say. `ask_tell` fills it."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from prunesearch.core.costs import find_cost
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.study.folder import StudyFolder
from prunesearch.study.storage.opening import old_database, open_storage
from prunesearch.study.storage.patience import reason_of
from prunesearch.study.storage.places import backend_of
from prunesearch.study.storage.storage import storage_of
from prunesearch.study.storage.urls import hide_password
from prunesearch.study.storage.worker import is_gone

_STUDY = "prunesearch"


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial: quality and loss on the calibration split, latency and energy by the cost table.

    `values` are what the study minimises beside the loss. A trial that lost its race was evaluated on `rows` of
    `rows_total` rows, and its quality and loss are estimates; both are None for one evaluated in full.
    """

    number: int
    plan: Plan
    quality: float
    loss: float
    predicted_ms: float
    predicted_mj: float | None
    values: tuple[float, ...]
    source: str
    seconds: float
    rows: int | None = None
    rows_total: int | None = None

    @property
    def schedule(self) -> Schedule:
        """The stages of its plan."""
        return self.plan.schedule

    @property
    def share(self) -> float:
        """Share of the rows that it was evaluated on."""
        return 1.0 if self.rows is None or self.rows_total is None else self.rows / self.rows_total


def open_study(where: Path | str, objectives: Sequence[str] = ("latency",), *, name: str = _STUDY) -> optuna.Study:
    """Create or resume a study; trials whose process is gone are failed.

    The loss and the `objectives` are minimised together.

    Args:
        where: a study's journal, or the URL of any database that Optuna takes.
        objectives: names of what is minimised beside the loss.
        name: of the study in its storage.

    Raises:
        CorruptFileError: if the file is not a study.
        PruneSearchError: if the storage cannot be reached, or its study minimises something else.
    """
    with _readable(where):
        storage = open_storage(where, name, 1 + len(objectives))
        study = optuna.load_study(study_name=name, storage=storage)
        if len(study.directions) != 1 + len(objectives):
            raise PruneSearchError(
                f"study '{name}' minimises {len(study.directions)} values, but got {1 + len(objectives)}: give the "
                "same --objective, or another --study"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["loss", *(f"{name}_{find_cost(name).unit.lower()}" for name in objectives)])
        study.set_user_attr("sessions", int(study.user_attrs.get("sessions", -1)) + 1)
        fail_abandoned(study)
    return study


def fail_abandoned(study: optuna.Study) -> int:
    """Fail the running trials of processes that are gone; return how many.

    A process of this machine is gone when it runs no longer, another when it has shown no sign of life while this one
    looked for a minute.
    """
    storage, failed = storage_of(study), 0
    silent = storage.silent()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.number in silent or is_gone(str(trial.user_attrs.get("worker", ""))):
            # not if it was ended by its own process after all, or by a third one
            failed += storage.fail(trial.number, {"error": "its process ended before it did", "lost": True})
    return failed


def read_trials(where: Path | str, *, name: str = _STUDY) -> list[TrialRecord]:
    """The finished trials of a study, which may have runs going on: nothing is written.

    Raises:
        CorruptFileError: if the file is not a study.
        PruneSearchError: if the storage cannot be reached.
    """
    with _readable(where):
        place = _written(where) if isinstance(where, Path) else where
        return finished_trials(optuna.load_study(study_name=name, storage=backend_of(place)))


def read_attributes(where: Path | str, *, name: str = _STUDY) -> dict[str, Any]:
    """What is noted of a study as a whole; nothing is written.

    Raises:
        CorruptFileError, PruneSearchError: as `read_trials`.
    """
    with _readable(where):
        place = _written(where) if isinstance(where, Path) else where
        return dict(optuna.load_study(study_name=name, storage=backend_of(place)).user_attrs)


def study_exists(where: Path | str, *, name: str = _STUDY) -> bool:
    """Whether the study is there; nothing is written.

    Raises:
        CorruptFileError: if the file is not a study.
        PruneSearchError: if the storage cannot be reached.
    """
    with _readable(where):
        if isinstance(where, Path):
            file = _written(where)
            return file.exists() and backend_of(file).get_study_id_from_name(name) is not None
        try:
            open_storage(where, name)
        except KeyError:
            return False
    return True


def _written(journal: Path) -> Path:
    """Where the trials are now: in the journal, or in the database that an earlier version wrote in its place."""
    old = old_database(journal)
    return old if old.exists() and not journal.exists() else journal


def study_place(folder: StudyFolder, storage: str | None) -> dict[str, Any]:
    """`where` and `name` of the study of a folder: its own file, or the `storage` that it shares with others."""
    if storage is None:
        return {"where": folder.journal, "name": _STUDY}
    return {"where": storage, "name": folder.name}


def check_same_costs(study: optuna.Study, folder: StudyFolder) -> None:
    """Raise if a study that other folders share was begun with other cost tables than this folder's.

    Every machine measures its own, and costs of two tables cannot be compared.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.path.glob(f"{folder.cost_table.stem}*{folder.cost_table.suffix}")):
        digest.update(file.read_bytes())
    mine, theirs = digest.hexdigest(), study.user_attrs.get("cost_tables")
    if theirs is None:
        study.set_user_attr("cost_tables", mine)
    elif theirs != mine:
        raise PruneSearchError(
            f"study '{study.study_name}' was begun in its storage with another cost table than {folder.cost_table}: "
            f"copy the folder {folder.path}{os.sep} from where it was begun, or share it"
        )


@contextmanager
def _readable(where: Path | str) -> Iterator[None]:
    """Within the block, one line for whatever is wrong with the storage at `where`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    except PruneSearchError:
        raise
    except Exception as error:  # a file may hold anything, and drivers have errors of their own
        if isinstance(where, Path):
            raise CorruptFileError(
                f"'{_written(where)}' is not a readable study ({reason_of(error)}): move it away, or use another "
                "--study"
            ) from None
        if isinstance(error, sa.exc.ArgumentError | ImportError | ValueError):  # the last of a port that is no number
            raise PruneSearchError(
                f"'{hide_password(where)}' is no storage that can be opened ({reason_of(error)}): write "
                "postgresql+psycopg://USER@HOST/NAME, mysql+pymysql://USER@HOST/NAME or sqlite:///FILE, and install "
                "its driver"
            ) from None
        if isinstance(error, sa.exc.SQLAlchemyError | RuntimeError | KeyError | optuna.exceptions.OptunaError):
            raise PruneSearchError(
                f"storage '{hide_password(where)}' cannot be used ({reason_of(error)}): check the URL and that it is up"
            ) from None
        raise


def plan_of(trial: FrozenTrial) -> Plan | None:
    """The plan of a trial, which it has as the attribute `schedule`; None before it was chosen."""
    written = trial.user_attrs.get("schedule")
    return None if written is None else Plan.from_dict(written)


def is_withdrawn(trial: FrozenTrial) -> bool:
    """Whether a trial was given up before it was evaluated: for another with its schedule, or as one too many."""
    return "duplicate_of" in trial.user_attrs or "surplus" in trial.user_attrs


def record_of(trial: FrozenTrial) -> TrialRecord:
    """What a complete trial found."""
    attrs = trial.user_attrs
    loss, *values = trial.values
    return TrialRecord(
        number=trial.number,
        plan=Plan.from_dict(attrs["schedule"]),
        quality=attrs["quality"],
        loss=loss,
        predicted_ms=attrs["latency"],
        predicted_mj=attrs.get("energy"),
        values=tuple(values),
        source=attrs["source"],
        seconds=attrs["seconds"],
        rows=attrs.get("rows"),
        rows_total=attrs.get("rows_total"),
    )


def finished_trials(study: optuna.Study) -> list[TrialRecord]:
    """All complete trials of a study, one for each schedule, in their order."""
    records: dict[Plan, TrialRecord] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        record = record_of(trial)
        records.setdefault(record.plan, record)
    return list(records.values())


def failed_trials(study: optuna.Study) -> int:
    """How many trials failed or were cut off."""
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return sum(not is_withdrawn(trial) for trial in failed)


def evaluation_units(records: Sequence[TrialRecord], unpruned_ms: float) -> tuple[float, float]:
    """What evaluations cost and what racing saved of them, in evaluations of the unpruned model on all rows."""
    spent = sum(r.predicted_ms * r.share for r in records) / unpruned_ms
    return spent, sum(r.predicted_ms * (1 - r.share) for r in records) / unpruned_ms


def front_records(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials on the front of the objectives and the loss, or of the objectives and the quality; slowest first.

    What lost its race is not among them: its values are estimates.
    """
    records = [r for r in records if r.rows is None]
    if not records:
        return []
    by_loss = non_dominated([(*r.values, r.loss) for r in records])
    by_quality = non_dominated([(*r.values, -r.quality) for r in records])
    chosen = [r for r, a, b in zip(records, by_loss, by_quality, strict=True) if a or b]
    return sorted(chosen, key=lambda r: -r.predicted_ms)
