"""What is particular to timm's models: pooling, rotations of each head, what is refused, and what a wrapper hides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.pruning.families.find import find_encoder
from tests.support import small_settings as s
from tests.support.small_cases import TIMM
from tests.support.small_models import build, inputs_of
from tests.support.some import some

pytest.importorskip("timm", reason=TIMM)

MERGED = ps.Schedule([ps.Stage(0, 0.7, "value_norm", "fuse"), ps.Stage(2, 0.4, "value_norm", "nearest")])
DROPPED = ps.Schedule([ps.Stage(1, 0.6, "attention_received", "drop")])


def wrapped(architecture: str, cls: str = "TimmWrapperForImageClassification", **settings: Any) -> Any:
    config = hf.TimmWrapperConfig(architecture=architecture, num_labels=3, model_args={**s.TIMM, **settings})
    return getattr(hf, cls)(config).eval()


@pytest.mark.parametrize("name", ["timm-avg", "timm-dinov3", "timm-map", "timm-post"])
def test_pooling_is_that_of_tokens_repeated_as_often_as_their_sizes_say(name: str) -> None:
    model, inputs = build(name, dtype=torch.float64), inputs_of(name, dtype=torch.float64)
    inner, ends = model.timm_model, []
    hook = inner.norm.register_forward_hook(lambda _, __, out: ends.append(out))
    with torch.no_grad():
        with ps.apply_(model, MERGED) as handle:
            out = model(**inputs)
            tokens = handle.tokens
        hook.remove()
        assert tokens is not None
        assert tokens.size is not None
        assert tokens.size.max() > 1
        got = out.pooler_output if name == "timm-map" else out.logits
        for b, size in enumerate(tokens.size.round().long()):
            repeated = ends[-1][b].repeat_interleave(size, 0)[None]
            torch.testing.assert_close(got[b : b + 1], inner.forward_head(repeated), rtol=1e-6, atol=1e-6)
            assert not torch.allclose(got[b : b + 1], inner.forward_head(ends[-1][b : b + 1]), rtol=1e-4, atol=1e-4)


def test_angles_of_each_block_and_head_follow_the_tokens() -> None:
    model = wrapped("vit_small_patch16_rope_mixed_224", init_values=1.0)
    inner, pixels = model.timm_model, torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in inner.rope.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        with ps.apply_(model, DROPPED, trace=True) as handle:
            reduced = model(pixels).logits
            assert handle.trace is not None
            kept = handle.trace.stages[0].assignment.kept
        x, angles = inner._pos_embed(inner.patch_embed(pixels))
        assert angles.dim() == 4  # [blocks, heads, patches, width]
        for row in range(2):
            one = inner.norm_pre(x)[row : row + 1]
            for i, block in enumerate(inner.blocks):
                places = range(16) if i < 2 else [p - 1 for p in kept[row].tolist()[1:]]
                rope = torch.stack([angles[i][:, p] for p in places], dim=1)
                one = one + block.gamma_1 * block.attn(block.norm1(one), rope=rope)
                if i == 1:
                    one = torch.stack([one[:, p] for p in kept[row].tolist()], dim=1)
                one = one + block.gamma_2 * block.mlp(block.norm2(one))
            torch.testing.assert_close(inner.forward_head(inner.norm(one))[0], reduced[row], rtol=1e-4, atol=1e-5)


def test_fused_and_unfused_attention_reduce_alike_but_cost_their_own() -> None:
    logits, kinds = [], []
    for fused in (True, False):
        model, inputs = build("timm"), inputs_of("timm")
        for block in model.timm_model.blocks:
            block.attn.fused_attn = fused
        with ps.apply_(model, MERGED) as handle, torch.no_grad():
            logits.append(model(**inputs).logits)
            kinds.append(handle.encoder.family.layout.kind)
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    assert kinds == ["timm-block-scaled-qknorm", "timm-block-scaled-qknorm-unfused"]


def test_what_the_config_hides_is_read_off_the_model() -> None:
    sizes = find_encoder(build("timm-distilled")).sizes
    assert (sizes.hidden_size, sizes.num_attention_heads, sizes.hidden_act) == (32, 2, "gelu")
    assert (sizes.image_size, sizes.patch_size, sizes.num_channels) == ((24, 24), (6, 6), 3)
    encoders = {name: find_encoder(build(name)) for name in ("timm", "timm-distilled", "timm-avg", "timm-dinov3")}
    assert {name: encoder.protected for name, encoder in encoders.items()} == {
        "timm": 1, "timm-distilled": 2, "timm-avg": 2, "timm-dinov3": 5,
    }  # fmt: skip
    assert encoders["timm-avg"].family.cls is None


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("swin_tiny_patch4_window7_224", "SwinTransformer: it attends within windows"),
        ("resnet18", "ResNet: it is made of convolutions"),
        ("pvt_v2_b0", "PyramidVisionTransformerV2: it pools a grid"),
        ("beit_base_patch16_224", "transformers' own beit"),
        ("vit_tiny_r_s16_p8_224", "HybridEmbed"),
        ("naflexvit_base_patch16_gap", "mask of its own"),
        ("mixer_s32_224", "no row says how its blocks compute"),
    ],
)
def test_what_is_no_plain_vit_is_refused_in_a_line(architecture: str, why: str) -> None:
    with torch.device("meta"):
        model = hf.TimmWrapperModel(hf.TimmWrapperConfig(architecture=architecture))
    with pytest.raises(UnsupportedModelError, match=why) as error:
        ps.apply_(model, DROPPED)
    assert "vit_*" in str(error.value)
    assert "\n" not in str(error.value)


def test_blocks_side_by_side_and_a_second_attention_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="ParallelScalingBlock"):
        find_encoder(wrapped("vit_base_patch16_xp_224"))
    model = build("timm")
    model.timm_model.global_pool = "prr"
    with pytest.raises(UnsupportedModelError, match="global_pool='prr'"):
        find_encoder(model)


def test_features_alone_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="FeatureGetterNet"):
        find_encoder(wrapped("vit_tiny_patch16_224", "TimmWrapperModel", features_only=True))


def test_hidden_states_come_as_rows_and_are_refused_as_a_grid() -> None:
    model, inputs = build("timm"), inputs_of("timm")
    with torch.no_grad():
        before = model(**inputs, output_hidden_states=True).hidden_states
        with ps.apply_(model, ps.Schedule([ps.Stage(1, 1.0)])):
            same = model(**inputs, output_hidden_states=True).hidden_states
        assert all(torch.equal(a, b) for a, b in some(zip(before, same, strict=True)))
        with ps.apply_(model, DROPPED):
            rows = model(**inputs, output_hidden_states=True, output_fmt="NLC").hidden_states
            with pytest.raises(PruneSearchError, match="output_fmt='NLC'"):
                model(**inputs, output_hidden_states=True)
    assert [x.shape[1] for x in rows] == [16, 10, 10, 10]


def test_a_mask_of_the_callers_own_is_refused() -> None:
    model, inputs = build("timm"), inputs_of("timm")
    with ps.apply_(model, DROPPED), pytest.raises(PruneSearchError, match="attn_mask"):
        model(**inputs, attn_mask=torch.zeros(17, 17))


def test_checkpointing_and_patch_dropout_are_refused_in_training_only() -> None:
    model, inputs = build("timm"), inputs_of("timm")
    with ps.apply_(model, DROPPED):
        model.gradient_checkpointing_enable()
        with pytest.raises(PruneSearchError, match="gradient_checkpointing_disable"):
            model(**inputs)
        with torch.no_grad():
            model(**inputs)
        model.gradient_checkpointing_disable()
        model(**inputs).logits.sum().backward()
    for architecture in ("vit_tiny_patch16_224", "eva02_tiny_patch14_224"):
        dropping = wrapped(architecture, patch_drop_rate=0.5)
        with ps.apply_(dropping, DROPPED):
            dropping(**inputs)
            with pytest.raises(PruneSearchError, match="patch_drop_rate"):
                dropping.train()(**inputs)


def test_an_image_of_another_size_goes_through() -> None:
    model = wrapped("vit_small_patch16_dinov3")  # dynamic_img_size
    with torch.no_grad(), ps.apply_(model, DROPPED) as handle:
        model(pixel_values=torch.randn(1, 3, 36, 30))
        assert handle.tokens is not None
        assert (handle.tokens.n_start, handle.tokens.n) == (5 + 30, 5 + 18)


def test_projections_apart_are_seen_as_those_in_one_are() -> None:
    one = wrapped("eva02_tiny_patch14_224")
    apart = wrapped("eva02_tiny_patch14_224", qkv_fused=False)
    state: dict[str, Tensor] = {}
    for key, value in one.state_dict().items():
        if key.endswith("attn.qkv.weight"):
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                state[key.replace("qkv", f"{part}_proj")] = rows
        else:
            state[key.replace("attn.q_bias", "attn.q_proj.bias").replace("attn.v_bias", "attn.v_proj.bias")] = value
    apart.load_state_dict(state)
    schedule = ps.Schedule([ps.Stage(1, 0.5, "value_norm", "bipartite")])
    with torch.no_grad(), ps.apply_(one, schedule), ps.apply_(apart, schedule):
        torch.testing.assert_close(one(**inputs_of("timm")).logits, apart(**inputs_of("timm")).logits)
