"""The quantisers of other runtimes, which put a file of a graph into fewer bits."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunesearch.cost.graphs.graph_files import kept_products, needed, quietly
from prunesearch.cost.graphs.graph_running import kept_signal_stack

_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
Rows = Sequence[Mapping[Any, Tensor]]  # inputs of a graph, by name or place, a batch each


def onnx_to_int8(path: Path, rows: Rows) -> None:
    """Quantise an ONNX file in place: weights beforehand, activations as they come (one scale a tensor).

    `rows` are not looked at. A product with raw features stays as it is, as in torch (`Quantised.spared`).
    """
    quantization: Any = needed("onnxruntime.quantization", "onnx")
    graph = needed("onnx", "onnx").load(str(path), load_external_data=False).graph
    left_alone = [*_raw_in_onnx(graph), *(name for node in kept_products(graph) for name in _names_of(node))]
    scratch = path.with_name(f".{path.name}.{os.getpid()}.float.onnx")
    path.rename(scratch)
    try:
        with quietly():
            # Gemm and MatMul alone: a quantised convolution or gather gains nothing on a CPU
            quantization.quantize_dynamic(
                scratch,
                path,
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=quantization.QuantType.QInt8,
                reduce_range=saturates(),
                nodes_to_exclude=left_alone,
            )
    finally:
        scratch.unlink(missing_ok=True)
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def openvino_to_int8(path: Path, rows: Rows, kept: Sequence[str] = ()) -> None:
    """Quantise OpenVINO IR in place by NNCF: weights, and activations by scales that `rows` give beforehand.

    Products with raw features stay as they are, and those whose outputs are called as one of `kept`.

    As NNCF does it for transformers: SmoothQuant (https://arxiv.org/abs/2211.10438) first, biases corrected afterwards.
    """
    os.environ.setdefault("NNCF_CI", "1")  # it would tell its makers that it is used
    nncf, openvino = needed("nncf", "openvino"), needed("openvino", "openvino")
    nncf.set_log_level(logging.ERROR)
    taken = nncf.Dataset([{name: value.numpy() for name, value in batch.items()} for batch in rows])
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.int8{path.suffix}")
    with quietly(), redirect_stdout(io.StringIO()), kept_signal_stack():  # it draws bars of its own
        model = openvino.Core().read_model(str(path))
        left_alone = [*_raw_in_openvino(model), *_called(model, kept)]
        found = nncf.quantize(
            model,
            taken,
            subset_size=len(rows),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
            if saturates()
            else None,
            ignored_scope=nncf.IgnoredScope(names=left_alone) if left_alone else None,
        )
        openvino.save_model(found, str(scratch), compress_to_fp16=False)
    for suffix in (".bin", path.suffix):
        scratch.with_suffix(suffix).replace(path.with_suffix(suffix))


def saturates() -> bool:
    """Whether sums of two products of int8 are cut off at 16 bits here: on x86 without VNNI instructions.

    Weights of seven bits, which never come that far, are what the runtimes' own documentation then asks for. On a small
    network of these tests eight bits were 10 to 13 % off there, and under 5 % elsewhere.
    """
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return able.get("architecture") == "x86_64" and not any(able.get(name) for name in _VNNI)


# what an operation makes of raw features is no longer raw
_ONNX_LAYERS = {"Conv", "MatMul", "Gemm", "LayerNormalization", "Softmax"}
_OPENVINO_LAYERS = {"Convolution", "GroupConvolution", "MatMul", "MVN", "Softmax"}


def _raw_in_onnx(graph: Any) -> list[str]:
    """The names of the products whose first operand is a floating-point input of the graph, or made of one without a
    layer in between."""
    floats = {1, 10, 16}  # TensorProto.FLOAT, FLOAT16 and BFLOAT16
    raw = {value.name for value in graph.input if value.type.tensor_type.elem_type in floats}
    raw -= {value.name for value in graph.initializer}
    found = []
    for node in graph.node:  # in the order in which they are computed
        if not raw.intersection(node.input):
            continue
        if node.op_type not in _ONNX_LAYERS:
            raw.update(node.output)
        elif node.op_type in ("MatMul", "Gemm") and node.input[0] in raw:
            found += _names_of(node)
    return found


def _names_of(node: Any) -> list[str]:
    return [node.name, f"{node.name}_MatMul"]  # of a Gemm, the quantiser makes that first


def _raw_in_openvino(model: Any) -> list[str]:
    """The same of a model of OpenVINO."""
    raw: set[str] = set()
    found = []
    for node in model.get_ordered_ops():
        kind, before = node.get_type_name(), [value.get_source_output().get_node() for value in node.inputs()]
        if kind == "Parameter" and node.get_element_type().is_real():
            raw.add(node.get_friendly_name())
        elif not raw.intersection(one.get_friendly_name() for one in before):
            continue
        elif kind not in _OPENVINO_LAYERS:
            raw.add(node.get_friendly_name())
        elif kind == "MatMul" and before[0].get_friendly_name() in raw:
            found.append(node.get_friendly_name())
    return found


def _called(model: Any, names: Sequence[str]) -> list[str]:
    """The names of the operations one of whose outputs is called so; a Gemm is a product and a sum."""
    wanted, found = set(names), []
    for node in model.get_ordered_ops():
        if wanted.isdisjoint(name for value in node.outputs() for name in value.get_names()):
            continue
        before = [value.get_source_output().get_node() for value in node.inputs()]
        products = [one for one in (node, *before) if one.get_type_name() == "MatMul"]
        found += [one.get_friendly_name() for one in products[:1]]
    return found
