"""`apply_`: what it refuses, what it can be put around, and heads that average."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.core.tables.names import Row
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.pruning.families import find as families
from prunesearch.pruning.scorers.base import ScorerInput
from tests.support.small_models import build, inputs_of, last_hidden
from tests.support.tables import in_place

HALF = ps.Schedule([ps.Stage(1, 0.5, "cls_attention", "nearest")])


class Around(nn.Module):
    """A head of the user's own around a Hugging Face model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.head = model.base_model, nn.Linear(32, 5)

    def forward(self, **inputs: Tensor) -> Tensor:
        hidden = self.encoder(**inputs).last_hidden_state
        return self.head(ps.mean_pool(self, hidden, inputs.get("attention_mask")))


def run(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    with torch.no_grad():
        return model(**inputs)


# -- refusals --------------------------------------------------------------------------------------------


def test_a_second_schedule_is_refused_wherever_the_first_sits() -> None:
    model = build("vit")
    handle = ps.apply_(model, HALF)
    for inner in (model, model.base_model):
        with pytest.raises(PruneSearchError, match=r"handle\.set"):
            ps.apply_(inner, HALF)
    assert ps.handle_of(model) is handle
    handle.remove()
    assert ps.handle_of(model) is None
    ps.apply_(model, HALF).remove()


def test_an_unknown_family_names_the_nearest() -> None:
    config = hf.RoFormerConfig(
        vocab_size=20, embedding_size=8, hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8
    )
    wanted = r"'roformer' is not supported: no row says .*; nearest: roberta; Known: albert, "
    with pytest.raises(UnsupportedModelError, match=wanted):
        ps.apply_(hf.RoFormerModel(config), HALF)


def test_a_module_without_a_transformers_model_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Linear holds no transformers model"):
        ps.apply_(nn.Linear(2, 2), HALF)


def test_a_decoder_is_refused() -> None:
    config = hf.BertConfig(
        vocab_size=20, hidden_size=8, num_attention_heads=1, num_hidden_layers=2, intermediate_size=8, is_decoder=True
    )
    with pytest.raises(UnsupportedModelError, match="decoder"):
        ps.apply_(hf.BertLMHeadModel(config), HALF)


@pytest.mark.parametrize("name", ["ViTForMaskedImageModeling", "Dinov2Backbone"])
def test_heads_that_need_the_grid_are_refused(name: str) -> None:
    kind = hf.ViTConfig if name.startswith("ViT") else hf.Dinov2Config
    config = kind(hidden_size=8, num_attention_heads=1, num_hidden_layers=2, image_size=8, patch_size=4)
    if name.startswith("ViT"):
        config.encoder_stride = 4
    with pytest.raises(UnsupportedModelError, match="every token back"):
        ps.apply_(getattr(hf, name)(config), HALF)


def test_an_unknown_attention_backend_is_refused() -> None:
    model = build("vit")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(PruneSearchError, match="flex_attention"):
        ps.apply_(model, HALF)


def test_a_schedule_that_does_not_fit_leaves_the_model_alone() -> None:
    model, inputs = build("vit"), inputs_of("vit")
    before = run(model, inputs).logits
    with pytest.raises(PruneSearchError, match=r"`layer < 4` must hold .* layer=4"):
        ps.apply_(model, ps.Schedule([ps.Stage(4, 0.5)]))
    assert ps.handle_of(model) is None
    handle = ps.apply_(model, HALF)
    reduced = run(model, inputs).logits
    with pytest.raises(PruneSearchError, match="layer"):
        handle.set(ps.Schedule([ps.Stage(9, 0.5)]))
    assert torch.equal(run(model, inputs).logits, reduced)
    handle.remove()
    assert torch.equal(run(model, inputs).logits, before)


# -- the handle ------------------------------------------------------------------------------------------


def test_set_equals_a_fresh_apply() -> None:
    model, inputs = build("bert"), inputs_of("bert")
    other = ps.Schedule([ps.Stage(0, 0.9, "value_norm", "fuse"), ps.Stage(3, 0.4, "random", "drop")])
    with ps.apply_(model, other):
        want = run(model, inputs).logits
    with ps.apply_(model, HALF) as handle:
        run(model, inputs)
        handle.set(other)
        assert handle.schedule == other
        assert torch.equal(run(model, inputs).logits, want)
        handle.set(ps.Schedule())
        whole = run(model, inputs).logits
    assert torch.equal(run(model, inputs).logits, whole)


def test_the_handle_undoes_itself_after_an_error() -> None:
    model = build("vit")
    with pytest.raises(ZeroDivisionError), ps.apply_(model, HALF):
        raise ZeroDivisionError
    assert ps.handle_of(model) is None
    assert model.config._attn_implementation == "sdpa"


def test_the_seed_of_random_matters_and_repeats() -> None:
    model, inputs = build("vit"), inputs_of("vit")
    schedule, out = ps.Schedule([ps.Stage(1, 0.4, "random")]), []
    for seed in (0, 0, 1):
        with ps.apply_(model, schedule, seed=seed):
            out.append(run(model, inputs).logits)
    assert torch.equal(out[0], out[1])
    assert not torch.allclose(out[0], out[2])


def test_a_wrapper_around_a_model_works_and_is_restored() -> None:
    wrapper, inputs = Around(build("bert")).eval(), inputs_of("bert")
    before = run(wrapper, inputs)
    with ps.apply_(wrapper, HALF):
        assert not torch.allclose(run(wrapper, inputs), before)
    assert torch.equal(run(wrapper, inputs), before)


def test_a_forward_of_the_users_own_on_a_block_survives() -> None:
    """Accelerate's hooks put a `forward` into the block's own dict: remove() must bring it back."""
    model, inputs = build("vit"), inputs_of("vit")
    block, calls = model.base_model.layers[0], []
    original = block.forward

    def hooked(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    block.forward = hooked
    ps.apply_(model, HALF).remove()
    run(model, inputs)
    assert calls
    assert block.__dict__["forward"] is hooked


def test_models_that_share_a_config_do_not_disturb_each_other() -> None:
    first = build("bert", "eager")
    second = hf.BertForSequenceClassification(first.config).eval()
    second.load_state_dict(first.state_dict())
    inputs, schedule = inputs_of("bert"), ps.Schedule([ps.Stage(1, 0.5, merge="drop")])
    with ps.apply_(first, schedule):
        want = run(first, inputs).logits
    one = ps.apply_(first, schedule)
    two = ps.apply_(second, schedule)
    assert torch.equal(run(second, inputs).logits, want)
    one.remove()
    two.remove()
    assert first.config._attn_implementation == "eager"


def test_a_copy_of_a_model_with_a_schedule_is_its_own() -> None:
    model, inputs = build("vit"), inputs_of("vit")
    before = run(model, inputs).logits
    with ps.apply_(model, HALF):
        reduced = run(model, inputs).logits
        twin = copy.deepcopy(model)
        assert torch.equal(run(twin, inputs).logits, reduced)
        handle = ps.handle_of(twin)
        assert handle is not None
        handle.remove()
        assert torch.equal(run(twin, inputs).logits, before)
        assert torch.equal(run(model, inputs).logits, reduced)


# -- averaging heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dinov2", "dinov2-registers"])
@pytest.mark.parametrize("merge", list(MERGES))
def test_dinov2_averages_patches_by_size(name: str, merge: str) -> None:
    model, inputs = build(name), inputs_of(name)
    with ps.apply_(model, ps.Schedule([ps.Stage(1, 0.4, "value_norm", merge)]), trace=True) as handle:
        logits = run(model, inputs).logits
        hidden = last_hidden(model, inputs).detach()
        tokens, trace = handle.tokens, handle.trace
    assert tokens is not None
    assert trace is not None
    assert trace.source is not None
    held = trace.source.sum(-1)  # inputs that each token holds, counted apart from sizes
    if not MERGES.entry(merge).makes_sizes:
        held = (held > 0).to(held)  # as VisionZip's contextual tokens are, whatever they are means of
    leading = handle.encoder.leading
    means = []
    for b in range(len(hidden)):
        parts = [hidden[b, i] * held[b, i] for i in range(leading, hidden.shape[1])]
        means.append(torch.stack(parts).sum(0) / held[b, leading:].sum())
    want = model.classifier(torch.cat([hidden[:, 0], torch.stack(means)], dim=1))
    torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-5)


def test_the_classifier_of_an_applied_model_can_be_called_by_itself() -> None:
    model, features = build("dinov2"), torch.randn(2, 64)
    want = model.classifier(features)
    with ps.apply_(model, HALF):
        assert torch.equal(model.classifier(features), want)
        last_hidden(model, inputs_of("dinov2"))
        assert torch.equal(model.classifier(features), want)


@pytest.mark.parametrize("merge", list(MERGES))
def test_mean_pool_is_a_mean_over_inputs(merge: str) -> None:
    model, inputs = build("bert"), inputs_of("bert")
    with ps.apply_(model, ps.Schedule([ps.Stage(1, 0.3, "value_norm", merge)]), trace=True) as handle:
        hidden = last_hidden(model, inputs).detach()
        pooled, trace = ps.mean_pool(model, hidden, inputs["attention_mask"]), handle.trace
    assert trace is not None
    assert trace.source is not None
    for b in range(len(hidden)):
        held = trace.source[b].sum(-1)
        if not MERGES.entry(merge).makes_sizes:
            held = (held > 0).to(held)
        want = sum(hidden[b, i] * held[i] for i in range(hidden.shape[1])) / held.sum()
        torch.testing.assert_close(pooled[b], want, rtol=1e-4, atol=1e-5)


def test_mean_pool_without_a_schedule_is_the_usual_masked_mean() -> None:
    model, inputs = build("bert"), inputs_of("bert", (8, 3))
    hidden = last_hidden(model, inputs).detach()
    pooled = ps.mean_pool(model, hidden, inputs["attention_mask"])
    torch.testing.assert_close(pooled[1], hidden[1, :3].mean(0))
    torch.testing.assert_close(ps.mean_pool(model, hidden), hidden.mean(1))


def test_mean_pool_of_merged_tokens_before_any_mlp_is_exact() -> None:
    """Merging by size keeps the weighted mean of the features: pooled right after a stage nothing has changed."""
    wrapper, inputs = Around(build("bert")), inputs_of("bert")
    with ps.apply_(wrapper, ps.Schedule([ps.Stage(0, 0.2, merge="nearest")]), trace=True) as handle:
        run(wrapper, inputs)
        assert handle.trace is not None
        (stage,) = handle.trace.stages
        reduced = stage.assignment.features(stage.hidden)
        after = ps.mean_pool(wrapper, reduced)
    mask = inputs["attention_mask"][..., None]
    torch.testing.assert_close(after, (stage.hidden * mask).sum(1) / mask.sum(1), rtol=1e-4, atol=1e-5)


# -- no CLS ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scorer", "stand_in"), [("cls_attention", "attention_received"), ("cls_attention_value", None)]
)
def test_a_model_without_cls_falls_back_as_documented(scorer: str, stand_in: str | None) -> None:
    row = replace(families.FAMILIES["vit"], cls=None, leading=0, protects="nothing")
    model, inputs = build("vit"), inputs_of("vit")
    hidden = []
    with in_place(families.FAMILIES, "vit", Row(row, "without a CLS token")):
        for name in (scorer, stand_in or scorer):
            with ps.apply_(model, ps.Schedule([ps.Stage(1, 0.5, name, "drop")])) as handle:
                hidden.append(last_hidden(model, inputs).detach())
                assert handle.tokens is not None
                assert not handle.tokens.protected.any()
    assert torch.equal(hidden[0], hidden[1])
    assert hidden[0].shape[1] == 9  # ceil(0.5 x 17): nothing is protected


