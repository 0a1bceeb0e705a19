"""How a forward is executed: eagerly, from a CUDA graph, or compiled. What is timed runs as it will be deployed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.core.tables.row_kinds import RuntimeRow
from prunesearch.cost.devices.device import kind_of
from prunesearch.cost.graphs.graph_files import convert_to_openvino, trace, write_onnx, write_openvino, write_program
from prunesearch.cost.graphs.graph_running import (
    Bind,
    Forward,
    bind_onnx,
    bind_openvino,
    load_onnx,
    load_openvino,
    load_program,
)
from prunesearch.cost.graphs.quantisers import Rows, onnx_to_int8, openvino_to_int8

if TYPE_CHECKING:
    from prunesearch.pruning.apply import Handle

_TORCH = "torch"  # --runtime: --mode says how
_WARM_UPS = 3  # forwards before a capture: libraries choose their kernels in the first ones


class Eager:
    """Runs plans one at a time; `mode` is its row in `RUNTIMES`.

    Args:
        model: the model, or a module around one.
        handle: of the schedule it carries.
        inputs: a batch on the model's device.
    """

    mode: ClassVar[str] = "eager"

    def __init__(self, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> None:
        self.model, self.handle, self.inputs = model, handle, dict(inputs)
        self.calibration: Rows = (self.inputs,)  # what a quantiser of another runtime may look at

    @property
    def current(self) -> Plan:
        """The plan that `run` runs."""
        return self.handle.plan

    def prepare(self, plan: Plan | Schedule) -> None:
        """Make `plan` the one that `run` runs; not timed."""
        self.handle.set(plan)

    def run(self) -> object:
        """One forward."""
        return self.model(**self.inputs)

    def offered(self, variants: Iterable[tuple[Change, ...]]) -> list[tuple[Change, ...]]:
        """Of the changes that torch can make of a model, those that can be run here; and those of its own."""
        known = RUNTIMES.entry(self.mode).precisions
        return [c for c in variants if known is None or all(str(change) in known for change in c)]

    def forward_of(self, plan: Plan) -> Callable[..., Any]:
        """What answers any batch under a plan that was prepared."""

        def forward(**inputs: Tensor) -> Any:
            with self.handle.under(plan):
                return self.model(**inputs)

        return forward

    def walk(self, plan: Plan | Schedule, marks: list[Any], mark: Callable[[], Any]) -> None:
        """One forward that leaves its marks in `marks`, one at its start, one at its end, the blocks' in between."""
        self.prepare(plan)
        marks.clear()
        marks.append(mark())
        self.run()
        marks.append(mark())


class Compiled(Eager):
    """As `Eager`, with the halves of every block compiled; shapes that are new compile in the untimed `prepare`."""

    mode: ClassVar[str] = "compile"

    def __init__(self, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> None:
        super().__init__(model, handle, inputs)
        handle.compile()

    def prepare(self, plan: Plan | Schedule) -> None:
        """See `Eager`."""
        super().prepare(plan)
        self.run()


class CudaGraph(Eager):
    """Captures the forward of a schedule once and replays it; `inputs` are the graph's own and must stay in place."""

    mode: ClassVar[str] = "cuda-graph"

    def __init__(self, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor], cuda: Any = torch.cuda) -> None:
        super().__init__(model, handle, inputs)
        self._cuda = cuda
        self._graphs: dict[Plan, torch.cuda.CUDAGraph] = {}
        self._pool = cuda.graph_pool_handle()
        self._current: torch.cuda.CUDAGraph | None = None

    def prepare(self, plan: Plan | Schedule) -> None:
        """See `Eager`; captured graphs are kept."""
        plan = Plan.of(plan)
        if plan not in self._graphs:
            self._graphs[plan] = self._capture(plan, self._forward)
        self.handle.set(plan)
        self._current = self._graphs[plan]

    def run(self) -> object:
        """Replay the graph of the schedule prepared last."""
        if self._current is None:
            raise RuntimeError("prepare(plan) comes before run()")
        self._current.replay()
        return None

    def walk(self, plan: Plan | Schedule, marks: list[Any], mark: Callable[[], Any]) -> None:
        """See `Eager`: the marks become nodes of a graph that is captured, replayed twice and thrown away."""

        def marked() -> None:
            marks.clear()
            marks.append(mark())
            self._forward()
            marks.append(mark())

        graph = self._capture(plan, marked)
        graph.replay()  # the first replay uploads the graph
        graph.replay()

    def _forward(self) -> object:
        return self.model(**self.inputs)

    def _capture(self, plan: Plan | Schedule, work: Callable[[], object]) -> torch.cuda.CUDAGraph:
        self.handle.set(plan)
        side = self._cuda.Stream()
        side.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._forward()
        self._cuda.current_stream().wait_stream(side)
        graph: torch.cuda.CUDAGraph = self._cuda.CUDAGraph()
        with self._cuda.graph(graph, pool=self._pool):
            work()
        return graph


class GraphFile(NamedTuple):
    """How a graph is written into a file of another runtime, opened there, and put into fewer bits, by precision.

    Attributes:
        suffix: of such a file.
        write: a whole model.
        load: one that was written.
        quantise: what puts a file into fewer bits, by precision.
        convert: makes such a file of a piece that was written as ONNX; None: it is one.
        bind: loads a piece; what it returns makes a run of inputs in their order.
    """

    suffix: str
    write: Callable[[ExportedProgram, Path], object]
    load: Callable[[Path], Forward]
    quantise: Mapping[str, Callable[[Path, Rows], None]] = {}
    convert: Callable[[Path, Path], None] | None = None
    bind: Callable[[Path], Bind] = bind_onnx

    def change(self, change: Change, path: Path, rows: Rows) -> None:
        """Make a change of a model in the file of its graph; `rows` are inputs that a quantiser may look at.

        Raises:
            PruneSearchError: for one that the runtime has not.
        """
        if str(change) not in self.quantise:
            known = ", ".join(self.quantise) or "none"
            raise PruneSearchError(f"no graph is written in {change} here (there is {known}): leave it out")
        self.quantise[str(change)](path, rows)


