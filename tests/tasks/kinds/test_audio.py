"""Audio classification: waveforms of unlike length, spectrograms of one, real digits."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.finish.illustrate import illustrate
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.kinds.audio import frames, samples_for
from tests.support.paths import ASSETS, needs_assets
from tests.support.some import some
from tests.support.tiny_media import RATE, encoded, logits_of, make_waves, make_whisper, save, sound, write_sounds

NAMES = ["yes", "no", "stop"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
HALF = Schedule([Stage(0, 0.5, "value_norm", "fuse")])
FSDD = ASSETS / "fsdd" / "recordings.parquet"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounds(tmp_path_factory.mktemp("s") / "s.parquet", 24, label=[NAMES[i % 3] for i in range(24)])


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_waves(tmp_path_factory.mktemp("w"), "Wav2Vec2ForSequenceClassification", **LABELS)


def test_waveforms_come_in_batches_of_like_length_and_answer_as_by_themselves(waves: str, sounds: Path):
    task = load_task(waves, sounds, batch_size=4)
    assert (task.name, task.metric, task.label_names) == ("audio-classification", "accuracy", NAMES)
    model = hf.Wav2Vec2ForSequenceClassification.from_pretrained(waves).eval()
    extractor = hf.Wav2Vec2FeatureExtractor.from_pretrained(waves)
    mine = [extractor(sound(i), sampling_rate=RATE, return_tensors="pt") for i in range(24)]
    alone = torch.cat([logits_of(model, **x) for x in mine])
    for batch in some(task.calibration.batches):
        assert batch.inputs["attention_mask"].sum(1).diff().ge(0).all()
        with torch.no_grad():
            logits = task.outputs(task.model, batch)["logits"]
        distances = torch.cdist(logits, alone)
        assert distances.amin(1).max() < 1e-4
        assert torch.equal(distances.argmin(1) % 3, batch.labels)


def test_what_latency_is_measured_on_is_unpadded_and_of_the_asked_length(waves: str, sounds: Path):
    task = load_task(waves, sounds)
    assert any("90th percentile of the calibration sounds" in note for note in task.notes)
    for tokens in (task.tokens, 19):
        inputs = task.at_length(tokens).timing_inputs(3)
        assert bool(inputs["attention_mask"].all())
        with torch.no_grad():
            hidden = task.model.wav2vec2(**inputs).last_hidden_state
        assert hidden.shape[:2] == (3, tokens)
    with pytest.raises(PruneSearchError, match="length >= 1"):
        load_task(waves, sounds, length=0)


def test_the_least_samples_are_the_inverse_of_the_convolutions(waves: str):
    model = hf.Wav2Vec2ForSequenceClassification.from_pretrained(waves)
    for tokens in (1, 2, 7, 50):
        n = samples_for(model.config, tokens)
        assert (frames(model, n), frames(model, n - 1)) == (tokens, tokens - 1)


def test_a_schedule_is_evaluated_and_rows_of_a_smaller_split_are_the_same(waves: str, sounds: Path):
    task = load_task(waves, sounds, batch_size=5)
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.calibration)
        pruned, whole = evaluator.evaluate(HALF), evaluator.evaluate(Schedule())
    assert whole.loss == pytest.approx(0, abs=1e-5)
    assert whole.statistics.equal(evaluator.unpruned().statistics)
    assert pruned.loss > 0
    few = task.calibration.take(3)
    assert few.n == 3
    with torch.no_grad():
        again = {
            int(i): r for b in few.batches for i, r in zip(b.index, task.outputs(task.model, b)["logits"], strict=True)
        }
        rows = {
            int(i): r
            for b in task.calibration.batches
            for i, r in zip(b.index, task.outputs(task.model, b)["logits"], strict=True)
        }
    assert len(again) == 3
    for i, row in again.items():
        assert torch.allclose(row, rows[i], atol=1e-4)


def test_a_model_without_masks_says_what_short_sounds_are_filled_with(tmp_path: Path, sounds: Path):
    folder = make_waves(tmp_path, "Wav2Vec2ForSequenceClassification", mask=False, **LABELS)
    task = load_task(folder, sounds)
    assert list(task.calibration.batches[0].inputs) == ["input_values"]
    assert any("filled up with silence" in note for note in task.notes)


def test_spectrograms_have_one_length(tmp_path: Path, sounds: Path):
    whisper = make_whisper(tmp_path / "w", "WhisperForAudioClassification", **LABELS)
    task = load_task(whisper, sounds)
    assert (task.name, task.tokens, task.timing_at) == ("audio-classification", 50, None)
    with pytest.raises(PruneSearchError, match="all of one length"):
        load_task(whisper, sounds, length=20)
    config = hf.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_length=32,
        num_mel_bins=16,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
        **LABELS,
    )
    front = hf.ASTFeatureExtractor(num_mel_bins=16, max_length=32, mean=0.0, std=1.0)
    ast = save(tmp_path / "a", hf.ASTForAudioClassification(config), front.to_dict())
    task = load_task(ast, sounds)
    with apply_(task.model, Schedule()) as handle:
        assert Evaluator(task, handle, task.holdout).evaluate(HALF).n == task.holdout.n
    assert task.tokens == 2 + 4 * 2


def test_without_labels_it_is_held_against_itself(waves: str, tmp_path: Path):
    data = write_sounds(tmp_path / "s.parquet", 12)
    task = load_task(waves, data)
    assert (task.name, task.metric) == ("fidelity", "agreement")
    bare = make_waves(tmp_path / "bare", "Wav2Vec2Model")
    task = load_task(bare, data, batch_size=3)
    assert (task.name, task.metric) == ("fidelity", "cosine")
    model = hf.Wav2Vec2Model.from_pretrained(bare).eval()
    batch = task.calibration.batches[-1]
    for i in range(len(batch)):
        real = int(batch.inputs["attention_mask"][i].sum())
        with torch.no_grad():
            state = model(batch.inputs["input_values"][i : i + 1, :real]).last_hidden_state.mean(1)
        assert torch.allclose(batch.labels[i], state[0], atol=1e-4)


def test_bad_sounds_are_one_line(waves: str, tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": encoded(np.full(n, n / 1000, np.float32)), "path": None} for n in (5, *range(400, 411))]
    pq.write_table(pa.table({"audio": cells, "label": [i % 3 for i in range(12)]}), tmp_path / "s.parquet")
    with pytest.raises(
        PruneSearchError, match=r"must have 25 samples for this model, but row 1 of .*s.parquet' has 5"
    ) as caught:
        load_task(waves, tmp_path / "s.parquet")
    assert "\n" not in str(caught.value)
    bare = make_waves(tmp_path / "bare", "Wav2Vec2Model")
    with pytest.raises(PruneSearchError, match="needs a checkpoint with that head"):
        load_task(bare, tmp_path / "s.parquet")


@needs_assets("fsdd/recordings.parquet")
def test_real_digits_are_resampled_to_the_models_rate(tmp_path: Path):
    folder = make_waves(tmp_path, "Wav2Vec2ForSequenceClassification", num_labels=10)
    task = load_task(folder, FSDD, calibration=20, holdout=20)
    assert task.notes[0] == "columns: audio=audio, label=label"
    seconds = [float(b.inputs["attention_mask"].sum(1).float().mean()) / RATE for b in task.calibration.batches]
    assert 0.2 < np.mean(seconds) < 0.8  # a digit takes half a second, which 8 kHz taken for 16 would halve


def test_class_folders_hold_sounds(waves: str, sounds: Path, tmp_path: Path):
    for i in range(24):
        folder = tmp_path / "data" / NAMES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02}.{'wav' if i % 2 else 'flac'}").write_bytes(
            encoded(sound(i), kind="WAV" if i % 2 else "FLAC")
        )
    (tmp_path / "data" / "no" / "cover.png").write_bytes(b"a picture among sounds")
    task, table = (load_task(waves, data, batch_size=4) for data in (tmp_path / "data", sounds))
    assert task.name == "audio-classification"
    assert sorted(task.label_names) == sorted(NAMES)
    assert task.calibration.n + task.holdout.n == table.calibration.n + table.holdout.n == 24
    values = {
        round(float(row.abs().sum()), 3) for batch in task.calibration.batches for row in batch.inputs["input_values"]
    }
    assert len(values) == task.calibration.n


def test_what_a_schedule_does_to_a_sound_is_told_over_its_spectrogram(waves: str, sounds: Path):
    task = load_task(waves, sounds, batch_size=4)
    with apply_(task.model, Schedule()) as handle:
        point = SimpleNamespace(id="p1", to_plan=lambda: Plan(HALF))
        rows, traces = illustrate(task, handle, [point], waves)
        assert handle.schedule == Schedule()
    assert [row.index for row in rows][:2] == [0, 1]
    for trace in some(traces):
        row = next(r for r in rows if r.index == trace.row)
        assert row.picture.startswith("data:image/")
        assert row.grid[0] == 1
        assert len(trace.stages[0].owner) == row.grid[1]
        assert len(set(trace.stages[0].owner)) == trace.stages[0].tokens
