"""A model with its schedule as one graph: ONNX, `torch.export`, OpenVINO IR, and a recipe for TensorRT."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from prunesearch.core.files import write_text_atomic
from prunesearch.cost.graphs.graph_files import OPSET, trace, write_onnx, write_openvino, write_program
from prunesearch.cost.graphs.graph_running import load_onnx, load_openvino, load_program
from prunesearch.cost.graphs.quantisers import onnx_to_int8, openvino_to_int8
from prunesearch.export.models.model_format import ModelFormat, ModelOptions, ModelSource

_ONNX_INT8 = "ONNX Runtime quantize_dynamic"
_NNCF_INT8 = "NNCF, scales of activations beforehand"
_TENSORRT_ROWS = (1, 8, 32)  # least, usual and greatest batch of the engine where the study does not say


def _onnx(source: ModelSource, path: Path, options: ModelOptions) -> tuple[str, ...]:
    """Write the ONNX file, with schedule and provenance in its metadata."""
    notes = {"prunesearch.schedule": source.schedule.to_json(None)}
    if source.changes:
        notes["prunesearch.plan"] = source.plan.to_json(None)
    if source.provenance:
        notes["prunesearch.provenance"] = json.dumps(dict(source.provenance), ensure_ascii=False)
    opset = options.opset or OPSET
    write_onnx(trace(source.model, source.inputs), path, opset, notes)
    int8 = options.int8 or bool(source.plan.whole)
    if int8:
        onnx_to_int8(path, ())
    said = f"int8: dynamic quantisation of the matrix products ({_ONNX_INT8})"
    return (f"opset {opset}", *((said,) if int8 else ()))


def _program(source: ModelSource, path: Path, options: ModelOptions) -> tuple[str, ...]:
    write_program(trace(source.model, source.inputs), path)
    return ("torch.export.load(PATH).module()(**inputs) gives the outputs by name",)


def _openvino(source: ModelSource, path: Path, options: ModelOptions) -> tuple[str, ...]:
    kept = write_openvino(trace(source.model, source.inputs), path, options.opset or OPSET)
    said = [f"weights are in {path.with_suffix('.bin').name}"]
    if source.written_in(options):
        rows = source.calibration or (source.inputs,)
        openvino_to_int8(path, rows, kept)
        said.append(f"int8: {_NNCF_INT8}, by {sum(len(next(iter(batch.values()))) for batch in rows)} rows")
    return tuple(said)


def _tensorrt(source: ModelSource, path: Path, options: ModelOptions) -> tuple[str, ...]:
    """Write the ONNX file and, beside it, the line that makes an engine of it."""
    notes = _onnx(source, path, options)
    recipe = path.with_suffix(".trtexec.sh")
    write_text_atomic(recipe, f"#!/bin/sh\n{trtexec_line(source, path)}\n")
    return (*notes, f"{recipe.name} has the trtexec line; no TensorRT was at hand: the engine is unproven")


def trtexec_line(source: ModelSource, path: Path) -> str:
    """The command that builds a TensorRT engine for batches of 1 up to twice the batch that was timed."""
    rows = len(next(iter(source.inputs.values())))
    least, usual, most = (1, rows, 2 * rows) if rows > 1 else _TENSORRT_ROWS

    def shapes(count: int) -> str:
        sizes = {name: [count, *value.shape[1:]] for name, value in source.inputs.items()}
        return ",".join(f"{name}:{'x'.join(map(str, size))}" for name, size in sizes.items())

    words = [
        "trtexec",
        f"--onnx={path.name}",
        f"--saveEngine={path.with_suffix('.engine').name}",
        f"--minShapes={shapes(least)}",
        f"--optShapes={shapes(usual)}",
        f"--maxShapes={shapes(most)}",
        "--fp16",
        "--useCudaGraph",
    ]
    return " ".join(shlex.quote(word) for word in words)


ONNX = ModelFormat(
    name="onnx",
    tool="ONNX",
    runtime="onnxruntime",
    write=_onnx,
    load=load_onnx,
    suffix=".onnx",
    options=("opset", "int8"),
    precisions={"int8": _ONNX_INT8},
    float_alone="ONNX Runtime's own quantiser makes int8 alone",
)
TORCH_EXPORT = ModelFormat(
    name="torch-export",
    tool="torch.export",
    runtime="torch-export",
    write=_program,
    load=load_program,
    suffix=".pt2",
    float_alone="int8 layers of torch.ao cannot be traced",
)
OPENVINO = ModelFormat(
    name="openvino",
    tool="OpenVINO",
    runtime="openvino",
    write=_openvino,
    load=load_openvino,
    suffix=".xml",
    options=("opset", "int8"),
    precisions={"int8": _NNCF_INT8},
    float_alone="NNCF is asked for int8 alone",
    unable={"random": "its hash needs 64-bit integers, which OpenVINO computes in 32"},
)
TENSORRT = ModelFormat(
    name="tensorrt",
    tool="TensorRT",
    runtime="onnxruntime",
    write=_tensorrt,
    load=load_onnx,
    suffix=".onnx",
    options=("opset",),
    proven=False,
    float_alone="TensorRT quantises by its own calibration",
)
