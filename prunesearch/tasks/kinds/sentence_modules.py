"""Folders of sentence-transformers: what comes before and after the encoder, read from their own files.

Whatever is not understood is refused by its name: cosines of half a pipeline look like those of the whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.kinds.pooled import POOLINGS

_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
_OLD = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}  # of `pooling_mode_...`, before release 5.4
_OLD |= {"weightedmean_tokens": "weightedmean"}
_SETTINGS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_DEFAULT = "default_prompt_name"


class Unit(nn.Module):
    """Vectors `[b, width]` of length 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        """The vectors over their lengths."""
        return nn.functional.normalize(vectors, dim=-1)


@dataclass(frozen=True)
class SentenceModules:
    """What a checkpoint does besides encoding.

    Attributes:
        pooling: names in `POOLINGS`, whose vectors are joined.
        after: what the joined vector goes through.
        said: the modules in words.
        longest: tokens of a text at most; None: as the tokenizer and the encoder have it.
        lower: whether texts are put into lower case.
        prompts: texts put before every text, by their names; `""` before those that are neither query nor document.
    """

    pooling: tuple[str, ...]
    after: nn.Sequential
    said: str
    longest: int | None
    lower: bool
    prompts: dict[str, str]

    def prepared(self, text: str, kind: str = "") -> str:
        """A text as the tokenizer is given it.

        Args:
            text: of the data.
            kind: query, document, or neither.
        """
        whole = self.prompts.get(kind, self.prompts.get("", "")) + text
        return whole.lower() if self.lower else whole


def read_modules(model_id: str) -> SentenceModules:
    """Read what a checkpoint does besides encoding; a plain checkpoint pools by the mean of its states.

    Raises:
        PruneSearchError: naming the module or the setting that is not understood.
    """
    found: Any = _settings(model_id, "modules.json") or []
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in found]
    unknown = next((kind for kind in kinds if kind not in _KNOWN), None)
    if unknown is not None or kinds[:2] not in ([], ["Transformer", "Pooling"]) or kinds.count("Pooling") > 1:
        raise PruneSearchError(
            f"a sentence-transformers model may have Transformer, Pooling, then Dense and Normalize, but '{model_id}' "
            f"has {unknown or ', '.join(kinds)}, which would be left out: use another model"
        )
    folders = [str(module.get("path", "")) for module in found]
    pooling = _settings(model_id, f"{folders[1] if found else '1_Pooling'}/config.json")
    modes = _poolings(pooling, model_id)
    after = [
        _dense(model_id, folder) if kind == "Dense" else Unit()
        for kind, folder in zip(kinds[2:], folders[2:], strict=True)
    ]
    prompts = _prompts(model_id, pooling, normal=bool(after) and isinstance(after[-1], Unit))
    inside = f"{folders[0]}/" if found and folders[0] else ""
    encoder = next((s for name in _SETTINGS if (s := _settings(model_id, f"{inside}sentence_{name}_config.json"))), {})
    task = encoder.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise PruneSearchError(f"the encoder of '{model_id}' must give features, but does {task}: use another model")
    return SentenceModules(
        modes,
        nn.Sequential(*after).eval().requires_grad_(False),
        ", ".join(POOLINGS[mode][1] for mode in modes) + "".join(f", then {kind}" for kind in kinds[2:]),
        encoder.get("max_seq_length"),
        bool(encoder.get("do_lower_case")),
        prompts,
    )


def _poolings(settings: dict[str, Any], model_id: str) -> tuple[str, ...]:
    said = settings.get("pooling_mode")  # a name, or a list of them, from release 5.4 on
    used = [said] if isinstance(said, str) else list(said or ())
    old = [k.removeprefix("pooling_mode_") for k, on in settings.items() if k.startswith("pooling_mode_") and on]
    used = used or sorted((_OLD.get(name, name) for name in old), key=_place)
    wrong = next((name for name in used if name not in POOLINGS), None)
    if wrong is not None:
        raise PruneSearchError(
            f"embeddings are pooled by {', '.join(POOLINGS)}, but '{model_id}' pools by {wrong}, for which every token "
            "has to keep its place: use another model"
        )
    return tuple(used) or ("mean",)


def _place(mode: str) -> int:
    """The order in which the library joins what several modes give."""
    order = ["cls", "max", "mean", "mean_sqrt_len_tokens"]
    return order.index(mode) if mode in order else len(order)


def _dense(model_id: str, folder: str) -> nn.Module:
    """A linear layer with its activation.

    Raises:
        PruneSearchError: for an activation that is none of torch's, a residual, or weights that are not there.
    """
    settings = _settings(model_id, f"{folder}/config.json")
    name = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.nn.") else None
    places = {settings.get("module_input_name"), settings.get("module_output_name")} - {None, "sentence_embedding"}
    if activation is None or settings.get("use_residual") or places:
        raise PruneSearchError(
            f"a Dense module is a linear layer on the sentence's vector and an activation of torch.nn, but '{folder}' "
            f"of '{model_id}' is not ({name if activation is None else 'it reads or adds something else'}): use "
            "another model"
        )
    layer = nn.Linear(settings["in_features"], settings["out_features"], bias=settings.get("bias", True))
    safe, old = (_file(model_id, f"{folder}/{n}") for n in ("model.safetensors", "pytorch_model.bin"))
    if safe is None and old is None:
        raise PruneSearchError(f"'{folder}' of '{model_id}' must hold model.safetensors: save the model again")
    weights = safetensors.torch.load_file(safe) if safe else torch.load(str(old), map_location="cpu", weights_only=True)
    layer.load_state_dict({key.removeprefix("linear."): value for key, value in weights.items()})
    return nn.Sequential(layer, activation())


def _prompts(model_id: str, pooling: dict[str, Any], *, normal: bool) -> dict[str, str]:
    settings = _settings(model_id, "config_sentence_transformers.json")
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity != "cosine" and not (similarity == "dot" and normal):
        raise PruneSearchError(
            f"embeddings are compared by their cosine, but '{model_id}' compares by {similarity}: use another model"
        )
    prompts, name = settings.get("prompts") or {}, settings.get(_DEFAULT)
    if name is not None and name not in prompts:
        raise PruneSearchError(f"'{model_id}' names the prompt '{name}', but has {', '.join(prompts) or 'none'}")
    found = {kind: prompts[kind] for kind in ("query", "document") if kind in prompts}
    found |= {"": prompts[name]} if name is not None else {}
    if any(found.values()) and pooling.get("include_prompt") is False:
        raise PruneSearchError(
            f"'{model_id}' leaves its prompt out of the Pooling (include_prompt), which is not done here: use another "
            "model"
        )
    return found


def _settings(model_id: str, name: str) -> dict[str, Any]:
    """A file of settings of a checkpoint; empty if it has none."""
    path = _file(model_id, name)
    return {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def _file(model_id: str, name: str) -> str | None:
    try:
        found = cached_file(
            model_id,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        return None
    return None if found is None else str(found)
