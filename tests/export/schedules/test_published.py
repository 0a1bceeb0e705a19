"""Published schedules and the examples of the tools' own documentation, against their tokens per block and GMACs.

GMACs are the authors' (shared facts of the field), tokens per block are the papers' or worked out by hand.
"""

from __future__ import annotations

import pytest

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.export import FORMATS, ModelShape, export_schedule, import_schedule
from prunesearch.export.schedules.tome import spread

DEIT_S = ModelShape(12, 197, 1, in_order=False)
MRPC = ModelShape(12, 128, 1)

# two of the entries of OpenGVLab/DiffRate's compression_rate.json (facts, as published)
DIFFRATE = """{"ViT-S-DeiT": {
 "2.3": {"prune_kept_num": "[197,192,168,143,121,105,92,74,62,45,33,3]",
         "merge_kept_num": "[197,180,156,127,109,98,80,66,52,37,31,3]"},
 "2.9": {"prune_kept_num": "[197,196,190,168,150,139,129,117,99,78,58,3]",
         "merge_kept_num": "[197,194,176,156,141,133,121,107,88,64,56,3]"}}}"""
DIFFRATE_29 = [197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3]

PUBLISHED = {
    "diffrate": (DIFFRATE, "ViT-S-DeiT/2.9", DIFFRATE_29, 2.905),
    # ceil(.7 x 196) = 138 and the fused one; ceil(.7 x 139) = 98; ceil(.7 x 99) = 70
    "evit": (
        '--base_keep_rate 0.7 --drop_loc "(3, 6, 9)" --fuse_token',
        None,
        [197] * 3 + [140] * 3 + [100] * 3 + [72] * 3,
        3.0,
    ),
    # int(196 x .7) = 137, int(196 x .49) = 96, int(196 x .343) = 67
    "dynamicvit": (
        "pruning_loc=[3,6,9]\ntoken_ratio=[.7,.49,.343]",
        None,
        [197] * 3 + [138] * 3 + [97] * 3 + [68] * 3,
        2.9,
    ),
    "tome": ("model.r = 13", None, [197 - 13 * n for n in range(1, 13)], 2.70),
}


def gmacs(counts: list[int], site_before: bool = False) -> float:
    """Of DeiT-S: a block has 4NC^2 + 2N^2C before the site and 8N'C^2 after it; patches and head besides."""
    c, total, n = 384, 196 * 768 * 384 + 384 * 1000, 197
    for after in counts:
        entering = after if site_before else n
        total += 4 * entering * c * c + 2 * entering * entering * c + 8 * after * c * c
        n = after
    return total / 1e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schedules_have_their_tokens_and_macs(name: str) -> None:
    text, entry, counts, published = PUBLISHED[name]
    schedule = import_schedule(text, FORMATS[name], DEIT_S, entry).schedule
    assert schedule.counts(12, 197, 1) == counts
    assert gmacs(counts, site_before=name == "dynamicvit") == pytest.approx(published, abs=0.06)


@pytest.mark.parametrize("name", ["evit", "tome"])
def test_published_schedules_go_out_again_unchanged(name: str) -> None:
    text = PUBLISHED[name][0]
    schedule = import_schedule(text, FORMATS[name], DEIT_S).schedule
    exported = export_schedule(schedule, FORMATS[name], DEIT_S)
    assert exported.changes == ()
    last = exported.text.splitlines()[-1]
    assert last == (text if name == "evit" else f"model.r = {[13] * 12}")
    assert import_schedule(exported.text, FORMATS[name], DEIT_S).schedule == schedule


