import numpy as np
import pytest
from datasets import ClassLabel, Dataset

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.columns import Columns
from prunesearch.tasks.data.labels import free_labels, head_labels
from prunesearch.tasks.data.sources import DataSource
from prunesearch.tasks.data.split import Sizes, few, make_splits, stratified_order
from tests.support.some import some

COLUMNS = Columns(label="label", text="text")


def table(n: int, prefix: str = "row", labels: list | None = None) -> Dataset:
    labels = [0 if i % 10 else 1 for i in range(n)] if labels is None else labels
    return Dataset.from_dict({"text": [f"{prefix} {i}" for i in range(n)], "label": labels})


def split(splits: dict[str, Dataset], sizes: Sizes | None = None, seed: int = 0, train: bool = False):
    source = DataSource("data", splits)
    return make_splits(source, COLUMNS, free_labels, sizes or Sizes(), seed=seed, train=train)


def texts(result) -> dict[str, list[str]]:
    return {role: part.rows["text"][:] for role, part in result.parts.items()}


def test_one_file_is_split_disjoint_seeded_and_stratified():
    result = split({"all": table(600)})
    rows = texts(result)
    assert {role: len(r) for role, r in rows.items()} == {"calibration": 200, "holdout": 400}
    assert not set(rows["calibration"]) & set(rows["holdout"])
    assert texts(split({"all": table(600)})) == rows
    assert texts(split({"all": table(600)}, seed=1)) != rows
    for part in some(result.parts.values()):
        assert part.labels.mean() == pytest.approx(0.1, abs=0.01)
        assert part.labels.tolist() == [int(i) for i in part.rows["label"][:]]


def test_every_prefix_of_the_order_is_stratified():
    labels = np.array([0] * 500 + [1] * 300 + [2] * 200)
    order = stratified_order(labels, 3)
    assert sorted(order) == list(range(1000))
    for n in (20, 130, 700):
        shares = np.bincount(labels[order[:n]], minlength=3)
        assert np.abs(shares - n * np.array([0.5, 0.3, 0.2])).max() <= 1.0


def test_train_takes_a_third_disjoint_split():
    result = split({"all": table(300)}, Sizes(calibration=50, holdout=70), train=True)
    rows = texts(result)
    assert {role: len(r) for role, r in rows.items()} == {"calibration": 50, "holdout": 70, "train": 180}
    assert len({text for part in rows.values() for text in part}) == 300


def test_caps():
    result = split({"all": table(20_000)}, train=True)
    sizes = {role: len(part.labels) for role, part in result.parts.items()}
    assert sizes == {"calibration": 2000, "holdout": 4000, "train": 2000}


@pytest.mark.parametrize(
    ("names", "train", "expected"),
    [
        (["train", "validation", "test"], False, {"calibration": "validation", "holdout": "test"}),
        (["train", "test"], True, {"calibration": "train", "holdout": "test", "train": "train"}),
        (["train", "validation"], False, {"calibration": "validation", "holdout": "validation"}),
        (["train", "dev"], True, {"calibration": "dev", "holdout": "dev", "train": "train"}),
        (["calibration", "holdout"], True, {"calibration": "calibration", "train": "calibration"}),
        (["odd"], False, {"calibration": "odd", "holdout": "odd"}),
    ],
)
def test_named_splits(names: list[str], train: bool, expected: dict[str, str]):
    result = split({name: table(60, name) for name in names}, train=train)
    rows = texts(result)
    assert all({text.split()[0] for text in rows[role]} == {pool} for role, pool in expected.items())
    assert len({text for part in rows.values() for text in part}) == sum(len(p) for p in rows.values())
    if names == ["train", "test"]:
        assert any("no validation split" in note for note in result.notes)


def test_hidden_test_labels_are_not_used():
    splits = {"validation": table(90, "val"), "test": table(30, "test", [-1] * 30)}
    rows = texts(split(splits))
    assert {text.split()[0] for text in rows["holdout"]} == {"val"}


def test_rows_without_label_are_left_out_and_said():
    result = split({"all": table(12, labels=[0, 1, -1, None] * 3)})
    assert sum(len(part.labels) for part in result.parts.values()) == 6
    assert any("6 rows" in note for note in result.notes)


