"""Files of graphs, loaded and run in the runtimes that they are for."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from prunesearch.cost.graphs.graph_files import needed, quietly


class Forward(Protocol):
    """A loaded graph."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model answers to a batch on the CPU, by the names of its outputs (see `ANSWERS`)."""


def load_program(path: Path) -> Forward:
    """The graph of a `.pt2` file, in torch."""
    with quietly():
        module = torch.export.load(path).module()

    def forward(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            out: dict[str, Tensor] = module(**inputs)
            return out

    return forward


def onnx_session(path: Path) -> Any:
    """An `InferenceSession` of an ONNX file on the CPU, with as many threads as torch has."""
    runtime = needed("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


Bind = Callable[[Sequence[Tensor]], Callable[[], object]]


def bind_onnx(path: Path) -> Bind:
    """A piece of a model, an ONNX file, in ONNX Runtime: what makes a run out of its inputs."""
    session = onnx_session(path)
    names = [i.name for i in session.get_inputs()]

    def bind(given: Sequence[Tensor]) -> Callable[[], object]:
        feeds = {name: value.numpy() for name, value in zip(names, given, strict=True)}
        return lambda: session.run(None, feeds)

    return bind


def load_onnx(path: Path) -> Forward:
    """An ONNX file in ONNX Runtime, see `onnx_session`."""
    session = onnx_session(path)
    known, made = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]

    def forward(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = session.run(made, {name: inputs[name].numpy() for name in known})
        return {name: torch.from_numpy(value) for name, value in zip(made, found, strict=True)}

    return forward


class _SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Within the block another library may set the stack that signals are handled on; afterwards it is as before.

    OpenVINO's CPU plugin sets one of its own and takes its memory away with the last model of a core. Where another
    thread lets go of that model (as a collection of garbage does), this thread keeps an address without memory behind
    it, and the next signal that Python handles, such as Ctrl-C, kills the process.
    """
    if sys.platform != "linux":
        yield
        return
    before, library = _SignalStack(), ctypes.CDLL(None)
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)


def _compiled(path: Path) -> Any:
    """An OpenVINO IR on the CPU, with as many threads as torch has."""
    openvino = needed("openvino", "openvino")
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    # float32 as in torch: on some CPUs OpenVINO would compute in bfloat16
    with kept_signal_stack():
        return openvino.Core().compile_model(str(path), "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})


def bind_openvino(path: Path) -> Bind:
    """A piece of a model, OpenVINO IR, on the CPU: what makes a run out of its inputs."""
    compiled = _compiled(path)

    def bind(given: Sequence[Tensor]) -> Callable[[], object]:
        request, feeds = compiled.create_infer_request(), [value.numpy() for value in given]
        return lambda: request.infer(feeds, share_inputs=True)

    return bind


def load_openvino(path: Path) -> Forward:
    """A model as OpenVINO IR, see `bind_openvino`."""
    compiled = _compiled(path)
    known, made = ([x.get_any_name() for x in xs] for xs in (compiled.inputs, compiled.outputs))

    def forward(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = compiled({name: inputs[name].numpy() for name in known})
        return {name: torch.from_numpy(found[name].copy()) for name in made}

    return forward
