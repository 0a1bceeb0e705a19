"""Other tools' words for tokens of pictures: what they come to, counted and computed apart from the package."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import prunesearch as ps
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.export import FORMATS, ModelShape, export_schedule, import_schedule
from tests.support.small_vlms import PICTURE, build_vlm, prompts_for

LLAVA = ModelShape(32, 640, 64, part="decoder")  # 576 tokens of one picture
FASTV = "fastv_k = {}\nfastv_r = {}"
# text of the tool, stages, tokens of pictures that pass each block of 32 as its MLP sees them
PUBLISHED = {
    "fastv": (FASTV.format(2, 0.5), "decoder/1:0.50 text_attention+drop", [576] + [288] * 31),
    "pyramiddrop": (
        '--temperature 0 --layer_list "[8,16,24]" --image_token_ratio_list "[0.5,0.25,0.125]"',
        "decoder/8:0.50 text_attention+drop > decoder/16:0.25 text_attention+drop > decoder/24:0.12 "
        "text_attention+drop",
        [576] * 8 + [288] * 8 + [144] * 8 + [72] * 8,
    ),
    "visionzip": ("dominant = 54\ncontextual = 10", "input/0:0.11 tower_cls_attention+contextual", [64] * 32),
    "openvino-genai": ("pruning_ratio = 89", "input/0:0.11 key_norm+drop@dpp", [64] * 32),  # round(63.36), made even
    "vllm": ("vllm serve MODEL --video-pruning-rate 0.75", "input/0:0.25 random+drop@frame_change", [144] * 32),
    "lightcompress": (
        "sparse: {method: TokenReduction, special: {method: FastV, pruning_loc: 3, rate: 0.778}}",
        "decoder/2:0.22 text_attention+drop",
        [576] * 2 + [128] * 30,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_leave_their_tokens(name: str) -> None:
    text, stages, left = PUBLISHED[name]
    schedule = import_schedule(text, FORMATS[name], LLAVA).schedule
    assert str(schedule) == stages
    assert [n - 64 for n in schedule.flow(LLAVA.geometry).counts] == left


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_was_read_is_written_again(name: str) -> None:
    read = import_schedule(PUBLISHED[name][0], FORMATS[name], LLAVA)
    exported = export_schedule(read.schedule, FORMATS[name], LLAVA, lossy=bool(read.notes))
    assert import_schedule(exported.text, FORMATS[name], LLAVA).schedule == read.schedule
    assert not [change for change in exported.changes if change not in read.notes and "text" not in change]


def test_visionzip_writes_what_it_merges() -> None:
    for dominant, contextual in ((54, 10), (100, 3), (191, 1), (3, 3), (64, 0)):
        text = f"dominant = {dominant}\ncontextual = {contextual}"
        schedule = import_schedule(text, FORMATS["visionzip"], LLAVA).schedule
        assert text in export_schedule(schedule, FORMATS["visionzip"], LLAVA).text


def test_a_dictionary_of_fastv_is_read_too() -> None:
    text = 'fastv_config = {"use_fastv": True, "fastv_k": 3, "fastv_r": 0.75, "image_token_length": 576}'
    assert str(import_schedule(text, FORMATS["fastv"], LLAVA).schedule) == "decoder/2:0.25 text_attention+drop"
    assert import_schedule(text.replace("True", "False"), FORMATS["fastv"], LLAVA).schedule == Schedule()


def fastv_says(model: Any, inputs: dict[str, Tensor], k: int, r: float) -> Tensor:
    """Logits of the last token by FastV's words: all blocks below `k`, what its last token attends to, the rest on."""
    with torch.no_grad():
        seen = model(**inputs, output_hidden_states=True, output_attentions=True)
        pictures = (inputs["input_ids"][0] == PICTURE).nonzero()[:, 0]
        looked_at = seen.attentions[k - 1][0].mean(0)[-1, pictures]
        best = looked_at.topk(round(len(pictures) * (1 - r))).indices
        texts = (inputs["input_ids"][0] != PICTURE).nonzero()[:, 0]
        kept = torch.cat([texts, pictures[best]]).sort().values
        rest = copy.deepcopy(model.model.language_model)
        rest.layers = rest.layers[k:]
        for number, layer in enumerate(rest.layers):
            layer.self_attn.layer_idx = number
        rest.config.num_hidden_layers = len(rest.layers)
        hidden = seen.hidden_states[k][:, kept]
        ones = torch.ones(1, len(kept), dtype=torch.long)
        out = rest(inputs_embeds=hidden, position_ids=kept[None], attention_mask=ones, use_cache=False)
        return model.lm_head(out.last_hidden_state[:, -1])


