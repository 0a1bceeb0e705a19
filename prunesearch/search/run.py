"""`run`: from a configuration to a study folder with a front that was evaluated on held-out data and re-measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import plan, say, step
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.energy.schedules import open_meter
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.pruning.apply import apply_
from prunesearch.search.handed_on import Run
from prunesearch.search.space.space import SpaceFile
from prunesearch.search.steps import STEPS, Step
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import DEFAULT_ROOT, StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import Setting, default_study, digest_of_source, make_setting, source_of, with_model
from prunesearch.study.storage.alone import Alone
from prunesearch.study.target import Target, resolve_target
from prunesearch.study.trials import study_exists, study_place

if TYPE_CHECKING:
    from torch import nn

    from prunesearch.tasks.base import Task

_STEPS = 7  # loading, costs, sensitivities, search, holdout, measurement, ladder


def run(
    config: RunConfig,
    study: str | None = None,
    *,
    root: Path = DEFAULT_ROOT,
    task: Task | None = None,
    model: nn.Module | None = None,
    data: Any = None,
    processor: Any = None,
    meter: EnergyMeter | None = None,
    steps: Sequence[Step] = STEPS,
) -> Front:
    """Search the model's schedules and return the front, which is also written to `root/study/`.

    The same call resumes a study that was interrupted: table, sensitivities and finished trials are kept. What goes on
    is told as events (`core.events.listening`).

    Args:
        config: all settings.
        study: name of the study; None: made from model, device and batch size.
        root: folder of studies.
        task: a model with its data, made by the caller, in place of `config.model` and `config.data`. Such a study is
            called by `config.given`, or by the model's class, and is resumed, exported, verified and transferred with
            the same object.
        model, data, processor: parts of one, as `setup.make_setting` takes them.
        meter: of the device's energy; None opens the device's own where energy is an objective or a budget. Whoever
            gives one closes it.
        steps: what is done, in order; each takes what the one before it returned, the first a `steps.Run`.

    Raises:
        PruneSearchError: for bad input, in one line; nothing that was finished is lost.
    """
    own = model if task is None else task.model
    source = source_of(config, own)
    if own is not None:
        config = with_model(config, source, own)
    else:
        config = config.model_copy(update={"given_digest": digest_of_source(source, config.weights)})
    plan(_STEPS)
    folder = StudyFolder.create(study or default_study(config, source), root)
    with Alone(folder) as lock:
        front = _begun(config, folder)
        if front is not None:
            say(f"study {folder.name} is complete; --trials N goes on, another --study starts anew")
            return front
        SpaceFile.load(config.space_path)  # a wrong one is refused before a model is loaded
        target = resolve_target(config.device)
        with _meter(config, target, meter) as used:  # refused before a model is loaded
            step(f"loading {source.name}")
            setting = make_setting(config, target=target, task=task, model=model, data=data, processor=processor)
            for note in setting.notes:
                say(note)
            return _through(steps, setting, folder, lock, used)


def _begun(config: RunConfig, folder: StudyFolder) -> Front | None:
    """The front of a study that the same call would add nothing to; None where there is work to do.

    Raises:
        PruneSearchError: if the study was begun with other settings.
    """
    if folder.config.exists():
        tried = study_exists(**study_place(folder, config.storage))
        config.check_resumes(folder.load_config(), folder.name, tried=tried)
    if not folder.front.exists():
        return None
    front = Front.load(folder.front)
    if config.trials is not None:
        return front if front.search.trials >= config.trials else None
    return front if front.search.stopped in ("converged", "exhausted") else None


def _through(
    steps: Sequence[Step],
    setting: Setting,
    folder: StudyFolder,
    lock: Alone,
    meter: EnergyMeter | None,
) -> Front:
    """Install on the model what takes schedules, go through the steps, and leave the model as it was."""
    with apply_(setting.task.model, Schedule(), seed=setting.config.seed) as handle:
        geometry = setting.geometry
        own = Path(setting.task.space) if setting.task.space else handle.encoder.family.space
        space_file = SpaceFile.load(setting.config.space_path or own).of_part(geometry.part)
        if setting.weights is not None and RUNTIMES.entry(setting.config.mode).by_torch:
            space_file = space_file.with_scorers(setting.weights.scorers)
        if space_file.tower and geometry.tower is None:
            say(f"no stages in the tower: {handle.encoder.family.whole_tower}")
        space = space_file.fit(geometry.depth, geometry.tokens, geometry.protected, tower=geometry.tower)
        found: Any = Run(setting, folder, lock, handle, space, meter)
        for one in steps:
            found = one(found)
        front: Front = found
        return front


@contextmanager
def _meter(config: RunConfig, target: Target, given: EnergyMeter | None) -> Iterator[EnergyMeter | None]:
    """The meter to measure with: the caller's, or the device's own, closed in the end; None where none is needed."""
    if given is not None or not (config.needs_energy and target.here):
        yield given if config.needs_energy else None
        return
    opened = open_meter(target.device)
    if isinstance(opened, Unavailable):
        raise PruneSearchError(f"energy is unavailable on '{target.device}': {opened.reason}; use --objective latency")
    try:
        yield opened
    finally:
        opened.counter.close()
