"""DiffRate (Chen et al. 2023): per block, the tokens left after pruning and after merging, by model and GMACs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prunesearch.core.errors import CorruptFileError, PruneSearchError, did_you_mean
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.schedules.format import Format, ModelShape, Read, from_counts, leaving, needed, reducing
from prunesearch.export.schedules.parsing import integers, json_object, parse_literal, section

_PRUNE, _MERGE = "prune_kept_num", "merge_kept_num"
# the names that DiffRate's main.py gives to the models it knows
_MODELS = {"deit-tiny": "ViT-T-DeiT", "deit-small": "ViT-S-DeiT", "deit-base": "ViT-B-DeiT"}


def _write(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    merged, pruned = leaving(schedule, shape), leaving(schedule, shape)
    for stage, before, _ in reducing(schedule, shape):
        if stage.merge != "drop":
            pruned[stage.layer] = before
    entry: dict[str, Any] = {_PRUNE: str(pruned), _MERGE: str(merged)}
    if remarks:
        entry["remarks"] = list(remarks)
    model, target = _labels(shape.provenance)
    return json.dumps({model: {target: entry}}, indent=4, ensure_ascii=False) + "\n"


def _labels(provenance: Mapping[str, Any]) -> tuple[str, str]:
    """The keys of an entry: DiffRate's name of the model where it has one, and GMACs as its `--target_flops`."""
    model = str(provenance.get("model", {}).get("id", "model"))
    gmacs = provenance.get("costs", {}).get("macs", {}).get("predicted")
    known = [name for part, name in _MODELS.items() if part in model and "distilled" not in model]
    return known[0] if known else model, "unknown" if gmacs is None else str(round(float(gmacs), 1))


def _read(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read one entry of a compression_rate.json; in each block, the merge that takes more of the tokens stands."""
    found = _entry(json_object(text), entry)
    shape = needed(shape)
    pruned, merged = (_counts(found, key, shape.depth) for key in (_PRUNE, _MERGE))
    counts: list[int] = []
    merges: dict[int, str] = {}
    mixed, current = [], shape.tokens
    for layer, (to_prune, to_merge) in enumerate(zip(pruned, merged, strict=True)):
        middle = min(current, to_prune)
        after = min(middle, to_merge)
        merges[layer] = "drop" if current - middle > middle - after else "nearest"
        if after < middle < current:
            mixed.append(layer)
        counts.append(after)
        current = after
    notes = f"{len(mixed)} blocks prune some tokens and merge others there; here each does what takes more of them"
    schedule = from_counts(counts, shape, "cls_attention", merges=merges)
    return Read(schedule, (notes,) if mixed else ())


def _entry(data: dict[str, Any], name: str | None) -> Mapping[Any, Any]:
    """The entry called MODEL/TARGET, or the only one."""
    entries = {
        f"{model}/{target}": value
        for model, targets in data.items()
        if isinstance(targets, Mapping)
        for target, value in targets.items()
    }
    if not entries:
        raise CorruptFileError(f'must be {{"MODEL": {{"GMACS": {{"{_PRUNE}": "[...]", "{_MERGE}": "[...]"}}}}}}')
    if name is None and len(entries) > 1:
        raise PruneSearchError(f"holds {len(entries)} schedules: add --entry, one of {', '.join(sorted(entries))}")
    key = next(iter(entries)) if name is None else name
    if key not in entries:
        raise PruneSearchError(f"unknown entry '{key}': {did_you_mean(key, entries)}")
    return section(entries, key, "the file")


def _counts(entry: Mapping[Any, Any], key: str, depth: int) -> list[int]:
    value = entry.get(key)
    counts = integers(parse_literal(value, key) if isinstance(value, str) else value, key)
    if len(counts) != depth:
        raise CorruptFileError(f"{key} must have one count for each of {depth} blocks, but has {len(counts)}")
    return counts


DIFFRATE = Format(
    name="diffrate",
    tool="DiffRate",
    write=_write,
    read=_read,
    limits="it sorts by CLS attention, then drops, or merges into the most similar kept token",
    variants=(
        "DiffRate finds the most similar token by features, not keys, and averages without sizes",
        "the entry's keys must be the model's name in DiffRate's main.py and your --target_flops: rename them",
    ),
    entries=True,
    source="OpenGVLab/DiffRate: compression_rate.json, main.py, DiffRate/patch/deit.py",
)