class GraphRunner(Eager):
    """Writes the graph of a schedule once, in the untimed `prepare`, and runs it in another runtime, in float32."""

    file: ClassVar[GraphFile]

    def __init__(self, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> None:
        super().__init__(model, handle, inputs)
        dtype = next(model.parameters()).dtype
        if dtype != torch.float32:
            raise PruneSearchError(f"an exported graph computes in float32, but the model is in {dtype}: use float32")
        self._forwards: dict[Plan, Forward] = {}
        self._plan = Plan()
        self._scratch = tempfile.TemporaryDirectory()  # of the graphs in float32, by their schedules
        self._written: dict[Schedule, Path] = {}

    def offered(self, variants: Iterable[tuple[Change, ...]]) -> list[tuple[Change, ...]]:
        """See `Eager`: what the runtime's own quantiser makes."""
        return [(), *((Change.parse(name),) for name in self.file.quantise)]

    def forward_of(self, plan: Plan) -> Callable[..., Any]:
        """See `Eager`."""
        found = self._forwards[plan]
        return lambda **inputs: found(inputs)

    @property
    def current(self) -> Plan:
        """See `Eager`."""
        return self._plan

    def prepare(self, plan: Plan | Schedule) -> None:
        """See `Eager`; graphs that were made are kept. One of fewer bits is made so by the runtime's own quantiser."""
        plan = self._plan = Plan.of(plan)
        super().prepare(plan.schedule)
        if plan in self._forwards:
            return
        if plan.schedule not in self._written:
            folder = Path(self._scratch.name) / str(len(self._written))
            folder.mkdir()
            self.file.write(trace(self.model, self.inputs), folder / f"graph{self.file.suffix}")
            self._written[plan.schedule] = folder
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(shutil.copytree(self._written[plan.schedule], Path(scratch) / "graph"))
            path = folder / f"graph{self.file.suffix}"
            for change in plan.changes:
                self.file.change(change, path, self.calibration)
            self._forwards[plan] = self.file.load(path)

    def run(self) -> object:
        """One forward of the schedule prepared last."""
        return self._forwards[self.current](self.inputs)

    def walk(self, plan: Plan | Schedule, marks: list[Any], mark: Callable[[], Any]) -> None:
        """Refused: a graph leaves no marks; its row in `RUNTIMES` may say how a table is measured otherwise."""
        raise PruneSearchError("an exported graph cannot be timed piece by piece: use measure_table")


class OnnxRuntime(GraphRunner):
    """See `GraphRunner`."""

    file = GraphFile(".onnx", write_onnx, load_onnx, {"int8": onnx_to_int8})


class OpenVino(GraphRunner):
    """See `GraphRunner`."""

    file = GraphFile(
        ".xml", write_openvino, load_openvino, {"int8": openvino_to_int8}, convert_to_openvino, bind_openvino
    )


class TorchExport(GraphRunner):
    """See `GraphRunner`."""

    file = GraphFile(".pt2", write_program, load_program)


def mode_of(mode: str | None, runtime: str | None) -> str | None:
    """The row of `RUNTIMES` that `--mode` and `--runtime` come to; None where neither says.

    Raises:
        PruneSearchError: for an unknown runtime, or a mode of torch beside another runtime.
    """
    if runtime in (None, _TORCH):
        return mode
    others = [name for name in RUNTIMES if not RUNTIMES.entry(name).by_torch]
    if runtime not in others:
        raise PruneSearchError(f"unknown runtime '{runtime}': {did_you_mean(str(runtime), (_TORCH, *others))}")
    if mode not in (None, runtime):
        raise PruneSearchError(f"--mode {mode} is one of torch's, but got --runtime {runtime}: leave one of them out")
    return runtime


def check_measurable(mode: str, device: str | torch.device | None = None) -> RuntimeRow:
    """The row of a runtime in which costs are measured, on `device` (None: somewhere).

    Raises:
        PruneSearchError: for an unknown runtime, or one that runs exported models only, or not on such a device.
    """
    row = RUNTIMES.entry(mode)
    if not row.table:
        can = ", ".join(name for name in RUNTIMES if RUNTIMES.entry(name).table)
        raise PruneSearchError(f"costs are not measured in '{mode}', which runs exported models: use one of {can}")
    if device is not None and row.devices and kind_of(device).name not in row.devices:
        raise PruneSearchError(
            f"'{mode}' runs on {' and '.join(row.devices)}, but got device '{device}': use --mode eager"
        )
    return row


def runner_for(mode: str, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> Eager:
    """The runner of a row of `RUNTIMES`.

    Raises:
        PruneSearchError: for an unknown one, or one that does not run on the model's device.
    """
    row, device = RUNTIMES.entry(mode), next(iter(inputs.values())).device
    if row.devices and device.type not in row.devices:
        raise PruneSearchError(
            f"'{mode}' runs on {' and '.join(row.devices)}, but the model is on '{device}': use --mode eager"
        )
    runner: Eager = RUNTIMES.load(mode)(model, handle, inputs)
    return runner
