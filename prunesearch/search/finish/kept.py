"""What the end of a run has judged and measured so far, in the study folder: a run that ended there goes on there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import load_json, write_bytes_atomic, write_text_atomic
from prunesearch.core.plans.plan import Plan
from prunesearch.search.trials.evaluate import Evaluation, InViews
from prunesearch.study.front_items import Measured
from prunesearch.tasks.batching.batches import EvalSet
from prunesearch.tasks.metrics.metric import Metric


@dataclass(frozen=True)
class Kept:
    """Evaluations and measurements by what they are of; files of other conditions, or damaged ones, are passed over.

    Attributes:
        folder: of the files; it is made when there is something to keep.
        conditions: what must be the same beside the plan, as plain data: rows, metric, versions, machine.
    """

    folder: Path
    conditions: dict[str, Any]

    def evaluation(
        self, plan: Plan, rows: int, metric: Metric, evaluate: Callable[[], Evaluation], split: EvalSet | None = None
    ) -> tuple[Evaluation, bool]:
        """The evaluation of a plan on so many rows of the holdout split, and whether it was kept from before."""
        path = self._path("safetensors", plan=plan.to_dict(), evaluated=rows)
        if path.exists():
            try:
                parts = load(path.read_bytes())
                views = None
                if split and split.views:
                    views = InViews(split.views, parts["views"], parts["rows"], split.over)
                return Evaluation(parts["statistics"], parts["kl"], parts["agrees"], metric, views), True
            except (safetensors.SafetensorError, KeyError):
                pass
        found = evaluate()
        parts = {"statistics": found.statistics, "kl": found.kl, "agrees": found.agrees}
        if found.views is not None:
            parts |= {"views": found.views.of, "rows": found.views.rows}
        write_bytes_atomic(path, save({name: part.contiguous() for name, part in parts.items()}))
        return found, False

    def tensors(self, of: dict[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors by name that `make` finds, and that `of` tells from others."""
        path = self._path("safetensors", **of)
        if path.exists():
            try:
                return load(path.read_bytes())
            except safetensors.SafetensorError:
                pass
        found = make()
        write_bytes_atomic(path, save({name: value.contiguous() for name, value in found.items()}))
        return found

    def measured(
        self, cost: str, load: str, plans: Sequence[Plan], measure: Callable[[Path], list[Measured] | None]
    ) -> list[Measured] | None:
        """A cost of some plans, which were measured side by side: of all of them or none.

        Args:
            cost: its name.
            load: what it is measured under.
            plans: all that are compared; with another one beside them all are measured again.
            measure: does it, and keeps what is not finished in the file that it is given; None where it cannot.
        """
        path = self._path("json", cost=cost, load=load, plans=[plan.to_dict() for plan in plans])
        if path.exists():
            try:
                return [Measured.model_validate(amount) for amount in load_json(path, "measurement")["measured"]]
            except (PruneSearchError, ValidationError, KeyError, TypeError):
                pass
        unfinished = path.with_suffix(".part")
        found = measure(unfinished)
        if found is not None:
            write_text_atomic(path, json.dumps({"measured": [amount.model_dump() for amount in found]}) + "\n")
        unfinished.unlink(missing_ok=True)
        return found

    def _path(self, kind: str, **of: Any) -> Path:
        said = json.dumps({**self.conditions, **of}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(said.encode()).hexdigest()[:32]}.{kind}"
