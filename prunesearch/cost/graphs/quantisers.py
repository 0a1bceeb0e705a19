"""The quantisers of other runtimes, which put a file of a graph into fewer bits."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from torch import Tensor

from prunesearch.cost.graphs.graph_files import needed, quietly
from prunesearch.cost.graphs.graph_running import kept_signal_stack

Rows = Sequence[Mapping[Any, Tensor]]  # inputs of a graph, by name or place, a batch each


def onnx_to_int8(path: Path, rows: Rows) -> None:
    """Quantise an ONNX file in place: weights beforehand, activations as they come (one scale a tensor).

    `rows` are not looked at.
    """
    quantization: Any = needed("onnxruntime.quantization", "onnx")
    scratch = path.with_name(f".{path.name}.{os.getpid()}.float.onnx")
    path.rename(scratch)
    try:
        with quietly():
            # Gemm and MatMul alone: a quantised convolution or gather gains nothing on a CPU
            quantization.quantize_dynamic(
                scratch, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=quantization.QuantType.QInt8
            )
    finally:
        scratch.unlink(missing_ok=True)
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def openvino_to_int8(path: Path, rows: Rows) -> None:
    """Quantise OpenVINO IR in place by NNCF: weights, and activations by scales that `rows` give beforehand.

    As NNCF does it for transformers: SmoothQuant (https://arxiv.org/abs/2211.10438) first, biases corrected afterwards.
    """
    os.environ.setdefault("NNCF_CI", "1")  # it would tell its makers that it is used
    nncf, openvino = needed("nncf", "openvino"), needed("openvino", "openvino")
    nncf.set_log_level(logging.ERROR)
    taken = nncf.Dataset([{name: value.numpy() for name, value in batch.items()} for batch in rows])
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.int8{path.suffix}")
    with quietly(), redirect_stdout(io.StringIO()), kept_signal_stack():  # it draws bars of its own
        model = openvino.Core().read_model(str(path))
        found = nncf.quantize(model, taken, subset_size=len(rows), model_type=nncf.ModelType.TRANSFORMER)
        openvino.save_model(found, str(scratch), compress_to_fp16=False)
    for suffix in (".bin", path.suffix):
        scratch.with_suffix(suffix).replace(path.with_suffix(suffix))
