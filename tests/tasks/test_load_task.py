import json
import subprocess
import sys
from pathlib import Path

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks import TASKS, load_task
from tests.support.tiny import write_images, write_texts


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts.jsonl", 30)


def config_folder(path: Path, **config) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_auto_follows_the_head_and_else_the_columns(vit: str, bert: str, bare_bert: str, texts: Path, tmp_path: Path):
    images = write_images(tmp_path / "a.parquet", range(9))
    assert load_task(vit, images).name == "image-classification"
    assert load_task(bert, texts).name == "text-classification"
    assert load_task(bare_bert, texts).name == "text-classification"
    with pytest.raises(PruneSearchError, match="no image column"):
        load_task(vit, texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "text-clasification"}, "unknown task .*did you mean 'text-classification'"),
        ({"metric": "acuracy"}, "unknown metric .*did you mean 'accuracy'"),
        ({"dtype": "float23"}, "unknown dtype .*did you mean 'float32'"),
        ({"device": "toaster"}, "device 'toaster' cannot be used here"),
        ({"attention": "sdpaa"}, "model of .* could not be loaded"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"columns": {"label": "lable"}}, "no column 'lable'"),
        ({"calibration": 31}, "too many for the 30"),
    ],
)
def test_bad_options_are_one_line(bert: str, texts: Path, options: dict, message: str):
    with pytest.raises(PruneSearchError, match=message) as caught:
        load_task(bert, texts, **options)
    assert "\n" not in str(caught.value)


def test_missing_models(texts: Path, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {
        str(tmp_path / "none"): "no model folder",
        "./none": "no model folder",
        str(empty): "must hold config.json",
        "no-such-owner/no-such-model": "configuration of .* could not be loaded .*check the name and the network",
        config_folder(tmp_path / "odd", model_type="oddity"): r"could not be loaded \(.*oddity.*check the folder",
    }
    for model, message in cases.items():
        with pytest.raises(PruneSearchError, match=message) as caught:
            load_task(model, texts)
        assert "\n" not in str(caught.value)


def test_unsupported_heads_and_families(texts: Path, tmp_path: Path):
    answers = config_folder(tmp_path / "qa", model_type="bert", architectures=["BertForNextSentencePrediction"])
    with pytest.raises(PruneSearchError, match="supported are image-classification, text-classification"):
        load_task(answers, texts)
    numbers = tmp_path / "n.csv"
    numbers.write_text("a,b\nfilm,story\n")
    bare = config_folder(tmp_path / "bare", model_type="bert", architectures=["BertModel"])
    with pytest.raises(PruneSearchError, match="several columns could be the text"):
        load_task(bare, numbers)


def test_every_task_of_the_table_can_be_imported():
    assert all(callable(TASKS.load(name)) for name in TASKS)


def test_listing_tasks_imports_no_torch():
    code = "import sys, prunesearch.tasks as t; list(t.TASKS); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
