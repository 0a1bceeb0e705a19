"""Estimated tables: against direct estimates of whole forwards, against public measurements, and what they refuse."""

import csv
import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import load_json
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.estimate.estimate import (
    ESTIMATOR,
    Estimator,
    estimate_latency_ms,
    estimate_table,
    shipped_estimator,
)
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import find_profile, specs
from prunesearch.cost.tables.specs import validate
from prunesearch.cost.tables.table_records import Cells
from prunesearch.cost.timing.unseen import draw_unseen
from prunesearch.pruning.apply import apply_, handle_of
from tests.support.paths import ROOT
from tests.support.small_models import CASES, LOOKS_AT_VALUES, build, inputs_of
from tests.support.some import some

METHODS = ["cls_attention+drop", "value_norm+fuse", "bipartite"]
COUNTS = [20, 33, 50]
A100, T4, H100 = (find_profile(name).spec for name in ("a100", "t4", "h100"))


@pytest.fixture(scope="module")
def vit() -> ViTForImageClassification:
    config = ViTConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768, image_size=128,
        patch_size=16, num_labels=10,
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


@pytest.fixture(scope="module")
def batch_of_64() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.zeros(64, 3, 128, 128)}


@pytest.fixture(scope="module")
def table(vit, batch_of_64) -> CostTable:
    return estimate_table(A100, vit, batch_of_64, counts=COUNTS, methods=METHODS, mode="cuda-graph")


def errors_of(table, spec, vit, inputs, mode) -> np.ndarray:
    unseen = [Schedule(), *draw_unseen(table.shape, COUNTS, METHODS, count=12)]
    direct = [estimate_latency_ms(spec, vit, inputs, mode=mode, schedule=s) for s in unseen]
    return np.abs(np.array([table.predict(s) for s in unseen]) / direct - 1)


def test_the_table_adds_up_to_whole_forwards(table, vit, batch_of_64):
    errors = errors_of(table, A100, vit, batch_of_64, "cuda-graph")
    assert errors[0] < 2e-3  # the unpruned model; a kernel of a tenth of a percent lies between two pieces
    assert errors.mean() < 0.03
    assert errors.max() < 0.08


@pytest.mark.parametrize("size", [1, 4096])
def test_it_does_so_whether_host_or_device_is_the_limit(vit, size):
    inputs = {"pixel_values": torch.zeros(size, 3, 128, 128)}
    table = estimate_table(A100, vit, inputs, counts=COUNTS, methods=METHODS)
    assert errors_of(table, A100, vit, inputs, "eager").mean() < 0.05
    assert ("host" in table.validation.against) == (size == 1)
    assert any("processor" in note for note in table.notes) == (size == 1)


def test_two_estimates_are_the_same(table, vit, batch_of_64):
    again = estimate_table(A100, vit, batch_of_64, counts=COUNTS, methods=METHODS, mode="cuda-graph")
    drop = {"seconds"}
    assert again.model_dump(exclude=drop) == table.model_dump(exclude=drop)


def test_it_says_that_it_is_an_estimate_and_how_good_a_one(table):
    stored = shipped_estimator().devices["a100-40gb"]
    assert table.status == "estimated"
    assert (table.validation.mape, table.validation.unseen) == (stored.mape, stored.n)
    assert table.validation.against == "public measurements on this device, fitted without them"
    assert "no public measurement at batch 64: batches 1 to 32 were compared" in table.notes
    assert any("CUDA graphs" in note for note in table.notes)
    assert all(row["samples"] == 0 and row["ms"] == row["median_ms"] for row in some(table.cells.rows()))
    assert table.conditions == {
        "batch_size": 64, "dtype": "float16", "attention": "sdpa", "mode": "cuda-graph", "threads": None, "cores": None,
        "concurrency": 1, "tokens": 65, "device": "cuda",
    }  # fmt: skip


