"""Precisions against the libraries' own: a model under a plan computes what one computes that was converted by hand."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import sys
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Change
from prunesearch.core.tables.registry import PRECISIONS
from tests.support.heads import answers_of, given_to, model_of

INT8, BF16 = Change.parse("int8"), Change.parse("bfloat16")
STAGES = ps.Schedule([ps.Stage(0, 0.7, "attention_received", "fuse"), ps.Stage(2, 0.4, "value_norm", "drop")])
KINDS = ["vit", "tags", "dinov2", "beit", "spans", "modernbert", "whisper-audio", "t5"]


def by_hand(model: nn.Module, change: Change) -> nn.Module:
    """The libraries' own conversion of a copy."""
    if change == BF16:
        return copy.deepcopy(model).to(torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_what_torch_makes_of_the_whole_model(kind: str) -> None:
    model, x = model_of(kind), given_to(kind, 0)
    whole, judge = answers_of(model, x), by_hand(model, INT8)
    wanted = answers_of(judge, x)
    assert not torch.equal(wanted, whole)
    with ps.apply_(judge, STAGES):
        pruned = answers_of(judge, x)
    with ps.apply_(model, ps.Plan(changes=[INT8])) as handle:
        assert torch.equal(answers_of(model, x), wanted)
        with handle.under(ps.Plan(STAGES, [INT8])):
            assert torch.equal(answers_of(model, x), pruned)
        with handle.under(ps.Plan()):
            assert torch.equal(answers_of(model, x), whole)
        assert torch.equal(answers_of(model, x), wanted)
    assert torch.equal(answers_of(model, x), whole)


@pytest.mark.parametrize("kind", ["vit", "tags", "dinov2"])
def test_bfloat16_is_what_a_model_in_bfloat16_computes(kind: str) -> None:
    model, x = model_of(kind), given_to(kind, 0)
    judge = by_hand(model, BF16)
    cast = {name: value.bfloat16() if value.is_floating_point() else value for name, value in x.items()}
    wanted = answers_of(judge, cast)
    assert wanted.dtype == torch.bfloat16
    with ps.apply_(model, ps.Plan(changes=[BF16])):
        assert torch.equal(answers_of(model, x), wanted)


def places(model: nn.Module) -> list[Any]:
    """What a plan might leave behind: attributes of modules, and the weights, bit for bit."""
    attributes = [(name, sorted(module.__dict__)) for name, module in model.named_modules()]
    return [attributes, [(name, value.data_ptr(), value.sum().item()) for name, value in model.state_dict().items()]]


def test_undone_to_the_last_bit_and_nothing_is_touched_before_it_is_used() -> None:
    model = model_of("vit")
    before = places(model)
    handle = ps.apply_(model, STAGES)
    linear = next(m for m in model.modules() if isinstance(m, nn.Linear))
    assert "forward" not in linear.__dict__
    handle.set(ps.Plan(STAGES, [INT8]))
    assert "forward" in linear.__dict__
    assert handle.plan == ps.Plan(STAGES, [INT8])
    assert handle.schedule == STAGES
    handle.remove()
    assert places(model) == before


def test_every_thread_has_its_own_precision() -> None:
    model, x = model_of("vit"), given_to("vit", 0)
    plans = [ps.Plan(), ps.Plan(changes=[INT8]), ps.Plan(STAGES, [INT8]), ps.Plan(STAGES)]
    with ps.apply_(model, ps.Plan()) as handle:
        alone, wrong = [], []
        for plan in plans:
            with handle.under(plan):
                alone.append(answers_of(model, x))
        barrier = threading.Barrier(len(plans))

        def work(number: int) -> None:
            barrier.wait()
            with handle.under(plans[number]):
                for _ in range(5):
                    if not torch.equal(answers_of(model, x), alone[number]):
                        wrong.append(number)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(len(plans))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len({answer.numpy().tobytes() for answer in alone}) == len(plans)


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved])
def test_a_copy_is_in_that_precision_by_itself(way: Callable[[Any], Any]) -> None:
    model, x = model_of("vit"), given_to("vit", 0)
    whole = answers_of(model, x)
    handle = ps.apply_(model, ps.Plan(STAGES, [INT8]))
    wanted = answers_of(model, x)
    twin = way(model)
    handle.remove()
    assert torch.equal(answers_of(twin, x), wanted)
    own = ps.handle_of(twin)
    assert own is not None
    assert own.plan == ps.Plan(STAGES, [INT8])
    own.remove()
    assert torch.equal(answers_of(twin, x), whole)


