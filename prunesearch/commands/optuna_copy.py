"""`prunesearch dashboard STUDY --optuna-copy FILE`: a copy of a study in which optuna-dashboard shows constraints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunesearch.core.errors import PruneSearchError
from prunesearch.study.folder import resolve_study
from prunesearch.study.storage.copy import copy_for_optuna_dashboard


def optuna_copy(studies: Sequence[str], target: Path) -> int:
    """Copy the trials of one study to `target`; returns how many of them have constraints.

    Raises:
        PruneSearchError: if there are several studies, or trials are in another storage than the study's folder.
    """
    if len(studies) != 1:
        raise PruneSearchError(f"`--optuna-copy FILE` takes one study, but got {len(studies)}: name one")
    folder = resolve_study(studies[0])
    if folder.trials is None:
        raise PruneSearchError(f"{folder.path} has no trials: they are in the storage that the run was given")
    return copy_for_optuna_dashboard(folder.trials, target)
