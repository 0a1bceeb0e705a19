"""How a forward is executed: eagerly, from a CUDA graph, or compiled. What is timed runs as it will be deployed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.schedule import Schedule
from prunesearch.core.table import Registry, Row
from prunesearch.cost.timing.runtimes import Forward, load_onnx, trace, write_onnx

if TYPE_CHECKING:
    from prunesearch.pruning.apply import Handle

_HERE = "prunesearch.cost.timing.modes"
_WARM_UPS = 3  # forwards before a capture: libraries choose their kernels in the first ones

MODES = Registry(
    "mode",
    {
        "eager": Row(f"{_HERE}:Eager", "op by op, as transformers runs"),
        "cuda-graph": Row(f"{_HERE}:CudaGraph", "the whole forward captured in one CUDA graph"),
        "onnxruntime": Row(f"{_HERE}:OnnxRuntime", "the whole forward as one graph in ONNX Runtime, on the CPU"),
        "compile": Row(f"{_HERE}:Compiled", "torch.compile on each half of a block, stages eager"),
    },
)


class Eager:
    """Runs schedules one at a time.

    Args:
        model: the model, or a module around one.
        handle: of the schedule it carries.
        inputs: a batch on the model's device.
    """

    def __init__(self, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> None:
        self.model, self.handle, self.inputs = model, handle, dict(inputs)

    @property
    def current(self) -> Schedule:
        """The schedule that `run` runs."""
        return self.handle.schedule

    def prepare(self, schedule: Schedule) -> None:
        """Make `schedule` the one that `run` runs; not timed."""
        self.handle.set(schedule)

    def run(self) -> object:
        """One forward."""
        return self.model(**self.inputs)

    def walk(self, schedule: Schedule, marks: list[Any], mark: Callable[[], Any]) -> None:
        """One forward that leaves its marks in `marks`, one at its start, one at its end, the blocks' in between."""
        self.prepare(schedule)
        marks.clear()
        marks.append(mark())
        self.run()
        marks.append(mark())


class Compiled(Eager):
    """As `Eager`, with the halves of every block compiled; shapes that are new compile in the untimed `prepare`."""

    def __init__(self, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> None:
        super().__init__(model, handle, inputs)
        handle.compile()

    def prepare(self, schedule: Schedule) -> None:
        """See `Eager`."""
        super().prepare(schedule)
        self.run()


class CudaGraph(Eager):
    """Captures the forward of a schedule once and replays it; `inputs` are the graph's own and must stay in place."""

    def __init__(self, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> None:
        super().__init__(model, handle, inputs)
        self._graphs: dict[Schedule, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._current: torch.cuda.CUDAGraph | None = None

    def prepare(self, schedule: Schedule) -> None:
        """See `Eager`; captured graphs are kept."""
        if schedule not in self._graphs:
            self._graphs[schedule] = self._capture(schedule, self._forward)
        self.handle.set(schedule)
        self._current = self._graphs[schedule]

    def run(self) -> object:
        """Replay the graph of the schedule prepared last."""
        if self._current is None:
            raise RuntimeError("prepare(schedule) comes before run()")
        self._current.replay()
        return None

    def walk(self, schedule: Schedule, marks: list[Any], mark: Callable[[], Any]) -> None:
        """See `Eager`: the marks become nodes of a graph that is captured, replayed twice and thrown away."""

        def marked() -> None:
            marks.clear()
            marks.append(mark())
            self._forward()
            marks.append(mark())

        graph = self._capture(schedule, marked)
        graph.replay()  # the first replay uploads the graph
        graph.replay()

    def _forward(self) -> object:
        return self.model(**self.inputs)

    def _capture(self, schedule: Schedule, work: Callable[[], object]) -> torch.cuda.CUDAGraph:
        self.handle.set(schedule)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        return graph


class OnnxRuntime(Eager):
    """Writes the graph of a schedule once, in the untimed `prepare`, and runs it in ONNX Runtime."""

    def __init__(self, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> None:
        super().__init__(model, handle, inputs)
        dtype = next(model.parameters()).dtype
        if dtype != torch.float32:
            raise PruneSearchError(f"mode 'onnxruntime' computes in float32, but the model is in {dtype}: use float32")
        self._forwards: dict[Schedule, Forward] = {}

    def prepare(self, schedule: Schedule) -> None:
        """See `Eager`; graphs that were made are kept."""
        super().prepare(schedule)
        if schedule not in self._forwards:
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "graph.onnx"
                write_onnx(trace(self.model, self.inputs), path)
                self._forwards[schedule] = load_onnx(path)

    def run(self) -> object:
        """One forward of the schedule prepared last."""
        return self._forwards[self.current](self.inputs)

    def walk(self, schedule: Schedule, marks: list[Any], mark: Callable[[], Any]) -> None:
        """Refused: a graph leaves no marks; `runtime_table.measure_runtime_table` measures its pieces."""
        raise PruneSearchError("a graph in ONNX Runtime cannot be timed piece by piece: use measure_runtime_table")


def mode_of(mode: str | None, runtime: str | None) -> str | None:
    """The mode that `--mode` and `--runtime` come to; None where neither says.

    Raises:
        PruneSearchError: for an unknown runtime, or a mode of torch beside another runtime.
    """
    if runtime in (None, "torch"):
        return mode
    if runtime != "onnxruntime":
        raise PruneSearchError(f"unknown runtime '{runtime}': {did_you_mean(str(runtime), ('torch', 'onnxruntime'))}")
    if mode not in (None, "onnxruntime"):
        raise PruneSearchError(f"--mode {mode} is one of torch's, but got --runtime {runtime}: leave one of them out")
    return "onnxruntime"


def runner_for(mode: str, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> Eager:
    """The runner of a mode.

    Raises:
        PruneSearchError: for an unknown mode, or a mode that the model's device has not.
    """
    MODES.entry(mode)
    device = next(iter(inputs.values())).device
    if mode == "cuda-graph" and device.type != "cuda":
        raise PruneSearchError(f"mode 'cuda-graph' needs a CUDA device, but the model is on '{device}': use eager")
    if mode == "onnxruntime" and device.type != "cpu":
        raise PruneSearchError(f"mode 'onnxruntime' runs on the CPU, but the model is on '{device}': use --device cpu")
    runner: Eager = MODES.load(mode)(model, handle, inputs)
    return runner
