"""A run of the caller's own model and data: the model is in what it is in, whatever the defaults say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import make_setting
from prunesearch.tasks.base import Task
from prunesearch.tasks.objects import task_of
from tests.support.known_device import one_line
from tests.support.small_models import build, inputs_of
from tests.support.tiny import make_bert, sentence


def task(**made: Any) -> Task:
    model = build("vit", **made)
    one = inputs_of("vit")["pixel_values"]
    return task_of(model, (torch.cat([one] * 8), None), batch_size=8)


def test_dtype_and_attention_are_the_models() -> None:
    found = make_setting(RunConfig(), task=task(dtype=torch.bfloat16, attention="eager")).config
    assert (found.dtype, found.attention) == ("bfloat16", "eager")
    found = make_setting(RunConfig(), task=task()).config
    assert (found.dtype, found.attention) == ("float32", "sdpa")


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"dtype": "float32"}, "is in dtype bfloat16, but got dtype=float32"), ({"attention": "sdpa"}, "attention eager")],
)
def test_another_dtype_than_the_models_is_refused(asked: dict[str, str], words: str) -> None:
    with pytest.raises(PruneSearchError) as caught:
        make_setting(RunConfig(**asked), task=task(dtype=torch.bfloat16, attention="eager"))
    one_line(caught.value, words, "leave it out, or change the model")


def test_a_study_of_it_is_set_up_again_as_it_was() -> None:
    mine = task(dtype=torch.bfloat16)
    first = make_setting(RunConfig(), task=mine).config
    assert make_setting(RunConfig(**first.to_dict()), task=mine).config == first


def test_how_a_file_is_read_holds_beside_a_model_object_too(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "model", BertForSequenceClassification, num_labels=2)
    model = BertForSequenceClassification.from_pretrained(folder)
    lines = [f"{sentence(i)};{i % 2}" for i in range(40)]
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(["text;label", *lines]) + "\n")
    found = ps.inspect(model, rows, delimiter=";", header=True, calibration=10, holdout=20)
    assert found.rows == {"calibration": 10, "holdout": 20}
    rows.write_text("\n".join(["text;label", *lines, "one;too;many"]) + "\n")
    with pytest.raises(PruneSearchError, match="leave such rows out with --skip-bad"):
        ps.inspect(model, rows, delimiter=";", calibration=10, holdout=20)
    found = ps.inspect(model, rows, delimiter=";", skip_bad=True, calibration=10, holdout=20)
    assert any("1 rows of another width" in note for note in found.notes)
