"""What the quantisers of other runtimes leave alone: products with raw features, which one scale does not hold."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunesearch.cost.graphs.graph_running import load_onnx, load_openvino
from prunesearch.cost.graphs.quantisers import onnx_to_int8, openvino_to_int8
from tests.support.paths import DEV


class Sensors(nn.Module):
    """A linear stem over channels of very unlike size, a block, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(16, 32), nn.LayerNorm(32)
        self.block, self.head = nn.Linear(32, 32), nn.Linear(32, 4)
        with torch.no_grad():
            self.stem.weight[:, 0] = 0.0  # the loudest channel tells nothing

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.stem(x.flip(-1).flip(-1)))
        return self.head(hidden + torch.relu(self.block(hidden)))


def made() -> tuple[Sensors, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(8, 16)
    x[:, 0] *= 1e4
    return Sensors().eval(), x


def off(found: Tensor, want: Tensor) -> float:
    return float((found - want).norm() / want.norm())


def test_onnx_runtimes_leaves_a_product_with_raw_features(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason=DEV)
    model, x = made()
    path = tmp_path / "m.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)
    onnx_to_int8(path, ())
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("MatMulInteger") == 2  # the block's and the head's
    (found,) = load_onnx(path)({onnx.load(path).graph.input[0].name: x}).values()
    with torch.no_grad():
        assert off(found, model(x)) < 0.05


def test_nncf_leaves_a_product_with_raw_features(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason=DEV)
    pytest.importorskip("nncf", reason=DEV)
    model, x = made()
    path = tmp_path / "m.xml"
    graph = openvino.convert_model(model, example_input=x)
    graph.outputs[0].get_tensor().set_names({"logits"})
    openvino.save_model(graph, path, compress_to_fp16=False)
    openvino_to_int8(path, [{"x": x}])
    kinds = [node.get_type_name() for node in openvino.Core().read_model(path).get_ops()]
    assert kinds.count("MatMul") == 3
    (found,) = load_openvino(path)({"x": x}).values()
    with torch.no_grad():
        assert off(found, model(x)) < 0.05


@pytest.mark.parametrize(
    ("able", "most"),
    [
        ({"architecture": "x86_64", "avx2": True}, 64),
        ({"architecture": "x86_64", "avx2": True, "avx512_vnni": True}, 127),
        ({"architecture": "aarch64"}, 127),
    ],
)
def test_weights_have_seven_bits_where_sums_of_products_are_cut_off(
    able: dict[str, object], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx", reason=DEV)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    model, x = made()
    path = tmp_path / "m.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)
    onnx_to_int8(path, ())
    weights = [
        torch.from_numpy(onnx.numpy_helper.to_array(one).copy())
        for one in onnx.load(path).graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 2
    ]
    assert len(weights) == 2
    assert all(most - 1 <= int(one.int().abs().max()) <= most for one in weights)
