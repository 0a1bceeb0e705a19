import multiprocessing
import os

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.measure import measure_table
from prunesearch.cost.timing.concurrency import background_load, build, describe_job
from prunesearch.pruning.families.find import find_encoder


def test_the_others_build_the_same_architecture(tiny, batch):
    job = describe_job(tiny, batch, "eager")
    base, twin = find_encoder(tiny).base, build(job)
    assert type(twin) is type(base)
    built = {name: p.shape for name, p in twin.named_parameters()}  # with a pooler that the classifier does without
    assert {name: p.shape for name, p in base.named_parameters()}.items() <= built.items()
    assert job["inputs"]["pixel_values"] == ((2, 3, 16, 16), torch.float32)


def test_without_others_nothing_is_started(tiny, batch):
    with background_load(tiny, batch, 0):
        assert multiprocessing.active_children() == []


def test_a_table_under_load_states_its_concurrency_and_leaves_no_process(tiny, batch):
    seen = []
    hook = tiny.vit.layernorm.register_forward_hook(lambda *_: seen.append(len(multiprocessing.active_children())))
    try:
        table = measure_table(
            tiny, batch, counts=[5, 9], methods=["cls_attention+drop"], time_budget_s=0.1, unseen=3,
            concurrency=2,
        )  # fmt: skip
    finally:
        hook.remove()
    assert table.conditions["concurrency"] == 2
    assert table.noise.others is None
    assert seen == sorted(seen)  # what is run to wait for a quiet machine comes first, without the load
    assert set(seen) == {0, 1}
    assert multiprocessing.active_children() == []


def die(*_):
    os._exit(3)


def test_a_process_that_dies_is_said(tiny, batch):
    with pytest.raises(PruneSearchError, match=r"1 of 1 processes of the background load ended with code"), \
            background_load(tiny, batch, 1, serve=die):  # fmt: skip
        raise AssertionError("nothing may be measured")


def test_concurrency_is_at_least_one(tiny, batch):
    with (
        pytest.raises(PruneSearchError, match="`concurrency >= 1` must hold, but got 0"),
        background_load(tiny, batch, -1),
    ):
        pass


def test_models_wrapped_by_others_are_served_by_their_encoder(batch):
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16)
    wrapped = torch.nn.Sequential(ViTForImageClassification(config))
    assert describe_job(wrapped, batch, "eager")["class"] == "ViTModel"