# -- precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("scorer", list(SCORERS))
def test_scores_of_a_bfloat16_model_are_wide(attention: str, scorer: str) -> None:
    model, inputs = build("bert", attention, torch.bfloat16), inputs_of("bert")
    seen: list[torch.dtype] = []

    def heard(given: ScorerInput) -> Tensor:
        score: Tensor = SCORERS.load(scorer)(given)
        seen.append(score.dtype)
        return score

    with SCORERS.registered("heard", heard, "as another", params=SCORERS.entry(scorer).params):
        schedule = ps.Schedule([ps.Stage(1, 0.5, "heard", "fuse")])
        with ps.apply_(model, schedule):
            out = run(model, inputs).logits
    assert torch.isfinite(out).all()
    assert seen[0] in (torch.float32, torch.float64)


@pytest.mark.parametrize("scorer", list(SCORERS))
def test_gradients_through_the_weights_of_fuse_are_finite(scorer: str) -> None:
    model, inputs = build("bert").train(), inputs_of("bert")
    with ps.apply_(model, ps.Schedule([ps.Stage(0, 0.7, scorer, "fuse"), ps.Stage(1, 0.3, scorer, "fuse")])):
        model(**inputs).logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model, inputs, gradients = build("bert"), inputs_of("bert"), []
    for on in (False, True):
        model.zero_grad()
        model.eval()
        if on:
            model.gradient_checkpointing_enable()
        for module in model.modules():
            module.training = not isinstance(module, nn.Dropout)  # checkpointing works in training only
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        schedule = ps.Schedule([ps.Stage(0, 0.8, merge="fuse"), ps.Stage(2, 0.4, merge="bipartite")])
        for block in model.base_model.encoder.layer:
            block.attention.self.dropout.p = 0.0
        with ps.apply_(model, schedule):
            model(**inputs).logits.square().sum().backward()
        gradients.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], value)
