"""What a decoder with pictures in its prompt refuses, each in a line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.pruning.families.find import find_encoder, find_reduced
from tests.support.small_vlms import PICTURE, TEXT, TOWER, build_vlm, prompts_for

HALF = parse_schedule("decoder/1:0.5 text_attention+drop")
AT_INPUT = parse_schedule("input/0:0.5 random+drop")


def prompt(model: Any) -> dict[str, torch.Tensor]:
    return prompts_for(model, "llava", [(4, 1, 5)])


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ("input/0:0.5 value_norm+drop > 2:0.2 value_norm+drop", r"must name their parts .*: write 2 as decoder/2"),
        ("4:0.5 value_norm+drop", r"`layer < 4` must hold for a model of 4 blocks, but got layer=4"),
        ("tower/1:0.5 value_norm+drop", r"`layer < 1` must hold for the part 'tower', but got layer=1"),
        ("tower/0:t0.1 value_norm+drop", r"a decoder needs counts that are the same for every row"),
        ("tower/0:0.5 value_norm+drop > input/0:0.6 key_norm+drop", r"keep must fall strictly"),
        ("tower/0:0.5 value_norm+drop > decoder/1:0.5 key_norm+drop", r"keep must fall strictly"),
        ("decoder/4:0.5 value_norm+drop", r"`layer < 4` must hold"),
        ("input/1:0.5 value_norm+drop", r"`layer < 1` must hold for the part 'input'"),
        ("decoder/1:0.5 value_norm+fuse", r"merge 'fuse' would let tokens .* use drop, or contextual"),
        ("decoder/1:0.5 bipartite", r"merge 'bipartite' would let tokens"),
        ("input/0:0.5 text_attention+drop", r"'text_attention' reads the attention of a block.*decoder/0"),
        ("input/0:0.5 random+drop > decoder/1:0.5 random+drop", r"keep must fall strictly"),
        ("decoder/1:0.5 random+drop > input/0:0.4 random+drop", r"in the order in which tokens pass them"),
    ],
)
def test_a_schedule_that_cannot_run_is_refused(schedule: str, why: str) -> None:
    with pytest.raises(PruneSearchError, match=why):
        ps.apply_(build_vlm("llava"), parse_schedule(schedule))


def test_a_prompt_without_its_ids_is_refused() -> None:
    model = build_vlm("llava")
    inputs = prompt(model)
    embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
    with ps.apply_(model, HALF), torch.no_grad():
        for given in (inputs, {"attention_mask": inputs["attention_mask"]}):  # pictures may be among them already
            with pytest.raises(PruneSearchError, match="read from `input_ids`"):
                model(**given, inputs_embeds=embeddings)
        with pytest.raises(PruneSearchError, match="read from `input_ids`"):
            model.model.language_model(inputs_embeds=embeddings)
    with ps.apply_(model, ps.Schedule()), torch.no_grad():
        model(**inputs, inputs_embeds=embeddings)


def test_a_static_cache_and_a_mask_of_pairs_are_refused() -> None:
    model = build_vlm("llava")
    inputs = prompt(model)
    with ps.apply_(model, HALF):
        with pytest.raises(PruneSearchError, match=r"static cache|`\[batch, tokens\]` must hold"):
            model.generate(**inputs, max_new_tokens=2, cache_implementation="static")
        cache = hf.StaticCache(model.config.text_config, max_cache_len=64)
        with torch.no_grad(), pytest.raises(PruneSearchError, match="static cache has one length"):
            model(**inputs, cache=cache)
        n = inputs["input_ids"].shape[1]
        pairs = {**inputs, "attention_mask": torch.ones(1, 1, n, n, dtype=torch.bool).tril()}
        with torch.no_grad(), pytest.raises(PruneSearchError, match=r"`\[batch, tokens\]` must hold"):
            model(**pairs)


def test_a_picture_in_a_later_turn_is_refused_and_may_pass_unpruned() -> None:
    model = build_vlm("llava")
    inputs = prompt(model)
    with ps.apply_(model, HALF) as handle, torch.no_grad():
        cache = model(**inputs, use_cache=True).cache
        n = inputs["input_ids"].shape[1]
        second = {**prompts_for(model, "llava", [(2, 1, 3)]), "attention_mask": torch.ones(1, n + 21).long()}
        assert second["input_ids"].shape[1] == 22
        second["attention_mask"] = torch.ones(1, n + 22).long()
        with pytest.raises(PruneSearchError, match=r"a new picture cannot be pruned .*handle\.under"):
            model(**second, cache=cache)
        with handle.under(ps.Schedule()):
            assert torch.isfinite(model(**second, cache=cache).logits).all()
            words = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True).cache
        with pytest.raises(PruneSearchError, match="pruned in the first turn alone, but the cache has 3 tokens"):
            model(**prompt(model), cache=words)


def test_what_transformers_miscounts_behind_a_stage_at_the_input_is_refused() -> None:
    model = build_vlm("llava")
    inputs = prompt(model)
    with ps.apply_(model, AT_INPUT):
        first = model.generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
        longer = torch.cat([first.sequences, torch.tensor([[7, 8]])], 1)
        mask = torch.ones_like(longer)
        with pytest.raises(PruneSearchError, match="which a stage at input/0 made shorter"):
            model.generate(longer, attention_mask=mask, cache=first.cache, max_new_tokens=2)
        with torch.no_grad():
            cache = model(**inputs, use_cache=True).cache
            with pytest.raises(PruneSearchError, match="`position_ids` must be given"):
                model(input_ids=torch.tensor([[5]]), cache=cache)


def test_a_cache_that_was_cropped_into_its_prompt_is_refused() -> None:
    model = build_vlm("llava")
    inputs, more = prompt(model), {"input_ids": torch.tensor([[5]])}
    with ps.apply_(model, HALF), torch.no_grad():
        cache = model(**inputs, use_cache=True).cache
        straight = model(**more, cache=cache).logits
        cache.crop(-1)
        torch.testing.assert_close(model(**more, cache=cache).logits, straight)
        cache.crop(-3)
        with pytest.raises(PruneSearchError, match="was cropped into it"):
            model(**more, cache=cache)


def test_a_cache_that_was_emptied_starts_anew() -> None:
    model = build_vlm("llava")
    inputs, step = prompt(model), {"input_ids": torch.tensor([[5]])}
    words = {"input_ids": torch.tensor([[5, 6, 7]])}
    with ps.apply_(model, HALF), torch.no_grad():
        cache = model(**inputs, use_cache=True).cache
        fresh = model(**step, cache=model(**words, use_cache=True).cache).logits
        cache.reset()
        model(**words, cache=cache)
        assert torch.equal(model(**step, cache=cache).logits, fresh)
        cache.reset()
        pruned = model(**inputs, cache=cache).logits
        assert torch.equal(pruned, model(**inputs).logits)


def test_a_row_of_padding_alone_is_refused() -> None:
    model = build_vlm("llava")
    inputs = prompts_for(model, "llava", [(4, 1, 5), (3,)])
    inputs["attention_mask"][1] = 0
    with ps.apply_(model, HALF), torch.no_grad(), pytest.raises(PruneSearchError, match="all padding"):
        model(**inputs)


def test_text_alone_is_left_alone() -> None:
    model = build_vlm("llava")
    words = {"input_ids": torch.tensor([[5, 6, 7, PICTURE, 8]])}  # a token of a picture that nobody shows
    with torch.no_grad():
        before = model(**words).logits
        with ps.apply_(model, HALF):
            assert torch.equal(model(**words).logits, before)


def test_decoders_that_are_not_known_are_refused_by_name() -> None:
    text = hf.Gemma2Config(**TEXT, head_dim=8)
    tower = hf.CLIPVisionConfig(**TOWER, image_size=16)
    model = hf.LlavaForConditionalGeneration(hf.LlavaConfig(vision_config=tower, text_config=text))
    with pytest.raises(UnsupportedModelError, match="its decoder is a 'gemma2', and those known are llama"):
        ps.apply_(model, HALF)
    window = hf.MistralConfig(**TEXT, sliding_window=16)
    model = hf.LlavaForConditionalGeneration(hf.LlavaConfig(vision_config=tower, text_config=window))
    with pytest.raises(UnsupportedModelError, match="sliding windows"):
        ps.apply_(model, HALF)


def test_models_whose_pictures_attend_both_ways_within_windows_are_refused() -> None:
    tower = hf.SiglipVisionConfig(**TOWER, image_size=16, vision_use_head=False, projection_dim=32)
    second = hf.PaliGemmaConfig(
        vision_config=tower, text_config=hf.Gemma2Config(**TEXT, head_dim=8), projection_dim=32, image_token_id=PICTURE
    )
    with pytest.raises(UnsupportedModelError, match="'paligemma' cannot be reduced: its decoder is a 'gemma2'"):
        ps.apply_(hf.PaliGemmaForConditionalGeneration(second), HALF)
    third = hf.Gemma3Config(
        vision_config=tower, text_config=hf.Gemma3TextConfig(**TEXT, head_dim=8), mm_tokens_per_image=4
    )
    with pytest.raises(UnsupportedModelError, match=r"'gemma3' is not supported: its picture .* windows.* llava"):
        ps.apply_(hf.Gemma3ForConditionalGeneration(third), HALF)


def of_tower(kind: str, layer: int) -> Any:
    """A LLaVA with a tower of its own."""
    tower = getattr(hf, kind)(**TOWER, image_size=16)
    plain = kind == "SiglipVisionConfig"  # without CLS
    config = hf.LlavaConfig(
        vision_config=tower,
        text_config=hf.LlamaConfig(**TEXT),
        image_token_id=PICTURE,
        vision_feature_layer=layer,
        vision_feature_select_strategy="full" if plain else "default",
    )
    torch.manual_seed(1)
    model = hf.LlavaForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.4)
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [PICTURE]
    return model


@pytest.mark.parametrize("kind", ["CLIPVisionConfig", "SiglipVisionConfig"])
@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("place", ["input/0", "decoder/2"])
def test_what_the_tower_looks_at_stays(kind: str, layer: int, place: str) -> None:
    model = of_tower(kind, layer)
    inputs = prompts_for(model, "llava", [(4, 2, 5), (3, 1, 2)])
    with torch.no_grad():
        seen = model.model.vision_tower(inputs["pixel_values"], output_attentions=True).attentions[layer].mean(1)
    seen = seen.mean(1) if kind == "SiglipVisionConfig" else seen[:, 0, 1:]
    wanted = []
    for row, pictures in ((0, [0, 1]), (1, [2])):
        where = (inputs["input_ids"][row] == PICTURE).nonzero()[:, 0]
        scores = torch.cat([seen[i] for i in pictures])
        best = scores.sort(descending=True, stable=True).indices[: -(-len(scores) * 3 // 10)]
        wanted.append(set(where[best].tolist()))
    schedule = parse_schedule(f"{place}:0.3 tower_cls_attention+drop")
    runs = (
        lambda: model(**inputs),
        lambda: model.generate(**inputs, max_new_tokens=1),
        lambda: model.generate(**inputs, max_new_tokens=1, num_beams=2),
    )
    with ps.apply_(model, schedule) as handle, torch.no_grad():
        for beams, run in zip((1, 1, 2), runs, strict=True):
            run()
            tokens = handle.tokens
            assert tokens is not None
            assert tokens.place is not None
            for b, place_of in enumerate(tokens.place):
                real = place_of if tokens.valid is None else place_of[tokens.valid[b]]
                row = b // beams
                pictures_left = {p for p in real.tolist() if inputs["input_ids"][row, p] == PICTURE}
                assert pictures_left == wanted[row]


def test_what_no_tower_told_is_refused() -> None:
    model, schedule = of_tower("CLIPVisionConfig", -2), parse_schedule("input/0:0.3 tower_cls_attention+drop")
    inputs = prompts_for(model, "llava", [(4, 1, 5)])
    pixels = inputs.pop("pixel_values")
    with torch.no_grad():
        features = model.get_image_features(pixels)
        with ps.apply_(model, schedule):
            with pytest.raises(PruneSearchError, match=r"needs what the tower saw .* pass `pixel_values`"):
                model(**inputs, mm_encoder_outputs={"image": features})
            told = model(**inputs, mm_encoder_outputs={"image": model.get_image_features(pixels)})
            assert torch.equal(told.logits, model(**inputs, pixel_values=pixels).logits)
    with pytest.raises(PruneSearchError, match="which a 'idefics3' has not: use text_attention"):
        ps.apply_(build_vlm("idefics3"), schedule)


def test_what_knows_of_encoders_alone_is_told() -> None:
    model = build_vlm("llava")
    assert [tuple(part) for part in find_reduced(model).parts] == [("tower", 1), ("input", 1), ("decoder", 4)]
    with pytest.raises(
        UnsupportedModelError,
        match=r"'llava' can be reduced \(ps.apply_\) and searched .* exported \(--to hf\), but not yet trained",
    ):
        find_encoder(model)
