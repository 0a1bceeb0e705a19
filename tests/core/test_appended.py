"""Records that are kept as they come: what was written whole is there for the next, under the same conditions."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from prunesearch.core.appended import Appended
from prunesearch.core.errors import PruneSearchError

RECORDS = [["a", 1, 0.1 + 0.2], {"b": None}, "≥", [1e-300]]


def write(path: Path, records: list[object], conditions: object = None) -> Appended:
    kept = Appended(path, conditions)
    for record in records:
        kept.add(record)
    kept.flush()
    return kept


def test_records_come_back_to_the_last_bit_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kept.part"
    assert write(path, RECORDS[:2]).found == []
    assert write(path, RECORDS[2:]).found == RECORDS[:2]
    assert Appended(path).found == RECORDS


def test_nothing_is_kept_without_a_path_and_no_file_without_a_record(tmp_path: Path) -> None:
    kept = Appended(None)
    kept.add(1)
    kept.flush()
    assert not kept.due
    write(tmp_path / "kept.part", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("conditions", [{"rows": 4}, None, {"rows": 3, "more": 1}])
def test_a_file_of_other_conditions_is_begun_anew(tmp_path: Path, conditions: object) -> None:
    path = tmp_path / "kept.part"
    write(path, RECORDS, {"rows": 3})
    assert write(path, ["new"], conditions).found == []
    assert Appended(path, conditions).found == ["new"]
    assert Appended(path, {"rows": 3}).found == []


def test_whatever_was_cut_off_at_the_end_is_removed_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "kept.part"
    write(path, RECORDS)
    whole = path.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        left = max(0, sum(end <= size for end in ends) - 1)
        assert write(path, ["new"]).found == RECORDS[:left]
        assert Appended(path).found == [*RECORDS[:left], "new"]


@pytest.mark.parametrize("damage", [b"\x00\x00\x00\x00", b"nothing", b'{"a": 1}\n', b"\xff"])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "kept.part"
    write(path, RECORDS)
    path.write_bytes(path.read_bytes()[:-8] + damage + b"\n")
    found = Appended(path).found
    assert found in ([], RECORDS[:3])
    path.write_bytes(damage)
    assert Appended(path).found == []


def test_records_wait_for_half_a_second(tmp_path: Path) -> None:
    now = 0.0
    kept = Appended(tmp_path / "kept.part", now=lambda: now)
    kept.add(1)
    assert not kept.due
    now = 0.6
    assert kept.due
    kept.flush()
    assert not kept.due


def test_a_full_disk_is_one_line_and_what_was_there_stays(tmp_path: Path) -> None:
    """The system refuses whatever would make the file longer, as a full disk does."""
    path = tmp_path / "kept.part"
    kept = write(path, RECORDS)
    before, limits = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    kept.add("x" * 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + 50, limits[1]))  # Python ignores the signal
    try:
        with pytest.raises(PruneSearchError, match=r"cannot be written .*what was measured is kept"):
            kept.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Appended(path).found == RECORDS
    kept.flush()  # there is room again
    assert Appended(path).found == [*RECORDS, "x" * 100]


def test_it_is_taken_away_and_may_come_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.part"
    kept = write(path, RECORDS)
    kept.remove()
    assert not path.exists()
    kept.add("new")
    kept.flush()
    assert Appended(path).found == ["new"]
