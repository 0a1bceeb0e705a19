"""Peaks against sums done by hand, and against torch's own (private) memory tracker."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.counting.memory import Memory, peak_activation_mib, recorded_peak
from prunesearch.cost.devices.cuda import Cuda
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.forward.constants import kept_storages
from tests.support.small_models import PLAIN, build, inputs_of

FLOAT = 4  # bytes


class Named(nn.Module):
    """Gives a module's only input a name."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def peak_bytes(module, x) -> float:
    memory = peak_activation_mib(module, {"x": x})
    assert memory.status == "estimated"
    return memory.value_mib * 2**20


def mlp(*middle) -> nn.Module:
    return Named(nn.Sequential(nn.Linear(8, 32), *middle, nn.Linear(32, 8)))


X = torch.randn(4, 8)


@pytest.mark.parametrize(
    ("module", "floats"),
    [
        (mlp(nn.GELU()), 4 * 32 + 4 * 32),  # GELU's input and output; then 4 x 32 and 4 x 8
        (mlp(nn.ReLU(inplace=True)), 4 * 32 + 4 * 8),
        (mlp(), 4 * 32 + 4 * 8),
        (Function(lambda x: x), 0),  # weights and inputs are not activations
        (Function(lambda x: x.T[1:].view(7, 4)), 0),  # nor are views of them
        (Function(lambda x: x.expand(10, 4, 8)), 0),
        (Function(lambda x: x.expand(10, 4, 8).clone()), 10 * 4 * 8),
        (Function(lambda x: x.repeat(10, 1)[:1] + 0), 10 * 4 * 8 + 8),  # a slice keeps the whole alive
        (Function(lambda x: (x + 1, x + 2, x + 3)), 3 * 4 * 8),
        (Function(lambda x: (x + 1).add_(1).mul_(2)), 4 * 8),
        (Function(lambda x: (x + 1).chunk(4)[0] * 2), 4 * 8 + 8),
        (Function(lambda x: x.add_(1)), 0),
    ],
)
def test_peaks_are_those_summed_by_hand(module, floats):
    assert peak_bytes(module, X.clone()) == floats * FLOAT


def test_half_precision_takes_half():
    module = mlp(nn.GELU())
    full = peak_bytes(module, X)
    assert peak_bytes(module.half(), X.half()) == full / 2


def test_residual_blocks_hold_their_input():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, x):
            return x + self.down(torch.relu(self.up(x)))

    one, two = Named(Block()), Named(nn.Sequential(Block(), Block()))
    inside = 4 * 32 * 2  # up and its relu; the block's input is the model's
    assert peak_bytes(one, X) == inside * FLOAT
    assert peak_bytes(two, X) == (inside + 4 * 8) * FLOAT  # the second block's input is an activation


def test_what_a_model_keeps_is_seen_until_it_lets_go():
    kept = []

    def keep(x):
        kept.append(x + 1)
        return x + 2

    with recorded_peak([X]) as live:
        out = keep(X)
        assert live.now == 2 * X.nbytes
        kept.clear()
        assert live.now == X.nbytes
        del out
    assert (live.now, live.peak) == (0, 2 * X.nbytes)


def test_reused_addresses_are_counted_anew():
    with recorded_peak([X]) as live:
        for _ in range(100):
            y = X + 1
            y = y * 2
        del y
    assert (live.now, live.peak) == (0, 2 * X.nbytes)


def test_the_mode_of_the_caller_does_not_matter():
    """In inference mode composite operations would hide the tensors they make on the way."""
    module = Function(lambda x: torch.nn.functional.layer_norm(x, (8,)))
    outside = peak_bytes(module, X)
    with torch.inference_mode():
        assert peak_bytes(module, X) == outside


N, WIDTH = 256, 8


def explicit(x):
    return torch.softmax(x @ x.transpose(-1, -2), -1) @ x


def fused(x):
    return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_explicit_attention_holds_its_matrix_and_fused_attention_does_not(device):
    x = torch.randn(1, 1, N, WIDTH).to(device)
    assert peak_bytes(Function(explicit), x) == 2 * N * N * FLOAT  # logits and probabilities
    assert peak_bytes(Function(fused), x) == (N * WIDTH + N) * FLOAT  # the output and a log-sum-exp a row


# -- models --------------------------------------------------------------------------------------------

SCHEDULES = (
    Schedule(),
    Schedule([Stage(0, 0.6, "cls_attention", "drop"), Stage(2, 0.3, "key_redundancy", "nearest")]),
    Schedule([Stage(1, 0.6, "attention_received", "fuse"), Stage(2, 0.4, "random", "bipartite")]),
)


def unpadded(name):
    return {key: value for key, value in inputs_of(name, (14, 14)).items() if key != "attention_mask"}


def on_meta(inputs):
    return {key: value.to("meta") for key, value in inputs.items()}


