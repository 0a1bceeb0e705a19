"""What a run may do to halves of blocks: the options that a model has, at a few levels, fitted on calibration rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from prunesearch.compress.fits import FILE, Fits, fit_changes, load_fits, save_fits
from prunesearch.compress.halves import find_half, layer_of
from prunesearch.compress.rank import least_rank_of
from prunesearch.core.costs import find_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import moving, say
from prunesearch.core.plans.plan import HALVES, Change, Options, Plan
from prunesearch.core.plans.stage import ENCODER
from prunesearch.core.tables.registry import CHANGES, ENGINES, RUNTIMES, SPACES
from prunesearch.cost.shape import device_of
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.forward.beside import Beside
from prunesearch.search.space.space import SpaceFile
from prunesearch.study.folder import StudyFolder
from prunesearch.study.setup import Setting

_SHARES = (0.75, 0.5, 0.25)  # of heads, or neurons
_OF_RANK = (0.5, 0.25)  # of the rank at which two factors have no fewer weights: near it they are slower than one
_MULTIPLES = (16, 8)  # sizes are multiples of the first that gives several
_FIT_ROWS = 256


def options_to_search(
    setting: Setting, handle: Handle, folder: StudyFolder, file: SpaceFile, free: Sequence[str]
) -> Options:
    """What may be done to every half of a block, the mildest first; the handle is given what is fitted.

    What a model cannot have is left out, and said.

    Raises:
        PruneSearchError: where what was asked for cannot be searched here, with the reason.
    """
    kinds = kinds_to_search(setting, file, free)
    if not kinds:
        return {}
    options = _runnable(setting, handle, folder, _offered(handle, kinds))
    if not any(options.values()):
        raise PruneSearchError(f"--free {','.join(kinds)}: this model has nothing of it; leave it out")
    words = dict.fromkeys(f"{c.half} {c.word}" for known in options.values() for c in known)
    say(f"halves of blocks: {', '.join(words)}")
    return options


def kinds_to_search(setting: Setting, file: SpaceFile, free: Sequence[str]) -> list[str]:
    """Of what is free, the kinds of change of halves of blocks.

    Raises:
        PruneSearchError: where none can be searched here, with the reason.
    """
    kinds = [kind for kind in free if kind in CHANGES and CHANGES.entry(kind).halves]
    why = half_costs_missing(setting, file) if kinds else ""
    if why:
        raise PruneSearchError(f"--free {','.join(kinds)} cannot be searched here: {why}; leave it out")
    return kinds


def half_costs_missing(setting: Setting, file: SpaceFile) -> str:
    """Why nothing can be searched that is done to halves of blocks, in a clause; empty where it can."""
    config = setting.config
    if setting.geometry.part != ENCODER:
        return "blocks of a decoder are whole or left as they are"
    if not setting.target.here or setting.target.profile is not None:
        return f"costs on '{config.device}' are known of whole blocks alone"
    costs = [name for name in config.costs if not find_cost(name).halves]
    if costs:
        return f"{costs[0]} is known of whole blocks alone"
    if not RUNTIMES.entry(config.mode).halves:
        return f"costs in '{config.mode}' are measured of whole blocks alone"
    if not SPACES.entry(file.kind).halves:
        return f"a space of kind '{file.kind}' is solved for stages alone"
    if not ENGINES.entry(config.engine).in_process:
        return f"workers of the engine '{config.engine}' have no fitted weights"
    return ""


def _offered(handle: Handle, kinds: Iterable[str]) -> dict[tuple[int, str], list[Change]]:
    """All that the shapes of blocks allow."""
    encoder, core = handle.encoder, handle.encoder.family.layout.core
    found: dict[tuple[int, str], list[Change]] = {}
    for block, module in enumerate(encoder.blocks):
        for half in HALVES:
            try:
                parts = find_half(module, core, half)
            except PruneSearchError:
                parts = None
            ranks = 0 if parts is None else min(least_rank_of(layer_of(module, path)) for path in parts.layers)
            groups = 0 if parts is None else parts.groups
            sizes = {
                "width": [
                    (n, "heads" if half == HALVES[0] else "mlp") for n in levels(groups, 1 if half == HALVES[0] else 0)
                ],
                "rank": [(n, half) for n in levels(ranks, shares=_OF_RANK)],
            }
            known = [Change(kind, block, {name: n}) for kind in kinds for n, name in sizes.get(kind, ())]
            known += [Change(kind, block, {"part": half}) for kind in kinds if CHANGES.entry(kind).removes]
            found[block, half] = known
    return found


def levels(whole: int, multiple: int = 0, shares: Sequence[float] = _SHARES) -> list[int]:
    """A few numbers below `whole`, the greatest first, multiples of `multiple` (0: of 16, or 8 where there are few)."""
    if not multiple:
        multiple = next((m for m in _MULTIPLES if whole >= 4 * m), _MULTIPLES[-1])
    sizes = [round(share * whole / multiple) * multiple for share in shares]
    return [n for n in dict.fromkeys(sizes) if 0 < n < whole]


def _runnable(
    setting: Setting, handle: Handle, folder: StudyFolder, offered: dict[tuple[int, str], list[Change]]
) -> Options:
    """Of what is offered, what the model runs with; fitted now, or read from the folder."""
    every = [change for known in offered.values() for change in known]
    path = folder.path / FILE
    wanted = [change for change in every if CHANGES.entry(change.kind).fitted]
    fits = load_fits(path) if path.exists() else {}
    missing = [change for change in wanted if str(change) not in fits]
    if missing:
        fits |= _fitted(setting, handle, missing)
        save_fits(fits, path)
    handle.give(fits)
    wrong: dict[str, str] = {}
    for word in dict.fromkeys((change.half, change.word) for change in every):
        first = next(change for change in every if (change.half, change.word) == word)
        why = _fails(setting, handle, first)
        if why:
            wrong[" ".join(word)] = why
    for name, why in wrong.items():
        say(f"{name} is left out: {why}")
    return {key: tuple(c for c in known if f"{c.half} {c.word}" not in wrong) for key, known in offered.items()}


def _fitted(setting: Setting, handle: Handle, changes: Sequence[Change]) -> Fits:
    """Of the weights in the model; what was trained with these is fitted to the user's, for who asks what it was."""
    held = Beside.of(setting.task.model).fits
    trained = [change for change in changes if held is not None and str(change) in held.changes]
    fits = _fits(setting, handle, [change for change in changes if change not in trained])
    with setting.on_own_weights():
        return fits | _fits(setting, handle, trained)


def _fits(setting: Setting, handle: Handle, changes: Sequence[Change]) -> Fits:
    if not changes:
        return {}
    task = setting.task
    rows = task.calibration.take(_FIT_ROWS)

    def forwards() -> None:
        with handle.under(Plan()):
            for batch in rows.batches:
                task.outputs(task.model, batch)

    with moving("fitting halves of blocks", len(changes)) as progress:
        return fit_changes(
            handle.encoder.blocks, handle.encoder.family.layout.core, changes, forwards, advance=progress.advance
        )


def _fails(setting: Setting, handle: Handle, change: Change) -> str:
    """Why a batch does not go through the model with that change; empty if it does."""
    inputs = setting.task.timing_inputs(1)
    try:
        with torch.inference_mode(), handle.under(Plan(changes=[change])):
            setting.task.model(**inputs)
    except Exception as error:  # a model that was not made for it may raise anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"a forward on {device_of(inputs)} fails: {lines[0][:160]}"
    return ""
