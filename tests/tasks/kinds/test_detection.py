"""Object detection: data in COCO's boxes, YOLOS and DETR reduced."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers as hf
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.report.views.shown_samples import ShownSamples
from prunesearch.search.finish.illustrate import illustrate
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from tests.support.some import some
from tests.support.tiny import png
from tests.support.tiny_media import SIZE, save

NAMES = ["cat", "dog"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
HALF = Schedule([Stage(0, 0.5, "value_norm", "drop"), Stage(1, 0.3, "value_norm", "bipartite")])


def objects(i: int) -> dict[str, list]:
    """As many objects as the row's number says, modulo three."""
    random = np.random.default_rng(i)
    boxes = [[*random.uniform(0, 8, 2), *random.uniform(2, 8, 2)] for _ in range(i % 3)]
    return {"bbox": boxes, "category": [int(random.integers(2)) for _ in boxes]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("d") / "d.parquet"
    images = [{"bytes": png(i), "path": None} for i in range(18)]
    pq.write_table(pa.table({"image": images, "objects": [objects(i) for i in range(18)]}), path)
    return path


@pytest.fixture(scope="module")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    settings = {**SIZE, "image_size": [24, 24], "patch_size": 6, "num_detection_tokens": 7, "initializer_range": 0.3}
    model = hf.YolosForObjectDetection(hf.YolosConfig(**settings, **LABELS))
    front = {"image_processor_type": "YolosImageProcessor", "size": {"height": 24, "width": 24}}
    return save(tmp_path_factory.mktemp("y"), model, front)


@pytest.fixture(scope="module")
def detr(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    backbone = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    config = hf.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=6,
        init_std=0.3,
        **LABELS,
    )
    model = hf.DetrForObjectDetection(config)
    # batch statistics of real weights, so that the pictures matter
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_var.fill_(0.05)
    front = {"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 40, "longest_edge": 60}}
    return save(tmp_path_factory.mktemp("d"), model, front)


@pytest.mark.parametrize(("name", "tokens", "queries"), [("yolos", 16 + 1 + 7, 7), ("detr", 25, 6)])
def test_answers_are_the_models_own_in_pixels_of_the_image(
    name: str, tokens: int, queries: int, data: Path, request: pytest.FixtureRequest
):
    folder = request.getfixturevalue(name)
    task = load_task(folder, data, batch_size=4)
    assert (task.name, task.metric, task.tokens, task.label_names) == ("object-detection", "map", tokens, NAMES)
    model = hf.AutoModelForObjectDetection.from_pretrained(folder).eval()
    for batch in some(task.holdout.batches):
        with torch.no_grad():
            outputs, want = task.outputs(task.model, batch), model(**batch.inputs)
        assert torch.allclose(outputs["logits"], want.logits, atol=1e-5)
        for row, found in some(enumerate(task.answers(outputs, batch))):
            assert found["scores"].shape == (queries,)
            centre, size = want.pred_boxes[row, :, :2], want.pred_boxes[row, :, 2:]
            box = torch.cat([centre - size / 2, centre + size / 2], dim=1) * 16  # pictures are 16 x 16
            assert torch.allclose(found["boxes"], box, atol=1e-4)
            p = want.logits[row].softmax(-1)[:, :-1]
            assert torch.allclose(found["scores"], p.amax(-1), atol=1e-5)


@pytest.mark.parametrize("name", ["yolos", "detr"])
def test_a_schedule_is_evaluated(name: str, data: Path, request: pytest.FixtureRequest):
    task = load_task(request.getfixturevalue(name), data, batch_size=3)
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, same, pruned = evaluator.unpruned(), evaluator.evaluate(Schedule()), evaluator.evaluate(HALF)
    assert same.statistics.equal(unpruned.statistics)
    assert (same.loss, same.agreement) == (pytest.approx(0, abs=1e-6), 1.0)
    assert pruned.loss > 1e-4
    assert 0 <= unpruned.quality <= 1


def test_the_divergence_is_of_classes_and_of_boxes_of_objects(yolos: str, data: Path):
    task = load_task(yolos, data, batch_size=3)
    batch = task.holdout.batches[0]
    logits = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 0.0, 9.0]]])
    boxes = torch.full((1, 2, 4), 0.5)
    same = {"logits": logits, "boxes": boxes}
    assert float(task.divergence(same, same, batch)) == pytest.approx(0, abs=1e-6)
    moved = {"logits": logits, "boxes": boxes + torch.tensor([0.1, 0, 0, 0])}
    sure = 1 - logits.softmax(-1)[0, :, -1]
    assert float(task.divergence(same, moved, batch)) == pytest.approx(float((sure * 0.1).mean()), rel=1e-4)
    assert float(task.agrees(same, moved, batch)) == 1
    other = {"logits": logits[..., [1, 0, 2]], "boxes": boxes}
    assert float(task.agrees(same, other, batch)) == 0
    nothing = {"logits": logits[:, 1:], "boxes": boxes[:, 1:]}
    assert float(task.agrees(nothing, nothing, batch)) == 1


