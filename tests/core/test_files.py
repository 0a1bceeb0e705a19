"""A file that is written is the old one or the new one, whatever goes wrong; and what goes wrong names it."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest

from prunesearch.core.files import write_text_atomic


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path: Path) -> None:
    """The system refuses whatever is longer than some bytes, as a full disk does."""
    path = tmp_path / "front.json"
    write_text_atomic(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # Python ignores the signal
    try:
        with pytest.raises(OSError) as error:
            write_text_atomic(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "front.json").mkdir()
    with pytest.raises(OSError) as error:
        write_text_atomic(tmp_path / "front.json", "new")
    assert (error.value.errno, error.value.filename) == (errno.EISDIR, str(tmp_path / "front.json"))
    assert [p.name for p in tmp_path.iterdir()] == ["front.json"]
