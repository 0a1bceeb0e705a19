"""What every exchange format must pass. A new row in `FORMATS` is picked up by itself; nothing is to be added here."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.export import FORMATS, ModelShape, export_schedule, import_file, import_schedule
from tests.support.paths import DOCS


def _name(fmt: Any) -> str:
    return str(fmt.name)


EVERY = pytest.mark.parametrize("fmt", [FORMATS[name] for name in FORMATS], ids=list(FORMATS))
SHAPES = [ModelShape(12, 197, 1), ModelShape(4, 17, 1), ModelShape(6, 64, 2), ModelShape(2, 40, 1)]
EXCHANGE = DOCS / "exchange.md"


def random_schedules(shape: ModelShape, number: int) -> list[Schedule]:
    """Schedules of one to four stages, with any scorer and merge, reproducible."""
    rng = random.Random(f"{shape.depth} {shape.tokens}")
    out = []
    for _ in range(number):
        sites = sorted(rng.sample(range(shape.depth), rng.randint(1, min(4, shape.depth))))
        keeps = sorted((round(rng.uniform(0.05, 0.99), 3) for _ in sites), reverse=True)
        if len(set(keeps)) < len(keeps):
            continue
        one = rng.random() < 0.5  # half of them with one method throughout, as most papers have
        methods = [(rng.choice(list(SCORERS)), rng.choice(list(MERGES))) for _ in sites]
        out.append(
            Schedule(
                Stage(site, keep, *(methods[0] if one else method))
                for site, keep, method in zip(sites, keeps, methods, strict=True)
            )
        )
    return out


CASES = [(shape, schedule) for shape in SHAPES for schedule in random_schedules(shape, 9)]


def fitting(shape: ModelShape, fmt: Any) -> ModelShape:
    """The same numbers, of a model that the format is about."""
    return replace(shape, part=fmt.parts[0])


def cases(fmt: Any) -> list[tuple[ModelShape, Schedule]]:
    """`CASES` of models that the format is about."""
    return [(fitting(shape, fmt), schedule) for shape, schedule in CASES]


def meaning(schedule: Schedule, shape: ModelShape) -> tuple[list[int], dict[Any, str]]:
    """Tokens leaving each block, and the method of each block that takes some away."""
    flow = schedule.flow(shape.geometry)
    methods = {step.layer: step.stage.method for step in flow if step.stage is not None}
    return flow.counts, methods if flow.entry is None else {"input": flow.entry.method, **methods}


@EVERY
def test_the_row_says_what_it_is(fmt) -> None:
    assert fmt.limits
    assert fmt.source
    assert f"`{fmt.name}`" in EXCHANGE.read_text()


@EVERY
def test_unpruned_survives_every_format(fmt) -> None:
    for shape in [fitting(shape, fmt) for shape in SHAPES]:
        exported = export_schedule(Schedule(), fmt, shape)
        assert (exported.changes, exported.losses) == ((), ())
        read = import_schedule(exported.text, fmt, shape)
        assert meaning(read.schedule, shape) == meaning(Schedule(), shape)
        assert read.notes == ()


@EVERY
def test_what_is_not_stated_has_not_changed(fmt) -> None:
    """The round trip is exact, or the export says that it is not and refuses without `lossy`."""
    for shape, schedule in cases(fmt):
        exported = export_schedule(schedule, fmt, shape, lossy=True)
        read = import_schedule(exported.text, fmt, shape)
        if not exported.changes:
            assert meaning(read.schedule, shape) == meaning(schedule, shape)
            assert export_schedule(schedule, fmt, shape) == exported
            continue
        with pytest.raises(PruneSearchError, match="--lossy") as refusal:
            export_schedule(schedule, fmt, shape)
        for change in exported.changes:
            assert change in str(refusal.value)
        assert "\n" not in str(refusal.value)


@EVERY
def test_every_change_of_a_count_or_a_method_is_stated(fmt) -> None:
    changed: list[str] = []
    for shape, schedule in cases(fmt):
        exported = export_schedule(schedule, fmt, shape, lossy=True)
        (counts, methods), stated = meaning(schedule, shape), " ".join(exported.changes)
        new_counts, new_methods = meaning(import_schedule(exported.text, fmt, shape).schedule, shape)
        unlike = [i for i in range(shape.depth) if counts[i] != new_counts[i]][:1]
        expected = [f"block {i} leaves {new_counts[i]} tokens, not {counts[i]}" for i in unlike]
        common = methods.keys() & new_methods.keys()
        expected += [f"{methods[i]} becomes {new_methods[i]}" for i in common if methods[i] != new_methods[i]]
        assert [words for words in expected if words not in stated] == []
        changed += expected
    assert bool(changed) != fmt.lossless


@EVERY
def test_a_second_trip_changes_nothing_more(fmt) -> None:
    """What a format can say, it says again: the approximation is its own fixed point."""
    for shape, schedule in cases(fmt):
        once = import_schedule(export_schedule(schedule, fmt, shape, lossy=True).text, fmt, shape).schedule
        twice = import_schedule(export_schedule(once, fmt, shape, lossy=True).text, fmt, shape).schedule
        assert meaning(twice, shape) == meaning(once, shape)


@EVERY
def test_some_schedule_is_said_exactly_up_to_the_notes_of_reading(fmt) -> None:
    """At least the tokens of every format's own schedules come back; no format is all approximation."""
    shape = fitting(SHAPES[0], fmt)
    own = import_schedule(export_schedule(CASES[0][1], fmt, shape, lossy=True).text, fmt, shape)
    changes = export_schedule(own.schedule, fmt, shape, lossy=True).changes
    assert set(changes) <= set(own.notes)


