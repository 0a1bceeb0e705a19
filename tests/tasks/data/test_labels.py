import numpy as np
import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.labels import clean, free_labels, head_labels, is_unlabelled

HEAD = {0: "NEGATIVE", 1: "POSITIVE", 2: "mixed"}
GENERIC = {0: "LABEL_0", 1: "LABEL_1"}


def test_names_match_without_case():
    labels = head_labels({"positive", "Negative"}, None, HEAD)
    assert labels.ids([" positive", "Negative", "positive "]).tolist() == [1, 0, 1]
    assert labels.names == ["NEGATIVE", "POSITIVE", "mixed"]


def test_integers_digits_and_label_i():
    assert head_labels({0, 2}, None, HEAD).ids([2, "0", 2.0]).tolist() == [2, 0, 2]
    assert head_labels({"LABEL_1", "LABEL_0"}, None, HEAD).ids(["LABEL_1"]).tolist() == [1]


def test_class_label_names_in_another_order_are_matched_by_name():
    labels = head_labels({0, 1}, ["positive", "negative"], HEAD)
    assert labels.ids([0, 1]).tolist() == [1, 0]
    assert "by name" in labels.notes[0]
    assert head_labels({0, 1}, ["negative", "positive"], HEAD).notes == []


def test_foreign_names_are_taken_by_number_and_said():
    labels = head_labels({0, 1}, ["bad", "good", "so-so"], HEAD)
    assert labels.ids([0, 1]).tolist() == [0, 1]
    assert "bad, good" in labels.notes[0]
    with pytest.raises(PruneSearchError, match="the data has bad, good and the model NEGATIVE, POSITIVE, mixed"):
        head_labels({0, 1}, ["bad", "good"], HEAD)


def test_unnamed_head_takes_sorted_names():
    labels = head_labels({"pos", "neg"}, None, GENERIC)
    assert labels.names == ["neg", "pos"]
    assert labels.ids(["pos"]).tolist() == [1]
    assert labels.notes
    with pytest.raises(PruneSearchError, match="2 unnamed classes, but the data has 3"):
        head_labels({"a", "b", "c"}, None, GENERIC)


@pytest.mark.parametrize(
    ("raw", "names", "message"),
    [
        ({0, 3}, None, "0 to 2 for the model's 3 classes, but got 3"),
        ({0, 5}, list("abcdef"), "the data has a, b, c, d, e, f and the model"),
        ({"positiv", "negative"}, None, "'positiv' is not one of .*did you mean 'POSITIVE'"),
        ({"LABEL_7"}, None, "but got 7"),
    ],
)
def test_labels_that_do_not_fit(raw: set, names: list[str] | None, message: str):
    with pytest.raises(PruneSearchError, match=message):
        head_labels(raw, names, HEAD)


def test_regression_head_and_single_class():
    with pytest.raises(PruneSearchError, match="two classes or more"):
        head_labels({0}, None, {0: "LABEL_0"})
    with pytest.raises(PruneSearchError, match="two classes or more"):
        free_labels({"same"}, None)


def test_free_labels_number_what_is_there():
    assert free_labels({7, 3, 5}, None).ids([3, 7]).tolist() == [0, 2]
    assert free_labels({"b", "a"}, None).names == ["a", "b"]
    assert free_labels({0, 1}, ["no", "yes"]).names == ["no", "yes"]


def test_clean_and_unlabelled():
    assert [clean(x) for x in (True, 3.0, " 12 ", "-1", "x")] == ["true", 3, 12, -1, "x"]
    assert [is_unlabelled(x) for x in (None, float("nan"), -1, "", "-1", 0, "x")] == [True] * 5 + [False] * 2
    for bad in (0.5, float("inf"), [1]):
        with pytest.raises(PruneSearchError, match="whole number"):
            clean(bad)


