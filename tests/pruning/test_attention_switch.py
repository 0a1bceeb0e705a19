"""The attention of a model is whoever's who holds its config; a schedule lives through what becomes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers as hf

import prunesearch as ps
from tests.support.heads import answers_of, given_to, model_of
from tests.support.small_models import build

MIXED = ps.Schedule([ps.Stage(0, 0.7, "attention_received", "fuse"), ps.Stage(2, 0.4, "value_norm", "bipartite")])
DROPS = ps.Schedule([ps.Stage(1, 0.5, "value_norm", "drop")])


@pytest.mark.parametrize("kind", ["vit", "tags", "bart", "whisper", "modernbert", "clip-text", "yolos"])
def test_the_model_switches_under_a_schedule(kind: str) -> None:
    model, inputs = model_of(kind), given_to(kind, 0)
    whole = answers_of(model, inputs)
    with ps.apply_(model, MIXED):
        want = answers_of(model, inputs)
        model.set_attn_implementation("eager")
        torch.testing.assert_close(answers_of(model, inputs), want, rtol=1e-3, atol=1e-4)
        model.set_attn_implementation("sdpa")
        assert torch.equal(answers_of(model, inputs), want)
        model.set_attn_implementation("eager")
    torch.testing.assert_close(answers_of(model, inputs), whole, rtol=1e-3, atol=1e-4)
    assert model.config._attn_implementation == "eager"  # the user's last word, not ours


def test_two_models_of_one_config_do_not_know_of_each_other() -> None:
    one = build("vit")
    two = hf.ViTForImageClassification(one.config).eval()
    two.load_state_dict(one.state_dict())
    inputs = given_to("vit", 0)
    whole = answers_of(two, inputs)
    first = ps.apply_(one, MIXED)
    assert torch.equal(answers_of(two, inputs), whole)
    want = answers_of(one, inputs)
    with ps.apply_(two, MIXED):
        first.remove()
        assert torch.equal(answers_of(two, inputs), want)
        assert torch.equal(answers_of(one, inputs), whole)


def test_an_attention_that_cannot_run_the_schedule_is_refused_at_once_and_nothing_is_broken() -> None:
    model, inputs = build("vit"), given_to("vit", 0)
    with ps.apply_(model, MIXED) as handle:
        want = answers_of(model, inputs)
        model.config._attn_implementation = "flash_attention_2"
        with pytest.raises(ps.PruneSearchError, match="cannot add"):
            answers_of(model, inputs)
        with pytest.raises(ps.PruneSearchError, match="cannot add"):
            handle.set(MIXED)
        model.config._attn_implementation = "sdpa"
        assert torch.equal(answers_of(model, inputs), want)


def test_the_configs_say_nothing_of_a_schedule(tmp_path: Any) -> None:
    model = build("bert")
    before = {name: id(m.config) for name, m in model.named_modules() if isinstance(m, hf.PreTrainedModel)}
    with ps.apply_(model, MIXED):
        assert model.config._attn_implementation == "sdpa"
        model.save_pretrained(tmp_path)
        assert {n: id(m.config) for n, m in model.named_modules() if isinstance(m, hf.PreTrainedModel)} == before
    assert "prunesearch" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(answers_of(again, given_to("tags", 0)), answers_of(model, given_to("tags", 0)))


def _whisper() -> Any:
    torch.manual_seed(0)
    size = {"d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    marks = {"pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = hf.WhisperConfig(vocab_size=400, max_target_positions=64, **size, **heads, **marks)
    model = hf.WhisperForConditionalGeneration(config).eval()
    said = model.generation_config
    said.no_timestamps_token_id, said.is_multilingual, said.return_timestamps = 300, False, None
    said.begin_suppress_tokens, said.suppress_tokens, said.alignment_heads = None, None, [[0, 0], [1, 1]]
    return model


def test_word_timestamps_switch_whisper_to_eager_and_the_schedule_stays() -> None:
    model, sound = _whisper(), torch.randn(1, 80, 3000)
    model.set_attn_implementation("sdpa")
    wanted = {"max_new_tokens": 4, "min_new_tokens": 4}
    with ps.apply_(model, DROPS) as handle:
        plain = model.generate(sound, **wanted)
        words = model.generate(sound, return_token_timestamps=True, return_dict_in_generate=True, **wanted)
        assert model.config._attn_implementation == "eager"  # transformers leaves it so
        assert torch.equal(words["sequences"][:, -4:], plain)
        assert handle.tokens is not None
        assert handle.tokens.n == 750
        assert torch.equal(model.generate(sound, **wanted), plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_changes_under_a_schedule(dtype: torch.dtype) -> None:
    model, inputs = build("vit"), given_to("vit", 0)
    handle = ps.apply_(model, MIXED)
    model.to(dtype)
    inputs = {name: x.to(dtype) for name, x in inputs.items()}
    found = answers_of(model, inputs)
    handle.remove()
    with ps.apply_(model, MIXED):
        assert torch.equal(answers_of(model, inputs), found)


def test_compiled_before_or_after_it_runs_the_schedule() -> None:
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = hf.ViTForImageClassification(hf.ViTConfig(image_size=8, patch_size=2, **size)).eval()
    inputs = {"pixel_values": torch.randn(1, 3, 8, 8)}
    schedule = ps.Schedule([ps.Stage(0, 0.5, merge="fuse")])
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    whole = answers_of(compiled, inputs)
    with ps.apply_(compiled, schedule) as handle:
        want = answers_of(model, inputs)
        assert not torch.equal(want, whole)
        assert torch.equal(answers_of(compiled, inputs), want)
        with handle.under(ps.Schedule()):
            assert torch.equal(answers_of(compiled, inputs), whole)
        assert torch.equal(answers_of(compiled, inputs), want)
    assert torch.equal(answers_of(compiled, inputs), whole)
    torch._dynamo.reset()


def test_a_forward_that_somebody_put_over_ours_stays_and_is_the_models_again() -> None:
    """As accelerate does: it wraps `block.forward`, and puts its own there."""
    model, inputs = build("vit"), given_to("vit", 0)
    whole = answers_of(model, inputs)
    handle = ps.apply_(model, MIXED)
    want, block = answers_of(model, inputs), model.base_model.layers[1]
    ours = block.forward
    block.forward = lambda *args, **kwargs: ours(*args, **kwargs)
    assert torch.equal(answers_of(model, inputs), want)
    handle.remove()
    assert torch.equal(answers_of(model, inputs), whole)
