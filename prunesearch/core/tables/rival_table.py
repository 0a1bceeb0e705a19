"""The methods that `prunesearch compare` puts side by side at equal latency: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prunesearch.core.tables.names import make_table
from prunesearch.core.tables.row_kinds import RivalRow, SurveyCells

_BY_NUMBER, _FOUND = "prunesearch.search.rivals.by_number", "prunesearch.search.rivals.searched"
_ROWS = "prunesearch.search.rivals.row_by_row"
_SCORED = "prunesearch.search.rivals.counted_rows"
_ONE, _THREE = {"kind": "multi-stage", "sites": [0.25]}, {"kind": "multi-stage", "sites": [0.25, 0.5, 0.75]}
_EVERY, _R = {"kind": "multi-stage", "sites": [1.0]}, {"kind": "constant-r"}
_LOW, _FIXED = SurveyCells("low", "moderate", "low"), SurveyCells("low", "low", "low")
_COSTLY = SurveyCells("high", "high", "high")
_BETWEEN = SurveyCells("moderate", "high", "moderate")


def _once(help: str, scorer: str, survey: SurveyCells | None = None) -> RivalRow:
    """A row of stages at one block: all such differ in their scorer alone."""
    target = f"{_BY_NUMBER}:by_number"
    return RivalRow(target, help, scorer=scorer, merge="drop", shape=_ONE, survey=survey)


def _shaped(help: str, shape: Mapping[str, object], merge: str, survey: SurveyCells | None = None) -> RivalRow:
    """A row of stages by CLS attention: such differ in where stages are, and in what becomes of the other tokens."""
    target = f"{_BY_NUMBER}:by_number"
    return RivalRow(target, help, scorer="cls_attention", merge=merge, shape=shape, survey=survey)


def _counted(help: str, scorer: str, amount: str, selection: str = "top_k") -> RivalRow:
    """A row of a stage that leaves every input a count of its own, at one block."""
    stage = _once(help, scorer)
    return replace(stage, target=f"{_SCORED}:by_score", amount=amount, selection=selection, by_row=True)


RIVALS = make_table(
    "method",
    {
        "attention-based": _once("tokens that CLS attends to most, at a quarter of the depth", "cls_attention", _LOW),
        "entropy-based": _once("tokens whose own attention is most focused, there", "attention_entropy", _FIXED),
        "fixed-length": _once("the first tokens, whatever they are, there", "position", _FIXED),
        "fixed-positions": _once("every k-th token, there", "position_stride", _FIXED),
        "random": _once("tokens drawn by lot, there: the floor", "random"),
        "gate": _once("tokens that a trained gate keeps (DynamicViT), there", "gate", _BETWEEN),
        "saliency": _once("tokens that a trained predictor of saliency keeps, there", "saliency", _COSTLY),
        "policy": _once("tokens that a policy trained by reward keeps (TR-BERT), there", "policy", _COSTLY),
        "progressive": _shaped("the same share goes at every block, by CLS attention", _EVERY, "drop", _BETWEEN),
        "multi-stage": _shaped("the same share goes at three blocks, fused into one token (EViT)", _THREE, "fuse"),
        "merging": _shaped("as many tokens merge at every block (ToMe's r)", _R, "bipartite"),
        "score-threshold": _counted(
            "tokens that score enough, of each input as many as do (LTP)", "attention_received", "t"
        ),
        "score-share": _counted("as few tokens as hold a share of an input's scores", "cls_attention", "p"),
        "inverse-cdf": _counted("tokens drawn by an input's scores (ATS)", "cls_attention_value", "", "inverse_cdf"),
        "cascade": RivalRow(f"{_ROWS}:cascade", "a fast plan of the search, then a slower one if unsure", by_row=True),
        "router": RivalRow(f"{_ROWS}:router", "the first block says which plan of the search a row runs", by_row=True),
        "searched": RivalRow(f"{_FOUND}:stages_alone", "the search's plan, token stages alone", ours=True),
        "searched-all": RivalRow(f"{_FOUND}:all_freedom", "the search's plan, int8 and all that it may do", ours=True),
    },
    RivalRow,
    "rivals",
)
