"""Speaker verification: transformers' own head, on each sound alone, judges embeddings of full length."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers as hf
from scipy.spatial.distance import cosine
from transformers.modeling_outputs import BaseModelOutput

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.finish.illustrate import illustrate
from prunesearch.search.run import run
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.tasks import load_task
from prunesearch.tasks.kinds.verification import wrapped
from prunesearch.tasks.kinds.verification_data import make_trials
from tests.support.some import some
from tests.support.tiny_media import WAVES, encoded, make_waves, make_whisper, save
from tests.tasks.metrics.test_equal_error import judged
from tests.tasks.test_task_runs import SMALL

DROP = Schedule([Stage(0, 0.6, "value_norm", "drop"), Stage(1, 0.5, "value_norm", "drop")])
MERGE = Schedule([Stage(0, 0.6, "value_norm", "bipartite"), Stage(1, 0.4, "value_norm", "bipartite")])
MIXED = Schedule([Stage(0, 0.7, "value_norm", "drop"), Stage(1, 0.4, "value_norm", "bipartite")])
HEAD = {"tdnn_dim": (16, 16, 16, 16, 32), "xvector_output_dim": 24}
LEAST = 16  # frames: the head's convolutions see 14 more than one


def sound(i: int, speaker: int, least: int = 500) -> np.ndarray:
    """A tone of the speaker's own in some noise, of its own length (0.03 to 0.09 s)."""
    random = np.random.default_rng(i)
    n = int(random.integers(least, least + 900))
    tone = np.sin(2 * np.pi * 300 * (1 + speaker) * np.arange(n) / 16_000)
    return (0.3 * tone + random.normal(0, 0.1, n)).astype(np.float32)


def write(path: Path, speakers: list[int], least: int = 500, **columns: list[Any]) -> Path:
    cells = [{"bytes": encoded(sound(i, s, least)), "path": None} for i, s in enumerate(speakers)]
    pq.write_table(pa.table({"audio": cells, **columns}), path)
    return path


def make_wavlm(folder: Path) -> str:
    torch.manual_seed(0)
    config = hf.WavLMConfig(**WAVES, **HEAD, vocab_size=8, use_weighted_layer_sum=True, num_buckets=16)
    hf.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return save(folder, hf.WavLMForXVector(config))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    speakers = [i % 3 for i in range(24)]
    return write(
        tmp_path_factory.mktemp("s") / "s.parquet", speakers, speaker=[f"s{s}" for s in speakers], label=speakers
    )