def test_a_device_that_nobody_measured_carries_the_pooled_error(vit, batch_of_64):
    fitted = shipped_estimator()
    for name, expected in (("h100", fitted.pooled), ("jetson-agx-orin", fitted.datasheet_only)):
        checked = estimate_table(
            find_profile(name).spec, vit, batch_of_64, counts=[], methods=[], mode="cuda-graph"
        ).validation
        assert checked.mape == expected.mape
        assert "none of this one" in checked.against


def test_it_survives_its_file(table, tmp_path):
    table.save(tmp_path / "table.json")
    again = CostTable.load(tmp_path / "table.json")
    assert again.predict(Schedule()) == table.predict(Schedule())
    assert Cells.from_rows(json.loads(json.dumps(table.cells.rows()))) == table.cells


def test_fewer_tokens_and_faster_devices_take_less(table, vit, batch_of_64):
    for at in (lambda n: table.attention(n, False, 0), lambda n: table.mlp(n, 0)):
        assert at(20) < at(33) < at(50) < at(65)
    by_device = [estimate_latency_ms(s, vit, batch_of_64, mode="cuda-graph") for s in (H100, A100, T4)]
    assert by_device == sorted(by_device)
    modes = [estimate_latency_ms(A100, vit, batch_of_64, mode=mode) for mode in ("cuda-graph", "compile", "eager")]
    assert modes == sorted(modes)


def test_a_site_costs_something_of_its_own(vit):
    """More sites at the same final width are slower where the host is the limit: what the search has to know."""
    inputs = {"pixel_values": torch.zeros(1, 3, 128, 128)}
    one = Schedule([Stage(0, 0.5, merge="bipartite")])
    many = Schedule([Stage(i, 0.5 + (3 - i) / 8, merge="bipartite") for i in range(4)])
    dense, single, four = (estimate_latency_ms(A100, vit, inputs, schedule=s) for s in (Schedule(), one, many))
    assert dense < single < four
    assert four - dense == pytest.approx(4 * (single - dense), rel=0.3)


@pytest.mark.parametrize(
    ("device", "size", "batch", "measured_ms"),
    [  # transformers docs/source/en/perf_torch_compile.md, ViT, torch 2.0, no compile
        ("t4", 224, 16, 163.914), ("v100", 224, 16, 52.209), ("a100", 224, 16, 40.944),
        ("v100", 224, 64, 64 / 309e-3),  # ToMe README.md, ViT-B/16, images a second
    ],
)  # fmt: skip
def test_public_measurements_of_vit_base(device, size, batch, measured_ms):
    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig(num_labels=1000)).eval()
    inputs = {"pixel_values": torch.empty(batch, 3, size, size, device="meta")}
    estimate = estimate_latency_ms(find_profile(device).spec, model, inputs, dtype="float32", attention="eager")
    assert estimate == pytest.approx(measured_ms, rel=0.2)


def test_the_model_is_left_alone(vit, batch_of_64):
    schedule = Schedule([Stage(2, 0.5)])
    before = {name: x.data_ptr() for name, x in vit.state_dict().items()}
    with apply_(vit, schedule) as handle:
        estimate_table(T4, vit, batch_of_64, counts=[33], methods=["bipartite"], attention="eager")
        assert handle_of(vit) is handle
        assert handle.schedule == schedule
    assert vit.config._attn_implementation == "sdpa"
    assert {name: x.data_ptr() for name, x in vit.state_dict().items()} == before


def test_a_schedule_that_the_model_carries_does_not_count(vit, batch_of_64):
    plain = estimate_latency_ms(A100, vit, batch_of_64)
    with apply_(vit, Schedule([Stage(0, 0.3)])):
        assert estimate_latency_ms(A100, vit, batch_of_64) == plain


@pytest.mark.parametrize("name", LOOKS_AT_VALUES)
def test_a_model_that_looks_into_its_tensors_is_refused_in_one_line(name):
    model, inputs = build(name), inputs_of(name, (14, 14))
    with pytest.raises(PruneSearchError, match="cannot be priced by their shapes: measure it on the"):
        estimate_latency_ms(T4, model, inputs, mode="cuda-graph")


