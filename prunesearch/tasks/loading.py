"""Loading Hugging Face models, with one line for whatever goes wrong, and asking them plain facts."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.registry import ATTENTIONS, DEVICE_KINDS, DTYPES
from prunesearch.pruning.families.find import find_reduced
from prunesearch.tasks.batching.batches import Inputs
from prunesearch.tasks.data.hub import model_cached, only_cached
from prunesearch.tasks.data.sources import one_line
from prunesearch.tasks.libraries import quiet_libraries

# parts of weights' names that nothing here uses: a pooler is taken off, a mask is for training, positions are counted
_UNUSED = ("pooler", "masked_spec_embed", "mask_token", "position_ids")
_WITHOUT_WORDS = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")  # of bytes and characters
_NEEDS = re.compile(r"requires the (\w+) library")  # how transformers says that a package is missing
_UNKNOWN = 0.5  # share of unknown tokens from which on texts are not the model's


def check_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of "float32", "float16" or "bfloat16"."""
    found: torch.dtype = DTYPES[name]
    return found


def check_attention(name: str) -> str:
    """Return transformers' name of the attention "sdpa", "eager" or "flash"."""
    found: str = ATTENTIONS[name]
    return found


def check_device(name: str) -> torch.device:
    """Return the torch device called `name`, after making sure that it is there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise PruneSearchError(
            f"device '{name}' cannot be used here ({one_line(error)}): name one that torch sees, "
            f"of the kinds {', '.join(DEVICE_KINDS)}"
        ) from error
    return device


def load_config(model_id: str) -> Any:
    """Return the configuration of a model folder or Hub id; no remote code is run."""
    path = Path(model_id).expanduser()
    if path.is_dir() and not (encoder_folder(path) / "config.json").is_file():
        raise PruneSearchError(f"a model folder must hold config.json, but '{model_id}' does not")
    looks_local = model_id.startswith(("/", ".", "~")) or model_id.count("/") > 1
    if looks_local and not path.is_dir():
        raise PruneSearchError(f"no model folder '{model_id}': check the path (from {Path.cwd()})")
    config = load(AutoConfig, model_id, "configuration")
    if config.model_type == "timm_wrapper" and not config.architectures and config.num_labels:
        config.architectures = ["TimmWrapperForImageClassification"]  # timm's own checkpoints name no class
    return config


def encoder_folder(folder: Path) -> Path:
    """Where a model folder has its weights: itself, or the first module's folder (`0_Transformer`) that it names.

    The second is how sentence-transformers wrote them before release 2.
    """
    listed = folder / "modules.json"
    if (folder / "config.json").is_file() or not listed.is_file():
        return folder
    try:
        modules = json.loads(listed.read_text(encoding="utf-8"))
        return folder / str(modules[0]["path"])
    except (ValueError, LookupError, TypeError) as error:
        raise PruneSearchError(f"'{listed}' must list modules, each with its path, but cannot be read so") from error


def load(auto: Any, model_id: str, what: str, **options: Any) -> Any:
    """Call `auto.from_pretrained(model_id, ...)` quietly; any failure becomes one line naming `what`."""
    folder = Path(model_id).expanduser()
    local = folder.is_dir()
    if not local and only_cached(model_id, what, model_cached):
        options = {**options, "local_files_only": True}  # else its client tries for most of a minute
    try:
        with quiet_libraries():
            return auto.from_pretrained(
                str(encoder_folder(folder)) if local else model_id, trust_remote_code=False, **options
            )
    except Exception as error:  # transformers raises a dozen kinds here; a user needs one line
        way_out = "check the folder and the options" if local else "check the name and the network"
        needed = _NEEDS.search(str(error))
        if needed is not None:
            way_out = f"pip install {needed[1].lower()}"
        raise PruneSearchError(
            f"the {what} of '{model_id}' could not be loaded ({one_line(error)}): {way_out}"
        ) from error


def load_model(
    auto: Any,
    model_id: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | dict[str, str],
) -> tuple[nn.Module, list[str]]:
    """Load a model in eval mode; return it with the names of weights that the checkpoint lacks.

    `attention` may name one for each part of a model, "" being the model itself.

    Raises:
        UnsupportedModelError: for a family that cannot be reduced, before any data is prepared.
        PruneSearchError: if weights other than a head's are missing, which transformers then draws at random.
    """
    options = {"attn_implementation": attention, "dtype": dtype, "output_loading_info": True}
    model, info = load(auto, model_id, "model", **options)
    find_reduced(model)
    missing = check_weights(model, info, model_id)
    model.requires_grad_(False)
    return model.eval().to(device), missing


def check_weights(model: Any, info: dict[str, Any], model_id: str) -> list[str]:
    """The names of a head's weights that a checkpoint lacks.

    Args:
        model: as transformers loaded it.
        info: what transformers says of the loading.
        model_id: of the checkpoint.

    Raises:
        PruneSearchError: if it lacks others, naming some.
    """
    prefix = getattr(model, "base_model_prefix", "")
    headed = bool(prefix) and getattr(model, prefix, None) not in (None, model)
    missing = [name for name in sorted(info["missing_keys"]) if not any(part in name for part in _UNUSED)]
    body = [name for name in missing if not headed or name.startswith(f"{prefix}.")]
    if not body:
        return missing
    instead = sorted(info.get("unexpected_keys") or [])
    has = f"; it has {instead[0]} and {len(instead) - 1} more that the model has not" if instead else ""
    raise PruneSearchError(
        f"the checkpoint must hold the weights that the model was trained to, but '{model_id}' lacks {len(body)} "
        f"of them, {body[0]} first{has}: save the model itself (no wrapper of it, as DataParallel is), and load that"
    )


def load_tokenizer(model_id: str, **options: Any) -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        PruneSearchError: if it knows no words: transformers makes an empty one where a folder has no files of it.
    """
    tokenizer = load(AutoTokenizer, model_id, "tokenizer", **options)
    words = {*tokenizer.get_vocab()} - {*tokenizer.all_special_tokens} - {*tokenizer.get_added_vocab()}
    if not words and type(tokenizer).__name__ not in _WITHOUT_WORDS:
        raise PruneSearchError(
            f"a tokenizer must know words, but that of '{model_id}' has its special tokens alone (a folder without "
            "tokenizer files): put tokenizer.json beside the model, from the checkpoint that it was trained from"
        )
    return tokenizer


