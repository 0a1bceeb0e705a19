"""A folder with an ONNX file for each plan, what decides (`rule.json`, of a router a graph too), and what runs them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch import __version__
from prunesearch.core.files import write_text_atomic
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.by_row import onnx_runner
from prunesearch.export.by_row.onnx_runner import RowRunner
from prunesearch.export.by_row.row_rule import pooled_states
from prunesearch.export.by_row.rule_source import RowForward, RuleFormat, RuleSource
from prunesearch.export.models.model_format import ModelOptions
from prunesearch.export.models.write import find_model_format, write_format
from prunesearch.pruning.apply import Handle, apply_

RULE, DECIDE, RUNNER = "rule.json", "decide.onnx", "run.py"


class _Decider(nn.Module):
    """How sure each plan will be of a row; a graph of it keeps no block behind the one that is looked at."""

    def __init__(self, model: nn.Module, handle: Handle, source: RuleSource) -> None:
        super().__init__()
        self.model, self.guesses = model, nn.ModuleList(source.guesses)
        self._handle, self._after = handle, source.block + 1

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        with self._handle.observing() as seen:
            self.model(**inputs)
            states = pooled_states(seen[self._after], inputs.get("attention_mask"))
        return {"sureness": torch.stack([guess(states) for guess in self.guesses], dim=1)}


def write_rule_graphs(source: RuleSource, path: Path, options: ModelOptions) -> tuple[str, ...]:
    """Write the folder; returns what is to be known of it.

    Raises:
        PruneSearchError: if a plan cannot be written.
    """
    single, notes = find_model_format("onnx"), []
    path.mkdir()
    for name, plan in source.plans.items():
        said = write_format(source.of(plan), single, path / f"{name}{single.suffix}", options)
        notes += [f"{name}: {'; '.join(said)}"]
    rule: dict[str, Any] = {
        "prunesearch": __version__,
        "plans": [{"name": name, "file": f"{name}{single.suffix}"} for name in source.plans],
        **source.facts(),
        "shapes": {name: ["batch", *value.shape[1:]] for name, value in source.inputs.items()},
    }
    if source.guesses:
        rule["decide"] = DECIDE
        with apply_(source.model, Schedule(), seed=source.seed) as handle:
            decider = _Decider(source.model, handle, source)
            single.write(replace(source.of(Plan()), model=decider), path / DECIDE, options)
    write_text_atomic(path / RULE, json.dumps(rule, indent=2, ensure_ascii=False) + "\n")
    write_text_atomic(path / RUNNER, inspect.getsource(onnx_runner))
    return tuple(notes)


def load_rule_graphs(path: Path) -> RowForward:
    """The folder in ONNX Runtime, with as many threads as torch has."""
    runner = RowRunner(path, torch.get_num_threads())

    def forward(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits, places = runner({name: value.numpy() for name, value in inputs.items()})
        return torch.from_numpy(logits), torch.from_numpy(places)

    return forward


GRAPHS_BY_ROW = RuleFormat(name="onnx", write=write_rule_graphs, load=load_rule_graphs)
