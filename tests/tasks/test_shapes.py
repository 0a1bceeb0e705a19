import pytest
import torch
from transformers import ViTConfig

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.pruning.families.find import find_encoder
from prunesearch.tasks.loading import count_tokens
from prunesearch.tasks.shapes import load_shape, random_inputs, shape_config
from prunesearch.tasks.table import SHAPES
from tests.support.small_models import CASES, build

# parameters in millions, from the papers' and the models' own cards (heads of 1000 and 2 labels)
PUBLISHED = {"deit-tiny": 5.7, "deit-small": 22.1, "vit-base": 86.6, "bert-base": 109.5, "minilm-l6": 22.7}


@pytest.mark.parametrize("name", SHAPES)
def test_a_built_in_shape_has_the_published_size(name):
    model = load_shape(name, device="meta")
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[name], rel=0.005)
    assert next(model.parameters()).device.type == "meta"


def test_inputs_fit_the_model():
    image, text = load_shape("deit-tiny"), load_shape("minilm-l6")
    assert count_tokens(image, random_inputs(image, 2)) == 197
    assert count_tokens(text, random_inputs(text, 2, length=40)) == 40
    assert random_inputs(text, 3)["input_ids"].shape == (3, 128)
    half = load_shape("deit-tiny", dtype=torch.bfloat16)
    assert random_inputs(half, 1)["pixel_values"].dtype == torch.bfloat16


def test_a_model_that_does_not_run_on_its_own_inputs_is_one_line():
    image = load_shape("deit-tiny")
    larger = {"pixel_values": torch.zeros(1, 3, 256, 256)}
    with pytest.raises(PruneSearchError, match=r"must run on what its own processor.*\(256\*256\) does.*put the"):
        count_tokens(image, larger)


def test_a_folder_is_read_for_its_configuration_alone(tmp_path):
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32)
    config.save_pretrained(tmp_path / "model")
    model = load_shape(str(tmp_path / "model"))
    assert count_tokens(model, random_inputs(model, 1)) == 5


def test_bad_names_and_lengths_are_one_line(tmp_path):
    with pytest.raises(PruneSearchError, match="did you mean 'deit-small'"):
        shape_config("deit-smal")
    ViTConfig(model_type="vit").save_pretrained(tmp_path)
    text, image = load_shape("minilm-l6", device="meta"), load_shape("deit-tiny", device="meta")
    with pytest.raises(PruneSearchError, match="`8 <= length <= 512` must hold for this model, but got 600"):
        random_inputs(text, 1, length=600)
    with pytest.raises(PruneSearchError, match="this model has its own number of tokens"):
        random_inputs(image, 1, length=64)
    with pytest.raises(PruneSearchError, match="use --attn sdpa or eager"):
        load_shape("deit-tiny", attention="flash_attention_2", device="meta")


@pytest.mark.parametrize("name", CASES)
def test_every_supported_kind_of_model_is_built_from_its_folder_and_runs_on_inputs_of_its_kind(name, tmp_path):
    made = build(name)
    made.config.architectures = [type(made).__name__]
    made.config.save_pretrained(tmp_path)
    model = load_shape(str(tmp_path), attention=CASES[name].backends[0])
    if not hasattr(find_encoder(model).sizes, "image_size") and model.main_input_name == "pixel_values":
        with pytest.raises(PruneSearchError, match="have no size of their own"):
            random_inputs(model, 1)
        return
    inputs = random_inputs(model, 2, length=12 if model.main_input_name == "input_ids" else None)
    assert count_tokens(model, inputs) > 1
    with torch.inference_mode():
        model(**inputs)


@pytest.mark.parametrize("name", ["whisper", "whisper-audio", "bart", "t5", "wav2vec2", "ast", "videomae"])
def test_what_reads_sound_or_writes_keeps_the_head_of_its_checkpoint(name, tmp_path):
    made = build(name)
    made.config.architectures = [type(made).__name__]
    made.config.save_pretrained(tmp_path)
    assert type(load_shape(str(tmp_path), attention=CASES[name].backends[0])) is type(made)


def test_a_refused_attention_names_the_others(tmp_path):
    build("wavlm").config.save_pretrained(tmp_path)
    with pytest.raises(PruneSearchError, match="use --attn eager or flash"):
        load_shape(str(tmp_path), attention="sdpa")


def test_a_family_that_cannot_be_reduced_is_refused(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="'gpt2' is not supported"):
        load_shape(str(tmp_path))