@pytest.mark.parametrize(
    ("name", "attention"), [*((name, None) for name in PLAIN), ("vit", "eager"), ("bert", "eager")]
)
def test_shapes_alone_give_the_peak_of_a_real_forward_and_torchs_own_tracker_agrees(name, attention):
    tracker = pytest.importorskip(
        "torch.distributed._tools.mem_tracker", reason="a PyTorch that has its own memory tracker runs it: 2.6 has"
    )
    model, inputs = build(name, attention), unpadded(name)
    for schedule in SCHEDULES:
        with apply_(model, schedule):
            real = peak_activation_mib(model, inputs)
            assert peak_activation_mib(model, on_meta(inputs)) == real
            judge = tracker.MemTracker()
            constants = [torch.empty(0, dtype=torch.uint8).set_(s) for s in kept_storages() if s.device.type == "cpu"]
            judge.track_external(model, *inputs.values(), *constants)
            with torch.no_grad(), judge:
                model(**inputs)
        snapshot = judge.get_tracker_snapshot("peak")[torch.device("cpu")]
        activations = next(size for kind, size in snapshot.items() if getattr(kind, "name", "") == "ACT")
        assert real.value_mib * 2**20 == activations


def vit(attention="sdpa", tokens=65) -> nn.Module:
    side = 4 * int((tokens - 1) ** 0.5)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=128, image_size=side,
        patch_size=4, attn_implementation=attention,
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


def images(rows, side=32):
    return {"pixel_values": torch.empty(rows, 3, side, side, device="meta")}


def test_more_rows_more_memory_in_proportion():
    model = vit()
    peaks = [peak_activation_mib(model, images(rows)).value_mib for rows in (1, 2, 4, 8)]
    assert peaks == pytest.approx([peaks[0] * factor for factor in (1, 2, 4, 8)], rel=1e-3)


def test_fewer_tokens_from_the_first_block_on_need_less_memory_down_to_what_its_attention_needs():
    model, peaks = vit(), []
    for keep in (1.0, 0.8, 0.65, 0.3, 0.2):
        with apply_(model, Schedule([Stage(0, keep, "value_norm", "drop")])):
            peaks.append(peak_activation_mib(model, images(4)).value_mib)
    assert peaks[0] > peaks[1] > peaks[2] > peaks[3] == peaks[4]


def test_tokens_removed_late_leave_the_peak_where_it_was():
    model = vit()
    unpruned = peak_activation_mib(model, images(4))
    with apply_(model, Schedule([Stage(2, 0.2, "cls_attention", "drop")])):
        assert peak_activation_mib(model, images(4)) == unpruned


def test_eager_attention_grows_with_the_square_of_the_tokens():
    growth = {}
    for attention in ("sdpa", "eager"):
        small = peak_activation_mib(vit(attention, 65), images(1)).value_mib
        large = peak_activation_mib(vit(attention, 1025), images(1, side=128)).value_mib
        growth[attention] = large / small
    assert growth["sdpa"] == pytest.approx(1025 / 65, rel=0.05)
    assert growth["eager"] > 5 * growth["sdpa"]


def test_a_model_on_meta_needs_no_weights():
    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig()).eval()
    peak = peak_activation_mib(model, images(32, side=224)).value_mib
    # the peak of ViT-B is the GELU of an MLP: its input and output, four widths each, beside four tensors of one width
    assert peak == pytest.approx(12 * 32 * 197 * 768 * FLOAT / 2**20, rel=1e-3)


def test_the_model_is_left_as_it_was():
    model = vit()
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    peak_activation_mib(model, images(2))
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before


@pytest.mark.parametrize(
    ("inputs", "found"), [({}, "no inputs"), ({"a": torch.ones(1), "b": torch.ones(1, device="meta")}, "cpu, meta")]
)
def test_inputs_must_lie_on_one_device(inputs, found):
    with pytest.raises(PruneSearchError, match=f"must lie on one device .* but got {found}"):
        peak_activation_mib(nn.Identity(), inputs)


def test_a_measurement_is_the_peak_of_the_second_forward_less_what_was_there():
    """Replays an allocator: 100 bytes of weights; the first forward leaves a workspace of 50, and each peaks."""
    state = {"allocated": 100, "peak": 0, "forwards": 0}

    def forward(x):
        state["forwards"] += 1
        state["allocated"] = 150
        state["peak"] = max(state["peak"], 900 if state["forwards"] == 1 else state["allocated"] + 300)
        return x

    replay = SimpleNamespace(
        synchronize=lambda device: None,
        reset_peak_memory_stats=lambda device: state.update(peak=state["allocated"]),
        memory_allocated=lambda device: state["allocated"],
        max_memory_allocated=lambda device: state["peak"],
    )
    assert Cuda(replay).peak_bytes(lambda: forward(X), torch.device("cuda")) == 300
    assert state["forwards"] == 2


@pytest.mark.gpu
def test_cuda_is_measured_and_close_to_the_account():
    model = Named(nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)))
    x = torch.randn(4096, 1024)
    estimated = peak_activation_mib(model, {"x": x}).value_mib
    measured = peak_activation_mib(model.cuda(), {"x": x.cuda()})
    assert measured == Memory(pytest.approx(estimated, rel=0.05), "measured")
