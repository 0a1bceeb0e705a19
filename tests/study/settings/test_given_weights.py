"""Weights that a run searches on, and what lies beside them: in the model, out of it, and in again."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import prunesearch as ps
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.forward.artefacts import save_weights
from prunesearch.pruning.forward.beside import Beside
from prunesearch.study.settings.given_weights import GivenWeights
from prunesearch.tasks.base import Task

PLAN = Plan.parse("unpruned | 1:width(mlp=8)")


def test_layers_that_were_trained_are_out_with_the_weights(vit_task: Task, tmp_path: Path) -> None:
    """By what the model computes under the same plan: on its own weights, as it was fitted to them."""
    model, (batch, *_) = vit_task.model, vit_task.calibration.batches
    fits = ps.fit_plan(model, PLAN, [dict(batch.inputs)])
    (name,) = fits
    weights = {f"fits/{name}/{part}": value.clone() for part, value in fits[name].items()}
    weights[f"fits/{name}/weight"] *= -1.0
    told = dict.fromkeys(
        ("parameters", "data", "rows", "labels", "epochs", "steps", "seconds", "batch_size", "learning_rate", "seed")
    )
    plan = {**Plan(weights=save_weights(tmp_path / "weights", weights, {})).to_dict()}
    plan["provenance"] = {"tuned": told, "equal": None}
    (tmp_path / "plan.json").write_text(json.dumps(plan))

    def logits() -> torch.Tensor:
        with torch.no_grad(), ps.apply_(model, PLAN, fits=fits):
            found: torch.Tensor = model(**batch.inputs).logits
            return found

    own = logits()
    given = GivenWeights.load_(model, tmp_path)
    try:
        trained = logits()
        assert not torch.allclose(trained, own)
        with given.taken_out():
            assert torch.equal(logits(), own)
        assert torch.equal(logits(), trained)
    finally:
        Beside().put_into(model)