@pytest.mark.parametrize("name", [name for name in CASES if name not in LOOKS_AT_VALUES])
def test_every_family_is_priced(name):
    model, inputs = build(name), inputs_of(name, (14, 14))
    table = estimate_table(T4, model, inputs, counts=[8], methods=["cls_attention+soft"], mode="cuda-graph")
    direct = estimate_latency_ms(T4, model, inputs, mode="cuda-graph")
    # heads have more kernels when pruned: DINOv2's, CLIP's that looks for the end of a text, and the way back for CTC,
    # which is much beside four blocks of width 32
    more = {"clip-text": 0.1, "wav2vec2-stable-ctc": 0.2, "wavlm": 0.07, "wavlm-stable": 0.2}
    assert table.predict(Schedule()) == pytest.approx(direct, rel=more.get(name, 0.06))
    assert {cell.n_out for cell in table.cells.reduce} == {8}


def test_texts_are_priced_by_their_length():
    config = BertConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=128, vocab_size=50,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()

    def inputs(n: int) -> dict[str, torch.Tensor]:
        ones = torch.ones(256, n, dtype=torch.long)
        return {"input_ids": ones, "attention_mask": ones}

    table = estimate_table(
        T4, model, inputs(64), counts=[16, 32], methods=["attention_received+drop"], mode="cuda-graph"
    )
    assert table.shape.tokens == 64
    long, short = (estimate_latency_ms(T4, model, inputs(n), mode="cuda-graph") for n in (64, 32))
    assert table.predict(Schedule()) == pytest.approx(long, rel=1e-3)
    assert short < long
    assert table.attention(32, False, 0) + table.mlp(32, 0) < table.attention(64, False, 0) + table.mlp(64, 0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dtype": "float64"}, "dtype must be one of float32, tf32, float16, bfloat16, but got 'float64'"),
        ({"dtype": "bfloat16"}, "t4 has no units for bfloat16 products: use one of float32, float16"),
        ({"attention": "flash_attention_2"}, "estimates know attention sdpa and eager, but got 'flash_attention_2'"),
        ({"mode": "jit"}, "unknown runtime 'jit'"),
        ({"counts": [65, 66]}, "`1 < tokens < 65` must hold"),
        ({"methods": ["fuse"]}, "merge 'fuse' needs a scorer"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(vit, batch_of_64, changed, said):
    with pytest.raises(PruneSearchError) as caught:
        estimate_table(T4, vit, batch_of_64, **{"counts": [33], "methods": ["bipartite"], **changed})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_shipped_estimator_reaches_its_aim_on_what_was_not_fitted():
    fitted = shipped_estimator()
    assert fitted.left_out == "device"
    assert fitted.pooled.mape <= 0.20
    assert fitted.pooled.rank_correlation >= 0.95
    assert all(errors.mape <= 0.20 for errors in some(fitted.devices.values()))
    assert fitted.devices.keys() <= specs().keys()
    assert fitted.unvalidated  # and says where nothing was found


def test_every_public_measurement_names_a_shipped_device_and_a_source():
    with (ROOT / "benchmarks" / "data" / "public_throughput.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) > 200
    assert {row["device"] for row in rows} <= specs().keys()
    assert all(row["source"] and float(row["value"]) > 0 for row in rows)
    assert {row["unit"] for row in rows} == {"ms", "images_per_s", "tflops"}


def test_a_broken_estimator_gets_one_line(tmp_path):
    data = json.loads(ESTIMATOR.read_text())
    data["efficiency"]["memory"] = -1.0
    path = tmp_path / "estimator.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CorruptFileError, match=r"field `efficiency\.memory`"):
        validate(Estimator, load_json(path, "estimator"), f"estimator {path}")