def check_known(tokenizer: Any, rows: Iterable[list[int]], name: str) -> None:
    """Refuse texts that a tokenizer does not know: it is another model's, or the column is another one.

    Args:
        tokenizer: of the model.
        rows: token ids.
        name: of the data, for the message.

    Raises:
        PruneSearchError: if more than half of all tokens are the unknown one.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    special = {*tokenizer.all_special_ids} - {unknown}
    counted = Counter(token for row in rows for token in row if token not in special)
    if counted.total() and counted[unknown] > _UNKNOWN * counted.total():
        share = counted[unknown] / counted.total()
        raise PruneSearchError(
            f"a model must know the words it reads, but {share:.0%} of the tokens of '{name}' are unknown to its "
            "tokenizer: check the text column, and that the tokenizer is the model's own"
        )


def given_model(model: nn.Module, processor: Any = None) -> tuple[PreTrainedModel, str]:
    """A model made by the caller, and the folder or Hub id that its tokenizer or processor is read from.

    Args:
        model: a supported transformers model.
        processor: its tokenizer, image processor or feature extractor; None: that of the checkpoint it came from.

    Raises:
        PruneSearchError: if it is no transformers model, or nobody knows its processor.
        UnsupportedModelError: if its family cannot be reduced.
    """
    if not isinstance(model, PreTrainedModel):
        raise PruneSearchError(
            f"rows are prepared for transformers models alone, but got {type(model).__name__}: give batches, as "
            "(inputs, labels) or a DataLoader"
        )
    find_reduced(model)
    if processor is not None:
        folder = tempfile.mkdtemp(prefix="prunesearch-processor-")
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
        processor.save_pretrained(folder)
        model.config.save_pretrained(folder)  # Auto classes look there for the kind of processor
        return model, folder
    if not model.name_or_path:
        raise PruneSearchError(
            f"this {type(model).__name__} came from no checkpoint, so nobody knows its tokenizer or processor: give "
            "processor=..., or batches, as (inputs, labels) or a DataLoader"
        )
    return model, model.name_or_path


def accepted(model: nn.Module, inputs: dict[str, Tensor]) -> Inputs:
    """Keep the inputs that the model's forward takes."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in known}


def to_device(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Move inputs to the device, floating ones in the model's dtype."""
    return {
        name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for name, value in inputs.items()
    }


def count_tokens(model: nn.Module, inputs: Inputs) -> int:
    """Return the sequence length that the first encoder block sees, special tokens included.

    Raises:
        PruneSearchError: if the model does not run on its first row as it is.
    """
    seen: list[int] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        seen.append(hidden.shape[1])

    hook = find_reduced(model).blocks[0].register_forward_pre_hook(look, with_kwargs=True)
    try:
        with torch.inference_mode():
            model(**{name: value[:1] for name, value in inputs.items()})
    except (PruneSearchError, torch.OutOfMemoryError):
        raise
    except (ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise PruneSearchError(
            f"a model must run on what its own processor or tokenizer makes of a row, but this "
            f"{type(model).__name__} stops ({type(error).__name__}: {said}): put the files of one checkpoint together"
        ) from error
    finally:
        hook.remove()
    return seen[0]


def missing_note(missing: list[str]) -> list[str]:
    """Say that a head is new: a checkpoint lacks its weights, which transformers then draws at random."""
    if not missing:
        return []
    return [
        f"the checkpoint lacks {len(missing)} weights, drawn at random: {', '.join(missing[:4])}: this head is new, "
        "and its quality says nothing before it is trained"
    ]