def test_diffrate_prunes_or_merges_by_what_takes_more() -> None:
    read = import_schedule(DIFFRATE, FORMATS["diffrate"], DEIT_S, "ViT-S-DeiT/2.9")
    # block 1: 1 pruned, 2 merged; block 2: 4 pruned, 14 merged; block 11: 53 pruned, none merged
    assert [s.merge for s in read.schedule][:2] == ["nearest", "nearest"]
    assert read.schedule.stages[-1].merge == "drop"
    assert read.notes[0].startswith("10 blocks prune some tokens and merge others")
    with pytest.raises(PruneSearchError, match=r"2 schedules: add --entry, one of ViT-S-DeiT/2.3, ViT-S-DeiT/2.9"):
        import_schedule(DIFFRATE, FORMATS["diffrate"], DEIT_S)
    with pytest.raises(PruneSearchError, match=r"unknown entry .*did you mean 'ViT-S-DeiT/2"):
        import_schedule(DIFFRATE, FORMATS["diffrate"], DEIT_S, "ViT-S-DeiT/2.4")
    with pytest.raises(CorruptFileError, match="one count for each of 24 blocks, but has 12"):
        import_schedule(DIFFRATE, FORMATS["diffrate"], ModelShape(24, 197, 1), "ViT-S-DeiT/2.9")


def test_diffrate_counts_that_rise_are_cumulative_minima() -> None:
    text = '{"m": {"1.0": {"prune_kept_num": [16, 9, 12, 12], "merge_kept_num": "[14, 9, 12, 5]"}}}'
    schedule = import_schedule(text, FORMATS["diffrate"], ModelShape(4, 17, 1)).schedule
    assert schedule.counts(4, 17, 1) == [14, 9, 9, 5]
    # 1 pruned, 2 merged; 5 pruned; nothing; 4 merged
    assert [(s.layer, s.merge) for s in schedule] == [(0, "nearest"), (1, "drop"), (3, "nearest")]


def test_the_names_diffrate_knows() -> None:
    shape = ModelShape(
        12, 197, 1, {"model": {"id": "facebook/deit-small-patch16-224"}, "costs": {"macs": {"predicted": 2.905}}}
    )
    text = export_schedule(Schedule([Stage(3, 0.7)]), FORMATS["diffrate"], shape).text
    assert text.startswith('{\n    "ViT-S-DeiT": {\n        "2.9": {')


def test_tome_inflection() -> None:
    """ToMe's decreasing schedule of 12 blocks: from 2r to 0 in equal steps (26 - 26/11 i), rounded down."""
    assert spread(13, -1.0, 12) == [26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0]
    assert spread(13, 0, 12) == [13] * 12
    assert sum(spread(10, 1.0, 11)) == 110
    read = import_schedule("r = (13, -1.0)", FORMATS["tome"], DEIT_S)
    assert read.schedule.counts(12, 197, 1)[:3] == [171, 148, 127]


def test_tome_merges_at_most_half_and_catches_up() -> None:
    # 196 others: 98 may go at once; 49 of the 98 that are left; 20 are to stay
    sharp = Schedule([Stage(3, 20 / 196, merge="bipartite")])
    with pytest.raises(PruneSearchError, match=r"at most half .* block 3 leaves 99 tokens, not 21 \(3 blocks differ\)"):
        export_schedule(sharp, FORMATS["tome"], DEIT_S)
    text = export_schedule(sharp, FORMATS["tome"], DEIT_S, lossy=True).text
    assert "model.r = [0, 0, 0, 98, 49, 24, 5, 0, 0, 0, 0, 0]" in text
    assert import_schedule("model.r = 500", FORMATS["tome"], DEIT_S).schedule.counts(12, 197, 1)[:3] == [99, 50, 26]


def test_tome_lists() -> None:
    assert import_schedule("[5, 6]", FORMATS["tome"], DEIT_S).schedule.counts(12, 197, 1) == [192] + [186] * 11
    with pytest.raises(CorruptFileError, match="13 entries for a model of 12 blocks"):
        import_schedule(f"r = {[1] * 13}", FORMATS["tome"], DEIT_S)


