"""The generated folder in a Python that cannot import prunesearch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest
import torch
import transformers

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.token_tables import SCORERS
from prunesearch.export.models.huggingface import HUGGING_FACE, modelling_file, write
from prunesearch.export.models.model_format import ModelSource
from prunesearch.export.models.write import export_model
from tests.support.small_models import build, inputs_of
from tests.support.tiny_media import make_waves, make_whisper

SCHEDULE = ps.Schedule([ps.Stage(0, 0.7, "cls_attention", "fuse"), ps.Stage(2, 0.3, "random", "nearest")])
ELSEWHERE = """
import copy, sys, threading

class NoPrunesearch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "prunesearch":
            raise ImportError("prunesearch is not installed here")

sys.meta_path.insert(0, NoPrunesearch())
import torch, transformers
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
for folder, auto in zip(sys.argv[1::2], sys.argv[2::2]):
    given = load_file(folder + ".in")
    out = {}
    for place in (folder, folder + "-again"):
        model = getattr(transformers, auto).from_pretrained(place, trust_remote_code=True).eval()
        with torch.no_grad():
            out[place.removeprefix(folder) or "first"] = model(**given).logits
            if place == folder:
                model.save_pretrained(folder + "-again")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out["eager"] = model(**given).logits
    model.set_attn_implementation("sdpa")
    out["copy"] = copy.deepcopy(model)(**given).logits.detach()
    wrong = []

    def work():
        with torch.no_grad():
            for _ in range(3):
                wrong.append(not torch.equal(model(**given).logits, out["first"]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out["wrong"] = torch.tensor(sum(wrong) + 24 - len(wrong))
    save_file(out, folder + ".out")
assert "prunesearch" not in sys.modules
"""
WARM = ps.Schedule([ps.Stage(1, 0.5, "key_redundancy", "soft", params={"temperature": 0.5, "margin": 0.4})])
AUTO = {"vit": "AutoModelForImageClassification", "bert": "AutoModelForSequenceClassification"}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Folders of an image and a text model, and what a Python without prunesearch made of them."""
    from safetensors.torch import load_file, save_file

    root, wanted, words = tmp_path_factory.mktemp("hf"), {}, []
    for name, auto in AUTO.items():
        model, inputs = build(name).requires_grad_(False), inputs_of(name)
        full = {n: v[:1] for n, v in inputs.items()}  # without padding, as a study's timing inputs are
        export_model(ModelSource(model, SCHEDULE, full, seed=3), HUGGING_FACE, root / name, seconds=None)
        save_file(inputs, f"{root / name}.in")
        with torch.no_grad(), ps.apply_(model, SCHEDULE, seed=3):
            wanted[name] = model(**inputs).logits
        words += [str(root / name), auto]
    environment = {"HF_HOME": str(root / "cache"), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return root, wanted, {name: load_file(f"{root / name}.out") for name in AUTO}


@pytest.mark.parametrize("name", list(AUTO))
def test_it_runs_pruned_without_prunesearch(elsewhere, name):
    _, wanted, got = elsewhere
    torch.testing.assert_close(got[name]["first"], wanted[name], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got[name]["-again"], wanted[name], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got[name]["eager"], wanted[name], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[name]["copy"], wanted[name], rtol=1e-6, atol=1e-6)
    assert got[name]["wrong"] == 0, "in threads"
    inputs, model = inputs_of(name), build(name)
    with torch.no_grad():
        assert not torch.allclose(got[name]["first"], model(**inputs).logits, atol=1e-3)


@pytest.mark.parametrize("name", list(AUTO))
def test_the_schedule_is_in_the_config_and_nothing_else_is_in_the_file(elsewhere, name):
    root, _, _ = elsewhere
    config = json.loads((root / name / "config.json").read_text())
    assert ps.Schedule.from_dict(config["prunesearch"]["schedule"]) == SCHEDULE
    assert config["prunesearch"]["seed"] == 3
    assert list(config["auto_map"]) == [AUTO[name], "AutoConfig"]
    assert config["model_type"] == f"pruned_{name}"
    text = (root / name / "modeling_pruned.py").read_text()
    defined = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert {"cls_attention", "random", "fuse", "nearest"} < defined
    assert not {"bipartite", "soft", "value_norm", "key_redundancy", "apply_", "CompiledLayout"} & defined
    assert ("BertLike" in defined) == (name == "bert")
    assert [line for line in text.splitlines() if len(line) > 120] == []
    card = (root / name / "README.md").read_text()
    assert "| 0 | 0.7 of the initial tokens | cls_attention+fuse |" in card
    assert ps.Schedule.from_json((root / name / "prunesearch.json").read_text()) == SCHEDULE


@pytest.mark.parametrize("name", list(AUTO))
def test_nothing_loads_the_folder_unpruned(elsewhere, name):
    folder = elsewhere[0] / name
    for auto in ("AutoConfig", "AutoModel", AUTO[name]):
        with pytest.raises(ValueError, match="custom code"):
            getattr(transformers, auto).from_pretrained(folder, trust_remote_code=False)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        type(build(name)).from_pretrained(folder)


def test_the_file_has_no_undefined_name(elsewhere, tmp_path):
    root, _, _ = elsewhere
    files = [str(root / name / "modeling_pruned.py") for name in AUTO]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F811,F401", *files],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("make", "kind", "inputs", "tokens"),
    [
        (make_waves, "Wav2Vec2ForSequenceClassification", {"input_values": (1, 400)}, False),
        (make_waves, "Wav2Vec2ForCTC", {"input_values": (1, 400)}, True),
        (make_whisper, "WhisperForAudioClassification", {"input_features": (1, 8, 100)}, False),
        (
            make_whisper,
            "WhisperForConditionalGeneration",
            {"input_features": (1, 8, 100)},
            True,
        ),
    ],
)
def test_a_folder_of_sounds_has_what_prepares_them(tmp_path, make, kind, inputs, tokens):
    """The feature extractor, and the tokenizer of models that write text."""
    made = make(tmp_path / "model", kind)
    model = getattr(transformers, kind).from_pretrained(made).eval()
    given = {name: torch.zeros(size) for name, size in inputs.items()}
    schedule = ps.Schedule([ps.Stage(1, 0.5, "attention_received", "drop")])
    assert write(ModelSource(model, schedule, given, model_id=made), tmp_path / "folder") == ()
    found, wanted = (transformers.AutoFeatureExtractor.from_pretrained(place) for place in (tmp_path / "folder", made))
    assert found.to_dict() == wanted.to_dict()
    assert (tmp_path / "folder" / "tokenizer_config.json").exists() == tokens


def test_what_has_no_source_here_is_refused():
    model = build("vit")
    with SCORERS.registered("outside", lambda inputs: inputs.attention.key.sum((1, 3)), "of a user"):
        schedule = ps.Schedule([ps.Stage(0, 0.5, "outside")])
        with pytest.raises(PruneSearchError, match=r"'outside' was registered from outside .* choose --to onnx"):
            modelling_file(model, schedule)

    class Mine(type(model)):
        pass

    with pytest.raises(PruneSearchError, match="Mine is no class of transformers"):
        modelling_file(Mine(model.config), ps.Schedule())


def test_a_fitted_head_is_no_transformers_model(tmp_path):
    wrapped = torch.nn.Sequential(build("vit"))
    source = ModelSource(wrapped, ps.Schedule(), inputs_of("vit"))
    with pytest.raises(PruneSearchError, match="is no transformers model"):
        export_model(source, HUGGING_FACE, tmp_path / "folder", seconds=None)
    assert not (tmp_path / "folder").exists()


def test_parameters_are_in_the_file(tmp_path):
    """The file by itself, in this process: its class reduces as the schedule with its parameters does."""
    import importlib.util

    path = tmp_path / "modeling_warm.py"
    path.write_text(modelling_file(build("vit"), WARM))
    spec = importlib.util.spec_from_file_location("modeling_warm", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["modeling_warm"] = module
    try:
        spec.loader.exec_module(module)
        model, inputs = build("vit"), inputs_of("vit")
        model.config.prunesearch = {"seed": 0, "schedule": WARM.to_dict()}
        pruned = getattr(module, f"Pruned{type(model).__name__}")(model.config).eval()
        pruned.load_state_dict(model.state_dict())
    finally:
        del sys.modules["modeling_warm"]
    plain = ps.Schedule([stage.replace(params={}) for stage in WARM])
    with torch.no_grad():
        found = pruned(**inputs).logits
        with ps.apply_(model, WARM):
            torch.testing.assert_close(found, model(**inputs).logits, rtol=0, atol=0)
        with ps.apply_(model, plain):
            assert not torch.equal(found, model(**inputs).logits)
