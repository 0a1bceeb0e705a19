"""The study folder: names, opening, resolving, and the configuration file."""

from __future__ import annotations

import pytest

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.study.folder import StudyFolder, list_studies, parse_yaml, resolve_study


@pytest.fixture
def root(tmp_path):
    """A root with the studies `vit-10ms` and `bert`, and one folder that is no study."""
    StudyFolder.create("vit-10ms", tmp_path).save_config({"model": "demo"})
    (StudyFolder.create("bert", tmp_path).path / "front.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_paths(tmp_path):
    folder = StudyFolder.create("a.b_c-1", tmp_path)
    names = [folder.config, folder.journal, folder.cost_table, folder.front, folder.report]
    assert [p.name for p in names] == ["config.yaml", "study.journal", "cost_table.json", "front.json", "report.html"]
    assert {p.parent for p in names} == {tmp_path / "a.b_c-1"}
    assert folder.path.is_dir()
    assert not folder.exists


def test_create_keeps_what_is_there(root):
    again = StudyFolder.create("vit-10ms", root)
    assert again.exists
    assert again.load_config() == {"model": "demo"}


@pytest.mark.parametrize(
    "name", ["", " a", "a ", ".", "..", ".hidden", "a/b", "../x", "a\\b", "/etc", "-rf", "a\nb", "a\0b", "x" * 101]
)
def test_bad_names(tmp_path, name):
    with pytest.raises(PruneSearchError, match="study name") as caught:
        StudyFolder.create(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(PruneSearchError, match="cannot be made"):
        StudyFolder.create("taken", tmp_path)


def test_open_names_the_nearest(root):
    assert StudyFolder.open("bert", root).name == "bert"
    with pytest.raises(PruneSearchError, match=r"no study 'vit-10m'.*did you mean 'vit-10ms'\? Known: bert, vit-10ms$"):
        StudyFolder.open("vit-10m", root)
    with pytest.raises(PruneSearchError, match="no study 'notes'"):
        StudyFolder.open("notes", root)


def test_open_when_there_is_none(tmp_path):
    with pytest.raises(PruneSearchError, match="none yet: start with `prunesearch run`"):
        StudyFolder.open("x", tmp_path / "studies")


def test_list(root, tmp_path):
    assert list_studies(root) == ["bert", "vit-10ms"]
    assert list_studies(tmp_path / "nowhere") == []


def test_resolve_by_name_and_by_path(root, monkeypatch):
    monkeypatch.chdir(root)
    expected = (root / "bert").resolve()
    assert resolve_study("bert", root).path.resolve() == expected
    for text in ["./bert", str(root / "bert"), str(root / "bert") + "/", "bert/front.json", "bert"]:
        assert resolve_study(text).path == expected, text


def test_a_name_wins_over_a_folder_of_that_name(root, tmp_path, monkeypatch):
    here = tmp_path / "elsewhere"
    (here / "bert").mkdir(parents=True)
    monkeypatch.chdir(here)
    assert resolve_study("bert", root).path == root / "bert"


def test_resolve_says_what_a_study_has(root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(PruneSearchError, match=r"no study folder \(it has none of config\.yaml"):
        resolve_study("./notes")
    with pytest.raises(PruneSearchError, match="no study 'brt'"):
        resolve_study("brt", root)


def test_default_root_is_studies_under_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    StudyFolder.create("x").save_config({})
    assert (tmp_path / "studies" / "x" / "config.yaml").is_file()
    assert StudyFolder.open("x").load_config() == {}


def test_config_round_trip_keeps_order(tmp_path):
    folder = StudyFolder.create("x", tmp_path)
    config = {"model": "zoo/ä", "budget": None, "keep": [0.1, 1], "deep": {"b": True, "a": "no"}}
    folder.save_config(config)
    loaded = folder.load_config()
    assert loaded == config
    assert list(loaded) == list(config)


@pytest.mark.parametrize("text", ["a: [1", "!!python/object/apply:os.system ['true']", "- 1\n- 2", "", "a: \x00"])
def test_broken_config(tmp_path, text):
    folder = StudyFolder.create("x", tmp_path)
    folder.config.write_text(text)
    with pytest.raises(CorruptFileError, match=r"config\.yaml") as caught:
        folder.load_config()
    assert "\n" not in str(caught.value)
    assert "correct it" in str(caught.value)


def test_missing_config(tmp_path):
    with pytest.raises(PruneSearchError, match="does not exist"):
        StudyFolder.create("x", tmp_path).load_config()


@pytest.mark.parametrize(
    "text", ["[" * 10**6, "2020-13-45", "!!float x", "a: &b {c: 1}\nd: {<<: *b}", "? [a]: b\n: c", "a: [", '"\\ud800"']
)
def test_whatever_is_wrong_with_yaml_is_a_value_error(text: str):
    with pytest.raises(ValueError):
        parse_yaml(text)
