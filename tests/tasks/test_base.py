import pytest
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held, merge_batches, trimmed
from prunesearch.tasks.kinds.classification import Classification
from tests.support.some import some

PADDING = {"input_ids": 9, "attention_mask": 0}


def text_set(n: int = 23, size: int = 4) -> EvalSet:
    """Row i has the tokens i, i, .. (1 + 7i mod 11 of them); batches are sorted by length."""
    lengths = {i: 1 + 7 * i % 11 for i in range(n)}
    order = sorted(lengths, key=lambda i: lengths[i])
    batches = []
    for start in range(0, n, size):
        rows = order[start : start + size]
        width = max(lengths[i] for i in rows)
        ids = torch.tensor([[i] * lengths[i] + [9] * (width - lengths[i]) for i in rows])
        mask = torch.tensor([[1] * lengths[i] + [0] * (width - lengths[i]) for i in rows])
        batches.append(Batch({"input_ids": ids, "attention_mask": mask}, torch.tensor(rows) % 2, torch.tensor(rows)))
    return EvalSet("calibration", Held(batches), PADDING)


@pytest.mark.parametrize("n", [1, 4, 7, 22])
def test_take_gives_the_first_rows_of_the_split_whatever_their_length(n: int):
    whole = text_set()
    part = whole.take(n)
    index = torch.cat([batch.index for batch in part.batches])
    assert sorted(index.tolist()) == list(range(n))
    assert part.n == n
    assert part.labels.tolist() == [i % 2 for i in index.tolist()]
    assert [len(batch) for batch in part.batches[:-1]] == [4] * (len(part.batches) - 1)
    for batch in some(part.batches):
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert mask.sum(1).tolist() == [1 + 7 * i % 11 for i in batch.index.tolist()]
        assert mask.any(0).all()  # no column of padding alone
        assert torch.equal(ids, torch.where(mask.bool(), batch.index[:, None], 9))


def test_take_everything_is_the_same_set_and_nothing_is_refused():
    whole = text_set()
    assert whole.take(23) is whole
    assert whole.take(99) is whole
    with pytest.raises(PruneSearchError, match="n >= 1"):
        whole.take(0)


def test_whole_image_batches_are_not_copied():
    batches = [Batch({"pixel_values": torch.rand(4, 3, 2, 2)}, torch.zeros(4), torch.arange(4) + 4 * i) for i in (0, 1)]
    part = EvalSet("holdout", Held(batches)).take(6)
    assert part.batches[0] is batches[0]
    assert torch.equal(part.batches[1].inputs["pixel_values"], batches[1].inputs["pixel_values"][:2])


def test_merge_pads_on_the_right():
    whole = text_set()
    merged = merge_batches(list(whole.batches), PADDING)
    assert merged.inputs["input_ids"].shape == (23, 11)
    assert (merged.inputs["input_ids"][merged.inputs["attention_mask"] == 0] == 9).all()


def test_labels_may_be_a_list_and_a_decoder_has_padding_of_its_own():
    padding = {**PADDING, "decoder_input_ids": 0, "decoder_attention_mask": 0}
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
    wide = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    inputs = {"input_ids": mask * 3, "attention_mask": mask, "decoder_input_ids": wide, "decoder_attention_mask": wide}
    batch = Batch(inputs, [["a"], ["b", "c"], []], torch.arange(3))
    part = trimmed(batch.rows(torch.tensor([1, 2])), padding)
    assert part.labels == [["b", "c"], []]
    assert [part.inputs[name].shape[1] for name in ("input_ids", "decoder_input_ids")] == [2, 2]
    alone = trimmed(batch.rows(torch.tensor([2])), padding)
    assert [alone.inputs[name].shape[1] for name in ("input_ids", "decoder_input_ids")] == [2, 1]
    merged = merge_batches([part, batch], padding)
    assert merged.labels == [["b", "c"], [], ["a"], ["b", "c"], []]
    assert merged.inputs["decoder_input_ids"].shape == (5, 4)
    assert EvalSet("calibration", Held([batch]), padding).take(2).labels == [["a"], ["b", "c"]]


def test_logits_of_outputs_and_tuples():
    logits, whole = torch.rand(2, 3), text_set()
    task = Classification("text-classification", nn.Identity(), {"holdout": whole}, 8, lambda b: {}, ["a"])
    assert task.logits(SequenceClassifierOutput(logits=logits)) is logits
    assert task.logits((logits,)) is logits
    with pytest.raises(PruneSearchError, match="must hold logits"):
        task.logits(["no"])