def test_objects_are_read_whichever_way_round_and_named_by_the_data(yolos: str, tmp_path: Path):
    kinds = ClassLabel(names=["dog", "cat"])  # the other way round than the model's
    rows = [[{"bbox": [1.0, 2.0, 3.0, 4.0], "category": 0, "iscrowd": k % 2}] for k in range(9)]
    features = Features(
        {
            "image": Image(),
            "objects": List({"bbox": List(Value("float32")), "category": kinds, "iscrowd": Value("int32")}),
        }
    )
    images = [{"bytes": png(i), "path": None} for i in range(9)]
    Dataset.from_dict({"image": images, "objects": rows}, features=features).save_to_disk(tmp_path / "d")
    task = load_task(yolos, tmp_path / "d")
    labels = [label for batch in task.calibration.batches for label in batch.labels]
    for label in labels:
        assert label.boxes.tolist() == [[1, 2, 4, 6]]
        assert [NAMES[i] for i in label.classes] == ["dog"]
        assert (label.height, label.width, label.n_classes) == (16, 16, 2)
    everything = [o for data in (task.calibration, task.holdout) for b in data.batches for o in b.labels]
    assert {bool(o.crowd[0]) for o in everything} == {False, True}
    assert any("matched to the model's classes by name" in note for note in task.notes)
    assert task.shown_labels(task.calibration.batches[0])[0] == "1 dog"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"bbox": [[1.0, 2.0, 3.0]], "category": [0]}, "must have a box"),
        ({"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [0, 1]}, "must have a box"),
        ({"bbox": [[1.0, 2.0, -3.0, 4.0]], "category": [0]}, "must have a box"),
        ({"bbox": [[100.0, 100.0, 900.0, 900.0]], "category": [0]}, "two corners"),
        ({"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [7]}, "labels must be 0 to 1"),
        ({"bbox": [[1.0, 2.0, 3.0, 4.0]]}, "needs a column of objects"),
    ],
)
def test_bad_objects_are_one_line(yolos: str, tmp_path: Path, cell: dict, message: str):
    images = [{"bytes": png(i), "path": None} for i in range(6)]
    pq.write_table(pa.table({"image": images, "objects": [cell] * 6}), tmp_path / "d.parquet")
    with pytest.raises(PruneSearchError, match=message) as caught:
        load_task(yolos, tmp_path / "d.parquet")
    assert "\n" not in str(caught.value)


def test_pictures_of_unlike_shape_become_one_size(detr: str, tmp_path: Path):
    import io

    from PIL import Image as Pictures

    def picture(i: int) -> bytes:
        out = io.BytesIO()
        wide = 30 if i % 3 else 20
        pixels = np.random.default_rng(i).integers(0, 256, (20, wide, 3), dtype=np.uint8)
        Pictures.fromarray(pixels).save(out, "PNG")
        return out.getvalue()

    images = [{"bytes": picture(i), "path": None} for i in range(12)]
    cells = {"image": images, "objects": [{"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [0]}] * 12}
    pq.write_table(pa.table(cells), tmp_path / "d.parquet")
    task = load_task(detr, tmp_path / "d.parquet", batch_size=3)
    shapes = {tuple(b.inputs["pixel_values"].shape[2:]) for b in (*task.calibration.batches, *task.holdout.batches)}
    assert shapes == {(40, 60)}
    assert any("resized to 40 x 60" in note for note in task.notes)
    assert {o.width for b in task.calibration.batches for o in b.labels} <= {20, 30}
    assert json.loads((Path(detr) / "preprocessor_config.json").read_text())["size"]["shortest_edge"] == 40


@pytest.mark.parametrize("name", ["yolos", "detr"])
def test_patches_are_drawn_over_a_picture_where_tokens_are_a_grid_of_them(name: str, data: Path, request):
    model = request.getfixturevalue(name)
    task = load_task(model, data, batch_size=3)
    point = SimpleNamespace(id="p1", to_plan=lambda: Plan(Schedule([Stage(0, 0.5, "value_norm", "fuse")])))
    with apply_(task.model, Schedule()) as handle:
        rows, traces = illustrate(task, handle, [point], model)
    assert bool(rows) == (name == "yolos")
    ShownSamples(rows=rows, traces=traces)  # refuses owners that are not one a token
    for row in rows:  # of yolos, as said above
        assert (row.grid, row.leading, row.trailing) == ((4, 4), 1, 7)
