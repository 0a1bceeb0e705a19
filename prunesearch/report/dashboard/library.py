"""Where the dashboard's studies come from: folders of studies, single study folders, Optuna storages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.report.views.shown_samples import ShownSamples
from prunesearch.report.views.study_view import ShownShape, StudyView
from prunesearch.study.folder import DEFAULT_ROOT, StudyFolder, list_studies, resolve_study
from prunesearch.study.front import Front
from prunesearch.study.storage.places import sqlite_file
from prunesearch.study.storage.reader import TrialReader, study_names
from prunesearch.study.storage.urls import hide_password

_QUIET = timedelta(minutes=3)  # without a sign of life, a search is taken to have stopped
_PACE = 50  # trials that the present pace is taken from
T = TypeVar("T")


@dataclass
class StudySource:
    """One study, read again only where its files or trials have changed. Safe to use from several threads.

    Args:
        key: how addresses name it.
        name: of the study.
        folder: where a run writes it; None for a study of an Optuna storage.
        reader: of its trials.
    """

    key: str
    name: str
    folder: StudyFolder | None
    reader: TrialReader | None
    said: str = ""  # one line on trials that are somewhere else
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _stamp: Any = None
    _view: StudyView | None = None
    version: int = 0

    def view(self) -> StudyView:
        """The study as it is now; the same object until something changes."""
        with self._lock:
            problems = [self.said] if self.said else []
            if self.folder is not None and (self.reader is None or self.reader.where != self.folder.trials):
                self.reader = _reader_of(self.folder)  # there are trials now, or they were moved to a journal
            try:
                changed = self.reader is not None and self.reader.refresh()
            except PruneSearchError as error:
                changed = False
                problems.append(str(error))
            stamp = (self._files(), tuple(problems))
            if changed or self._view is None or stamp != self._stamp:
                self._view, self._stamp = self._build(problems), stamp
                self.version += 1
            return self._view

    def _files(self) -> tuple[tuple[int, int], ...]:
        if self.folder is None:
            return ()
        found = []
        for path in (self.folder.config, self.folder.front, self.folder.cost_table, self.folder.samples):
            try:
                stat = path.stat()
            except OSError:
                found.append((0, 0))
            else:
                found.append((stat.st_mtime_ns, stat.st_size))
        return tuple(found)

    def _build(self, problems: list[str]) -> StudyView:
        trials = [] if self.reader is None else self.reader.trials
        folder = self.folder
        if folder is None:
            return StudyView(self.key, self.name, None, trials, problem="; ".join(problems))

        def read(path: Path, load: Callable[[], T]) -> T | None:
            """What is in a file of the folder, if it is there and the folder's own; what is wrong goes on the page."""
            if not path.exists():
                return None
            try:
                _check_inside(path, folder.path)
                return load()
            except PruneSearchError as error:
                problems.append(str(error))
                return None

        front = read(folder.front, partial(Front.load, folder.front))
        config = read(folder.config, folder.load_config) or {}
        samples = read(folder.samples, partial(ShownSamples.load, folder.samples))
        table = read(folder.cost_table, partial(CostTable.load, folder.cost_table))
        shape = None
        if front is not None:
            shape = ShownShape.of(front.model.geometry)
        elif table is not None:
            shape = ShownShape.of(table.shape.geometry)
        problem = "; ".join(problems)
        return StudyView(self.key, self.name, front, trials, config, shape, lambda: table, samples, problem)


