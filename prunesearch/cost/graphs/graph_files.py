"""Runtimes other than eager torch: a model that carries a schedule as one graph, written to a file and run from it.

Token counts are constants of the graph, the batch size is not. A text graph takes the attention mask, and each row
keeps its own count, as in torch.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from prunesearch.compress.keep import KeptLinear
from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.apply import handle_of
from prunesearch.pruning.interface import base_name

OPSET = 18
OPSETS = range(18, 24)  # what torch's exporter writes and ONNX Runtime reads
BATCH = "batch"
_TRACED_ROWS = 2
# the outputs of a model that a graph of it has; of those without any, the states are
ANSWERS = ("logits", "start_logits", "end_logits", "pred_boxes", "embeddings", "sureness")


def answers_of(outputs: Any) -> dict[str, Tensor]:
    """What a model answers, by name: of its outputs those in `ANSWERS`, else `last_hidden_state`.

    Without names, a tensor or the first of several is the logits.
    """
    if isinstance(outputs, Tensor):
        return {"logits": outputs}
    have = outputs if isinstance(outputs, Mapping) else vars(outputs) if hasattr(outputs, "__dict__") else {}
    for names in (ANSWERS, ("last_hidden_state",)):
        found = {name: have[name] for name in names if isinstance(have.get(name), Tensor)}
        if found:
            return found
    return {"logits": outputs[0]}


class _Answers(nn.Module):
    """A model that returns its answers alone, and takes `names` by keyword."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.model = model

        def forward(**inputs: Tensor) -> dict[str, Tensor]:
            return answers_of(model(**inputs))

        # torch.export does not describe the shapes of **inputs: it is shown the names one by one
        keywords = [Parameter(name, Parameter.KEYWORD_ONLY) for name in names]
        forward.__signature__ = Signature(keywords)  # type: ignore[attr-defined]
        self.forward = forward


