"""A study is of the weights and the rows that it was begun with: files that have changed since are another study's."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import digest_of_files
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.setup import digest_of_source, make_setting, source_of
from tests.support.known_device import one_line

MIB = 2**20


def settings(root: Path) -> dict[str, str]:
    model, data = root / "model", root / "rows.csv"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    data.write_text("text,label\na,0\n")
    return {"model": str(model), "data": str(data)}


@pytest.mark.parametrize("file", ["model/model.safetensors", "model/config.json", "rows.csv"])
def test_a_study_of_files_that_have_changed_is_neither_gone_on_with_nor_called_complete(
    tmp_path: Path, file: str
) -> None:
    config = RunConfig(**settings(tmp_path))
    begun = config.model_copy(update={"given_digest": digest_of_source(source_of(config))})
    StudyFolder.create("mine", tmp_path).save_config(begun.located().to_dict())
    (tmp_path / file).write_bytes(b"other" + (tmp_path / file).read_bytes())
    with pytest.raises(PruneSearchError) as caught:
        run(config, "mine", root=tmp_path)
    one_line(caught.value, "study 'mine' was begun with other weights or other rows of model", "give the same files")
    with pytest.raises(PruneSearchError) as caught:  # as verify, transfer and export load a study's model
        make_setting(RunConfig(**begun.to_dict()))
    one_line(caught.value, "have changed since", "another --study")


def test_what_training_and_libraries_leave_beside_changes_nothing(tmp_path: Path) -> None:
    config = RunConfig(**{**settings(tmp_path), "data": str(tmp_path / "rows")})
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "data.arrow").write_bytes(b"rows")
    before = digest_of_source(source_of(config))
    (tmp_path / "model" / "training_args.bin").write_bytes(b"1")
    (tmp_path / "model" / "checkpoint-1").mkdir()
    (tmp_path / "model" / "checkpoint-1" / "model.safetensors").write_bytes(b"earlier")
    (tmp_path / "rows" / "cache-0.arrow").write_bytes(b"made by a library")
    assert digest_of_source(source_of(config)) == before
    (tmp_path / "rows" / "more.arrow").write_bytes(b"rows")
    assert digest_of_source(source_of(config)) != before


def test_what_is_in_no_file_here_has_no_digest() -> None:
    assert digest_of_source(source_of(RunConfig())) is None
    assert digest_of_source(source_of(RunConfig(model="owner/name", data="owner/rows"))) is None


def test_of_large_weights_the_beginning_of_every_tensor_is_looked_at(tmp_path: Path) -> None:
    """A head that was trained on a body that was not is a few bytes anywhere in the file."""
    body, head = 40 * MIB + 12_345, 64
    offsets = {"body": {"data_offsets": [0, body]}, "head": {"data_offsets": [body, body + head]}}
    header = json.dumps(offsets).encode()
    path = tmp_path / "model.safetensors"
    found = []
    for value in (b"\0", b"\1"):
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(body) + value * head)
        found.append(digest_of_files([path]))
    assert found[0] != found[1]