COUNTING = [fmt for fmt in map(FORMATS.__getitem__, FORMATS) if not fmt.lossless and fmt.protects is not None]


@pytest.mark.parametrize("fmt", COUNTING, ids=_name)
def test_more_protected_tokens_than_the_tool_knows_are_stated(fmt) -> None:
    shape = ModelShape(6, 64, 5)
    exported = export_schedule(Schedule([Stage(2, 0.6)]), fmt, shape, lossy=True)
    assert any("protects" in change for change in exported.changes)
    assert any("protects" in note for note in import_schedule(exported.text, fmt, shape).notes)


@EVERY
def test_counts_need_a_model(fmt) -> None:
    text = export_schedule(Schedule([Stage(2, 0.6)]), fmt, fitting(SHAPES[0], fmt), lossy=True).text
    if fmt.lossless:
        assert import_schedule(text, fmt).schedule == Schedule([Stage(2, 0.6)])
        return
    with pytest.raises(PruneSearchError, match="--model M, or --depth D --tokens N --protected P"):
        import_schedule(text, fmt)


HOSTILE = {
    "empty": "",
    "words": "hello, world",
    "code": "__import__('os').system('touch /tmp/prunesearch-was-here')",
    "assigned code": "model.r = [__import__('os').getpid()] * 12\npruning_loc = exec('1')\ntoken_ratio = []",
    "flag code": '--drop_loc "__import__(\'os\')" --RETENTION_CONFIG "exec(1)" --length_config "open(1)"',
    "yaml object": "sparse: !!python/object/apply:os.getpid []",
    "deep list": "[" * 20_000,
    "deep minus": "model.r = " + "-" * 100_000 + "1",
    "deep json": '{"stages": ' * 5_000,
    "long number": "9" * 10_000,
    "long json number": '{"token_merging": true, "token_merging_r": ' + "9" * 10_000 + "}",
    "null byte": "model.r = 1\0",
    "quote": "--drop_loc '(3, 6",
    "json list": '[1, "2", 3]',
    "json null": "null",
    "json nan": '{"format": "prunesearch.schedule", "version": 1, "stages": [{"layer": 1, "keep": NaN, "scorer": '
    '"cls_attention", "merge": "drop"}]}',
    "wrong types": '{"a": {"b": {"prune_kept_num": "{}", "merge_kept_num": [true]}}}',
    "no such entry": '{"a": {"b": null}}',
    "wrong numbers": 'token_merging: true\nmodel.r = -3\n--base_keep_rate -1 --length_config "(1, 2)"',
    "yaml bomb": "a0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    + "sparse: {method: TokenReduction, special: {method: *a11, r: *a11}}",
    "yaml bomb of numbers": "a0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    + "sparse: {method: TokenReduction, special: {method: ToMe, r: *a11}}",
    "yaml merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
    + "sparse: {method: TokenReduction, special: *a11}",
    "yaml wrong": "sparse: {method: TokenReduction, special: {method: [FastV], rate: .inf}}",
}


@EVERY
@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_broken_and_hostile_files_are_one_line(fmt, text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text(text)
    with pytest.raises(PruneSearchError) as error:
        import_file(path, fmt, fitting(SHAPES[0], fmt))
    message = str(error.value)
    assert message.startswith(f"{fmt.tool} file '{path}': ")
    assert "\n" not in message
    assert len(message) < 500
    assert not Path("/tmp/prunesearch-was-here").exists()


@EVERY
def test_files_that_are_no_text_or_not_there(fmt, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptFileError, match="UTF-8"):
        import_file(path, fmt, fitting(SHAPES[0], fmt))
    path.write_bytes(b" " * 1_000_001)
    with pytest.raises(CorruptFileError, match="at most 1000000 bytes"):
        import_file(path, fmt, fitting(SHAPES[0], fmt))
    with pytest.raises(PruneSearchError, match="cannot be read"):
        import_file(tmp_path / "none", fmt, fitting(SHAPES[0], fmt))
    with pytest.raises(PruneSearchError, match="cannot be read"):
        import_file(tmp_path, fmt, fitting(SHAPES[0], fmt))