@pytest.fixture(scope="module", params=["post-norm", "pre-norm", "layer sum", "wavlm"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("m")
    if request.param == "wavlm":
        return make_wavlm(folder)
    sums, stable = request.param == "layer sum", request.param == "pre-norm"
    settings = {**HEAD, "use_weighted_layer_sum": sums, "do_stable_layer_norm": stable}
    made = make_waves(folder, "Wav2Vec2ForXVector", **settings)
    if sums:  # as many ones as they are born with would hide which layer a weight is of
        whole = hf.Wav2Vec2ForXVector.from_pretrained(made)
        whole.layer_weights.data = torch.tensor([0.5, -1.0, 2.0, 0.3])
        whole.save_pretrained(made)
    return made


def alone(batch: Any, row: int, k: int) -> dict[str, torch.Tensor]:
    """The inputs of one sound of a pair, without what pads it."""
    mask = batch.inputs["attention_mask"][row, k : k + 1].bool()
    return {name: value[row, k : k + 1][mask][None] for name, value in batch.inputs.items()}


def attention(model: str) -> str:
    return "eager" if hf.AutoConfig.from_pretrained(model).model_type == "wavlm" else "sdpa"


def load(model: str, data: Path, **options: Any) -> Any:
    return load_task(model, data, attention=attention(model), **{"batch_size": 8, **options})


@torch.no_grad()
def test_the_unpruned_embeddings_are_those_of_transformers_for_each_sound_alone(model: str, data: Path):
    task = load(model, data)
    original = hf.AutoModelForAudioXVector.from_pretrained(model).eval()
    padded = 0
    for batch in some([*task.calibration.batches, *task.holdout.batches]):
        found = task.outputs(task.model, batch)["state"]
        with apply_(task.model, Schedule()):
            assert torch.equal(task.outputs(task.model, batch)["state"], found)
        with apply_(task.model, Schedule([Stage(1, 1.0)])):
            assert torch.allclose(task.outputs(task.model, batch)["state"], found, atol=1e-5)
        for row in range(len(batch)):
            for k in range(2):
                inputs = alone(batch, row, k)
                padded += inputs["input_values"].shape[1] < batch.inputs["input_values"].shape[2]
                assert torch.allclose(found[row, k], original(**inputs).embeddings[0], atol=1e-4)
    assert padded > 10


def nearest_by_hand(source: np.ndarray) -> list[int]:
    """Owners of the frames from the fractions `[left, n]` that each frame at the end holds of them."""
    held = {i: int(source[:, i].argmax()) for i in range(source.shape[1]) if source[:, i].max() > 0}
    return [held[min(held, key=lambda j: (abs(j - i), j))] for i in range(source.shape[1])]


def full(states: torch.Tensor, sources: list[tuple[int, np.ndarray]], layer: int) -> torch.Tensor:
    """States `[1, left, width]` behind the stages before `layer`, for all frames."""
    behind = [source for at, source in sources if at < layer]
    return states[:, nearest_by_hand(behind[-1])] if behind else states


@torch.no_grad()
@pytest.mark.parametrize("schedule", [DROP, MERGE, MIXED], ids=["drop", "merge", "mixed"])
def test_pruned_embeddings_are_the_heads_of_states_brought_back_by_hand(model: str, data: Path, schedule: Schedule):
    task = load(model, data)
    original = hf.AutoModelForAudioXVector.from_pretrained(model).eval()
    sums = original.config.use_weighted_layer_sum
    batch = task.calibration.batches[-1]
    with apply_(task.model, schedule, trace=True) as handle:
        outputs = task.outputs(task.model, batch)["state"]
        for row in range(len(batch)):
            inputs = alone(batch, row, 1)
            found = task.model.encoder(**inputs, output_hidden_states=True)
            sources = [(s.stage.layer, s.source[0].double().numpy()) for s in handle.trace.stages]
            hidden = tuple(full(states, sources, layer) for layer, states in enumerate(found.hidden_states))
            n = sources[0][1].shape[1]
            assert all(states.shape[1] == n for states in hidden)
            assert found.last_hidden_state.shape[1] <= 0.5 * n
            given = BaseModelOutput(full(found.last_hidden_state, sources, 99), hidden if sums else None)
            original.base_model.forward = lambda *_, given=given, **__: given
            want = original(**inputs).embeddings[0]
            assert torch.allclose(outputs[row, 1], want, atol=1e-4)


@torch.no_grad()
def test_half_precision_is_near_the_full_one(model: str, data: Path):
    half, single = load(model, data, dtype="bfloat16"), load(model, data)
    with apply_(half.model, MIXED):
        for batch in some(half.calibration.batches):
            pruned = half.outputs(half.model, batch)["state"]
            assert pruned.dtype == torch.bfloat16
            assert pruned.isfinite().all()
    for batch, other in some(zip(half.calibration.batches, single.calibration.batches, strict=True)):
        near = torch.cosine_similarity(
            half.outputs(half.model, batch)["state"].float(), single.outputs(single.model, other)["state"], dim=-1
        )
        assert near.min() > 0.98


def test_an_evaluation_is_scikit_learns_rate_of_scipys_cosines(model: str, data: Path):
    task = load(model, data)
    assert (task.name, task.metric) == ("speaker-verification", "eer_accuracy")
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, pruned = evaluator.unpruned(), evaluator.evaluate(MIXED)
    original = hf.AutoModelForAudioXVector.from_pretrained(model).eval()
    scores, same = [], []
    with torch.no_grad():
        for batch in task.holdout.batches:
            for row in range(len(batch)):
                a, b = (original(**alone(batch, row, k)).embeddings[0].double().numpy() for k in range(2))
                scores.append(1 - cosine(a, b))
            same += batch.labels.tolist()
    assert unpruned.quality == pytest.approx(1 - judged(np.array(same), np.array(scores)), abs=1e-6)
    assert pruned.loss > 0
    assert 0 <= pruned.agreement < 1
    assert pruned.finite
    value, low, high = task.scoring.interval(unpruned.statistics)
    assert low <= value <= high


def test_an_encoder_without_head_is_pooled_by_size(tmp_path: Path, data: Path):
    model = make_waves(tmp_path, "Wav2Vec2Model")
    task = load(model, data, task="speaker-verification")
    assert any("the mean of the last states, by the tokens' sizes" in note for note in task.notes)
    plain = hf.Wav2Vec2Model.from_pretrained(model).eval()
    batch = task.calibration.batches[0]
    with torch.no_grad():
        found = task.outputs(task.model, batch)["state"]
        for row in range(len(batch)):
            want = plain(**alone(batch, row, 0)).last_hidden_state[0].mean(0)
            assert torch.allclose(found[row, 0], want, atol=1e-5)
        with apply_(task.model, MERGE) as handle:
            pruned = task.outputs(task.model, batch)["state"]
            for row in range(len(batch)):
                hidden = task.model(**alone(batch, row, 0)).last_hidden_state[0]
                size = handle.tokens.size[0][:, None]
                assert torch.allclose(pruned[row, 0], (hidden * size).sum(0) / size.sum(), atol=1e-4)


def test_a_model_that_takes_no_mask_hears_silence(tmp_path: Path, data: Path):
    task = load(make_waves(tmp_path, "Wav2Vec2ForXVector", mask=False, **HEAD), data)
    assert any("filled up with silence" in note for note in task.notes)
    with apply_(task.model, MIXED), torch.no_grad():
        for batch in some(task.calibration.batches):
            assert list(batch.inputs) == ["input_values"]
            assert task.outputs(task.model, batch)["state"].isfinite().all()


def test_labels_are_of_the_speakers_column_or_of_the_one_that_was_named(tmp_path: Path, data: Path):
    model = make_waves(tmp_path, "Wav2Vec2ForXVector", **HEAD)
    assert "columns: audio=audio, speaker=speaker" in load(model, data).notes
    assert "columns: audio=audio, speaker=label" in load(model, data, columns={"label": "label"}).notes
    task = load(model, data)
    assert {*task.shown_labels(task.calibration.batches[0])} <= {"one speaker", "two speakers"}
    first = task.calibration.take(4)
    assert sorted(i for batch in first.batches for i in batch.index.tolist()) == [0, 1, 2, 3]
    assert first.labels.sum() == 2
    again = load(model, data)
    for one, other in some(zip(task.holdout.batches, again.holdout.batches, strict=True)):
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


@pytest.mark.parametrize("speakers", [[0, 1] * 40, [0] * 30 + [1, 2, 3], list(range(20)) * 2])
def test_of_every_two_trials_one_is_a_target_unless_a_speaker_has_one_sound(speakers: list[int]):
    ids = np.array(speakers)
    trials = make_trials(ids, "holdout", 0)
    assert [row for row, *_ in trials] == list(range(len(ids)))
    counts = np.bincount(ids)
    for row, partner, same in some(trials):
        assert row != partner
        assert same == (ids[row] == ids[partner])
    for first, second in some(zip(trials[::2], trials[1::2], strict=False)):
        many = all(counts[ids[row]] > 1 for row, *_ in (first, second))
        assert not many or first[2] != second[2]
    targets = {int(ids[row]) for row, _, same in trials if same}
    assert targets == set(np.flatnonzero(counts > 1).tolist()) or len(ids) < 2 * len(counts) + 20
    assert make_trials(ids, "holdout", 0) == trials
    assert make_trials(ids, "holdout", 1) != trials


@pytest.mark.parametrize("speakers", [[0] * 6, [0, 1, 2, 3], [0]])
def test_speakers_that_make_no_trials_are_one_line(speakers: list[int]):
    with pytest.raises(
        PruneSearchError, match=r"two speakers in every split, and two sounds of one, but the \d rows of h"
    ):
        make_trials(np.array(speakers), "holdout", 0)


def test_sounds_too_short_for_the_heads_convolutions_are_one_line(tmp_path: Path):
    model = make_waves(tmp_path / "m", "Wav2Vec2ForXVector", **HEAD)
    speakers = [i % 2 for i in range(12)]
    short = write(tmp_path / "s.parquet", speakers, least=200, speaker=speakers)
    with pytest.raises(PruneSearchError, match=rf"must have {LEAST} frames for the head of .* has \d+ \(\d+ samples\)"):
        load(model, short)
    task = load(model, write(tmp_path / "l.parquet", speakers, speaker=speakers))
    with torch.no_grad():
        assert task.model(**task.timing_at(LEAST)(2)).embeddings.isfinite().all()
        with pytest.raises(PruneSearchError, match=rf"must have {LEAST} frames for this head, but these have 15"):
            task.model(**task.timing_at(LEAST - 1)(2))


def test_models_that_it_is_not_for_are_one_line(tmp_path: Path, data: Path):
    whisper = make_whisper(tmp_path / "w", "WhisperForConditionalGeneration")
    with pytest.raises(UnsupportedModelError, match=r"needs an encoder, but .* has a decoder"):
        load_task(whisper, data, task="speaker-verification")

    class Other(hf.Wav2Vec2ForXVector):
        def forward(self, *args: Any, **inputs: Any) -> Any:
            found = super().forward(*args, **inputs)
            found.embeddings = found.embeddings + 1
            return found

    other = Other(hf.Wav2Vec2Config(**WAVES, **HEAD, vocab_size=8)).eval()
    with pytest.raises(UnsupportedModelError, match="the head of Other is not the x-vector head"):
        wrapped(other, {"input_values": torch.randn(1, 900)})


def test_a_report_draws_the_first_sound_of_a_pair(model: str, data: Path):
    task = load(model, data)
    with apply_(task.model, Schedule()) as handle:
        rows, traces = illustrate(task, handle, [SimpleNamespace(id="p1", to_plan=lambda: Plan(MIXED))], model)
    assert [row.index for row in rows][:2] == [0, 1]
    for trace in some(traces):
        row = next(r for r in rows if r.index == trace.row)
        assert row.label in ("one speaker", "two speakers")
        assert row.picture.startswith("data:image/")
        assert row.grid == (1, len(trace.stages[0].owner))
        assert -1 <= float(trace.pruned) <= 1


def test_a_run(tmp_path: Path):
    shape = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4}
    model = make_waves(tmp_path / "m", "Wav2Vec2ForXVector", use_weighted_layer_sum=True, **HEAD, **shape)
    speakers = [i % 4 for i in range(48)]
    data = write(tmp_path / "s.parquet", speakers, speaker=speakers)
    config = RunConfig(model=model, data=str(data), **SMALL)
    front = run(config, "s", root=tmp_path / "studies")
    assert front == Front.load(tmp_path / "studies" / "s" / "front.json")
    assert (front.task.name, front.task.metric) == ("speaker-verification", "eer_accuracy")
    assert (tmp_path / "studies" / "s" / "samples.json").exists()  # whether anything is faster is the machine's to say
    for item in (front.unpruned, *front.points):
        assert item.quality.low <= item.quality.value <= item.quality.high
