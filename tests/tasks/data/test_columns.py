from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Image

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.columns import Columns, by_role, content_kind, digests, find_columns
from prunesearch.tasks.data.image_cells import decode_image, raw_images
from prunesearch.tasks.data.sources import DataSource
from tests.support.tiny import png


def find(rows: Dataset, kind: str, **given: str) -> Columns:
    return find_columns(DataSource("data", {"all": rows}), rows, kind, given)


def images(**columns) -> Dataset:
    return Dataset.from_dict({"picture": [{"bytes": png(i), "path": None} for i in range(3)], **columns})


def test_image_from_struct_feature_bytes_and_paths():
    struct = images(label=[0, 1, 2])
    feature = struct.cast_column("picture", Image())
    binary = Dataset.from_dict({"x": [png(0)], "label": [1]})
    paths = Dataset.from_dict({"file": ["a/b.JPG", "c.png"], "label": ["u", "v"]})
    assert find(struct, "image").image == find(feature, "image").image == "picture"
    assert find(binary, "image").image == "x"
    assert find(paths, "image").image == "file"
    assert all(content_kind(rows, {}) == "image" for rows in (struct, feature, binary, paths))


def test_label_by_name_feature_and_override():
    fine = images(coarse_label=[0, 0, 1], fine_label=[0, 1, 2])
    assert find(fine, "image").label == "fine_label"
    assert find(fine, "image", label="coarse_label").label == "coarse_label"
    odd = images(animal=[0, 1, 1]).cast_column("animal", ClassLabel(names=["cat", "dog"]))
    assert find(odd, "image").label == "animal"


def test_text_and_pairs():
    one = Dataset.from_dict({"title": ["a"], "text": ["b"], "label": [0]})
    assert find(one, "text") == Columns(label="label", text="text")
    assert content_kind(one, {}) == "text"
    pair = Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "label": [0]})
    assert find(pair, "text") == Columns(label="label", text="premise", text_pair="hypothesis")
    assert find(pair, "text", text="hypothesis") == Columns(label="label", text="hypothesis")
    strings = Dataset.from_dict({"words": ["a"], "label": ["x"]})
    assert find(strings, "text").text == "words"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label": "lable"}, "no column 'lable'.*did you mean 'label'"),
        ({"lable": "label"}, "unknown column role 'lable': did you mean 'label'"),
        ({}, "several columns could be the text"),
    ],
)
def test_errors_name_the_way_out(given: dict[str, str], message: str):
    rows = Dataset.from_dict({"one": ["a"], "two": ["b"], "label": [0]})
    with pytest.raises(PruneSearchError, match=message):
        find(rows, "text", **given)


def test_columns_may_be_named_as_the_notes_of_a_task_call_them():
    assert by_role({"words": "tokens", "tags": "ner_tags"}) == {"text": "tokens", "label": "ner_tags"}
    assert by_role({"audio": "a", "transcript": "t"}) == {"audio": "a", "label": "t"}
    assert by_role({"lable": "x"}) == {"lable": "x"}  # is refused where roles are checked
    with pytest.raises(PruneSearchError, match="must be named once, but 'tags' is 'label', which is there too"):
        by_role({"label": "a", "tags": "b"})


def test_missing_columns():
    rows = Dataset.from_dict({"one": ["a"], "n": [3]})
    with pytest.raises(PruneSearchError, match=r"no label column .*its columns: one, n"):
        find(rows, "text")
    with pytest.raises(PruneSearchError, match="no image column"):
        find(rows, "image", label="n")


def test_decoding_every_kind_of_cell(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png(5))
    cells = [png(5), {"bytes": png(5), "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}, "a.png"]
    pictures = [decode_image(cell, tmp_path) for cell in cells]
    assert all(picture.mode == "RGB" and picture.tobytes() == pictures[0].tobytes() for picture in pictures)
    with pytest.raises(PruneSearchError, match="cannot be read"):
        decode_image("b.png", tmp_path)
    with pytest.raises(PruneSearchError, match="cannot be decoded"):
        decode_image(b"nonsense", None)


def test_digests_see_content_only():
    rows = images(label=[0, 1, 2])
    columns = Columns(label="label", image="picture")
    plain = list(digests(rows, columns, None))
    assert plain == list(digests(rows.cast_column("picture", Image()), columns, None))
    assert len(set(plain)) == 3
    assert raw_images(rows.cast_column("picture", Image()), "picture")[0]["picture"]["bytes"] == png(0)
