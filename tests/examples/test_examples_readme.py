"""Commands and tables that people copy: options exist, names are the code's, and snippets run."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from prunesearch.cli.app import app
from prunesearch.study.config import RunConfig
from prunesearch.tasks.data.columns import ROLES
from prunesearch.tasks.data.sources import HUB_ID, load_source
from prunesearch.tasks.table import METRICS, READERS, TASKS, choose_metric
from tests.support.paths import ROOT
from tests.support.some import some

TEXT = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
DOCS = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (prunesearch .+?)(?: +#.*)?$", TEXT, re.MULTILINE)
CLI = typer.main.get_command(app)


def parsed(line: str) -> dict:
    """What typer makes of a command; it raises for an option that does not exist."""
    _, name, *words = shlex.split(line)
    return CLI.commands[name].make_context(name, list(words)).params


def following(line: str) -> str:
    """The sentences below a command, up to the next one."""
    after = TEXT[TEXT.index(line) + len(line) :]
    return re.split(r"^    prunesearch ", after, maxsplit=1, flags=re.MULTILINE)[0]


def test_an_option_that_does_not_exist_is_found_out() -> None:
    with pytest.raises(Exception, match="No such option: --colums"):
        parsed("prunesearch run --model a --data b --colums text=a")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses_and_names_what_there_is(line: str) -> None:
    given = parsed(line)
    data = str(given["data"])
    assert HUB_ID.fullmatch(given["model"]) or (ROOT / given["model"] / "config.json").is_file()
    assert HUB_ID.fullmatch(data) or Path(data).suffix in READERS
    asked = {name: given[name] for name in ("model", "data", "task", "columns", "metric", "batch_size", "length")}
    assert set(RunConfig(**asked).columns) <= set(ROLES)
    if given["task"] is not None:
        TASKS.entry(given["task"])
    else:
        inferred = re.search(r"Inferred: ([a-z-]+)", following(line))
        assert inferred is not None
        assert choose_metric(inferred[1], given["metric"]) in TASKS.entry(inferred[1]).metrics


def test_the_models_that_were_promised_are_there() -> None:
    models = {parsed(line)["model"] for line in COMMANDS}
    assert models >= {
        "facebook/deit-small-distilled-patch16-224",
        "openai/whisper-tiny",
        "Helsinki-NLP/opus-mt-en-de",
        "hustvl/yolos-tiny",
        "MCG-NJU/videomae-small-finetuned-kinetics",
        "openai/clip-vit-base-patch32",
    }


def test_files_that_are_named_exist() -> None:
    for name in some(re.findall(r"(?:`|python )((?:examples|benchmarks)/[\w.]+)", TEXT)):
        assert (ROOT / name).is_file(), name
    for text, folder in ((TEXT, ROOT / "examples"), (DOCS, ROOT / "docs")):
        for name in some(re.findall(r"\]\(([^)]+)\)", text)):
            assert (folder / name.partition("#")[0]).is_file(), name


def snippets() -> list[str]:
    return re.findall(r"```python\n(.+?)```", TEXT, re.DOTALL)


def test_cocos_files_become_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunesearch.tasks.kinds.detection_data import find_annotations

    monkeypatch.chdir(tmp_path)
    for folder in ("annotations", "val2017"):
        Path(folder).mkdir()
    box = {"image_id": 7, "category_id": 18, "bbox": [1.0, 2.0, 3.0, 4.0], "iscrowd": 0}
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (7, 8)]
    coco = {"images": images, "annotations": [box], "categories": [{"id": 18, "name": "dog"}]}
    Path("annotations/instances_val2017.json").write_text(json.dumps(coco))
    exec(next(code for code in snippets() if "coco.parquet" in code), {})
    source = load_source("coco.parquet")
    found = find_annotations(source, {}, {0: "cat", 1: "dog"})
    cells = source.splits["all"][found.objects]
    first, second = (found.of(cell, 9, 9) for cell in cells)
    assert first.boxes.tolist() == [[1, 2, 4, 6]]
    assert first.classes.tolist() == [1]
    assert len(second.boxes) == 0
    assert source.splits["all"][found.columns.image][0] == "val2017/7.jpg"


def test_clips_become_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("bowling", "flying_kite"):
        (tmp_path / "kinetics-mini" / "val" / kind).mkdir(parents=True)
        (tmp_path / "kinetics-mini" / "val" / kind / "a.mp4").touch()
    exec(next(code for code in snippets() if "kinetics.csv" in code), {})
    rows = list(csv.DictReader(io.StringIO(Path("kinetics.csv").read_text())))
    assert [row["label"] for row in rows] == ["bowling", "flying kite"]
    assert all(Path(row["video"]).is_file() for row in some(rows))


def table(text: str, title: str) -> list[list[str]]:
    """The cells of the rows of a table whose first column is called `title`."""
    lines = text[text.index(f"| {title} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_tasks_is_that_of_the_code() -> None:
    found = {row[0].strip("`"): row for row in table(DOCS, "task")}
    assert list(found) == list(TASKS)
    for name, kind in TASKS.entries().items():
        _, heads, columns, metrics, _ = found[name]
        assert re.findall(r"`(\w+)`", heads) == list(kind.heads), name
        assert tuple(re.findall(r"`(\w+)`", metrics)) == kind.metrics, name
        for names in kind.columns:
            assert set(names) <= set(re.findall(r"`(\w+)`", columns)), name


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    named = [name for row in table(DOCS, "metric") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(METRICS)
