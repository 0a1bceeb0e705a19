"""A copy of a model that carries a schedule is a model that carries it by itself, or there is none."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import prunesearch as ps
from tests.support.heads import HEADS, answers_of, given_to, model_of

MIXED = ps.Schedule([ps.Stage(0, 0.7, "attention_received", "fuse"), ps.Stage(2, 0.4, "value_norm", "bipartite")])


def _saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": _saved,
}


# convolutions over sound have parametrised weights, which PyTorch refuses to pickle, schedule or not
PICKLED = [kind for kind, (name, _) in HEADS.items() if name not in ("wav2vec2", "wavlm")]
CASES = [
    *(("deepcopy", kind) for kind in HEADS),
    *(("pickle", kind) for kind in PICKLED),
    *(("torch.save", kind) for kind in ("tags", "whisper")),
]


@pytest.mark.parametrize(("way", "kind"), CASES)
def test_a_copy_is_a_pruned_model_of_its_own(way: str, kind: str) -> None:
    model, x, y = model_of(kind), given_to(kind, 0), given_to(kind, 1)
    whole = answers_of(model, y)
    handle = ps.apply_(model, MIXED)
    answers_of(model, x)
    want = answers_of(model, y)
    twin = COPIES[way](model)
    assert torch.equal(answers_of(twin, y), want)
    handle.remove()
    assert torch.equal(answers_of(model, y), whole)
    assert torch.equal(answers_of(twin, y), want)
    own = ps.handle_of(twin)
    assert own is not None
    assert own.schedule == MIXED
    inside = {id(module) for module in twin.modules()}
    assert all(id(block) in inside for block in own.encoder.blocks)
    own.remove()
    assert torch.equal(answers_of(twin, y), whole)
    with ps.apply_(twin, MIXED):
        assert torch.equal(answers_of(twin, y), want)


def test_a_copy_carries_the_schedule_that_is_in_force() -> None:
    model, x = model_of("vit"), given_to("vit", 0)
    other = ps.Schedule([ps.Stage(1, 0.5)])
    with ps.apply_(model, MIXED) as handle, handle.under(other):
        twin = copy.deepcopy(model)
        assert torch.equal(answers_of(twin, x), answers_of(model, x))


def test_the_encoder_of_a_model_can_be_copied_with_its_schedule() -> None:
    model, x = model_of("tags"), given_to("tags", 0)
    with ps.apply_(model, MIXED), torch.no_grad():
        twin = copy.deepcopy(model.base_model)
        assert torch.equal(twin(**x).last_hidden_state, model.base_model(**x).last_hidden_state)
        assert ps.handle_of(twin) is not ps.handle_of(model)


def test_a_model_around_a_model_can_be_copied() -> None:
    model, x = nn.ModuleList([nn.Linear(2, 2), model_of("ctc")]), given_to("ctc", 0)
    with ps.apply_(model[1], MIXED):
        want = answers_of(model[1], x)
        twin = copy.deepcopy(model)
    assert torch.equal(answers_of(twin[1], x), want)


@pytest.mark.parametrize(
    ("kind", "part"), [("tags", "bert.encoder"), ("bart", "model.decoder"), ("vit", "vit.layers.1")]
)
def test_a_part_of_a_model_is_not_copied_by_itself(kind: str, part: str) -> None:
    model = model_of(kind)
    with ps.apply_(model, MIXED), pytest.raises(ps.PruneSearchError, match="cannot be copied by itself"):
        copy.deepcopy(model.get_submodule(part))
    copy.deepcopy(model.get_submodule(part))


def test_dynamic_quantisation_keeps_the_schedule() -> None:
    """It copies the model and swaps its linear layers."""
    model, x = model_of("tags"), given_to("tags", 0)
    with ps.apply_(model, MIXED):
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        assert answers_of(quantised, x).shape == answers_of(model, x).shape
        assert ps.handle_of(quantised) is not None
        assert ps.handle_of(quantised) is not ps.handle_of(model)
        assert torch.allclose(answers_of(quantised, x), answers_of(model, x), atol=1.0)


def test_a_compiled_model_compiles_anew_in_its_copy() -> None:
    model, x = model_of("vit"), given_to("vit", 0)
    with ps.apply_(model, MIXED) as handle:
        want = answers_of(model, x)
        handle.compile()
        own = ps.handle_of(copy.deepcopy(model))
    assert own is not None
    assert type(own.encoder.family.layout) is type(handle.encoder.family.layout)
    assert torch.isfinite(want).all()
