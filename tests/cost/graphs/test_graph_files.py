"""Graphs in other runtimes against torch. Whole exports of every scorer and merge are in the contracts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.graphs.graph_files import needed, trace, write_onnx, write_piece
from prunesearch.cost.graphs.graph_running import load_onnx, onnx_session
from prunesearch.cost.timing.modes import OnnxRuntime, runner_for
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.borders import borrowed
from tests.support.paths import DEV

SCHEDULE = Schedule([Stage(0, 0.5, "cls_attention", "drop")])


class Sorts(torch.nn.Module):
    def forward(self, given: list[torch.Tensor]) -> list[torch.Tensor]:
        flags, scores = given
        first = flags.byte().sort(stable=True, dim=1)
        best = scores.sort(stable=True, dim=1, descending=True)
        return [first.values.int(), first.indices, best.values, best.indices]


def test_sorting_keeps_equal_values_in_their_order(tmp_path):
    generator = torch.Generator().manual_seed(0)
    flags = torch.rand(5, 40, generator=generator) < 0.5
    scores = torch.randint(0, 4, (5, 40), generator=generator).float()
    scores[:, :3] = torch.inf
    write_piece(Sorts(), [flags, scores], [{}, {}], tmp_path / "sorts.onnx")
    session = onnx_session(tmp_path / "sorts.onnx")
    names = [i.name for i in session.get_inputs()]
    got = session.run(None, {names[0]: flags.numpy(), names[1]: scores.numpy()})
    for have, want in zip(got, Sorts()([flags, scores]), strict=True):
        assert torch.equal(torch.from_numpy(have), want)


def test_a_graph_of_images_has_no_mask(tiny, batch):
    with apply_(tiny, SCHEDULE):
        program = trace(tiny, batch)
    attentions = [n for n in program.graph.nodes if "scaled_dot_product" in str(n.target)]
    assert len(attentions) == 3
    assert all(len(n.args) == 3 and n.kwargs.get("attn_mask") is None for n in attentions)


def test_the_onnx_file_says_what_it_takes_and_where_it_comes_from(tiny, batch, tmp_path):
    import onnx

    with apply_(tiny, SCHEDULE):
        program = trace(tiny, {"pixel_values": batch["pixel_values"][:1]})  # one row, and any number later
        write_onnx(program, tmp_path / "m.onnx", 20, {"prunesearch.schedule": SCHEDULE.to_json()})
        want = tiny(**batch).logits
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model)
    assert [o.version for o in model.opset_import if o.domain == ""] == [20]
    (given,), (output,) = model.graph.input, model.graph.output
    assert (given.name, output.name) == ("pixel_values", "logits")
    assert given.type.tensor_type.shape.dim[0].dim_param
    assert [d.dim_value for d in given.type.tensor_type.shape.dim][1:] == [3, 16, 16]
    notes = {p.key: p.value for p in model.metadata_props}
    assert Schedule.from_json(notes["prunesearch.schedule"]) == SCHEDULE
    torch.testing.assert_close(load_onnx(tmp_path / "m.onnx")(batch)["logits"], want, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_traced_is_one_line():
    class Chooses(torch.nn.Module):
        config = type("Config", (), {"_attn_implementation": "sdpa"})()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(PruneSearchError, match="Chooses cannot be traced") as error:
        trace(Chooses(), {"x": torch.ones(2, 3)})
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(PruneSearchError, match=r"'no_such_runtime': pip install 'prunesearch\[onnx\]'"):
        needed("no_such_runtime", "onnx")


def test_the_mode_runs_the_schedule_prepared_last(tiny, batch):
    with borrowed(tiny) as handle:
        runner = runner_for("onnxruntime", tiny, handle, batch)
        assert isinstance(runner, OnnxRuntime)
        out = {}
        for schedule in (Schedule(), SCHEDULE, Schedule()):
            runner.prepare(schedule)
            out[schedule] = runner.run()["logits"]
            handle.set(schedule)
            torch.testing.assert_close(out[schedule], tiny(**batch).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(out[Schedule()], out[SCHEDULE], atol=1e-4)
        with pytest.raises(PruneSearchError, match="cannot be timed piece by piece"):
            runner.walk(SCHEDULE, [], lambda: 0)
        with pytest.raises(PruneSearchError, match=r"computes in float32, but the model is in torch\.float64"):
            runner_for("onnxruntime", tiny.to(torch.float64), handle, batch)
        tiny.to(torch.float32)
        with pytest.raises(PruneSearchError, match="'onnxruntime' runs on cpu, but the model is on 'meta'"):
            runner_for("onnxruntime", tiny, handle, {"pixel_values": batch["pixel_values"].to("meta")})


@pytest.mark.parametrize("mode", [name for name in RUNTIMES if not RUNTIMES.entry(name).by_torch])
def test_whole_schedules_run_in_every_runtime_that_takes_graphs(tiny, batch, mode):
    if mode == "openvino":
        pytest.importorskip("openvino", reason=DEV)
    with borrowed(tiny) as handle, torch.inference_mode():
        runner = runner_for(mode, tiny, handle, batch)
        for schedule in (Schedule(), SCHEDULE):
            runner.prepare(schedule)
            torch.testing.assert_close(runner.run()["logits"], tiny(**batch).logits, rtol=1e-3, atol=1e-4)


FREED_ELSEWHERE = """
import signal, sys, threading
import openvino
from openvino import opset13
from prunesearch.cost.graphs.graph_running import load_openvino

inputs = opset13.parameter([1, 4], float, name="x")
openvino.save_model(openvino.Model([opset13.relu(inputs)], [inputs]), sys.argv[1])
held = [load_openvino(sys.argv[1])]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("rung", flush=True))
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_is_handled_after_another_thread_has_let_go_of_an_openvino_model(tmp_path):
    pytest.importorskip("openvino", reason=DEV)
    said = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", FREED_ELSEWHERE, str(tmp_path / "m.xml")],
        capture_output=True,
        text=True,
    )
    assert (said.returncode, said.stdout) == (0, "rung\n"), said.stderr