def trace(model: nn.Module, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """Trace a model, with the schedule that it carries, for batches of any size; it returns what `answers_of` finds.

    Args:
        model: on the CPU, in eval mode; with an attention implementation that is no flash kernel.
        inputs: a batch; all but its first dimension becomes part of the graph.

    Raises:
        PruneSearchError: if the model cannot be traced; in one line.
    """
    # a batch of one would be taken for a constant
    inputs = {name: torch.cat([value, value])[:_TRACED_ROWS] for name, value in inputs.items()}
    batch = Dim(BATCH, min=1)
    shapes = {name: {0: batch} for name in inputs}
    try:
        # gradients would choose another attention kernel than the one that runs
        with torch.no_grad(), _no_mask_without_padding(model), quietly():
            return torch.export.export(_Answers(model, inputs).eval(), (), inputs, dynamic_shapes=shapes)
    except Exception as error:  # torch raises a dozen kinds here; a user needs one line
        raise PruneSearchError(
            f"{type(model).__name__} cannot be traced ({_first_line(str(error))}): load it with --attn sdpa, or export "
            "the schedule alone (--to json)"
        ) from error


@contextmanager
def _no_mask_without_padding(model: nn.Module) -> Iterator[None]:
    """Within the block, an input without a mask makes none: transformers, tracing, makes one of nothing but True."""
    handle = handle_of(model)
    config: Any = model.config if handle is None else handle.encoder.attention_config
    name = base_name(config._attn_implementation)
    original = ALL_MASK_ATTENTION_FUNCTIONS[name]

    def make(*args: Any, **kwargs: Any) -> Any:
        skips = kwargs.get("allow_is_bidirectional_skip") and kwargs.get("local_size") is None
        return None if skips and kwargs.get("attention_mask") is None else original(*args, **kwargs)

    ALL_MASK_ATTENTION_FUNCTIONS[name] = make
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS.pop(name)  # what was set above hides the original, which comes back


@contextmanager
def quietly() -> Iterator[None]:
    """Within the block, no warnings: exporters warn about their own internals, on every call."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else "no reason given"


# -- files ---------------------------------------------------------------------------------------------------------


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a `.pt2` file for `torch.export.load`."""
    with quietly():
        torch.export.save(program, path)


def write_onnx(
    program: ExportedProgram, path: Path, opset: int = OPSET, notes: Mapping[str, str] | None = None
) -> None:
    """Write an ONNX file; its inputs and outputs have the names of the model's.

    Args:
        program: what `trace` returned.
        path: of the file; weights over 2 GB go into a file beside it.
        opset: ONNX operator set.
        notes: metadata of the file.

    Raises:
        PruneSearchError: if an operation has no ONNX counterpart, or a package is missing; in one line.
    """
    if opset not in OPSETS:
        raise PruneSearchError(f"`{OPSETS[0]} <= opset <= {OPSETS[-1]}` must hold, but got {opset}")
    made = _to_onnx(program, opset)
    for value, name in zip(made.model.graph.outputs, _output_names(program), strict=True):
        value.name = name
    made.model.metadata_props.update(notes or {})
    with quietly():
        made.save(str(path))


def _output_names(program: ExportedProgram) -> list[str]:
    """The names of what `trace` gave a graph to return, in their order."""
    spec = program.call_spec.out_spec
    return [] if spec is None else list(spec.context)


def write_piece(module: nn.Module, example: list[Tensor], shapes: list[dict[int, Any]], path: Path) -> None:
    """Write a part of a model as an ONNX file.

    Args:
        module: takes a list of tensors; returns tensors.
        example: that list.
        shapes: the free axes of each, as `torch.export` takes them.
        path: of the file.

    Raises:
        PruneSearchError: as `trace` and `write_onnx`.
    """
    try:
        with torch.no_grad(), quietly():
            program = torch.export.export(module.eval(), (example,), dynamic_shapes=(shapes,))
    except Exception as error:  # as in `trace`
        raise PruneSearchError(f"{type(module).__name__} cannot be traced ({_first_line(str(error))})") from error
    made = _to_onnx(program, OPSET)
    with quietly():
        made.save(str(path))


def _to_onnx(program: ExportedProgram, opset: int) -> Any:
    needed("onnxscript", "onnx")
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    try:
        with quietly(), torch.no_grad():
            made: Any = torch.onnx.export(
                program,
                opset_version=opset,
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort(opset)},
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = (str(error).rpartition("Exception summary")[2] or str(error)).strip("# \n")
        raise PruneSearchError(
            f"no ONNX file can be written ({_first_line(reason)}): choose --to torch-export"
        ) from error
    for value, name in zip(made.model.graph.inputs, names, strict=True):
        value.name = name
    return made


def _stable_sort(opset: int) -> Callable[..., Any]:
    """`sort(stable=True)` in ONNX: TopK of all values, which puts equal ones in the order of their places.

    OpenVINO's TopK does not; so flags, of which most are equal, are made unlike by their places first.
    """
    import onnx
    import onnxscript

    op: Any = onnxscript.values.Opset("", opset)
    narrow = {onnx.TensorProto.UINT8, onnx.TensorProto.BOOL}

    def sort(self: Any, *, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        axis, wide = dim % len(self.shape), onnx.TensorProto.INT32
        count = op.Shape(self, start=axis, end=axis + 1)
        flags = self.dtype is not None and int(self.dtype) in narrow and axis == len(self.shape) - 1
        if descending or not flags:
            values, places = op.TopK(self, count, axis=axis, largest=int(descending), sorted=1)
            return values, places
        n, zero, one = op.Cast(count, to=wide), op.Constant(value_int=0), op.Constant(value_int=1)
        place = op.Cast(op.Range(zero, op.Squeeze(count), one), to=wide)
        unlike = op.Add(op.Mul(op.Cast(self, to=wide), n), place)
        values, places = op.TopK(unlike, count, axis=axis, largest=0, sorted=1)
        return op.CastLike(op.Div(values, n), self), places

    return sort


def write_openvino(program: ExportedProgram, path: Path, opset: int = OPSET) -> list[str]:
    """Write OpenVINO IR (`path` is the `.xml`; the weights go beside it), converted from ONNX by OpenVINO itself.

    Returns:
        The names of what the products of layers give that a plan keeps as they are (`kept_products`).

    Raises:
        PruneSearchError: as `write_onnx`, or if OpenVINO is missing.
    """
    needed("openvino", "openvino")
    scratch = path.with_name(f".{path.name}.{os.getpid()}.onnx")
    try:
        write_onnx(program, scratch, opset)
        convert_to_openvino(scratch, path)
        graph = needed("onnx", "onnx").load(str(scratch), load_external_data=False).graph
        return [node.output[0] for node in kept_products(graph)]
    finally:
        scratch.unlink(missing_ok=True)
        scratch.with_name(f"{scratch.name}.data").unlink(missing_ok=True)


def kept_products(graph: Any) -> list[Any]:
    """The nodes of an ONNX graph that are products of layers which a plan keeps as they are.

    The exporter writes the classes of the modules that a node is of.
    """

    def classes(node: Any) -> str:
        return next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.class_hierarchy"), "")

    name = f"{KeptLinear.__module__}.{KeptLinear.__name__}"
    return [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and name in classes(node)]


def convert_to_openvino(onnx: Path, path: Path) -> None:
    """Write OpenVINO IR of an ONNX file, by OpenVINO itself."""
    openvino = needed("openvino", "openvino")
    with quietly():
        openvino.save_model(openvino.convert_model(str(onnx)), str(path), compress_to_fp16=False)


def needed(module: str, extra: str) -> Any:
    """Import an optional package; raise with the line that installs it where it is missing."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise PruneSearchError(f"this needs the package '{module}': pip install 'prunesearch[{extra}]'") from None
