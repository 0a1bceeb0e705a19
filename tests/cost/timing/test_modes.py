import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.measure import measure_table
from prunesearch.cost.timing.modes import Compiled, CudaGraph, Eager, check_measurable, mode_of, runner_for
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.borders import borrowed

SCHEDULES = [
    Schedule(),
    Schedule([Stage(0, 0.5, "cls_attention", "fuse")]),
    Schedule([Stage(1, 0.5, "value_norm", "drop"), Stage(2, 0.25, merge="bipartite")]),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_compiled_model_computes_the_same_and_comes_back(tiny, batch, schedule):
    with torch.inference_mode():
        untouched = tiny(**batch).logits
        with apply_(tiny, schedule) as handle:
            expected = tiny(**batch).logits
            handle.compile()
            torch.testing.assert_close(tiny(**batch).logits, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(tiny(**batch).logits, untouched)


def test_a_compiled_handle_takes_other_schedules(tiny, batch):
    with torch.inference_mode(), apply_(tiny, Schedule()) as handle:
        handle.compile()
        compiled = {}
        for schedule in SCHEDULES:
            handle.set(schedule)
            compiled[schedule] = tiny(**batch).logits
        handle.remove()
        for schedule in SCHEDULES:
            with apply_(tiny, schedule):
                torch.testing.assert_close(compiled[schedule], tiny(**batch).logits, rtol=1e-5, atol=1e-5)


def test_a_table_of_a_compiled_model_says_so_and_leaves_the_model_eager(tiny, batch):
    methods = ["cls_attention+drop", "bipartite"]
    table = measure_table(tiny, batch, counts=[5, 9], methods=methods, time_budget_s=0.1, mode="compile", unseen=4)
    assert table.conditions["mode"] == "compile"
    assert table.validation.unseen == 4
    with borrowed(tiny) as handle:
        assert type(handle.encoder.family.layout).__name__ == "PreNorm"


def test_cuda_graphs_need_cuda(tiny, batch):
    with pytest.raises(PruneSearchError, match="'cuda-graph' runs on cuda, but the model is on 'cpu'"):
        measure_schedules(tiny, batch, SCHEDULES, mode="cuda-graph")


def test_an_unknown_mode_is_named(tiny, batch):
    with borrowed(tiny) as handle, pytest.raises(PruneSearchError, match="did you mean 'compile'"):
        runner_for("compiled", tiny, handle, batch)


class FakeCuda:
    """Stands in for the few calls of `torch.cuda` that a capture makes; a graph replays what was recorded."""

    def __init__(self):
        self.log, self.capturing = [], False

    def graph_pool_handle(self):
        return "pool"

    def Stream(self):  # noqa: N802
        return self

    current_stream = Stream

    def wait_stream(self, _):
        self.log.append("wait")

    def CUDAGraph(self):  # noqa: N802
        return FakeGraph(self)

    def stream(self, _):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.capturing = False

    def graph(self, _, pool):
        assert pool == "pool"
        self.capturing = True
        return self


class FakeGraph:
    def __init__(self, cuda):
        self.cuda = cuda

    def replay(self):
        self.cuda.log.append("replay")


@pytest.fixture
def cuda():
    return FakeCuda()


def test_a_graph_is_captured_once_a_schedule_and_replayed(tiny, batch, cuda):
    with borrowed(tiny) as handle:
        runner, forwards = CudaGraph(tiny, handle, batch, cuda), []
        hook = tiny.vit.layernorm.register_forward_hook(lambda *args: forwards.append(args[2].shape[1]))
        for schedule in (SCHEDULES[0], SCHEDULES[1], SCHEDULES[0]):
            runner.prepare(schedule)
            runner.run()
        hook.remove()
    assert forwards == [17] * 4 + [9] * 4  # three warm-ups and the capture of each
    assert cuda.log.count("replay") == 3


def test_the_marks_of_a_walk_are_those_of_the_capture(tiny, batch, cuda):
    with borrowed(tiny) as handle:
        runner, marks = CudaGraph(tiny, handle, batch, cuda), []
        runner.walk(SCHEDULES[1], marks, lambda: cuda.capturing)
    assert marks == [True, True]
    assert cuda.log[-2:] == ["replay", "replay"]


def test_run_needs_a_schedule(tiny, batch, cuda):
    with borrowed(tiny) as handle, pytest.raises(RuntimeError, match="prepare"):
        CudaGraph(tiny, handle, batch, cuda).run()


def test_compiling_is_untimed(tiny, batch):
    with borrowed(tiny) as handle, torch.inference_mode():
        runner, forwards = Compiled(tiny, handle, batch), []
        hook = tiny.vit.layernorm.register_forward_hook(lambda *_: forwards.append(1))
        runner.prepare(SCHEDULES[2])
        assert forwards == [1]
        hook.remove()


def test_a_runtime_comes_to_a_mode():
    assert mode_of(None, None) is None
    assert mode_of("compile", "torch") == "compile"
    assert mode_of(None, "onnxruntime") == mode_of("onnxruntime", "onnxruntime") == "onnxruntime"
    with pytest.raises(PruneSearchError, match="unknown runtime 'onnx': did you mean 'onnxruntime'"):
        mode_of(None, "onnx")
    with pytest.raises(PruneSearchError, match="--mode compile is one of torch's, but got --runtime onnxruntime"):
        mode_of("compile", "onnxruntime")
    with pytest.raises(PruneSearchError, match="--mode eager is one of torch's, but got --runtime openvino"):
        mode_of("eager", "openvino")


def test_costs_are_measured_where_a_row_says_how():
    assert check_measurable("cuda-graph").devices == ("cuda",)
    assert check_measurable("onnxruntime", "cpu").table.endswith(":measure_runtime_table")
    with pytest.raises(PruneSearchError, match="'cuda-graph' runs on cuda, but got device 'cpu': use --mode eager"):
        check_measurable("cuda-graph", "cpu")
    with pytest.raises(PruneSearchError, match=r"not measured in 'torch-export', .*: use one of eager, compile"):
        check_measurable("torch-export")


def test_a_runtime_from_outside_brings_its_own_table(tiny, batch):
    def build(model, inputs, wanted):
        return model, wanted.mode, list(wanted.counts), wanted.unseen

    with RUNTIMES.registered("mine", Eager, "a runtime", shown="Mine", table=build):
        assert measure_table(tiny, batch, counts=[5], methods=["drop"], mode="mine") == (tiny, "mine", [5], None)
        assert mode_of("mine", None) == "mine"