def test_duplicates_leave_calibration_and_stay_in_holdout():
    shared = table(20, "same")
    splits = {"calibration": Dataset.from_list([*table(30, "own"), *shared]), "holdout": shared}
    result = split(splits)
    rows = texts(result)
    assert len(rows["calibration"]) == 30
    assert len(rows["holdout"]) == 20
    assert not set(rows["calibration"]) & set(rows["holdout"])
    assert any(note.startswith("20 calibration rows were dropped") for note in result.notes)
    with pytest.raises(PruneSearchError, match="every calibration row is also in another"):
        split({"calibration": shared, "holdout": shared})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (Sizes(calibration=70, holdout=50), "calibration 70 [+] holdout 50 rows are too many for the 100"),
        (Sizes(calibration=100), "too many"),
        (Sizes(holdout=0), "holdout >= 1"),
    ],
)
def test_sizes_are_granted_or_refused(sizes: Sizes, message: str):
    with pytest.raises(PruneSearchError, match=message):
        split({"all": table(100)}, sizes)


def test_splits_that_do_not_match():
    other = table(30, "b").rename_column("text", "words")
    with pytest.raises(PruneSearchError, match="needs the column 'text'"):
        split({"validation": table(30), "test": other})
    names = [["a", "b"], ["b", "a"]]
    unlike = [table(30, str(n)).cast_column("label", ClassLabel(names=n)) for n in names]
    with pytest.raises(PruneSearchError, match="name its classes alike"):
        split({"validation": unlike[0], "test": unlike[1]})
    with pytest.raises(PruneSearchError, match="every label"):
        split({"all": table(3, labels=[-1, -1, -1])})


def test_rows_given_as_two_files_are_all_used_whatever_a_rows_cost():
    files = {"calibration": table(80, "a"), "holdout": table(160, "b")}
    for sizes in (Sizes(), few(Sizes(), 200, 500)):
        result = split(files, sizes)
        assert {role: len(part.labels) for role, part in result.parts.items()} == {"calibration": 80, "holdout": 160}
        assert not any("are used" in note for note in result.notes)


def test_rows_that_are_not_used_are_counted_in_a_note():
    result = split({"all": table(900)}, few(Sizes(), 100, 200))
    assert {role: len(part.labels) for role, part in result.parts.items()} == {"calibration": 100, "holdout": 200}
    assert "of the 900 rows 100 for calibration and 200 for holdout are used; more with calibration=N, holdout=N" in (
        result.notes
    )
    asked = split({"all": table(100)}, few(Sizes(calibration=30, holdout=40), 10, 20))
    assert {role: len(part.labels) for role, part in asked.parts.items()} == {"calibration": 30, "holdout": 40}
    assert any(note.endswith("are used, as asked") for note in asked.notes)


def test_a_row_is_named_by_its_place_in_the_data():
    part = split({"all": table(30, labels=[-1, *[0, 1] * 14, 1])}).parts["holdout"]
    for place, text in some(enumerate(part.rows["text"][:])):
        assert part.name_of(place) == f"row {int(text.split()[1]) + 1} of 'data'"


def test_minus_one_is_not_left_out_where_it_may_be_a_class():
    def labeller(raw, names):
        return head_labels(raw, names, {i: f"LABEL_{i}" for i in range(3)})

    sentiment = table(30, labels=[-1, 0, 1] * 10)
    with pytest.raises(PruneSearchError, match="labels must be 0 to 2, but those of 'data' are -1, 0, 1: number"):
        make_splits(DataSource("data", {"all": sentiment}), COLUMNS, labeller, Sizes(), seed=0)
    hidden = table(40, labels=[-1, 0, 1, 2] * 10)  # as SNLI writes "nobody agreed"
    result = make_splits(DataSource("data", {"all": hidden}), COLUMNS, labeller, Sizes(), seed=0)
    assert sum(len(part.labels) for part in result.parts.values()) == 30
    gaps = table(30, labels=["", "0.0", "1.0"] * 10)
    result = make_splits(DataSource("data", {"all": gaps}), COLUMNS, labeller, Sizes(), seed=0)
    assert {*result.parts["holdout"].labels.tolist()} == {0, 1}


def test_rows_of_one_class_alone_are_said():
    both = {"validation": table(40), "test": table(30, "other", labels=[1] * 30)}
    notes = split(both).notes
    assert "all 30 holdout rows are of the class '1': a model that always answers it is right on all of them" in notes
    assert not any("all 40" in note for note in notes)