def test_power_bert_readme_example() -> None:
    counts = [128] * 4 + [64] * 4 + [32] * 4
    command = (
        'python main.py --TASK "mrpc" \\\n --EVAL_ONLY \\\n --RETENTION_CONFIG 128,128,128,128,64,64,64,64,32,32,32,32'
    )
    for text in (command, ",".join(map(str, counts))):
        schedule = import_schedule(text, FORMATS["power-bert"], MRPC).schedule
        assert schedule.counts(12, 128, 1) == counts
        assert [(s.layer, s.method) for s in schedule] == [
            (4, "attention_received+drop"),
            (8, "attention_received+drop"),
        ]
    exported = export_schedule(schedule, FORMATS["power-bert"], MRPC)
    assert exported.text.endswith(f'--RETENTION_CONFIG "{",".join(map(str, counts))}"\n')
    with pytest.raises(PruneSearchError, match="must not rise"):
        import_schedule("64,128" + ",32" * 10, FORMATS["power-bert"], MRPC)


def test_length_adaptive_prints_its_genes_padded() -> None:
    lengths = (308, 247, 200, 190, 180, 170, 160, 97, 50, 40, 30, 9)
    text = f"({', '.join(f'{n:3d}' for n in lengths)})"  # as Length-Adaptive Transformer's log has them
    schedule = import_schedule(text, FORMATS["length-adaptive"], ModelShape(12, 384, 1)).schedule
    assert schedule.counts(12, 384, 1) == list(lengths)
    exported = export_schedule(schedule, FORMATS["length-adaptive"], ModelShape(12, 384, 1))
    assert exported.text.endswith(f'--length_config "{lengths}"\n')


def test_a_separator_is_protected_here_alone() -> None:
    schedule = Schedule([Stage(3, 0.5, "attention_received")])
    with pytest.raises(PruneSearchError, match="PoWER-BERT protects CLS alone, prunesearch 2 tokens of this model"):
        export_schedule(schedule, FORMATS["power-bert"], ModelShape(12, 128, 2))


def test_evit_defaults_are_said() -> None:
    read = import_schedule("main.py --fuse_token", FORMATS["evit"], DEIT_S)
    assert read.schedule.counts(12, 197, 1) == PUBLISHED["evit"][2]
    assert [n.split(" is ")[0] for n in read.notes] == ["--base_keep_rate", "--drop_loc"]
    dropped = import_schedule("--drop_loc=(3,6,9)", FORMATS["evit"], DEIT_S).schedule
    assert dropped.counts(12, 197, 1)[3::3] == [139, 98, 69]  # 138, ceil(96.6), ceil(67.9), without a fused one
    with pytest.raises(CorruptFileError, match="rising block numbers below 12"):
        import_schedule('--drop_loc "(3, 12)"', FORMATS["evit"], DEIT_S)


def test_evit_has_one_rate() -> None:
    schedule = Schedule([Stage(3, 0.8, merge="fuse"), Stage(6, 0.3, merge="fuse")])
    with pytest.raises(PruneSearchError, match="one keep rate for all sites"):
        export_schedule(schedule, FORMATS["evit"], DEIT_S)


def test_pruna_takes_one_number() -> None:
    fmt = FORMATS["pruna"]
    tome = import_schedule("13", FORMATS["tome"], DEIT_S).schedule
    exported = export_schedule(tome, fmt, DEIT_S)
    assert '"token_merging_r": 13' in exported.text
    saved = '{"batch_size": 1, "token_merging": true, "token_merging_r": 13, "torch_compile": true}'
    nested = '{"token_merging": {"r": 13, "prop_attn": false}}'
    assert import_schedule(saved, fmt, DEIT_S).schedule == tome
    read = import_schedule(nested, fmt, DEIT_S)
    assert read.schedule == tome
    assert "prop_attn is off" in read.notes[0]
    with pytest.raises(CorruptFileError, match='must have "token_merging": true, but got False'):
        import_schedule('{"token_merging": false}', fmt, DEIT_S)
    with pytest.raises(CorruptFileError, match=r"token_merging_r <= 128"):
        import_schedule('{"token_merging": true, "token_merging_r": 129}', fmt, DEIT_S)


