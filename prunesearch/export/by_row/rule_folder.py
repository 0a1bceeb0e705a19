"""A Hugging Face folder that chooses each row's plan: one set of weights, a generated modelling file, and the rule.

`AutoModel….from_pretrained(folder, trust_remote_code=True)` gives the user's own transformers class, whose forward
decides, runs the rows of each plan together, and gives answers in the order of the rows, as `row_rule` does in a study.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.export.by_row.rule_source import RowForward, RuleFormat, RuleSource
from prunesearch.export.models.huggingface import FileEnd, file_with, open_folder, save_folder, save_processor
from prunesearch.export.models.model_format import ModelOptions
from prunesearch.pruning.families.find import BY_ROW, PRUNED

_NAME = "ByRow"  # of the class, before that of transformers' class
_GUESSES = "guesses"  # where the class has a router's weights
_RULE = "prunesearch.export.by_row.row_rule"

_TAIL = '''

# -- the model {dashes}

{registrations}


class {config}({config_base}):
    """Of a model with several plans: by its own type nothing takes it for an unpruned one."""

    model_type = "{prefix}{model_type}"


@dataclass
class {name}Output(ModelOutput):
    """Logits `[batch, classes]`, and which plan answered each row: its place in the config, int64 `[batch]`."""

    logits: Tensor | None = None
    plans: Tensor | None = None


class {name}({base}):
    """`{base}` that decides for every row which of `config.prunesearch["plans"]` runs it."""

    config_class = {config}

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        said = self.config.prunesearch
        self.planned = [{planned} for plan in said["plans"]]
        self.{guesses} = nn.ModuleList(PlanGuess(width) for width in said["widths"])
        Handle(self, Schedule(), seed=said["seed"])

    @wraps({base}.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        handle, said = handle_of(self), self.config.prunesearch
        if handle.within:  # a plan is at work: this call is one of those that are made below
            return super().forward(*args, **kwargs)
        inputs = named_inputs({base}.forward.__get__(self), args, kwargs)
        named = inputs.pop("return_dict", True)
        rule = {{name: said[name] for name in ("by", "block") if name in said}}
        by_row = ByRow(self, handle, self.planned, said["threshold"], guesses=list(self.{guesses}), **rule)
        logits, plans = by_row(inputs)
        found = {name}Output(logits=logits, plans=plans)
        return found if named else found.to_tuple()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """See transformers; by their own name no other class loads the weights unpruned."""
        return super().from_pretrained(*args, **{{"variant": "{variant}", **kwargs}})

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """See transformers."""
        return super().save_pretrained(*args, **{{"variant": "{variant}", **kwargs}})
'''
_SCHEDULE = 'Schedule.from_dict(plan["schedule"])'
_WITHOUT_HALVES = f'WithoutHalves({_SCHEDULE}, frozenset((block, half) for block, half in plan["skips"]))'


def rule_file(model: PreTrainedModel, plans: Mapping[str, Plan]) -> str:
    """The source of a module with the class `ByRow…` of `model`'s class.

    Raises:
        PruneSearchError: as `huggingface.modelling_file`; also for a plan that changes weights.
    """
    for name, plan in plans.items():
        own = [change for change in plan.changes if change not in plan.shortened.changes]
        if own:
            raise PruneSearchError(
                f"such a folder holds the weights of one model, but {name} has others of its own ({own[0]}): choose "
                "--to onnx, which writes each plan by itself"
            )
    skips = any(plan.skips for plan in plans.values())
    words = {"planned": _WITHOUT_HALVES if skips else _SCHEDULE, "guesses": _GUESSES}
    roots = [(_RULE, name) for name in ("ByRow", "PlanGuess", "named_inputs")]
    imports = (
        "from dataclasses import dataclass",
        "from functools import wraps",
        "from transformers.utils import ModelOutput",
        "from torch import nn",
    )
    if skips:
        roots.append(("prunesearch.pruning.forward.reshaped", "WithoutHalves"))
    tail = FileEnd(
        _TAIL, roots, words, name=_NAME, prefix=PRUNED + BY_ROW, methods=("within", "decide"), imports=imports
    )
    return file_with(model, tail, {name: plan.schedule for name, plan in plans.items()})


def write_rule_folder(source: RuleSource, path: Path, options: ModelOptions) -> tuple[str, ...]:
    """Write the folder; returns what is to be known of it.

    Raises:
        PruneSearchError: see `rule_file`; also for a classifier whose head prunesearch fitted.
    """
    model = source.model
    if not isinstance(model, PreTrainedModel):
        raise PruneSearchError(
            f"{type(model).__name__} is no transformers model (prunesearch fitted its head), so that no Hugging Face "
            "folder can hold it: choose --to onnx"
        )
    text = rule_file(model, source.plans)
    plans = [
        {"name": name, "schedule": plan.schedule.to_dict(), "skips": sorted(map(list, plan.skips))}
        for name, plan in source.plans.items()
    ]
    widths = [guess.layer.in_features for guess in source.guesses]
    said = {"seed": source.seed, "plans": plans, "widths": widths, **source.facts()}
    more = nn.ModuleDict({_GUESSES: nn.ModuleList(source.guesses)}).state_dict()
    save_folder(model, path, text, _NAME, said, prefix=PRUNED + BY_ROW, more=more)
    return save_processor(model, source.model_id, source.inputs, path)


def load_rule_folder(path: Path) -> RowForward:
    """The model of a folder that `write_rule_folder` wrote, in eager torch. Runs the code in the folder."""
    model: Any = open_folder(path)

    def forward(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            found = model(**inputs)
        return found.logits, found.plans

    return forward


FOLDER_BY_ROW = RuleFormat(name="hf", write=write_rule_folder, load=load_rule_folder)