def test_twins_follow_the_weights() -> None:
    model, x = model_of("vit"), given_to("vit", 0)
    with ps.apply_(model, ps.Plan(changes=[INT8])):
        before = answers_of(model, x)
        with torch.no_grad():
            next(m for m in model.modules() if isinstance(m, nn.Linear)).weight.mul_(1.5)
        after = answers_of(model, x)
    assert not torch.equal(before, after)
    assert torch.equal(after, answers_of(by_hand(model, INT8), x))


def test_one_block_alone() -> None:
    model, x = model_of("vit"), given_to("vit", 0)
    judge = copy.deepcopy(model)
    blocks = ps.apply_(judge, ps.Schedule())
    block = blocks.encoder.blocks[1]
    blocks.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(block, {nn.Linear}, dtype=torch.qint8, inplace=True)
    with ps.apply_(model, ps.Plan(changes=[Change("precision", 1, {"to": "int8"})])):
        assert torch.equal(answers_of(model, x), answers_of(judge, x))
    with pytest.raises(PruneSearchError, match=r"`block < \d+` must hold .*, but got 99:int8"):
        ps.apply_(model, ps.Plan(changes=[Change("precision", 99, {"to": "int8"})]))
    assert ps.handle_of(model) is None


def test_every_precision_says_who_makes_it_or_why_nobody_does() -> None:
    cpu = torch.device("cpu")
    for name in PRECISIONS:
        found = PRECISIONS.load(name)
        assert bool(found.by(cpu)) != bool(found.absent(cpu)), name
        assert "\n" not in found.absent(cpu)
    assert PRECISIONS.load("int8").by(cpu) == "torch.ao quantize_dynamic"
    assert PRECISIONS.load("int8").absent(torch.device("meta")) == "nothing makes it on 'meta'"


def test_a_linear_layer_of_somebody_else_stays() -> None:
    class Special(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    found = PRECISIONS.load("int8")
    assert found.twin(Special(4, 4)) is None
    assert found.twin(nn.LayerNorm(4)) is None
    assert found.twin(nn.Linear(4, 4)) is not None


def test_where_nothing_makes_it_a_plan_is_refused_and_not_run_as_it_is() -> None:
    """On such a device every linear layer would stay as it is, under the name of int8."""
    with pytest.raises(PruneSearchError, match=r"cannot be put in fewer bits on 'meta' \(nothing makes it"):
        ps.apply_(model_of("vit").to("meta"), ps.Plan(changes=[INT8]))


@pytest.mark.parametrize("computes", [True, False])
def test_fp8_is_for_gpus_that_have_it(computes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fp8 = PRECISIONS.load("fp8")
    assert fp8.absent(torch.device("cpu")) == "nothing makes it on 'cpu'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "torchao")
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.utils", types.SimpleNamespace(is_sm_at_least_89=lambda: computes))
    assert bool(fp8.absent(torch.device("cuda"))) is not computes


def test_a_first_layer_that_reads_raw_features_keeps_its_numbers() -> None:
    """One scale a tensor does not hold them; a layer behind an embedding or a convolution has no such inputs."""
    sensors = nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16)), nn.Linear(16, 4))
    images = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Linear(8, 4))
    words = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    int8, weights = PRECISIONS.load("int8"), PRECISIONS.load("bfloat16")
    assert int8.spared(sensors) is sensors[0][0]
    assert int8.spared(images) is None
    assert int8.spared(words) is None
    assert weights.spared(sensors) is None
