"""What serves an exported folder does to its model: threads, copies, other attention; every head with a way back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import prunesearch as ps
from prunesearch.core.plans.schedule_text import parse_schedule
from tests.pruning.test_threads import FORWARDS, MIXED, THREADS, in_threads
from tests.support.generated import generated
from tests.support.heads import HEADS, answers_of, given_to, model_of

# the head of speaker verification is the project's own, and convolutions over sound are not pickled, schedule or not
EXPORTED = [kind for kind in HEADS if kind != "x-vector"]
PICKLED = [kind for kind in EXPORTED if HEADS[kind][0] not in ("wav2vec2", "wavlm")]


@pytest.mark.parametrize("kind", EXPORTED)
def test_threads_and_copies_answer_as_the_applied_model_does(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    assert isinstance(model, PreTrainedModel)
    inputs = [given_to(kind, seed) for seed in range(THREADS)]
    pruned = generated(model, MIXED, tmp_path / f"{kind.replace('-', '_')}.py")
    with ps.apply_(model, MIXED):
        applied = answers_of(model, inputs[0])
    alone = [answers_of(pruned, x) for x in inputs]
    torch.testing.assert_close(alone[0], applied, rtol=1e-4, atol=1e-5)

    def work(number: int) -> None:
        for _ in range(FORWARDS):
            assert torch.equal(answers_of(pruned, inputs[number]), alone[number])

    in_threads(work)
    copies = [copy.deepcopy(pruned), *([pickle.loads(pickle.dumps(pruned))] if kind in PICKLED else [])]
    for twin in copies:
        answers_of(pruned, inputs[1])  # what is under way in one is nothing to the other
        assert torch.equal(answers_of(twin, inputs[0]), alone[0])


@pytest.mark.parametrize("kind", ["vit", "tags", "bart", "whisper"])
def test_two_models_of_one_config_and_another_attention(kind: str, tmp_path: Path) -> None:
    model, x = model_of(kind), given_to(kind, 0)
    pruned = generated(model, MIXED, tmp_path / f"two_{kind}.py")
    twin = type(pruned)(pruned.config).eval()
    twin.load_state_dict(pruned.state_dict())
    want = answers_of(pruned, x)
    assert torch.equal(answers_of(twin, x), want)
    pruned.set_attn_implementation("eager")
    torch.testing.assert_close(answers_of(pruned, x), want, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(answers_of(twin, x), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "text", ["0:p0.7 value_norm+fuse > 1:0.2 cls_attention+drop", "1:0.6 value_norm+drop@inverse_cdf"]
)
@pytest.mark.parametrize("kind", ["vit", "tags"])
def test_rows_keep_their_own_counts_there(kind: str, text: str, tmp_path: Path) -> None:
    model, x, schedule = model_of(kind), given_to(kind, 0), parse_schedule(text)
    with ps.apply_(model, schedule):
        applied = answers_of(model, x)
    name = f"by_row_{kind}_{len(schedule)}"
    torch.testing.assert_close(
        answers_of(generated(model, schedule, tmp_path / f"{name}.py"), x), applied, rtol=1e-4, atol=1e-5
    )
