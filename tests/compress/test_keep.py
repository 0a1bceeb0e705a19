"""Halves of blocks that stay as they are under int8, against a copy whose other layers were quantised by hand."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import prunesearch as ps
from prunesearch.compress.halves import names_of
from prunesearch.core.plans.flow import Geometry
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.counting.size import SizeCosts
from prunesearch.export.models.model_format import ModelOptions, ModelSource
from prunesearch.export.models.write import find_model_format, write_format
from prunesearch.pruning.families.find import find_encoder
from tests.support.heads import answers_of, given_to, model_of
from tests.support.paths import DEV

INT8 = Change.parse("int8")
KEPT = [Change.parse("0:keep(part=attention)"), Change.parse("1:keep(part=mlp)")]
STAGES = ps.Schedule([ps.Stage(0, 0.7, "attention_received", "fuse"), ps.Stage(1, 0.5, "value_norm", "drop")])
KINDS = ["vit", "dinov2", "modernbert", "whisper-audio", "t5"]


def by_hand(model: nn.Module) -> nn.Module:
    """A copy, of whose linear layers torch quantises all but those of the halves in KEPT."""
    judge = copy.deepcopy(model)
    encoder = find_encoder(judge)
    kept = {
        id(encoder.blocks[c.block or 0].get_submodule(path))
        for c in KEPT
        for path in names_of(encoder.blocks[c.block or 0], encoder.family.layout.core, c.half)
    }
    chosen = {name for name, m in judge.named_modules() if type(m) is nn.Linear and id(m) not in kept}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(judge, chosen, dtype=torch.qint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stages", [ps.Schedule(), STAGES], ids=["all tokens", "stages"])
def test_kept_halves_are_the_models_own_under_int8(kind: str, stages: ps.Schedule) -> None:
    model, x = model_of(kind), given_to(kind, 0)
    plain = answers_of(model, x)
    judge = by_hand(model)
    with ps.apply_(judge, stages):
        wanted = answers_of(judge, x)
    with ps.apply_(model, Plan(stages, [INT8])) as handle:
        assert not torch.equal(answers_of(model, x), wanted)
        with handle.under(Plan(stages, [INT8, *KEPT])):
            assert torch.equal(answers_of(model, x), wanted)
        with handle.under(Plan(changes=KEPT)):  # of a model in its own numbers they are nothing
            assert torch.equal(answers_of(model, x), plain)
    assert torch.equal(answers_of(model, x), plain)


def test_a_kept_half_weighs_what_it_weighed() -> None:
    model = model_of("vit")
    encoder = find_encoder(model)
    costs = SizeCosts(model, Geometry(len(encoder.blocks), 17, 1))
    layers = [
        encoder.blocks[1].get_submodule(path) for path in names_of(encoder.blocks[1], encoder.family.layout.core, "mlp")
    ]
    back = sum(3 * m.weight.numel() - 8 * m.out_features for m in layers)  # of four bytes one; a scale for every row
    int8, kept = (costs.under(changes).price(Schedule().flow(costs.geometry)) for changes in ((INT8,), (INT8, KEPT[1])))
    assert kept - int8 == pytest.approx(back / 1e6, rel=1e-6)


def test_a_linear_layer_of_somebody_else_is_left_in_its_place() -> None:
    class Adds(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1.0

    model, x = model_of("vit"), given_to("vit", 0)
    block = find_encoder(model).blocks[1]
    path = names_of(block, find_encoder(model).family.layout.core, "mlp")[0]
    block.get_submodule(path).__class__ = Adds
    plain = answers_of(model, x)
    with ps.apply_(model, Plan(changes=KEPT)):
        assert torch.equal(answers_of(model, x), plain)


def test_as_text_and_for_people() -> None:
    plan = Plan.parse(f"3:0.50 cls_attention+fuse | int8 | {KEPT[0]} | {KEPT[1]}")
    assert plan.changes == (INT8, *KEPT)
    assert (plan.variant, plan.done) == ("int8", "int8, 2 half blocks kept whole")
    assert Plan.from_json(plan.to_json()) == plan


def test_onnx_runtimes_quantiser_leaves_them_alone(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason=DEV)
    model, x = model_of("vit").float(), {"pixel_values": given_to("vit", 0)["pixel_values"].float()}
    to, products = find_model_format("onnx"), {}
    for name, changes in {"int8": (INT8,), "kept": (INT8, *KEPT)}.items():
        source = ModelSource(model, ps.Schedule(), x, changes=changes, fits={}, seed=0)
        write_format(source, to, tmp_path / f"{name}.onnx", ModelOptions())
        nodes = onnx.load(tmp_path / f"{name}.onnx").graph.node
        products[name] = sum(node.op_type == "MatMulInteger" for node in nodes)
    assert products["int8"] - products["kept"] == 4 + 2  # q, k, v and out; two of the MLP


@pytest.mark.slow
def test_nncf_leaves_them_alone(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason=DEV)
    pytest.importorskip("nncf", reason=DEV)
    model, x = model_of("vit").float(), {"pixel_values": given_to("vit", 0)["pixel_values"].float()}
    to, quantised = find_model_format("openvino"), {}
    for name, changes in {"int8": (INT8,), "kept": (INT8, *KEPT)}.items():
        source = ModelSource(model, ps.Schedule(), x, changes=changes, fits={}, seed=0)
        write_format(source, to, tmp_path / f"{name}.xml", ModelOptions())
        found = openvino.Core().read_model(tmp_path / f"{name}.xml")
        weights = [
            op for op in found.get_ops() if op.get_type_name() == "Constant" and "int8_t" in str(op.get_element_type())
        ]
        quantised[name] = sum(len(op.get_output_shape(0)) == 2 for op in weights)
    assert quantised["int8"] - quantised["kept"] == 4 + 2