@pytest.mark.parametrize(
    ("written", "want"),
    [
        *[("3.0", 3), ("10.0", 10), ("3.", 3), (" -1 ", -1), ("NaN", -1), ("", -1), ("<NA>", -1), (None, -1), (2.0, 2)],
        *[
            (float("nan"), -1),
            (np.bool_(False), "false"),
            ("v1.0", "v1.0"),
            ("1.5", "1.5"),
            ("007", 7),
            ("none", "none"),
        ],
    ],
)
def test_numbers_are_numbers_however_they_are_written_and_missing_is_missing(written: object, want: object):
    assert clean(written) == want


@pytest.mark.parametrize("cell", [[1], {"a": 1}, 1.5, b"x"])
def test_a_label_of_another_type_is_refused(cell: object):
    with pytest.raises(PruneSearchError, match="a label must be a whole number or a name"):
        clean(cell)


@pytest.mark.parametrize("written", [(False, True), ("False", "True"), ("FALSE", "TRUE")])
def test_true_and_false_are_names_of_the_heads_or_off_and_on(written: tuple[object, object]):
    raw = {clean(value) for value in written}
    plain = head_labels(raw, None, {0: "NEGATIVE", 1: "POSITIVE"})
    assert plain.ids(list(written)).tolist() == [0, 1]
    assert plain.notes == ["labels: false is NEGATIVE, true is POSITIVE"]
    turned = head_labels(raw, None, {0: "true", 1: "false"})  # as alphabet or chance had it
    assert turned.ids(list(written)).tolist() == [1, 0]
    with pytest.raises(PruneSearchError, match="is not one of the model's 3 classes"):
        head_labels(raw, None, {0: "a", 1: "b", 2: "c"})


def test_names_that_differ_in_case_are_the_heads_but_no_classes_of_their_own():
    assert head_labels({"CAT", "cat", "Dog"}, None, {0: "Cat", 1: "dog"}).ids(["cat", "CAT", "Dog"]).tolist() == [
        0,
        0,
        1,
    ]
    unnamed = {i: f"LABEL_{i}" for i in range(3)}
    with pytest.raises(PruneSearchError, match="differ in more than case, but got 'Cat' and 'cat': write them alike"):
        head_labels({"cat", "Cat", "dog"}, None, unnamed)
    assert free_labels({"b", "B"}, None).notes == [
        "labels 'B' and 'b' are two classes, though they differ in case alone"
    ]
    assert free_labels({"b", "a"}, None).notes == []


def test_fractions_are_no_names_of_classes():
    with pytest.raises(PruneSearchError, match=r"a label must be a whole number or a name, but got 0.5, 1.5"):
        head_labels({"0.5", "1.5"}, None, {0: "LABEL_0", 1: "LABEL_1"})


def test_names_in_the_spelling_of_files_and_first_names_are_the_heads():
    head = {0: "hot dog", 1: "tench, Tinca tinca", 2: "crane, bird", 3: "crane, machine"}
    assert head_labels({"Hot_Dog", "tench"}, None, head).ids(["Hot_Dog", "tench"]).tolist() == [0, 1]
    assert head_labels({"tench", "crane, bird"}, None, head).ids(["tench", "crane, bird"]).tolist() == [1, 2]
    with pytest.raises(PruneSearchError, match="'crane' is not one of"):  # which of the two?
        head_labels({"crane"}, None, head)
    alike = {0: "a_b", 1: "a b", 2: "c"}
    assert head_labels({"a_b", "a b"}, None, alike).ids(["a_b", "a b"]).tolist() == [0, 1]


def test_names_that_are_numbers_are_names():
    """Sorted as texts, as folders are, so that class 2 is called 10."""
    head = dict(enumerate(sorted(map(str, range(11)))))
    labels = head_labels(set(range(11)), None, head)
    assert labels.ids([2, 10, "1"]).tolist() == [3, 2, 1]
    assert "LABEL_N is the class with the id N" in labels.notes[0]
    assert head_labels({"LABEL_2"}, None, head).ids(["LABEL_2"]).tolist() == [2]
    stars = head_labels({1, 5}, None, dict(enumerate("12345")))
    assert stars.ids([1, 5]).tolist() == [0, 4]
    assert head_labels({0, 1}, None, {0: "0", 1: "1"}).notes == []
