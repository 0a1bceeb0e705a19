"""Commands that look something up, as functions: they say what the command line says."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import prunesearch as ps
from prunesearch.api.study import Study
from prunesearch.cli.app import app
from prunesearch.core.tables.registry import TABLES, find_table

SCHEDULE = "3:0.7 cls_attention+fuse > 6:0.5 bipartite"
METHODS = {"show", "export", "verify", "transfer", "learn_scorers", "adapt", "stress"}  # of a study
CALLED = {"import": "import_schedule"}  # a word of Python's


def printed(*args: str) -> str:
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_every_command_has_a_function_of_its_name() -> None:
    for name in (command.replace("-", "_") for command in get_command(app).commands):
        assert callable(getattr(Study, name) if name in METHODS else getattr(ps, CALLED.get(name, name)))


def test_names_are_those_of_the_tables() -> None:
    found = ps.names()
    assert list(found.kind.unique()) == [kind for kind in TABLES if len(find_table(kind))]
    scorers = ps.names("scorers").set_index("name").help.to_dict()
    assert scorers == json.loads(printed("names", "scorers", "--json"))["scorers"]
    with pytest.raises(ps.PruneSearchError, match="did you mean 'scorers'"):
        ps.names("scorer")


def test_models_are_those_of_the_command() -> None:
    listed = {row["family"]: row["protects"] for row in json.loads(printed("models", "--json"))["families"]}
    assert ps.models().protects.to_dict() == listed


def test_flops_of_a_name_are_those_of_the_command() -> None:
    found = ps.flops("deit-tiny", SCHEDULE)
    assert found.to_dict() == json.loads(printed("flops", "deit-tiny", SCHEDULE, "--json"))
    assert 0.3 < found.ratio < 0.9


def test_a_schedule_of_another_tool_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps([13] * 12))
    found = ps.import_schedule(tmp_path / "r.json", "tome", "deit-tiny")
    assert found.counts(12, 197, 1) == [197 - 13 * (i + 1) for i in range(12)]


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ps.PruneSearchError, match="port"):
            ps.dashboard(tmp_path, port=taken.getsockname()[1])
