"""Video classification: frames in lists, in folders, in files; space-time tokens."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers as hf
from PIL import Image

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.data.columns import content_kind
from prunesearch.tasks.data.sources import load_source
from prunesearch.tasks.data.video_cells import decode_video
from tests.support.some import some
from tests.support.tiny import png
from tests.support.tiny_media import SIZE, logits_of, save

NAMES = ["run", "sit", "jump"]
SETTINGS = {**SIZE, "image_size": 16, "patch_size": 8, "num_frames": 4, "initializer_range": 0.3}
SETTINGS |= {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
FRONT = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
FRONT |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
HALF = Schedule([Stage(0, 0.5, "value_norm", "fuse")])


def frames(i: int, n: int) -> list[bytes]:
    return [png(100 * i + k) for k in range(n)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("v") / "v.parquet"
    cells = [[{"bytes": b, "path": None} for b in frames(i, 4 + i % 3)] for i in range(18)]
    pq.write_table(pa.table({"video": cells, "label": [NAMES[i % 3] for i in range(18)]}), path)
    return path


@pytest.fixture(scope="module")
def videomae(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(**SETTINGS, tubelet_size=2))
    front = {"image_processor_type": "VideoMAEImageProcessor", **FRONT}
    return save(tmp_path_factory.mktemp("m"), model, front)


@pytest.fixture(scope="module")
def vivit(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    settings = {k: v for k, v in SETTINGS.items() if k != "patch_size"}
    model = hf.VivitForVideoClassification(hf.VivitConfig(**settings, tubelet_size=[2, 8, 8]))
    front = {"image_processor_type": "VivitImageProcessor", **FRONT}
    return save(tmp_path_factory.mktemp("m"), model, front)


@pytest.mark.parametrize(("name", "tokens"), [("videomae", 8), ("vivit", 9)])
def test_clips_are_classified_as_the_model_does_by_itself(
    name: str, tokens: int, data: Path, request: pytest.FixtureRequest
):
    folder = request.getfixturevalue(name)
    task = load_task(folder, data, batch_size=4)
    assert (task.name, task.metric, task.tokens) == ("video-classification", "accuracy", tokens)
    assert task.timing_inputs(3)["pixel_values"].shape == (3, 4, 3, 16, 16)
    kind = hf.VideoMAEForVideoClassification if name == "videomae" else hf.VivitForVideoClassification
    model = kind.from_pretrained(folder).eval()
    for batch in some(task.holdout.batches):
        with torch.no_grad():
            logits = task.outputs(task.model, batch)["logits"]
        assert torch.allclose(logits, logits_of(model, **batch.inputs), atol=1e-6)
        assert batch.inputs["pixel_values"].shape[1:] == (4, 3, 16, 16)
    with apply_(task.model, Schedule()) as handle:
        pruned = Evaluator(task, handle, task.holdout).evaluate(HALF)
    assert pruned.loss > 0


def test_pixels_are_those_of_frames_at_even_distances(videomae: str, data: Path):
    task = load_task(videomae, data)
    table = pq.read_table(data).to_pylist()
    wanted = {}
    for i, row in enumerate(table):
        n = len(row["video"])
        chosen = [k * n // 4 for k in range(4)]
        images = [np.array(Image.open(io.BytesIO(row["video"][k]["bytes"]))) / 255 for k in chosen]
        wanted[i] = np.stack([(image * 2 - 1).transpose(2, 0, 1) for image in images])
    stacked = torch.tensor(np.stack(list(wanted.values()))).float()
    for batch in some(task.calibration.batches):
        for pixels, label in some(zip(batch.inputs["pixel_values"], batch.labels, strict=True)):
            distances = (stacked - pixels).abs().amax(dim=(1, 2, 3, 4))
            assert distances.min() < 1e-4
            assert int(distances.argmin()) % 3 == label


def test_frames_may_be_paths_or_lie_in_folders(tmp_path: Path):
    for i in range(2):
        (tmp_path / f"clip{i}").mkdir()
        for k, encoded in enumerate(frames(i, 5)):
            (tmp_path / f"clip{i}" / f"{k:03}.png").write_bytes(encoded)
    (tmp_path / "folders.csv").write_text("video,label\nclip0,run\nclip1,sit\n")
    paths = [[f"clip{i}/{k:03}.png" for k in range(5)] for i in range(2)]
    pq.write_table(pa.table({"frames": paths, "label": ["run", "sit"]}), tmp_path / "lists.parquet")
    want = [[np.array(Image.open(io.BytesIO(frames(i, 5)[k]))) for k in (0, 1, 3)] for i in range(2)]
    for table, name in (("folders.csv", "video"), ("lists.parquet", "frames")):
        source = load_source(str(tmp_path / table))
        rows = source.splits["all"]
        assert content_kind(rows, {}) == "video"
        for i in range(2):
            assert np.array_equal(decode_video(rows[i][name], source.base, 3), want[i])


def test_what_is_no_video_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.mp4").write_bytes(b"junk")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    cases = [
        ("a.mp4", "decoded by the package av: pip install av, or give the frames"),
        ("empty", "must have frames"),
        ([], "must have frames"),
        ("gone.mp4", "gone.mp4' cannot be read"),
        ([b"junk"], "image cannot be decoded"),
        (3, "must hold frames"),
    ]
    for cell, message in cases:
        with pytest.raises(PruneSearchError, match=message) as caught:
            decode_video(cell, tmp_path, 2)
        assert "\n" not in str(caught.value)
