"""samples.json: comes back as it was, and what is wrong in it is said in one line."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from prunesearch.core.errors import CorruptFileError
from prunesearch.report.views.freeze import Frozen
from prunesearch.report.views.parts_samples import samples_view
from prunesearch.report.views.shown_samples import ShownRow, ShownSamples, ShownStage, ShownTrace
from tests.support.studies import PNG, samples


def test_comes_back(tmp_path):
    found = samples()
    found.save(tmp_path / "samples.json")
    assert ShownSamples.load(tmp_path / "samples.json") == found
    assert ShownSamples.load(tmp_path / "none.json") is None


def test_agreements_come_first():
    assert [t.disagrees for t in samples().of("p2")] == [False, True]
    assert samples().of("p1") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["traces"][0].update(row=7), "row 7, which is not there"),
        (lambda d: d["traces"][0]["stages"][0].update(owner=[0, 1]), "one number for each of 5 tokens"),
        (lambda d: d["rows"][0].update(picture="javascript:alert(1)"), "PNG or JPEG"),
        (lambda d: d["rows"][0].update(picture="data:image/svg+xml;base64,AAAA"), "PNG or JPEG"),
        (lambda d: d["rows"][0].update(picture="https://example.org/x.png"), "PNG or JPEG"),
        (lambda d: d["rows"][0].update(words=["a"]), "a picture with its grid, or words"),
        (lambda d: d.update(version=2), "version"),
        (lambda d: d.update(more=1), "more"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, said):
    data = json.loads(samples().model_dump_json())
    change(data)
    path = tmp_path / "samples.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CorruptFileError, match=said) as error:
        ShownSamples.load(path)
    assert "\n" not in str(error.value)


def test_no_json_and_too_large(tmp_path):
    path = tmp_path / "samples.json"
    path.write_text("{")
    with pytest.raises(CorruptFileError, match="not JSON"):
        ShownSamples.load(path)
    with pytest.raises(CorruptFileError, match="larger than"):
        ShownSamples.load(path, most_bytes=0)


def test_a_row_is_of_one_kind():
    with pytest.raises(ValidationError, match="or words"):
        ShownRow(index=0, label="a")
    with pytest.raises(ValidationError, match="or words"):
        ShownRow(index=0, label="a", picture=PNG)


def test_a_picture_in_a_prompt_says_how_many_of_its_own_tokens_stay():
    stage = ShownStage(layer=0, at_input=True, tokens=5, method="random+drop", owner=[0, 1, -1, -1, 2, 3, 4])
    row = ShownRow(index=0, label="what ?", picture=PNG, grid=(2, 2), leading=1, trailing=2)
    trace = ShownTrace(point="p1", row=0, unpruned="a", pruned="a", stages=[stage])
    text = Frozen().html(samples_view(ShownSamples(rows=[row], traces=[trace]), "p1"))
    assert "before the first block: 5 tokens (2 of the picture), random+" in text
    assert "2 of 4 dropped" in text


def test_how_they_look():
    text = Frozen().html(samples_view(samples(label="<b>"), "p2"))
    assert "unpruned says &lt;b&gt;, pruned says toad" in text
    assert "both say &lt;b&gt;" in text
    assert '<span class="token merged"' in text
    assert "[CLS]" in text
    assert "after block 2: 3 tokens, value_norm+fuse" in text
    assert text.index("both say") < text.index("disagree") < text.index("pruned says toad")
    assert "there are some for p2" in Frozen().html(samples_view(samples(), "p1"))
    assert "No rows were traced" in Frozen().html(samples_view(None, "p1"))
