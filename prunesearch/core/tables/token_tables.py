"""What is done to tokens: by what they are scored, which are kept, what becomes of the others."""

from __future__ import annotations

from prunesearch.core.tables.names import Row, make_table
from prunesearch.core.tables.params import Param
from prunesearch.core.tables.row_kinds import LearnedRow, MergeRow, ScorerRow, SelectionRow

_SCORERS = "prunesearch.pruning.scorers"
_MERGES = "prunesearch.pruning.merges"
_SELECTIONS = "prunesearch.pruning.selections"

_BY_PROBE, _LEARNING = f"{_SCORERS}.by_probe:by_probe", "prunesearch.training.scorers"


def _learned(name: str, help: str, *, control: bool = False) -> LearnedRow:
    """A row of `LEARNED`: one probe for all, whose weights the file of that name trains."""
    return LearnedRow(_BY_PROBE, help, order_free=True, learning=f"{_LEARNING}.{name}:{name}", control=control)


# scorers whose weights are learned; stages take them as they take rules, where the model has the weights
LEARNED = make_table(
    "learned scorer",
    {
        "saliency": _learned("saliency", "predicts gradient x activation of the divergence"),
        "leave_one_out": _learned("leave_one_out", "ranks groups of tokens by what outputs lose without them"),
        "gate": _learned("gate", "keep decisions trained through masked tokens (DynamicViT)"),
        "policy": _learned("policy", "draws what is kept, and learns by reward (REINFORCE; TR-BERT)"),
        "random_targets": _learned("random_targets", "the same weights trained on noise: the control", control=True),
    },
    LearnedRow,
)

SCORERS = make_table(
    "scorer",
    {
        "cls_attention": ScorerRow(
            f"{_SCORERS}.by_attention:cls_attention", "attention of the CLS query (EViT)", order_free=True, attends=True
        ),
        "attention_received": ScorerRow(
            f"{_SCORERS}.by_attention:attention_received",
            "mean attention received (PoWER-BERT)",
            order_free=True,
            attends=True,
        ),
        "attention_entropy": ScorerRow(
            f"{_SCORERS}.by_attention:attention_entropy",
            "how focused a token's own attention is",
            order_free=True,
            attends=True,
        ),
        "text_attention": ScorerRow(
            f"{_SCORERS}.by_text:text_attention",
            "attention of the last token of the prompt (FastV, PyramidDrop)",
            attends=True,
        ),
        "text_attention_mean": ScorerRow(
            f"{_SCORERS}.by_text:text_attention_mean",
            "mean attention of the tokens that are never reduced: the text (SparseVLM)",
            order_free=True,
            attends=True,
        ),
        "tower_cls_attention": ScorerRow(
            f"{_SCORERS}.by_attention:tower_cls_attention",
            "attention of the CLS query of a vision-language model's tower (VisionZip)",
            order_free=True,
            tower=True,
        ),
        "value_norm": ScorerRow(f"{_SCORERS}.by_values:value_norm", "length of the value vector", order_free=True),
        "cls_attention_value": ScorerRow(
            f"{_SCORERS}.by_values:cls_attention_value", "CLS attention x value (ATS)", order_free=True, attends=True
        ),
        "key_norm": ScorerRow(
            f"{_SCORERS}.by_keys:key_norm", "sum of the key's absolute values (DART's pivots)", order_free=True
        ),
        "key_redundancy": ScorerRow(
            f"{_SCORERS}.by_keys:key_redundancy",
            "1 - energy of similarity to all keys (PiToMe)",
            order_free=True,
            params={"margin": Param(0.9, 0.0, 1.0, "cosine of keys that counts as alike, at the first block")},
        ),
        "position": ScorerRow(f"{_SCORERS}.by_place:position", "fixed length: keep the first n", by_place=True),
        "position_stride": ScorerRow(
            f"{_SCORERS}.by_place:position_stride", "fixed length: keep every k-th", by_place=True
        ),
        "random": ScorerRow(f"{_SCORERS}.by_place:random", "seeded random order, the floor to beat", by_place=True),
    },
    ScorerRow,
    beside=LEARNED,
)

MERGES = make_table(
    "merge",
    {
        "drop": MergeRow(f"{_MERGES}.drop:drop", "tokens that are not kept disappear", loses=True, order_free=True),
        "fuse": MergeRow(
            f"{_MERGES}.fuse:fuse", "they become one weighted token (EViT)", makes_sizes=True, order_free=True
        ),
        "nearest": MergeRow(
            f"{_MERGES}.nearest:nearest",
            "each is averaged into the most similar kept token",
            makes_sizes=True,
            order_free=True,
        ),
        "soft": MergeRow(
            f"{_MERGES}.soft:soft",
            "each is spread over the kept tokens by similarity",
            makes_sizes=True,
            order_free=True,
            params={"temperature": Param(0.1, 1e-3, 10.0, "of the softmax over cosines of keys", log=True)},
        ),
        "contextual": MergeRow(
            f"{_MERGES}.contextual:contextual",
            "the best stay, the others are averaged into a few that count as one each (VisionZip)",
            params={"targets": Param(0.15625, 0.0, 1.0, "of the tokens that leave, the part that are such means")},
        ),
        "bipartite": MergeRow(
            f"{_MERGES}.bipartite:bipartite",
            "bipartite soft matching (ToMe); ignores the scorer",
            uses_scores=False,
            makes_sizes=True,
        ),
    },
    MergeRow,
)

SELECTIONS = make_table(
    "selection",
    {
        "top_k": SelectionRow(
            f"{_SELECTIONS}.top_k:top_k", "the best-scored ones, as many as the stage says", reads_scores=True
        ),
        "diversity": SelectionRow(
            f"{_SELECTIONS}.greedy:diversity",
            "the least alike, one by one, whatever the scorer says (DivPrune)",
            ranks=False,
        ),
        "dpp": SelectionRow(f"{_SELECTIONS}.greedy:dpp", "well scored and unlike each other, one by one (CDPruner)"),
        "duplication": SelectionRow(
            f"{_SELECTIONS}.pivots:duplication",
            "a few best-scored ones and the text's, and what is least like each of them (DART)",
            params={
                "pivots": Param(4.0, 1.0, 32.0, "tokens by score that others are compared with"),
                "text_pivots": Param(4.0, 0.0, 32.0, "the same of the tokens that are never reduced"),
            },
        ),
        "frame_change": SelectionRow(
            f"{_SELECTIONS}.frame_change:frame_change",
            "in videos, what changes from the frame before, whatever the scorer says (EVS)",
            ranks=False,
            frames=True,
        ),
        "inverse_cdf": SelectionRow(
            f"{_SELECTIONS}.row_counts:inverse_cdf",
            "drawn at even steps of the sum of scores, each once: fewer where few hold most (ATS)",
            static=False,
            reads_scores=True,
            order_free=False,
        ),
    },
    SelectionRow,
)

# amounts that leave every row a count of its own, by `core.plans.amount.Amount.counts`
ROW_COUNTS = make_table(
    "amount by row",
    {
        "threshold": Row(f"{_SELECTIONS}.row_counts:at_least", "tokens whose score is at least a number (LTP)"),
        "cumulative": Row(f"{_SELECTIONS}.row_counts:holding", "the best-scored ones that hold a share of all scores"),
    },
    Row,
)
