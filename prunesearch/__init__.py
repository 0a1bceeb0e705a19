"""prunesearch: Pareto-optimal token-pruning schedules for the user's model, data, device and budget."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Loaded on first use, so that `import prunesearch` (and `--help`) imports no torch.
_PUBLIC = {
    "run": "prunesearch.api.verbs",
    "compare": "prunesearch.api.verbs",
    "inspect": "prunesearch.api.verbs",
    "load_study": "prunesearch.api.verbs",
    "tune": "prunesearch.api.verbs",
    "load_tuned": "prunesearch.api.verbs",
    "profile": "prunesearch.api.verbs",
    "measure": "prunesearch.api.verbs",
    "devices": "prunesearch.api.verbs",
    "names": "prunesearch.api.lookups",
    "models": "prunesearch.api.lookups",
    "flops": "prunesearch.api.lookups",
    "import_schedule": "prunesearch.api.lookups",
    "dashboard": "prunesearch.api.lookups",
    "Study": "prunesearch.api.study",
    "StudyPoint": "prunesearch.api.study",
    "RunConfig": "prunesearch.study.config",
    "Schedule": "prunesearch.core.plans.schedule",
    "Geometry": "prunesearch.core.plans.flow",
    "Plan": "prunesearch.core.plans.plan",
    "Place": "prunesearch.core.plans.stage",
    "Stage": "prunesearch.core.plans.stage",
    "Threshold": "prunesearch.core.plans.amount",
    "Cumulative": "prunesearch.core.plans.amount",
    "Budget": "prunesearch.core.budget",
    "PruneSearchError": "prunesearch.core.errors",
    "SCORERS": "prunesearch.core.tables.token_tables",
    "MERGES": "prunesearch.core.tables.token_tables",
    "apply_": "prunesearch.pruning.apply",
    "handle_of": "prunesearch.pruning.apply",
    "fit_plan": "prunesearch.api.fitting",
    "load_fits": "prunesearch.compress.fits",
    "mean_pool": "prunesearch.pruning.families.pooling",
    "register_family": "prunesearch.pruning.families.find",
    "Family": "prunesearch.pruning.families.family",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'prunesearch' has no attribute '{name}'") from None
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
