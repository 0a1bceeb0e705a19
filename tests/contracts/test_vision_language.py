"""What every model that reads pictures in its prompt must pass. A new row needs one line in `small_vlms.VLMS`."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import prunesearch as ps
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.core.plans.stage import ENCODER
from prunesearch.core.tables.token_tables import SCORERS
from prunesearch.pruning.families.find import FAMILIES
from tests.contracts.test_families import state_of
from tests.support.reference_decoder import Decoder, Leave, Row
from tests.support.small_vlms import PICTURE, VLMS, build_vlm, prompts_for

EVERY = pytest.mark.parametrize("name", list(VLMS))
EVERY_WAY = pytest.mark.parametrize("attention", ["sdpa", "eager"])
ONE = (4, 1, 5)
LATE = "decoder/1:0.5 text_attention+drop > decoder/2:0.25 key_norm+drop"
EARLY = "input/0:0.6 key_norm+drop > decoder/0:0.3 text_attention_mean+drop"
MERGED = "input/0:0.7 key_norm+contextual > decoder/1:0.4 text_attention+contextual"
LEAVES = {
    MERGED: [Leave(0, 0.7, "key_norm", "contextual"), Leave(2, 0.4, "text_attention", "contextual")],
    LATE: [Leave(2, 0.5, "text_attention"), Leave(3, 0.25, "key_norm")],
    EARLY: [Leave(0, 0.6, "key_norm"), Leave(1, 0.3, "text_attention_mean")],
}
BY_PLACE = "input/0:0.7 position+drop > decoder/1:0.5 position_stride+drop > decoder/2:0.2 random+drop"


def said(model: Any, inputs: dict[str, Tensor], count: int = 4, **how: Any) -> Tensor:
    """The tokens that a model adds."""
    with torch.no_grad():
        out: Tensor = model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, **how)
    return out[:, inputs["input_ids"].shape[1] :]


def logits_of(model: Any, inputs: dict[str, Tensor], **how: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**placed(model, inputs), **how).logits
    return found


def placed(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the positions that `generate()` gives, which do not count padding."""
    if "mm_token_type_ids" in inputs:  # worked out by the model itself
        return inputs
    mask = inputs["attention_mask"]
    return {**inputs, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def followed(model: Any, name: str, inputs: dict[str, Tensor]) -> tuple[Decoder, Row]:
    """The reference on the one row of `inputs`: what its decoder is given, by the untouched model."""
    given: dict[str, Any] = {}
    decoder = model.model.get_submodule(VLMS[name].decoder)
    hook = decoder.register_forward_pre_hook(lambda _, __, kwargs: given.update(kwargs), with_kwargs=True)
    said(model, inputs, 1)
    hook.remove()
    where = given["position_ids"]
    where = where[-3:] if where.dim() == 3 else where[None]
    pictures = inputs["input_ids"][0] == PICTURE
    positions = [tuple(where[:, 0, i].tolist()) for i in range(len(pictures))]
    row = Row(given["inputs_embeds"][0].detach(), positions, pictures.tolist(), VLMS[name].kinds)
    for features in given.get("deepstack_visual_embeds") or ():
        row.later.append(dict(zip(pictures.nonzero()[:, 0].tolist(), features.detach(), strict=True)))
    return Decoder(decoder, model.lm_head.weight), row


def test_every_family_has_a_small_model() -> None:
    rows = {name for name in FAMILIES if FAMILIES[name].part != ENCODER}
    assert rows == {small.family for small in VLMS.values()}


@EVERY
@EVERY_WAY
def test_a_schedule_that_keeps_all_changes_nothing(name: str, attention: str) -> None:
    model = build_vlm(name, attention)
    inputs = prompts_for(model, name, [ONE, (3, 2, 4)])
    before, answer, state = logits_of(model, inputs), said(model, inputs), state_of(model)
    for text in ("unpruned", "input/0:1 random+drop", "decoder/1:1 text_attention+drop"):
        with ps.apply_(model, parse_schedule(text)):
            assert torch.equal(logits_of(model, inputs), before)
            assert torch.equal(said(model, inputs), answer)
    with ps.apply_(model, parse_schedule(LATE)):
        assert not torch.allclose(logits_of(model, inputs)[:, -1], before[:, -1])
    assert torch.equal(logits_of(model, inputs), before)
    assert state_of(model) == state


@EVERY
@EVERY_WAY
@pytest.mark.parametrize("text", [LATE, EARLY, MERGED], ids=["late", "early", "merged"])
def test_generation_equals_a_slow_one_without_a_cache(name: str, attention: str, text: str) -> None:
    model = build_vlm(name, attention, torch.float64)
    inputs = prompts_for(model, name, [ONE], torch.float64)
    reference, row = followed(model, name, inputs)
    with ps.apply_(model, parse_schedule(text)):
        answer, logits = said(model, inputs)[0].tolist(), logits_of(model, inputs)[0, -1]
    expected = reference.logits(row, LEAVES[text], [])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert answer == reference.answer(row, LEAVES[text], len(answer))
    assert any(row.gone.values())


@EVERY
@EVERY_WAY
@pytest.mark.parametrize("text", [LATE, EARLY, BY_PLACE, MERGED], ids=["late", "early", "by place", "merged"])
def test_rows_of_a_padded_batch_are_what_they_are_alone(name: str, attention: str, text: str) -> None:
    # eager attention is softmaxed in float32, where float64's lowest mask is -inf: padding is NaN, unpruned too
    dtype = torch.float64 if attention == "sdpa" else torch.float32
    near = 1e-5 if attention == "sdpa" else 1e-4
    model = build_vlm(name, attention, dtype)
    prompts = [(2, 1, 9), (3, 2, 2, 1, 4), (5,), (6, 1, 3)]
    together = prompts_for(model, name, prompts, dtype)
    with ps.apply_(model, parse_schedule(text)):
        answers, logits = said(model, together), logits_of(model, together)[:, -1]
        for seed, prompt in enumerate(prompts):
            alone = prompts_for(model, name, [prompt], dtype, [seed])
            torch.testing.assert_close(logits_of(model, alone)[0, -1], logits[seed], rtol=near, atol=near)
            assert said(model, alone)[0].tolist() == answers[seed].tolist()


@EVERY
def test_recomputing_without_a_cache_says_the_same(name: str) -> None:
    """Where what leaves hangs on places alone, so that no step decides otherwise."""
    model = build_vlm(name, dtype=torch.float64)
    inputs = prompts_for(model, name, [ONE, (3, 2, 4)], torch.float64)
    with ps.apply_(model, parse_schedule(BY_PLACE)):
        assert said(model, inputs).tolist() == said(model, inputs, use_cache=False).tolist()


@EVERY
def test_tokens_are_really_removed_and_come_back_in_their_places(name: str) -> None:
    model = build_vlm(name)
    inputs = prompts_for(model, name, [ONE])
    pictures = int((inputs["input_ids"] == PICTURE).sum())
    text = inputs["input_ids"].shape[1] - pictures
    with ps.apply_(model, parse_schedule(BY_PLACE)) as handle, torch.no_grad():
        out = model(**inputs, use_cache=True)
        tokens = handle.tokens
    kept = [text + -(-pictures * share // 10) for share in (7, 7, 5, 2)]
    assert [layer.keys.shape[2] for layer in out.cache.layers] == kept
    assert tokens is not None
    assert tokens.n == kept[-1]
    assert out.logits.shape[1] == inputs["input_ids"].shape[1]
    states = out.logits[0].abs().sum(-1) != 0
    assert int(states.sum()) == tokens.n
    assert states[inputs["input_ids"][0] != PICTURE].all()


@EVERY
@EVERY_WAY
def test_a_second_turn_goes_on_from_the_pruned_first(name: str, attention: str) -> None:
    model = build_vlm(name, attention, torch.float64)
    inputs = prompts_for(model, name, [ONE], torch.float64)
    reference, row = followed(model, name, inputs)
    question = torch.tensor([[7, 11, 13]])
    with ps.apply_(model, parse_schedule(LATE)), torch.no_grad():
        first = model.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        so_far = torch.cat([first.sequences, question], 1)
        more = {"attention_mask": torch.ones_like(so_far), "cache": first.cache}
        second = model.generate(so_far, **more, max_new_tokens=3, do_sample=False)
    n = inputs["input_ids"].shape[1]
    for answer_at, length in ((n, 3), (so_far.shape[1], 3)):
        for i in range(length):
            before = second[0, n : answer_at + i].tolist()
            best = int(reference.logits(row, LEAVES[LATE], before)[:93].argmax())
            assert best == int(second[0, answer_at + i])


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3"])
def test_beams_of_a_padded_batch_are_those_of_its_rows(name: str) -> None:
    model = build_vlm(name, dtype=torch.float64)
    prompts = [(2, 1, 9), (3, 2, 4)]
    with ps.apply_(model, parse_schedule(LATE)):
        together = said(model, prompts_for(model, name, prompts, torch.float64), num_beams=3)
        for seed, prompt in enumerate(prompts):
            alone = prompts_for(model, name, [prompt], torch.float64, [seed])
            assert said(model, alone, num_beams=3)[0].tolist() == together[seed].tolist()


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "smolvlm"])
@pytest.mark.parametrize("scorer", list(SCORERS))
def test_every_scorer_runs_in_a_decoder(name: str, scorer: str) -> None:
    if SCORERS.entry(scorer).tower and not FAMILIES[VLMS[name].family].tower:
        return  # refused, which a test of its own asks
    model = build_vlm(name)
    inputs = prompts_for(model, name, [ONE, (3, 2, 4)])
    with ps.apply_(model, parse_schedule(f"decoder/1:0.4 {scorer}+drop")):
        assert torch.isfinite(logits_of(model, inputs)).all()


def test_threads_and_copies_keep_to_themselves() -> None:
    model = build_vlm("llava", dtype=torch.float64)
    with ps.apply_(model, parse_schedule(LATE)):
        # one that has run holds hooks of transformers' own that no pickle takes
        pickled = pickle.loads(pickle.dumps(model))
    prompts = [prompts_for(model, "llava", [ONE], torch.float64, [seed]) for seed in range(4)]
    with ps.apply_(model, parse_schedule(LATE)):
        alone = [said(model, prompt).tolist() for prompt in prompts]
        found: dict[int, Any] = {}

        def work(i: int) -> None:
            found[i] = said(model, prompts[i]).tolist()

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[i] for i in range(4)] == alone
        copied = copy.deepcopy(model)
    for twin in (copied, pickled):
        assert said(twin, prompts[0]).tolist() == alone[0]
        handle = ps.handle_of(twin)
        assert handle is not None
        handle.remove()
        assert said(twin, prompts[0]).tolist() == said(model, prompts[0]).tolist()


