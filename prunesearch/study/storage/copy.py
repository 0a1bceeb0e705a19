"""A copy of a study for optuna-dashboard, which shows constraints in the form of before Optuna 5 only.

Optuna 5 keeps a constraint as the system attribute `constraints:NAME`; optuna-dashboard (0.21) reads the attribute
`constraints`, a list. A trial with both has every constraint twice in `trial.constraints`, so that a sampler that
weighs them (Optuna's GP multiplies their probabilities) would be misled: the list goes into a copy, not into the study.
"""

from __future__ import annotations

import copy
from pathlib import Path

import optuna
from optuna.storages import JournalStorage

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.study.storage.journal import StudyFile
from prunesearch.study.storage.patience import reason_of
from prunesearch.study.storage.places import backend_of

_OLD = "constraints"


def copy_for_optuna_dashboard(file: Path, target: Path) -> int:
    """Copy a study's file, and give the trials their constraints in the form that optuna-dashboard shows.

    The study may be running: what it has written is copied.

    Args:
        file: with the trials of a study folder.
        target: journal to write; it must not be there yet.

    Returns:
        The number of trials that have constraints.

    Raises:
        PruneSearchError: if `target` is there or cannot be written.
        CorruptFileError: if `file` is no study.
    """
    if target.exists():
        raise PruneSearchError(f"{target} is there already: give the copy another name")
    constrained = 0
    try:
        source = backend_of(file)
        (name,) = optuna.get_all_study_names(source)
        study = optuna.load_study(study_name=name, storage=source)
        written = optuna.create_study(
            study_name=name, storage=JournalStorage(StudyFile(target)), directions=study.directions
        )
        for trial in study.get_trials(deepcopy=False):
            bounds = [trial.constraints[key] for key in sorted(trial.constraints)]
            if bounds:
                trial = copy.copy(trial)
                trial.system_attrs = {**trial.system_attrs, _OLD: bounds}
                constrained += 1
            written.add_trial(trial)
    except Exception as error:  # a file may hold anything
        if not target.is_dir():
            target.unlink(missing_ok=True)
        raise CorruptFileError(f"{file} cannot be copied to {target} ({reason_of(error)}): check both paths") from None
    return constrained
