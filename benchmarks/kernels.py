"""Operations that one stage takes: each is a launch on a GPU, 5 to 10 microseconds in eager and 2 to 3 in a graph.

    python benchmarks/kernels.py                  # counts, beside ToMe and EViT as their papers say
    python benchmarks/kernels.py --tome FOLDER    # beside ToMe's own functions, from a checkout of its repository
    options: --json

Counted are the aten operations that PyTorch dispatches and that are no views: those of a two-block encoder as large as
ViT-S (384 wide, 6 heads, 197 tokens, float32, batch 1) with one stage at block 0, less those of the same
without it; what the stage asks of the next block, `+ log(size)`, is among them. Counts are deterministic. The first
forward is not counted: it makes the constants that are kept. `padded` is a BERT of that size with 47 of its 197 tokens
padding.
"""

from __future__ import annotations

import argparse
import json
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from papers import EViT, ToMe, Tool, patched
from rich.console import Console
from rich.table import Table

import prunesearch as ps
from prunesearch.cost.counting.operations import counted

TOKENS, REAL, R = 197, 150, 13
KEEP = (TOKENS - 1 - R) / (TOKENS - 1)
# most that a stage may take, without padding and with it; the test of the counts holds both
MOST = {
    "position_stride+drop": (4, 8),
    "value_norm+drop": (9, 13),
    "cls_attention+drop": (10, 19),
    "cls_attention+fuse": (16, 31),
    "cls_attention+nearest": (18, 36),
    "cls_attention+soft": (18, 36),
    "cls_attention+bipartite": (20, 40),
}
_SIZE = {
    "hidden_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "attn_implementation": "sdpa",
}


def vit(layers: int = 2) -> Any:
    torch.manual_seed(0)
    return hf.ViTModel(hf.ViTConfig(**{**_SIZE, "num_hidden_layers": layers}), add_pooling_layer=False).eval()


def bert() -> Any:
    torch.manual_seed(0)
    return hf.BertModel(hf.BertConfig(**_SIZE, vocab_size=100), add_pooling_layer=False).eval()


def given(padded: bool) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model and its inputs, batch 1."""
    if not padded:
        return vit(), {"pixel_values": torch.randn(1, 3, 224, 224)}
    mask = (torch.arange(TOKENS) < REAL).long()[None]
    return bert(), {"input_ids": torch.ones(1, TOKENS, dtype=torch.long), "attention_mask": mask}


def ours(padded: bool = False) -> dict[str, Counter[str]]:
    """What one stage of each method adds."""
    model, inputs = given(padded)
    found = {}
    with ps.apply_(model, ps.Schedule()) as handle:
        plain = counted(lambda: model(**inputs))
        for method in MOST:
            handle.set(ps.Schedule([ps.Stage(0, KEEP, *method.split("+"))]))
            found[method] = counted(lambda: model(**inputs))
            found[method].subtract(plain)
    return found


def theirs(tool: Tool) -> Counter[str]:
    """What one stage of another tool adds."""
    model, inputs = given(padded=False)
    plain = counted(lambda: model(**inputs))
    with patched(model, tool):
        found = counted(lambda: model(**inputs))
    found.subtract(plain)
    return found


def tome_functions(folder: Path | None) -> Any:
    """ToMe's own `bipartite_soft_matching` and `merge_wavg`, from a checkout; None for the formula."""
    if folder is None:
        return None
    path = folder / "tome" / "merge.py"
    if not path.is_file():
        raise ps.PruneSearchError(f"--tome must be a checkout of ToMe's repository, but {path} is not there")
    found = runpy.run_path(str(path))
    return found["bipartite_soft_matching"], found["merge_wavg"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tome", type=Path, help="a checkout of ToMe's repository")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    plain, padded = ours(), ours(padded=True)
    tome = theirs(ToMe([R, 0], functions=tome_functions(args.tome)))
    evit = {f"cls_attention+{merge}": theirs(EViT(KEEP, [0], fuse=merge == "fuse")) for merge in ("drop", "fuse")}
    other = {"cls_attention+bipartite": ("ToMe", tome), **{name: ("EViT", found) for name, found in evit.items()}}
    rows = [
        {
            "method": method,
            "operations": plain[method].total(),
            "most": most,
            "padded": padded[method].total(),
            "padded_most": padded_most,
            "beside": other[method][0] if method in other else None,
            "theirs": other[method][1].total() if method in other else None,
        }
        for method, (most, padded_most) in MOST.items()
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("stage", title="operations of one stage", title_justify="left")
    for column in ("operations", "at most", "padded", "at most", "other tool"):
        table.add_column(column, justify="right")
    for row in rows:
        beside = "" if row["beside"] is None else f"{row['beside']} {row['theirs']}"
        numbers = (row[key] for key in ("operations", "most", "padded", "padded_most"))
        table.add_row(str(row["method"]), *map(str, numbers), beside)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