def test_a_copied_cache_goes_on_as_the_first() -> None:
    model = build_vlm("llava", dtype=torch.float64)
    inputs = prompts_for(model, "llava", [(2, 1, 9), (3, 2, 4)], torch.float64)
    step = {"input_ids": torch.tensor([[5], [6]])}
    step["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    step["position_ids"] = step["attention_mask"].sum(1, keepdim=True) - 1
    with ps.apply_(model, parse_schedule(LATE)), torch.no_grad():
        cache = model(**placed(model, inputs), use_cache=True).cache
        again = copy.deepcopy(cache)
        first, second = (model(**step, cache=c).logits for c in (cache, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3"])
def test_labels_are_no_part_of_what_is_asked(name: str) -> None:
    """An answer that is taught must not say which tokens stay; its loss has a slope everywhere."""
    model = build_vlm(name, dtype=torch.float64)
    inputs = prompts_for(model, name, [ONE], torch.float64)
    answer = torch.tensor([[21, 22, 23]])
    taught = {**inputs, "input_ids": torch.cat([inputs["input_ids"], answer], 1)}
    taught["attention_mask"] = torch.ones_like(taught["input_ids"])
    if "mm_token_type_ids" in inputs:
        taught["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(answer).int()], 1)
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], 1)
    n = inputs["input_ids"].shape[1]
    with ps.apply_(model, parse_schedule("decoder/1:0.3 text_attention+drop")):
        asked = logits_of(model, inputs)[0, -1]
        out = model(**taught, labels=labels)
        torch.testing.assert_close(out.logits[0, n - 1], asked, rtol=1e-5, atol=1e-5)
        out.loss.backward()
    assert torch.isfinite(out.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with ps.apply_(model, parse_schedule("decoder/1:0.3 text_attention_mean+drop")):
        mean = logits_of(model, inputs)[0, -1]
        torch.testing.assert_close(model(**taught, labels=labels).logits[0, n - 1], mean, rtol=1e-5, atol=1e-5)
