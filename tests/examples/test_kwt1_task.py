"""A registered family runs as a task, from a folder, by its own front end."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import prunesearch as ps
from prunesearch.pruning.families import find as families
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from tests.support.paths import ASSETS, EXAMPLES, needs_assets
from tests.support.tables import in_place

WEIGHTS = ASSETS / "kwt1"


@pytest.fixture(autouse=True)
def _gone_after_the_test() -> Iterator[None]:
    with in_place(families.FAMILIES, "kwt1"):
        yield


@needs_assets("kwt1")
def test_the_trained_keyword_transformer_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop("kwt1", None)
    import kwt1_task

    kwt1_task.register()
    kwt1_task.write(WEIGHTS, tmp_path)
    task = load_task(
        tmp_path,
        WEIGHTS / "speech_commands_sample.parquet",
        task="audio-classification",
        calibration=60,
        holdout=200,
    )
    assert (task.tokens, task.label_names) == (99, kwt1_task.CLASSES)
    half = ps.Schedule([ps.Stage(2, 0.5, "cls_attention", "drop")])
    with ps.apply_(task.model, ps.Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        assert evaluator.unpruned().quality > 0.93  # 97 % in the whole, as published
        assert evaluator.evaluate(half).quality > 0.8
