"""An evaluation on the first rows is that of all rows, cut; the whole sequence is evaluated once a change."""

from __future__ import annotations

import torch
from transformers import ViTConfig, ViTForImageClassification

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks.objects import task_of


def test_first_rows_are_the_same_whatever_the_plan_and_a_change_alone_is_evaluated_once() -> None:
    torch.manual_seed(0)
    shape = {"image_size": 16, "patch_size": 4, "num_channels": 1, "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_hidden_layers": 4, "num_attention_heads": 2, "num_labels": 5, "initializer_range": 0.3}
    pixels = torch.randn(100, 1, 16, 16)
    model = ViTForImageClassification(ViTConfig(**shape, **heads)).eval()
    task = task_of(model, {"calibration": (pixels, None), "holdout": (pixels[:16], None)}, batch_size=16)
    forwards: list[int] = []
    model.register_forward_hook(lambda module, args, output: forwards.append(len(output.logits)))
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.calibration)
        plan = Plan(Schedule([Stage(1, 0.5)]))
        whole, few = evaluator.evaluate(plan), evaluator.evaluate(plan, rows=20)
        assert whole.n == 100
        assert 20 <= few.n < 20 + 16
        for name in ("statistics", "kl", "agrees"):
            assert torch.equal(getattr(few, name), getattr(whole.first(few.n), name))
        changed = Plan(Schedule(), (Change("precision", params={"to": "bfloat16"}),))
        before = len(forwards)
        first = evaluator.evaluate(changed)
        assert len(forwards) == before + 7
        assert evaluator.evaluate(changed) is first
        assert len(forwards) == before + 7
