"""Speech recognition by CTC: every frame gets its symbol back, in order."""

from itertools import groupby
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
import transformers as hf

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.metrics.word_errors import WordAccuracy, plain
from tests.support.some import some
from tests.support.tiny_media import LETTERS, WAVES, make_waves, write_sounds

DROP = Schedule([Stage(0, 0.6, "value_norm", "drop"), Stage(1, 0.3, "value_norm", "drop")])
MERGE = Schedule([Stage(0, 0.6, "value_norm", "bipartite"), Stage(1, 0.4, "value_norm", "bipartite")])
MIXED = Schedule([Stage(0, 0.7, "value_norm", "drop"), Stage(1, 0.4, "value_norm", "bipartite")])


def transcript(i: int) -> str:
    random = np.random.default_rng(i)
    return " ".join("".join(random.choice(list(LETTERS), 3)) for _ in range(int(random.integers(1, 5))))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounds(tmp_path_factory.mktemp("s") / "s.parquet", 18, text=[transcript(i) for i in range(18)])


@pytest.fixture(scope="module", params=["post-norm", "pre-norm"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    stable = request.param == "pre-norm"
    return make_waves(tmp_path_factory.mktemp("m"), "Wav2Vec2ForCTC", do_stable_layer_norm=stable)


def nearest_by_hand(source: np.ndarray, real: int) -> list[int]:
    """Owners of the real frames from the fractions `[left, n]` that each frame at the end holds of them."""
    held = {i: int(source[:, i].argmax()) for i in range(real) if source[:, i].max() > 0}
    return [held[min(held, key=lambda j: (abs(j - i), j))] for i in range(real)]


@pytest.mark.parametrize("schedule", [DROP, MERGE, MIXED], ids=["drop", "merge", "mixed"])
def test_each_frame_has_the_logits_of_what_holds_it_or_of_its_nearest(model: str, data: Path, schedule: Schedule):
    task = load_task(model, data, batch_size=4)
    assert task.name == "speech-recognition-ctc"
    with apply_(task.model, schedule, trace=True) as handle, torch.no_grad():
        for batch in some(task.calibration.batches):
            few = task.model.lm_head(task.model.wav2vec2(**batch.inputs).last_hidden_state)
            source = handle.trace.source.double().numpy()
            outputs = task.outputs(task.model, batch)
            for row in range(len(batch)):
                real = int(outputs["real"][row].sum())
                want = few[row][nearest_by_hand(source[row], real)]
                assert torch.allclose(outputs["logits"][row, :real], want, atol=1e-5)
            assert few.shape[1] < outputs["logits"].shape[1]


def test_the_full_length_and_the_untouched_logits_come_back(model: str, data: Path):
    task = load_task(model, data, batch_size=4)
    original = hf.Wav2Vec2ForCTC.from_pretrained(model).eval()
    with torch.no_grad():
        for batch in some(task.holdout.batches):
            want = original(**batch.inputs).logits
            assert torch.equal(task.outputs(task.model, batch)["logits"], want)
            with apply_(task.model, DROP) as handle:
                assert task.outputs(task.model, batch)["logits"].shape == want.shape
                assert handle.trace is None
            with apply_(task.model, Schedule([Stage(1, 1.0)])):
                assert torch.equal(task.outputs(task.model, batch)["logits"], want)


def test_dropped_frames_repeat_their_neighbour_so_that_order_and_text_stay():
    """Logits of the frames left are one symbol each: decoding with all frames back reads the same symbols."""
    torch.manual_seed(0)
    config = hf.Wav2Vec2Config(**WAVES, vocab_size=8)
    whole = hf.Wav2Vec2ForCTC(config).eval()
    with torch.no_grad(), apply_(whole, DROP):
        values = torch.randn(2, 800)
        back = whole(values).logits.argmax(-1)
        few = whole.lm_head(whole.wav2vec2(values).last_hidden_state).argmax(-1)
    for before, after in some(zip(few.tolist(), back.tolist(), strict=True)):
        assert [s for s, _ in groupby(before)] == [s for s, _ in groupby(after)]
    assert back.shape[1] > 2 * few.shape[1]


def test_greedy_decoding_is_what_the_rules_of_ctc_say(model: str, data: Path):
    task = load_task(model, data, batch_size=4)
    symbols = ["", "<s>", "</s>", "<unk>", " ", *LETTERS]
    with torch.no_grad():
        for batch in some(task.holdout.batches):
            outputs = task.outputs(task.model, batch)
            said = task.answers(outputs, batch)
            for row, text in some(enumerate(said)):
                path = outputs["logits"][row, : int(outputs["real"][row].sum())].argmax(-1).tolist()
                want = "".join(symbols[s] for s, _ in groupby(path) if s != 0)
                assert text.split() == want.split()


def test_a_search_can_evaluate_it_and_the_value_is_jiwers(model: str, data: Path):
    task = load_task(model, data, batch_size=5)
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, pruned = evaluator.unpruned(), evaluator.evaluate(MIXED)
    assert 0 < pruned.agreement < 1
    assert pruned.loss > 0
    said, true = [], []
    with torch.no_grad():
        for batch in task.holdout.batches:
            said += task.answers(task.outputs(task.model, batch), batch)
            true += batch.labels
    rate = jiwer.wer([plain(t) for t in true], [plain(s) for s in said])
    assert unpruned.quality == pytest.approx(1 - rate)
    value, low, high = task.scoring.interval(unpruned.statistics)
    assert low <= value <= high


def test_word_accuracy_counts_edits_over_all_rows():
    metric = WordAccuracy()
    rows = metric.statistics(["THE cat, sat!", "a b c d", "x", ""], ["the cat sat", "a c", "", "one two"])
    assert rows.tolist() == [[0, 3], [2, 2], [1, 0], [2, 2]]
    assert metric.value(rows) == pytest.approx(1 - 5 / 7)
    assert metric.value(rows[1:2]) == 0
    assert metric.value(metric.statistics(["a b c"], ["d"])) == -2
    assert plain("Don't  stop_now, Über-Maß!").split() == ["don't", "stop", "now", "über", "maß"]


def test_transcripts_have_to_be_there(model: str, tmp_path: Path):
    data = write_sounds(tmp_path / "s.parquet", 6, speaker=["a"] * 6)
    with pytest.raises(PruneSearchError, match=r"needs a column of transcripts.*columns text=NAME"):
        load_task(model, data)
    task = load_task(model, data, columns={"text": "speaker"})
    assert task.calibration.batches[0].labels[0] == "a"
