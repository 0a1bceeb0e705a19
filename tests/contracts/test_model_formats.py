"""What every model format must pass. A new row in `MODEL_FORMATS` is picked up by itself; nothing is added here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    ViTConfig,
    ViTForImageClassification,
)

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.export_tables import MODEL_FORMATS
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.export.models.model_format import ModelOptions, ModelSource
from prunesearch.export.models.write import check_batches, export_model, find_model_format
from tests.support.generated import generated
from tests.support.paths import DOCS
from tests.support.small_models import CASES, answer, build, inputs_of

EVERY = pytest.mark.parametrize("name", list(MODEL_FORMATS))
EXCHANGE = DOCS / "exchange.md"
MERGE_NAMES = list(MERGES)
SCORER_NAMES = list(SCORERS)
DEPTH = max(len(SCORER_NAMES), len(MERGE_NAMES))
# every scorer and every merge once; a merge is given a score, whoever made it
ALL = ps.Schedule(
    ps.Stage(i, 0.95 - 0.85 * i / DEPTH, SCORER_NAMES[i % len(SCORER_NAMES)], MERGE_NAMES[i % len(MERGE_NAMES)])
    for i in range(DEPTH)
)
# every merge once, each with a score of another kind: graphs take seconds a stage
FEW = ps.Schedule(
    ps.Stage(stage.layer, 0.9 - 0.15 * stage.layer, stage.scorer, stage.merge)
    for stage in list(ALL)[: len(MERGE_NAMES)]
)
_SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def image_source(schedule: ps.Schedule = FEW) -> ModelSource:
    torch.manual_seed(0)
    shape = {"image_size": 24, "patch_size": 4, "num_labels": 3, "num_hidden_layers": len(schedule)}
    model = ViTForImageClassification(ViTConfig(**_SIZES, **shape))
    images = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    return ModelSource(_loud(model), schedule, {"pixel_values": images})


def text_source(schedule: ps.Schedule = FEW) -> ModelSource:
    torch.manual_seed(0)
    shape = {"vocab_size": 60, "max_position_embeddings": 40, "num_labels": 3, "num_hidden_layers": len(schedule)}
    ids = torch.randint(3, 60, (4, 32), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return ModelSource(_loud(BertForSequenceClassification(BertConfig(**_SIZES, **shape))), schedule, inputs)


def tag_source(schedule: ps.Schedule = FEW) -> ModelSource:
    """A head that answers for every token: the way back is in the file too."""
    source = text_source(schedule)
    return replace(source, model=_loud(BertForTokenClassification(source.model.config)))


def _loud(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that tokens differ: equal scores would be put in order by their last digits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel() if parameter.dim() == 2 and "embed" not in name else 1
                parameter.copy_(1.2 * torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return model.eval().requires_grad_(False)


def logits(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model(**batch).logits


@EVERY
def test_the_row_says_what_it_is(name: str) -> None:
    row = find_model_format(name)
    assert row.name == name
    assert row.tool
    assert row.runtime in RUNTIMES
    assert row.ran_in
    assert MODEL_FORMATS.entry(name).help
    assert f"`{name}`" in EXCHANGE.read_text()


# a recipe is tested by itself; texts of torch-export are what ONNX files of texts are made of, and graphs take long: of
# texts those with the way back, which are padded too
PAIRS = [
    *((name, image_source) for name in MODEL_FORMATS if name != "tensorrt"),
    *((name, text_source) for name in MODEL_FORMATS if find_model_format(name).suffix == ""),
    *((name, tag_source) for name in MODEL_FORMATS if name not in ("tensorrt", "torch-export")),
]
# every merge: of the formats that are graphs, which take long, one; those marked slow have what others would say
SHORT = [pair for pair in PAIRS if find_model_format(pair[0]).suffix == "" or pair == ("onnx", tag_source)]


@pytest.mark.parametrize(
    ("name", "make", "stages"),
    [
        *(pytest.param(*pair, FEW, id=f"{pair[0]}-{pair[1].__name__}-every merge") for pair in SHORT),
        *(pytest.param(*pair, ALL, id=f"{pair[0]}-{pair[1].__name__}", marks=pytest.mark.slow) for pair in PAIRS),
    ],
)
def test_every_scorer_and_merge_in_every_format(name: str, make, stages: ps.Schedule, tmp_path: Path) -> None:
    """The file computes what the applied model does, for any batch size, padded texts included."""
    source, to = make(stages), find_model_format(name)
    schedule = ps.Schedule(stage for stage in stages if not {stage.scorer, stage.merge} & set(to.unable))
    source, path = replace(source, schedule=schedule), tmp_path / f"model{to.suffix}"
    done = export_model(source, to, path, seconds=None)
    assert done.checked == (1, 3, 4)
    forward = to.load(path)
    with ps.apply_(source.model, schedule, seed=source.seed) as handle:
        for size in (2, 7):  # none of those that the export checked
            rows = torch.arange(size) % 4
            batch = {n: v[rows].clone() for n, v in source.inputs.items()}
            if "attention_mask" in batch:
                batch["attention_mask"][1, 9:] = 0
            want = logits(source.model, batch)
            torch.testing.assert_close(forward(batch)["logits"], want, rtol=1e-4, atol=1e-4)
        assert handle.tokens is not None
    whole, found = logits(source.model, check_batches(source.inputs)[1]), forward(batch)["logits"]
    assert not torch.allclose(whole[0], found[0], atol=1e-3)


def test_tensorrt_is_an_onnx_file_with_its_recipe(tmp_path: Path) -> None:
    source = image_source()
    short = ModelSource(source.model, ps.Schedule([ps.Stage(0, 0.5)]), source.inputs)
    done = export_model(short, find_model_format("tensorrt"), tmp_path / "m.onnx", seconds=None)
    line = (tmp_path / "m.trtexec.sh").read_text()
    assert "--onnx=m.onnx" in line
    assert "--optShapes=pixel_values:4x3x24x24" in line
    assert not done.proven
    assert any("unproven" in note for note in done.notes)
    assert "unproven" in (tmp_path / "m.onnx.md").read_text()


@EVERY
def test_what_a_runtime_gets_wrong_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    to = find_model_format(name)
    for word, reason in to.unable.items():
        stage = ps.Stage(0, 0.5, word) if word in SCORERS else ps.Stage(0, 0.5, merge=word)
        source = replace(image_source(), schedule=ps.Schedule([stage]))
        with pytest.raises(PruneSearchError, match=f"cannot run '{word}' ") as error:
            export_model(source, to, tmp_path / f"m{to.suffix}", seconds=None)
        assert reason in str(error.value)
    assert list(tmp_path.iterdir()) == []


@EVERY
def test_nothing_is_written_over(name: str, tmp_path: Path) -> None:
    to = find_model_format(name)
    path = tmp_path / f"there{to.suffix}"
    path.write_text("mine")
    with pytest.raises(PruneSearchError, match="already there"):
        export_model(image_source(), to, path, seconds=None)
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


LACKING = [
    (name, option)
    for name in MODEL_FORMATS
    for option in ("opset", "int8")
    if option not in find_model_format(name).options
]


@pytest.mark.parametrize(("name", "option"), LACKING)
def test_options_that_a_format_has_not_are_refused(name: str, option: str, tmp_path: Path) -> None:
    to, options = find_model_format(name), ModelOptions(**{option: {"opset": 18, "int8": True}[option]})
    with pytest.raises(PruneSearchError, match=f"--{option} goes with --to .*onnx.* but got --to {name}"):
        export_model(image_source(), to, tmp_path / f"m{to.suffix}", options=options)


MIXED = ps.Schedule([ps.Stage(0, 0.8, "attention_received", "fuse"), ps.Stage(2, 0.45, "cls_attention", "bipartite")])


@pytest.mark.parametrize("name", list(CASES))
def test_the_generated_file_of_every_family_computes_the_same(name: str, tmp_path: Path) -> None:
    model, inputs = build(name), inputs_of(name)
    with torch.no_grad(), ps.apply_(model, MIXED):
        want = answer(model(**inputs))
    path = tmp_path / "modeling_pruned.py"
    pruned = generated(model, MIXED, path)
    with torch.no_grad():
        torch.testing.assert_close(answer(pruned(**inputs)), want, rtol=1e-5, atol=1e-5)
    assert "import prunesearch" not in path.read_text()
    assert "from prunesearch" not in path.read_text()