LIGHTCOMPRESS = {
    # 196 image tokens: round(196 x .222) = 44; int(196 x .5), .25, .125 = 98, 49, 24
    "method: FastV\n        pruning_loc: 3\n        rate: 0.778": [197] * 3 + [45] * 9,
    "method: PyramidDrop\n        layer_list: [2, 5, 8]\n        image_token_ratio_list: [0.5, 0.25, 0.125]": [197] * 2
    + [99] * 3
    + [50] * 3
    + [25] * 4,
    "method: ToMe\n        r: 16": [181, 165, 149, 133, 117, 101, 85, 69, 53, 37, 21, 11],
    "method: ToMe\n        r: [16, -4]": [181, 169, 161, 157] + [157] * 8,
}


@pytest.mark.parametrize("special", LIGHTCOMPRESS)
def test_lightcompress_documented_configurations(special: str) -> None:
    tower = f"vision:\n      method: TokenReduction\n      special:\n        {special}"
    plain = f"method: TokenReduction\n    special:\n        {special}"
    for sparse in (tower, plain):
        text = f"base:\n    seed: &seed 42\nmodel:\n    type: Llava\nsparse:\n    {sparse}\n"
        schedule = import_schedule(text, FORMATS["lightcompress"], DEIT_S).schedule
        assert schedule.counts(12, 197, 1) == LIGHTCOMPRESS[special]


def test_lightcompress_chooses_its_method() -> None:
    fmt = FORMATS["lightcompress"]
    texts = {
        "ToMe": Schedule([Stage(1, 0.9, merge="bipartite"), Stage(4, 0.8, merge="bipartite")]),
        "FastV": Schedule([Stage(3, 0.4)]),
        "PyramidDrop": Schedule([Stage(0, 0.4)]),  # FastV scores in the block before
    }
    for method, schedule in texts.items():
        assert f"method: {method}" in export_schedule(schedule, fmt, DEIT_S, lossy=True).text
    assert export_schedule(texts["ToMe"], fmt, DEIT_S).changes == ()
    with pytest.raises(CorruptFileError, match=r"unknown token reduction 'fastv': did you mean 'FastV'"):
        import_schedule("sparse: {method: TokenReduction, special: {method: fastv}}", fmt, DEIT_S)


# what docs/exchange.md promises to be exact; keeps are counts of 196 that EViT's and Pruna's one number fits
EXACT = {
    "tome": Schedule([Stage(2, 0.8, "value_norm", "bipartite"), Stage(9, 0.45, merge="bipartite")]),
    "diffrate": Schedule([Stage(1, 0.9, merge="nearest"), Stage(4, 0.5), Stage(7, 0.2, merge="nearest")]),
    "evit": Schedule([Stage(2, 138 / 196), Stage(5, 97 / 196)]),
    "power-bert": Schedule([Stage(0, 0.9, "attention_received"), Stage(4, 0.31, "attention_received")]),
    "length-adaptive": Schedule([Stage(0, 0.9, "attention_received"), Stage(4, 0.31, "attention_received")]),
    "pruna": Schedule(Stage(n, (196 - 7 * (n + 1)) / 196, merge="bipartite") for n in range(12)),
    "lightcompress": Schedule([Stage(3, 0.7, merge="bipartite"), Stage(4, 0.36, merge="bipartite")]),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_is_promised_exact_is_exact(name: str) -> None:
    schedule = EXACT[name]
    exported = export_schedule(schedule, FORMATS[name], DEIT_S)
    read = import_schedule(exported.text, FORMATS[name], DEIT_S)
    assert (exported.changes, read.notes) == ((), ())
    assert read.schedule.counts(12, 197, 1) == schedule.counts(12, 197, 1)
    assert [(s.layer, s.method) for s in read.schedule] == [(s.layer, s.method) for s in schedule]
