"""The file that an export to `hf` generates, as the model that it makes."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.models.huggingface import modelling_file


def generated(model: Any, schedule: Schedule, path: Path) -> Any:
    """Write the file at `path`, import it, and give its model the weights of `model`."""
    path.write_text(modelling_file(model, schedule))
    spec = importlib.util.spec_from_file_location(f"{path.stem}_{id(model)}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up, and pickle its classes
    spec.loader.exec_module(module)
    config = copy.deepcopy(model.config)
    config.prunesearch = {"seed": 0, "schedule": json.loads(schedule.to_json())}
    pruned = getattr(module, f"Pruned{type(model).__name__}")(config).eval()
    pruned.load_state_dict(model.state_dict())
    return pruned
