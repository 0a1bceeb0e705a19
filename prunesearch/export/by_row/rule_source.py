"""What is exported of plans that are chosen row by row, and what a format of them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.export_tables import RULE_FORMATS
from prunesearch.export.by_row.row_rule import PlanGuess
from prunesearch.export.models.model_format import ModelFormat, ModelOptions, ModelSource
from prunesearch.export.models.write import find_model_format

# logits `[b, classes]` and the place of each row's plan, int64 `[b]`, of a batch on the CPU
RowForward = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class RuleSource:
    """What is exported.

    Args:
        model: a classifier in eval mode, in float32 on the CPU, without a plan.
        plans: by name, the fastest first; rows go to the first that is sure enough, else to the last.
        threshold: sureness from which on a plan has a row.
        by: what a cascade reads it off: a name in `SURENESS`.
        guesses: of a router: one for each plan but the last.
        block: after which a router decides, from 0.
        inputs: a batch without padding, whose length is that of graphs.
        model_id, provenance, seed, fits: as of a `ModelSource`.
    """

    model: nn.Module
    plans: Mapping[str, Plan]
    threshold: float
    by: str
    guesses: tuple[PlanGuess, ...]
    block: int
    inputs: Mapping[str, Tensor]
    model_id: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    fits: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def of(self, plan: Plan) -> ModelSource:
        """One plan by itself."""
        return ModelSource(
            model=self.model,
            schedule=plan.schedule,
            changes=plan.changes,
            inputs=self.inputs,
            model_id=self.model_id,
            seed=self.seed,
            fits=self.fits,
        )

    def facts(self) -> dict[str, Any]:
        """The rule in a plain form: what files say of it."""
        how = {"block": self.block} if self.guesses else {"by": self.by}
        return {"threshold": self.threshold, **how}


@dataclass(frozen=True)
class RuleFormat:
    """A way to write plans with the rule that chooses between them; its row is in `core/tables/export_tables.py`.

    Args:
        name: what `--to` takes; single plans are written in the model format of this name.
        write: `(source, path, options) -> notes`; writes a new folder at `path`.
        load: what runs it.
    """

    name: str
    write: Callable[[RuleSource, Path, ModelOptions], tuple[str, ...]]
    load: Callable[[Path], RowForward]

    @property
    def single(self) -> ModelFormat:
        """How one plan is written."""
        return find_model_format(self.name)


def find_rule_format(name: str) -> RuleFormat:
    """Return the format called `name`; raise `PruneSearchError` naming the nearest one on a miss."""
    return cast(RuleFormat, RULE_FORMATS.load(name))
