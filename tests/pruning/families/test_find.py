"""Finding the encoder: which models, which of two, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.pruning.families.family import Family
from prunesearch.pruning.families.find import FAMILIES, check_model_type, find_encoder, register_family
from prunesearch.pruning.families.rows import AROUND, REFUSED
from tests.support.small_models import CASES, answer, build, inputs_of, last_hidden
from tests.support.tables import in_place

HALF = ps.Schedule([ps.Stage(1, 0.5)])


def tiny(name: str, cls: str, **settings: Any) -> Any:
    """Another class of a family, with the config of its small model."""
    config = CASES[name].make().config
    for key, value in settings.items():
        setattr(config, key, value)
    return getattr(hf, cls)(config)


@pytest.mark.parametrize(
    ("name", "cls", "settings", "why"),
    [
        ("beit", "BeitForMaskedImageModeling", {"use_mask_token": True}, "needs every token back"),
        ("yolos", "YolosModel", {}, None),
        ("wav2vec2", "Wav2Vec2ForXVector", {"use_weighted_layer_sum": True}, "different lengths"),
        ("wav2vec2", "Wav2Vec2ForSequenceClassification", {"use_weighted_layer_sum": True}, "different lengths"),
        ("wav2vec2", "Wav2Vec2Model", {"add_adapter": True, "output_hidden_size": 32}, "add_adapter"),
        ("whisper-audio", "WhisperForAudioClassification", {"use_weighted_layer_sum": True}, "different lengths"),
        ("deberta", "DebertaV2Model", {"relative_attention": False}, "relative_attention=True must hold"),
        ("deberta", "DebertaV2Model", {"conv_kernel_size": 3}, "conv_kernel_size"),
        (
            "vit-mae",
            "ViTMAEForPreTraining",
            {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2},
            "needs every",
        ),
        (
            "videomae",
            "VideoMAEForPreTraining",
            {"decoder_num_attention_heads": 2, "decoder_hidden_size": 32},
            "needs every token back",
        ),
    ],
)
def test_what_would_be_wrong_is_refused_in_one_line(
    name: str, cls: str, settings: dict[str, Any], why: str | None
) -> None:
    model = tiny(name, cls, **settings)
    if why is None:
        ps.apply_(model, HALF).remove()
        return
    with pytest.raises(UnsupportedModelError, match=why) as caught:
        ps.apply_(model, HALF)
    assert "\n" not in str(caught.value)


def test_segmentation_of_a_grid_is_refused() -> None:
    model = CASES["detr"].make()
    model.__class__ = type("DetrForSegmentation", (hf.DetrForObjectDetection,), {})
    with pytest.raises(UnsupportedModelError, match="DetrForSegmentation needs every token back in its place"):
        ps.apply_(model, HALF)


@pytest.mark.parametrize("model_type", list(REFUSED))
def test_families_that_cannot_be_are_refused_with_the_reason_and_a_way_out(model_type: str) -> None:
    assert model_type not in FAMILIES
    with pytest.raises(UnsupportedModelError, match=r"is not supported: .*; nearest: ") as caught:
        check_model_type(model_type)
    why, near = REFUSED[model_type]
    assert why in str(caught.value)
    assert set(near) <= set(FAMILIES)


def test_a_model_of_no_known_name_is_told_of_those_that_read_the_same() -> None:
    funnel = hf.FunnelConfig(vocab_size=20, d_model=8, n_head=1, d_head=8, d_inner=8, block_sizes=[1])
    with pytest.raises(UnsupportedModelError, match=r"'funnel' is not supported: no row .*nearest: bert, modernbert;"):
        ps.apply_(hf.FunnelModel(funnel), HALF)


def test_windowed_attention_is_refused_on_the_class_itself() -> None:
    swin = hf.SwinForImageClassification(
        hf.SwinConfig(image_size=16, patch_size=4, embed_dim=8, depths=[1], num_heads=[1], window_size=2)
    )
    with pytest.raises(UnsupportedModelError, match=r"'swin' is not supported: it attends within windows of a grid"):
        ps.apply_(swin, HALF)
    sam = hf.SamVisionConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=1, image_size=16, patch_size=8)
    with pytest.raises(UnsupportedModelError, match=r"windows of a grid"):
        ps.apply_(hf.SamVisionModel(sam), HALF)


def test_of_two_towers_the_vision_one_is_taken_and_either_can_be_passed() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 16}
    config = hf.CLIPConfig(
        text_config={**sizes, "vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": 2},
        vision_config={**sizes, "image_size": 8, "patch_size": 2},
        projection_dim=4,
    )
    model = hf.CLIPModel(config)
    assert find_encoder(model).family.model_type == AROUND["clip"] == "clip_vision_model"
    assert find_encoder(model.text_model).family.model_type == "clip_text_model"
    check_model_type("clip")
    ids = torch.tensor([[0, 5, 6, 7, 9, 2]])
    inputs = {"pixel_values": torch.randn(1, 3, 8, 8), "input_ids": ids}
    model.eval()
    with torch.no_grad():
        before = model(**inputs).logits_per_image
        first = ps.Schedule([ps.Stage(0, 0.5)])
        with ps.apply_(model, first) as vision, ps.apply_(model.text_model, first) as text:
            reduced = model(**inputs).logits_per_image
            assert vision.tokens is not None
            assert vision.tokens.n == 9
            assert text.tokens is not None
            assert text.tokens.n == 4
        assert torch.equal(model(**inputs).logits_per_image, before)
    assert not torch.equal(reduced, before)


def test_a_model_without_the_blocks_of_its_family_is_refused() -> None:
    stack = build("t5").encoder
    with pytest.raises(UnsupportedModelError, match=r"T5Stack has no blocks at 'encoder.block'"):
        ps.apply_(stack, HALF)


@pytest.fixture
def no_bert() -> Iterator[Family]:
    bert = FAMILIES["bert"]
    with in_place(FAMILIES, "bert"):
        yield bert


def test_a_registered_family_works_and_a_name_is_taken_once(no_bert: Family) -> None:
    model, inputs = build("bert"), inputs_of("bert")
    with pytest.raises(UnsupportedModelError, match=r"'bert' is not supported: no row says .*; nearest: .*albert"):
        ps.apply_(model, HALF)
    register_family(replace(no_bert, leading=2, protects="two at the start, last separator"))
    with ps.apply_(model, HALF) as handle:
        answer(model(**inputs))
        assert handle.tokens is not None
        assert handle.tokens.n == 3 + 6  # ceil(0.5 x 11)
    with pytest.raises(PruneSearchError, match=r"'bert' is already registered"):
        register_family(no_bert)


# -- blocks that are skipped, or run more than once ---------------------------------------------------


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "bart", "marian", "whisper"])
def test_layers_dropped_in_training_do_not_leave_the_last_forward_behind(name: str) -> None:
    model, inputs = build(name), inputs_of(name)
    with ps.apply_(model, HALF) as handle, torch.no_grad():
        model(**inputs)
        assert handle.tokens is not None
        model.train()
        encoder = model.base_model.encoder
        encoder.config.layerdrop = encoder.layerdrop = 1.0
        model(**inputs)
        assert handle.tokens is None


@pytest.mark.parametrize("name", ["albert", "albert-groups"])
def test_a_stage_of_a_shared_block_belongs_to_one_pass(name: str) -> None:
    model, inputs = build(name), inputs_of(name)
    encoder = find_encoder(model)
    assert encoder.depth == 4
    assert len(set(encoder.blocks)) < 4 or name == "albert-groups"
    for layer in range(4):
        with ps.apply_(model, ps.Schedule([ps.Stage(layer, 0.5)])), torch.no_grad():
            out = model(**inputs, output_hidden_states=True)
        assert [h.shape[1] for h in out.hidden_states] == [14] * (layer + 1) + [8] * (4 - layer)


def test_a_forward_that_failed_midway_does_not_shift_the_passes() -> None:
    model, inputs = build("albert"), inputs_of("albert")
    with ps.apply_(model, HALF), torch.no_grad():
        want = last_hidden(model, inputs)
        ffn = find_encoder(model).blocks[0].ffn
        hook = ffn.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))
        with pytest.raises(RuntimeError, match="stop"):
            model(**inputs)
        hook.remove()
        assert torch.equal(last_hidden(model, inputs), want)


def test_relative_positions_and_flash_kernels_do_not_go_together() -> None:
    model = build("modernbert")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(PruneSearchError, match=r"relative positions go through the mask of 'modernbert'"):
        ps.apply_(model, HALF)