class Library:
    """The studies that the dashboard was given, by key.

    Args:
        given: names or folders of studies, folders that hold studies, URLs of Optuna storages; none: `./studies`.
        root: where names are looked up.

    Raises:
        PruneSearchError: for something that is none of these.
    """

    def __init__(self, given: Sequence[str] = (), root: Path = DEFAULT_ROOT) -> None:
        self._roots: list[Path] = []
        self._sources: dict[str, StudySource] = {}
        self._folders: set[Path] = set()
        self._lock = threading.Lock()
        self._urls = [text for text in given if "://" in text]
        for text in given:
            self._take(text, root)
        if not given:
            self._roots.append(root)
        self.sources()

    def sources(self) -> dict[str, StudySource]:
        """All studies by key; those that were made in a folder of studies since the last time are among them."""
        with self._lock:
            for root in self._roots:
                for name in list_studies(root):
                    self._add_folder(StudyFolder(root, name), root)
            return dict(self._sources)

    def views(self) -> list[StudyView]:
        """Every study as it is now."""
        return [source.view() for source in self.sources().values()]

    def find(self, key: str | None) -> StudySource | None:
        """The study of a key, or None: what is not among them is not looked for anywhere."""
        return self.sources().get(key or "")

    def _take(self, text: str, root: Path) -> None:
        if "://" in text:
            for name in study_names(text):
                shown = name if name != "prunesearch" else _storage_name(text)
                self._add(shown, None, TrialReader(text, name))
            return
        path = Path(text)
        if path.is_dir() and not StudyFolder(path.parent, path.name).exists and list_studies(path):
            self._roots.append(path)
            return
        self._add_folder(resolve_study(text, root), None)

    def _add_folder(self, folder: StudyFolder, root: Path | None) -> None:
        place = folder.path.resolve()
        if place in self._folders:
            return
        self._folders.add(place)
        if root is not None and not place.is_relative_to(root.resolve()):
            return  # a link to somewhere that was not given
        self._add(folder.name, folder, _reader_of(folder), self._elsewhere(folder))

    def _add(self, name: str, folder: StudyFolder | None, reader: TrialReader | None, said: str = "") -> None:
        key, place = name, 2
        while key in self._sources:
            key, place = f"{name}~{place}", place + 1
        self._sources[key] = StudySource(key, name, folder, reader, said)

    def _elsewhere(self, folder: StudyFolder) -> str:
        """What to say of a study whose configuration names a storage that was not given here.

        A study's own file must not decide whom this program connects to.
        """
        try:
            url = folder.load_config().get("storage")
        except PruneSearchError:
            return ""
        if not isinstance(url, str) or not url or url in self._urls or folder.trials is not None:
            return ""
        return f"its trials are in {hide_password(url)}: give the dashboard that URL too to see them"


def _reader_of(folder: StudyFolder) -> TrialReader | None:
    if folder.trials is None:
        return None
    try:
        _check_inside(folder.trials, folder.path)
    except PruneSearchError:
        return None
    return TrialReader(folder.trials)


def _check_inside(path: Path, folder: Path) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise PruneSearchError(f"{path} leads out of the study's folder: it is not read")


def _storage_name(url: str) -> str:
    """What a study of the usual name is called: after the folder of its file, or the storage."""
    file = sqlite_file(url)
    return hide_password(url) if file is None else file.resolve().parent.name


# -- how a search is going -----------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchProgress:
    """State of a study: `finished`, `running`, `preparing` (no trial yet) or `stopped`; trials `done` of `wanted`.

    `pace` is trials a minute over the last ones; `last_error` what the newest failure says.
    """

    state: str
    done: int
    wanted: int | None
    pace: float | None
    failed: int
    last_error: str


def progress(view: StudyView, now: datetime | None = None) -> SearchProgress:
    """How a study is going, by its trials (whose times are those of the machine that ran them)."""
    now = datetime.now() if now is None else now
    times = [t for trial in view.trials for t in (trial.started, trial.completed) if t is not None]
    wanted = view.config.get("trials")
    finished = view.front is not None and view.front.search.trials >= view.tried
    if finished:
        state = "finished"
    elif times and now - max(times) < _QUIET:
        state = "running"
    else:
        state = "stopped" if times else "preparing"
    ends = sorted(t.completed for t in view.done if t.completed is not None)[-_PACE:]
    minutes = (ends[-1] - ends[0]).total_seconds() / 60 if len(ends) > 1 else 0.0
    failures = [t for t in view.trials if t.state == "FAIL" and not t.withdrawn]
    errors = [str(t.attrs["error"]) for t in failures if "error" in t.attrs]
    return SearchProgress(
        state=state,
        done=len(view.done) if view.trials else view.front.search.trials if view.front else 0,
        wanted=wanted if isinstance(wanted, int) else None,
        pace=(len(ends) - 1) / minutes if minutes > 0 else None,
        failed=len(failures) if view.trials else view.front.search.failed if view.front else 0,
        last_error=errors[-1] if errors else "",
    )
