"""Reports against published MACs and the parts they are made of; what is printed fits 80 columns."""

import io
import itertools
import json

import pytest
import torch
from rich.console import Console
from transformers import ViTConfig, ViTForImageClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.counting.flops import block_macs
from prunesearch.cost.counting.flops_report import FlopsReport, flops_report, runs, show_flops
from prunesearch.cost.counting.memory import peak_activation_mib
from prunesearch.cost.shape import BlockSizes
from prunesearch.pruning.apply import apply_, handle_of
from tests.support.small_models import CASES, PLAIN, build, inputs_of

SCHEDULE = Schedule([Stage(0, 0.6, "cls_attention", "fuse"), Stage(2, 0.3, "value_norm", "drop")])


def full_rows(name):
    return inputs_of(name, (14, 14))


@pytest.fixture(scope="module")
def report() -> FlopsReport:
    return flops_report(build("bert"), full_rows("bert"), SCHEDULE, name="tiny-bert")


def printed(report, width=80) -> str:
    out = io.StringIO()
    show_flops(report, Console(file=out, width=width))
    return out.getvalue()


def test_deit_small_costs_what_is_published():
    """DeiT-S (Touvron 2021): 4.6 GMACs, 22 M parameters; with ToMe's r=13 (Bolya 2023): 2.70 GMACs."""
    # without a distillation token, as published
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000)
    model = ViTForImageClassification(config).eval()
    tome = Schedule.from_removed([13] * 12, 197)
    inputs = {"pixel_values": torch.zeros(32, 3, 224, 224)}
    report = flops_report(model, inputs, tome, name="deit-small")
    assert report.parameters_m == pytest.approx(22.05, abs=0.01)
    assert report.unpruned.gmacs == pytest.approx(4.6, rel=0.01)
    assert report.pruned.gmacs == pytest.approx(2.70, rel=0.01)
    for cost in (report.unpruned, report.pruned):
        assert cost.gmacs == pytest.approx(cost.gmacs_closed_form, rel=0.005)
        assert cost.memory.status == "estimated"
    assert report.ratio == report.pruned.gmacs / report.unpruned.gmacs
    assert report.pruned.tokens == tuple(197 - 13 * i for i in range(1, 13))
    assert report.unpruned.memory.value_mib == pytest.approx(12 * 32 * 197 * 384 * 4 / 2**20, rel=1e-3)
    assert report.pruned.memory.value_mib < report.unpruned.memory.value_mib


@pytest.mark.parametrize("name", PLAIN)
def test_every_family_is_reported_and_left_as_it_was(name):
    model, inputs = build(name), full_rows(name)
    report = flops_report(model, inputs, SCHEDULE, name=name)
    assert handle_of(model) is None
    assert report.family == CASES[name].family
    assert report.parameters_m * 1e6 == pytest.approx(sum(p.numel() for p in model.parameters()))
    assert report.pruned.gmacs < report.unpruned.gmacs
    # heads and poolers are in both counts; what scorers and merges compute is in the first only
    assert report.unpruned.gmacs == pytest.approx(report.unpruned.gmacs_closed_form, rel=1e-6)
    assert report.pruned.gmacs == pytest.approx(report.pruned.gmacs_closed_form, rel=0.02)
    batch = {key: value for key, value in inputs.items() if key != "attention_mask"}
    with apply_(model, SCHEDULE):
        assert report.pruned.memory == peak_activation_mib(model, batch)


def test_macs_are_per_sample_and_memory_per_batch():
    model = build("vit")
    one, four = (
        flops_report(model, {"pixel_values": torch.zeros(rows, 3, 24, 24)}, SCHEDULE, name="vit") for rows in (1, 4)
    )
    assert one.pruned.gmacs == four.pruned.gmacs
    assert four.pruned.memory.value_mib == pytest.approx(4 * one.pruned.memory.value_mib, rel=0.02)
    assert (one.conditions["batch_size"], four.conditions["batch_size"]) == (1, 4)


def test_the_schedule_of_a_model_that_carries_one_is_put_back():
    model, mine = build("vit"), Schedule([Stage(3, 0.5)])
    with apply_(model, mine) as handle:
        report = flops_report(model, full_rows("vit"), SCHEDULE, name="vit")
        assert handle.schedule == mine
    assert report.unpruned.tokens == (17,) * 4
    assert report.pruned.tokens == tuple(SCHEDULE.counts(4, 17, 1))


def test_the_difference_of_the_closed_forms_is_that_of_the_blocks(report):
    flow = [14, *report.pruned.tokens]
    block = BlockSizes(attention=4 * 32**2, mlp=2 * 32 * 64, inner=32)
    blocks = sum(block_macs(a, b, block) for a, b in itertools.pairwise(flow))
    saved = (report.unpruned.gmacs_closed_form - report.pruned.gmacs_closed_form) * 1e9
    assert saved == pytest.approx(4 * block_macs(14, 14, block) - blocks)


def test_without_a_schedule_there_is_nothing_to_compare():
    report = flops_report(build("vit"), full_rows("vit"), Schedule(), name="vit")
    assert report.pruned is None
    assert report.ratio == 1.0
    text = printed(report)
    assert "unpruned" in text
    assert "ratio" not in text
    assert "schedule" not in text


def test_the_dictionary_is_json_and_holds_the_schedule(report):
    data = json.loads(json.dumps(report.to_dict()))
    assert Schedule.from_dict(data["schedule"]) == SCHEDULE
    assert data["pruned"]["tokens"] == list(report.pruned.tokens)
    assert data["pruned"]["memory_status"] == "estimated"
    assert data["conditions"]["dtype"] == "float32"


def test_what_is_printed_says_it_all_in_80_columns(report):
    text = printed(report)
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "tiny-bert", "batch 2, float32, sdpa, 14 tokens on cpu", str(SCHEDULE), "GMACs a sample, counted",
        "closed form", "peak activations, MiB (estimated)", f"{report.ratio:.3f}", "of 14 (2 protected)", "14 x4",
        "MACs are not time",
    ):  # fmt: skip
        assert part in text


def test_long_schedules_wrap_and_names_are_no_markup():
    removed = Schedule.from_counts([13, 12, 11, 10], 17, 1, "attention_received", "nearest")
    report = flops_report(build("vit"), full_rows("vit"), removed, name="[bold]my[/bold]/model")
    text = printed(report)
    assert max(map(len, text.splitlines())) <= 80
    assert "[bold]my[/bold]/model" in text
    assert runs((17, 17, 9, 5, 5)) == "17 x2, 9 x1, 5 x2"


def test_bad_input_is_one_clear_line():
    model = build("bert")
    with pytest.raises(PruneSearchError, match="`layer < 4` must hold for a model of 4 blocks, but got layer=9"):
        flops_report(model, full_rows("bert"), Schedule([Stage(9, 0.5)]), name="bert")
    with pytest.raises(PruneSearchError, match="must hold no padding to be counted, but its attention mask has zeros"):
        flops_report(model, inputs_of("bert", (14, 5)), SCHEDULE, name="bert")
    meta = {key: value.to("meta") for key, value in full_rows("bert").items()}
    with pytest.raises(PruneSearchError, match="lie on the meta device: use cpu"):
        flops_report(model.to("meta"), meta, SCHEDULE, name="bert")
    assert handle_of(model) is None
