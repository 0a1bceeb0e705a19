"""Folders of sentence-transformers, judged by the library's own `encode`, and by a restatement of what they say."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks import load_task
from tests.support.tiny import make_bert, sentence

POOLINGS = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "max": lambda states: states.max(0).values,
    "mean_sqrt_len_tokens": lambda states: states.sum(0) / len(states) ** 0.5,
}
ROWS = [{"sentence1": f"{sentence(i)} w{i}", "sentence2": sentence(i + 500), "score": i % 5} for i in range(24)]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def make(
    folder: Path, modes: list[str], *, dense: bool, unit: bool, new: bool, prompt: str = "", longest: int = 9
) -> Path:
    """A folder with the modules' files as releases write them: before 5.4, or since."""
    make_bert(folder, BertModel, initializer_range=0.4)
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    kinds += [("Dense", "2_Dense")] * dense + [("Normalize", "3_Normalize")] * unit
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"}
                for i, (k, p) in enumerate(kinds)
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    names = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    old = {f"pooling_mode_{names.get(mode, mode)}": mode in modes for mode in POOLINGS}
    said = {"embedding_dimension": 16, "pooling_mode": modes} if new else {"word_embedding_dimension": 16, **old}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest, "do_lower_case": False}))
    if prompt:
        settings = {"prompts": {"q": prompt}, "default_prompt_name": "q", "similarity_fn_name": "cosine"}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    if dense:
        (folder / "2_Dense").mkdir()
        torch.manual_seed(1)
        width = 16 * len(modes)
        save_file(
            {"linear.weight": torch.randn(8, width), "linear.bias": torch.randn(8)},
            folder / "2_Dense/model.safetensors",
        )
        config = {"in_features": width, "out_features": 8, "bias": True}
        config["activation_function"] = "torch.nn.modules.activation.Tanh"
        (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    if unit:
        (folder / "3_Normalize").mkdir()
    return folder


def ours(folder: Path, data: Path) -> list[torch.Tensor]:
    """Embeddings of the texts of all rows, in any order."""
    task = load_task(folder, data, calibration=8, holdout=16)
    found = []
    with torch.inference_mode():
        for split in (task.calibration, task.holdout):
            for batch in split.batches:
                found += list(task.outputs(task.model, batch)["state"].flatten(0, 1))
    return found


def restated(
    folder: Path, texts: list[str], modes: list[str], *, dense: bool, unit: bool, longest: int
) -> list[torch.Tensor]:
    model, tokenizer = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        with torch.inference_mode():
            states = model(
                **tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
            ).last_hidden_state[0]
        vector = torch.cat([POOLINGS[mode](states) for mode in modes])
        if dense:
            torch.manual_seed(1)
            vector = torch.tanh(torch.randn(8, len(vector)) @ vector + torch.randn(8))
        found.append(vector / vector.norm() if unit else vector)
    return found


def matched(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """The greatest distance of a wanted vector to the nearest of those found."""
    assert len(found) == len(wanted)
    distances = (torch.stack(wanted)[:, None] - torch.stack(found)[None]).abs().amax(-1)
    return float(distances.amin(1).max())


CASES = [
    (["mean"], {"dense": False, "unit": False, "new": True}),
    (["cls"], {"dense": True, "unit": True, "new": False}),
    (["max", "mean"], {"dense": True, "unit": False, "new": False}),
    (["mean", "max"], {"dense": False, "unit": True, "new": True, "prompt": "the good film "}),
    (["mean_sqrt_len_tokens"], {"dense": True, "unit": False, "new": True}),
]


@pytest.mark.parametrize(("modes", "settings"), CASES)
def test_every_module_is_honoured(modes: list[str], settings: dict, tmp_path: Path):
    folder = make(tmp_path / "m", modes, **settings)
    texts = [settings.get("prompt", "") + row[name] for row in ROWS for name in ("sentence1", "sentence2")]
    head = {"dense": settings["dense"], "unit": settings["unit"], "longest": 9}
    found = ours(folder, write(tmp_path / "d.jsonl", ROWS))
    assert matched(found, restated(folder, texts, modes, **head)) < 1e-5


@pytest.mark.parametrize(("modes", "settings"), CASES)
def test_the_librarys_own_encode_agrees(modes: list[str], settings: dict, tmp_path: Path):
    library = pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    folder = make(tmp_path / "m", modes, **settings)
    model = library.SentenceTransformer(str(folder), device="cpu")
    for again in (folder, tmp_path / "saved"):  # as written above, and as the installed release writes it
        if again != folder:
            model.save(str(again))
        judge = library.SentenceTransformer(str(again), device="cpu")
        wanted = judge.encode([row[n] for row in ROWS for n in ("sentence1", "sentence2")], convert_to_tensor=True)
        assert matched(ours(again, write(tmp_path / "d.jsonl", ROWS)), list(wanted)) < 1e-5


@pytest.mark.parametrize(("modes", "settings"), CASES[:3])
def test_the_encoder_may_lie_in_a_folder_of_its_own(modes: list[str], settings: dict, tmp_path: Path):
    """As releases before the second wrote it; `config.json` is not where the others have it."""
    library = pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    folder = make(tmp_path / "m", modes, **settings)
    (folder / "0_Transformer").mkdir()
    for file in [f for f in folder.iterdir() if f.is_file() and f.name != "modules.json"]:
        file.rename(folder / "0_Transformer" / file.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    judge = library.SentenceTransformer(str(folder), device="cpu")
    assert judge.max_seq_length == 9
    wanted = judge.encode([row[n] for row in ROWS for n in ("sentence1", "sentence2")], convert_to_tensor=True)
    assert matched(ours(folder, write(tmp_path / "d.jsonl", ROWS)), list(wanted)) < 1e-5
    (folder / "modules.json").write_text("{}")
    with pytest.raises(PruneSearchError, match=r"modules.json' must list modules, each with its path"):
        load_task(folder, tmp_path / "d.jsonl")


def test_queries_and_documents_have_prompts_of_their_own(tmp_path: Path):
    folder = make(tmp_path / "m", ["mean"], dense=False, unit=False, new=True, longest=30)
    settings = {"prompts": {"query": "good ", "document": "bad "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    rows = [{"query": f"{sentence(i)} w{i}", "documents": [sentence(i + 90)], "relevance": [1]} for i in range(10)]
    for row in rows:
        row["documents"].append("war")
        row["relevance"].append(0)
    task = load_task(folder, write(tmp_path / "d.jsonl", rows))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = [
        tokenizer.decode(text[text != 0]) for b in task.holdout.batches for row in b.inputs["input_ids"] for text in row
    ]
    assert {text.split()[1] for text in said[::3]} == {"good"}
    assert {text.split()[1] for text in [*said[1::3], *said[2::3]]} == {"bad"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("modules.json", [{"type": "a.Transformer"}, {"type": "a.Pooling"}, {"type": "a.WordWeights"}]),
            "has WordWeights",
        ),
        (("modules.json", [{"type": "a.Transformer"}, {"type": "a.Normalize"}]), "has Transformer, Normalize"),
        (("1_Pooling/config.json", {"pooling_mode": "lasttoken"}), "pools by lasttoken"),
        (("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}), "pools by weightedmean"),
        (("2_Dense/config.json", {"activation_function": "mine.Swirl"}), "mine.Swirl"),
        (("2_Dense/config.json", {"use_residual": True}), "it reads or adds something else"),
        (("config_sentence_transformers.json", {"similarity_fn_name": "euclidean"}), "compares by euclidean"),
        (("config_sentence_transformers.json", {"default_prompt_name": "q"}), "names the prompt 'q', but has none"),
        (("sentence_bert_config.json", {"transformer_task": "fill-mask"}), "must give features, but does fill-mask"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_name(change: tuple, message: str, tmp_path: Path):
    folder = make(tmp_path / "m", ["mean"], dense=True, unit=False, new=True)
    (folder / change[0]).write_text(json.dumps(change[1]))
    with pytest.raises(PruneSearchError, match=message) as caught:
        load_task(folder, write(tmp_path / "d.jsonl", ROWS))
    assert "\n" not in str(caught.value)


def test_a_prompt_that_is_left_out_of_the_pooling_is_refused(tmp_path: Path):
    folder = make(tmp_path / "m", ["mean"], dense=False, unit=False, new=True, prompt="good ")
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "mean", "include_prompt": False}))
    with pytest.raises(PruneSearchError, match="leaves its prompt out of the Pooling"):
        load_task(folder, write(tmp_path / "d.jsonl", ROWS))
