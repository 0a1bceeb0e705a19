import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.schedule_text import parse_schedule, read_schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.token_tables import MERGES, SCORERS

WRITTEN = "3:0.70 cls_attention+fuse > 6:0.50 bipartite"
MEANT = Schedule([Stage(3, 0.7, "cls_attention", "fuse"), Stage(6, 0.5, "cls_attention", "bipartite")])


def schedules() -> st.SearchStrategy[Schedule]:
    """Schedules whose keeps two digits write exactly, and whose scorer is the default where it is not written."""
    method = st.tuples(st.sampled_from(list(SCORERS)), st.sampled_from(list(MERGES)))
    sites = st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 100), method), unique_by=(lambda s: s[0], lambda s: s[1])
    )

    def build(drawn: list[tuple[int, int, tuple[str, str]]]) -> Schedule:
        layers = sorted(layer for layer, _, _ in drawn)
        keeps = sorted((keep / 100 for _, keep, _ in drawn), reverse=True)
        stages = []
        for layer, keep, (_, _, (scorer, merge)) in zip(layers, keeps, drawn, strict=True):
            stages.append(Stage(layer, keep, scorer if MERGES.entry(merge).uses_scores else Stage.scorer, merge))
        return Schedule(stages)

    return sites.map(build)


@given(schedules())
def test_what_str_prints_is_read_back(schedule):
    assert parse_schedule(str(schedule)) == schedule


@given(schedules(), st.sampled_from(["", " ", "\t ", "\n"]))
def test_spaces_do_not_matter(schedule, space):
    text = str(schedule)
    for sign in (">", "+", ":"):
        text = text.replace(sign, f"{space}{sign}{space}")
    assert parse_schedule(f"{space}{text}{space}") == schedule


@pytest.mark.parametrize(
    "text",
    [
        WRITTEN,
        "3:.7 cls_attention+fuse>6:.5 bipartite",
        "  3 : 0.7   cls_attention + fuse  >\n 6 : 0.5 bipartite ",
        "03:0.700 cls_attention+fuse > 6:0.5 value_norm+bipartite",
    ],
)
def test_forms_that_mean_the_same_to_a_person(text):
    assert str(parse_schedule(text)) == str(MEANT) == WRITTEN


def test_blocks_may_share_a_method_as_the_table_of_show_prints_them():
    assert parse_schedule("3:0.90, 6:0.70 value_norm+fuse > 9:0.50 bipartite") == Schedule(
        [Stage(3, 0.9, "value_norm", "fuse"), Stage(6, 0.7, "value_norm", "fuse"), Stage(9, 0.5, merge="bipartite")]
    )


def test_unpruned_is_the_empty_schedule():
    assert parse_schedule(" unpruned ") == parse_schedule(str(Schedule())) == Schedule()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a schedule is stages LAYER:KEEP METHOD with > between them (3:0.7 cls_attention"),
        ("3:0.7 cls_attention+fuse >", "but got ''"),
        ("3:0.7", "but got '3:0.7'"),
        ("3 0.7 bipartite", "but got '3 0.7 bipartite'"),
        ("3:70% bipartite", "but got '3:70% bipartite'"),
        ("-1:0.7 bipartite", "but got '-1:0.7 bipartite'"),
        ("3:0.7 bipartite, 6:0.5 bipartite", "but got '3:0.7 bipartite, 6:0.5 bipartite'"),
        ("3:1.5 bipartite", "`0 < keep <= 1` must hold, but got keep=1.5"),
        ("3:0 bipartite", "`0 < keep <= 1` must hold"),
        ("6:0.5 bipartite > 3:0.4 bipartite", "layers must rise"),
        ("3:0.5 bipartite > 6:0.7 bipartite", "keep must fall strictly"),
        ("3:0.7 cls_attention+fusee", "unknown merge 'fusee': did you mean 'fuse'?"),
        ("3:0.7 cls_atention+fuse", "unknown scorer 'cls_atention': did you mean 'cls_attention'?"),
        ("3:0.7 fuse", "merge 'fuse' needs a scorer"),
        ("3:0.7 value_norm", "scorer 'value_norm' needs a merge: write it as value_norm+MERGE"),
        ("nothing", "or unpruned, but got 'nothing'"),
        ("3:0.7\nnothing+\nfuse", "unknown scorer 'nothing'"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(text, message):
    with pytest.raises(PruneSearchError) as caught:
        parse_schedule(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_argument_is_a_file_or_the_inline_form(tmp_path):
    path = tmp_path / "one.json"
    exact = Schedule([Stage(2, 1 / 3, "value_norm", "soft")])
    path.write_text(exact.to_json())
    assert read_schedule(str(path)) == exact
    assert read_schedule(WRITTEN) == MEANT


def test_files_that_are_missing_or_no_schedule(tmp_path):
    with pytest.raises(
        PruneSearchError, match=r"'.*none.json' cannot be read \(No such file or directory\): check the"
    ):
        read_schedule(str(tmp_path / "none.json"))
    for content in ("{", json.dumps({"format": "else"}), json.dumps([1])):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(CorruptFileError, match=r"^schedule file '.*bad.json': ") as caught:
            read_schedule(str(tmp_path / "bad.json"))
        assert "\n" not in str(caught.value)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PruneSearchError, match="it is not UTF-8 text"):
        read_schedule(str(tmp_path / "bytes.json"))
