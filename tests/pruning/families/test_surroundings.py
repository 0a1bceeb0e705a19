"""What is around an encoder is looked at when a schedule is applied, not when it fails far away."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as hf

import prunesearch as ps
from prunesearch.core.errors import UnsupportedModelError
from tests.support.heads import answers_of, given_to
from tests.support.small_models import build

HALF = ps.Schedule([ps.Stage(1, 0.5)])
_TEXT = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
_IMAGE = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def _bert2bert() -> Any:
    return hf.EncoderDecoderModel(
        hf.EncoderDecoderConfig.from_encoder_decoder_configs(hf.BertConfig(**_TEXT), hf.BertConfig(**_TEXT))
    )


def _captions() -> Any:
    return hf.VisionEncoderDecoderModel(
        hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(hf.ViTConfig(**_IMAGE), hf.BertConfig(**_TEXT))
    )


def _vip_llava() -> Any:
    tower = hf.CLIPVisionConfig(**_IMAGE, intermediate_size=16)
    text = hf.LlamaConfig(**_TEXT, num_key_value_heads=2)
    return hf.VipLlavaForConditionalGeneration(hf.VipLlavaConfig(vision_config=tower, text_config=text))


@pytest.mark.parametrize("make", [_bert2bert, _captions, _vip_llava])
def test_a_model_that_counts_its_tokens_is_refused_at_once_and_left_as_it_was(make: Any) -> None:
    model = make()
    with pytest.raises(UnsupportedModelError, match=rf"{type(model).__name__} counts the tokens .* by itself"):
        ps.apply_(model, HALF)
    assert ps.handle_of(model) is None
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_models_around_that_read_pooled_states_are_taken() -> None:
    both = hf.VisionTextDualEncoderModel(
        hf.VisionTextDualEncoderConfig.from_vision_text_configs(hf.ViTConfig(**_IMAGE), hf.BertConfig(**_TEXT))
    )
    ps.apply_(both, HALF).remove()


def test_a_list_of_stages_and_a_plan_are_schedules() -> None:
    model, inputs = build("vit"), given_to("vit", 0)
    with ps.apply_(model, HALF):
        want = answers_of(model, inputs)
    for given in (list(HALF), iter(HALF), ps.Plan(HALF)):
        with ps.apply_(model, given) as handle:
            assert handle.schedule == HALF
            assert (answers_of(model, inputs) == want).all()
    with ps.apply_(model, []) as handle:
        handle.set([ps.Stage(1, 0.5)])
        assert (answers_of(model, inputs) == want).all()
        with handle.under(ps.Plan()):
            assert handle.schedule == ps.Schedule()
    with pytest.raises(ps.PruneSearchError, match="a schedule is a list of Stage"):
        ps.apply_(model, [3])
    assert ps.handle_of(model) is None
