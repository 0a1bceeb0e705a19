"""A model that reads pictures in its prompt, exported: without prunesearch it writes what the plan writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.export.models.huggingface import HUGGING_FACE
from prunesearch.export.models.model_format import ModelSource
from prunesearch.export.models.write import export_model, find_model_format
from prunesearch.export.models.writing_models import prompt_batches
from tests.contracts.test_vision_language import said
from tests.support.small_vlms import VLMS, build_vlm, prompts_for

PLANS = {
    "llava": "tower/0:0.7 bipartite > input/0:0.5 key_norm+drop > decoder/1:0.2 text_attention+drop",
    "llava of Qwen2": "input/0:0.6 random+drop@diversity > decoder/2:0.3 text_attention_mean+drop",
    "paligemma": "tower/0:0.6 key_norm+fuse > decoder/1:0.3 text_attention+drop",
    "qwen3_vl": "decoder/1:0.4 text_attention+drop",
    "smolvlm": "input/0:0.7 key_norm+contextual",
}
PROMPTS: list[tuple[int, ...]] = [(2, 1, 9), (3, 2, 4), (6, 1, 3)]
ELSEWHERE = """
import sys

class NoPrunesearch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "prunesearch":
            raise ImportError("prunesearch is not installed here")

sys.meta_path.insert(0, NoPrunesearch())
import torch, transformers
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
for folder in sys.argv[1:]:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    out = {}
    for which in ("together", "alone"):
        given = load_file(f"{folder}.{which}")
        out[which] = model.generate(**given, **how)[:, given["input_ids"].shape[1] :].contiguous()
        if which == "alone":
            cached = model(**given, use_cache=True).cache.layers
            out["cache"] = torch.tensor([layer.keys.shape[2] for layer in cached])
            out["beams"] = model.generate(**given, num_beams=3, **how)[:, given["input_ids"].shape[1] :].contiguous()
    save_file(out, folder + ".out")
assert "prunesearch" not in sys.modules
"""


def source_of(name: str, text: str, **more: Any) -> ModelSource:
    model = build_vlm(name)
    return ModelSource(model, Plan.parse(text).schedule, prompts_for(model, name, [(5, 1, 4)]), **more)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Folders, and what a Python without prunesearch wrote with them."""
    root, wanted = tmp_path_factory.mktemp("prompts"), dict[str, dict[str, Any]]()
    for name, text in PLANS.items():
        folder = root / name.replace(" ", "_")
        source = source_of(name, text, seed=3)
        export_model(source, HUGGING_FACE, folder, seconds=None)
        together = prompts_for(source.model, name, PROMPTS)
        alone = prompts_for(source.model, name, [PROMPTS[1]], seeds=[1])
        for which, given in (("together", together), ("alone", alone)):
            save_file({key: value.contiguous() for key, value in given.items()}, f"{folder}.{which}")
        with ps.apply_(source.model, source.plan, seed=3), torch.no_grad():
            cached = source.model(**alone, use_cache=True).cache.layers
            wanted[name] = {
                "together": said(source.model, together, 6),
                "alone": said(source.model, alone, 6),
                "beams": said(source.model, alone, 6, num_beams=3),
                "cache": torch.tensor([layer.keys.shape[2] for layer in cached]),
            }
    environment = {"HF_HOME": str(root / "cache"), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    folders = [str(root / name.replace(" ", "_")) for name in PLANS]
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, *folders], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, wanted


@pytest.mark.parametrize("name", list(PLANS))
def test_it_writes_token_for_token_what_the_plan_does(elsewhere: Any, name: str) -> None:
    root, wanted = elsewhere
    folder = root / name.replace(" ", "_")
    got = load_file(f"{folder}.out")
    for which in ("alone", "together", "beams", "cache"):
        assert got[which].tolist() == wanted[name][which].tolist()
    assert len(set(got["cache"].tolist())) > 1 or name == "smolvlm"
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == f"pruned_{VLMS[name].family}"
    assert ps.Schedule.from_dict(config["prunesearch"]["schedule"]) == Plan.parse(PLANS[name]).schedule
    text = (folder / "modeling_pruned.py").read_text()
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith("    params=")] == []
    assert "16 tokens, written greedily with a cache, are those of the plan" in (folder / "README.md").read_text()


def test_batches_to_check_are_padded_on_the_left_before_their_pictures() -> None:
    model = build_vlm("llava")
    alone, many = prompt_batches(prompts_for(model, "llava", [(5, 2, 4)]))
    assert len(alone["pixel_values"]) == 2
    assert len(many["pixel_values"]) == 6
    assert many["attention_mask"].sum(1).tolist() == [43, 42, 41]
    assert torch.equal(many["input_ids"][0], many["input_ids"][2])


@pytest.mark.parametrize("name", ["onnx", "torch-export", "openvino"])
def test_graphs_refuse_a_model_that_writes(name: str, tmp_path: Path) -> None:
    target = find_model_format(name)
    with pytest.raises(PruneSearchError, match="reads pictures in a prompt and writes token by token: choose --to hf"):
        export_model(source_of("llava", PLANS["llava"]), target, tmp_path / f"model{target.suffix}", seconds=None)


def test_what_writes_otherwise_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import prunesearch.export.models.writing_models as writing

    true, calls = writing._said, list[int]()

    def shifted(model: Any, batch: Any) -> torch.Tensor:
        calls.append(1)
        return true(model, batch) + (len(calls) > 2)

    monkeypatch.setattr(writing, "_said", shifted)
    with pytest.raises(PruneSearchError, match="answers otherwise than the plan from token 0 on"):
        export_model(source_of("llava", PLANS["llava"]), HUGGING_FACE, tmp_path / "folder", seconds=None)
    assert not (tmp_path / "folder").exists()