@pytest.mark.parametrize(("k", "r"), [(1, 0.5), (2, 0.75), (3, 0.25)])
def test_fastv_here_is_fastv_there(k: int, r: float) -> None:
    model = build_vlm("llava", attention="eager").double()
    given = prompts_for(model, "llava", [(4, 1, 5)])
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in given.items()}
    images = int((inputs["input_ids"] == PICTURE).sum())
    shape = ModelShape(4, inputs["input_ids"].shape[1], inputs["input_ids"].shape[1] - images, part="decoder")
    schedule = import_schedule(FASTV.format(k, r), FORMATS["fastv"], shape).schedule
    theirs = fastv_says(model, inputs, k, r)
    with ps.apply_(model, schedule), torch.no_grad():
        ours = model(**inputs).logits[:, -1]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("fastv", "fastv_k = 2", "must say fastv_r"),
        ("fastv", FASTV.format(0, 0.5), "block number from 1 to 31, but got 0"),
        ("fastv", FASTV.format(2, 1.0), r"must be in \[0, 1\)"),
        ("fastv", FASTV.format(2, 0.9999), "drops all 576 tokens"),
        ("pyramiddrop", '--layer_list "[8]" --image_token_ratio_list "[0.5,0.2]"', "a list of 1 ratios"),
        ("pyramiddrop", "--layer_list [8]", "must say image_token_ratio_list, but it has 'layer_list'"),
        ("visionzip", "dominant = 0\ncontextual = 3", "dominant must be a whole number >= 1"),
        ("openvino-genai", "pruning_ratio = 100", "<= 99"),
        ("vllm", "--video-pruning-rate 1.0", "`0 <= video-pruning-rate < 1` must hold, but got 1.0"),
        ("vllm", "--video-pruning-rate 0.999", "drops all 576 tokens of a video"),
        ("vllm", "vllm serve MODEL", "must say video-pruning-rate"),
    ],
)
def test_words_that_say_nothing_are_refused(name: str, text: str, why: str) -> None:
    with pytest.raises(CorruptFileError, match=why):
        import_schedule(text, FORMATS[name], LLAVA)


@pytest.mark.parametrize(
    ("name", "stages", "why"),
    [
        ("fastv", "decoder/3:0.5 text_attention+drop > decoder/9:0.2 text_attention+drop", "block 9 leaves"),
        ("fastv", "input/0:0.5 random+drop", "the first block is given 640 tokens, not 352"),
        ("fastv", "decoder/3:0.5 random+drop", r"random\+drop becomes text_attention\+drop \(block 3\)"),
        ("pyramiddrop", "decoder/3:0.5 text_attention+drop", "tokens leave before the block there"),
        ("visionzip", "input/0:0.5 random+drop", r"random\+drop becomes tower_cls_attention\+drop \(input\)"),
        ("tome", "decoder/3:0.5 text_attention+drop", "ToMe is for tokens in the encoder.*use one of json, lightcomp"),
    ],
)
def test_what_a_tool_cannot_say_is_refused(name: str, stages: str, why: str) -> None:
    with pytest.raises(PruneSearchError, match=why):
        export_schedule(parse_schedule(stages), FORMATS[name], LLAVA)


def test_an_encoder_has_no_prompt() -> None:
    with pytest.raises(PruneSearchError, match="FastV is for tokens in the decoder"):
        import_schedule(FASTV.format(2, 0.5), FORMATS["fastv"], ModelShape(12, 197, 1))
