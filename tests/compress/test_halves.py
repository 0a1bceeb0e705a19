"""Halves of blocks that are smaller or left out, on every family: against slow ones, and undone to the last bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunesearch as ps
from prunesearch.compress.fits import Fits, fit_changes, load_fits, save_fits
from prunesearch.compress.halves import find_half
from prunesearch.compress.rank import factors
from prunesearch.compress.width import Moments, columns_of, fit_width, kept_groups
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.plan import Change, Plan
from tests.support.heads import answers_of
from tests.support.small_models import CASES, build, inputs_of

INT8 = Change.parse("int8")
STAGES = ps.Schedule([ps.Stage(1, 0.6, "attention_received", "fuse")])
# heads that something else of the block counts too: a bias between places, one for each of them
BOUND = ("beit", "beit-shared", "mpnet", "t5", "deberta", "deberta-unshared")


def given_to(name: str) -> dict[str, Tensor]:
    return inputs_of(name, (9, 12), seed=0)


def core_of(model: Any) -> tuple[list[nn.Module], str]:
    with ps.apply_(model, Plan()) as handle:
        return list(handle.encoder.blocks), handle.encoder.family.layout.core


def fitted(model: Any, x: dict[str, Tensor], changes: list[Change]) -> Fits:
    blocks, core = core_of(model)
    return fit_changes(blocks, core, changes, lambda: model(**x))


def unfitted(model: Any, change: Change, kept: list[int]) -> Fits:
    """The weights of a change that only leaves out: the last layer's own columns."""
    blocks, core = core_of(model)
    half = find_half(blocks[change.block or 0], core, change.half)
    out = blocks[change.block or 0].get_submodule(half.out)
    columns = columns_of(torch.tensor(kept), half.size)
    fit = {"kept": torch.tensor(kept), "weight": out.weight.detach()[:, columns]}
    return {str(change): fit if out.bias is None else {**fit, "bias": out.bias.detach()}}


def zeroed(model: Any, change: Change, kept: list[int]) -> Any:
    """A copy whose last layer of the half has zeros where columns are left out: the slow way to leave them out."""
    judge = copy.deepcopy(model)
    blocks, core = core_of(judge)
    half = find_half(blocks[change.block or 0], core, change.half)
    gone = [g for g in range(half.groups) if g not in kept]
    with torch.no_grad():
        blocks[change.block or 0].get_submodule(half.out).weight[:, columns_of(torch.tensor(gone), half.size)] = 0.0
    return judge


def plain(block: nn.Module, core: str, half: str) -> bool:
    """Whether half a block can be made smaller at all."""
    try:
        find_half(block, core, half)
    except PruneSearchError as refused:
        return "leave it whole" not in str(refused)
    return True


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("timm")])
@pytest.mark.parametrize(("param", "kept"), [("heads", [1]), ("mlp", list(range(0, 64, 2)))])
def test_what_is_left_out_is_not_computed_and_counts_as_nought(name: str, param: str, kept: list[int]) -> None:
    model, x = build(name), given_to(name)
    change = Change("width", 0, {param: len(kept)})
    blocks, core = core_of(model)
    shared = "albert" in name  # one block for all passes: zeros would be in each of them
    if not plain(blocks[0], core, change.half):
        return
    whole, wanted = answers_of(model, x), answers_of(zeroed(model, change, kept), x)
    fits = unfitted(model, change, kept)
    if name in BOUND and param == "heads":
        with pytest.raises(PruneSearchError, match=r"leave (them alone|it whole)"):
            ps.apply_(model, Plan(changes=[change]), fits=fits)
        return
    with ps.apply_(model, Plan(changes=[change]), fits=fits) as handle:
        half = find_half(handle._twins.of([change])[0].block, core, change.half)
        assert (half.groups, half.size) == (len(kept), 16 if param == "heads" else 1)
        assert shared or torch.allclose(answers_of(model, x), wanted, atol=2e-5, rtol=1e-4)
        with handle.under(Plan()):
            assert torch.equal(answers_of(model, x), whole)
    assert torch.equal(answers_of(model, x), whole)


@pytest.mark.parametrize("name", ["albert", "albert-groups"])
def test_a_pass_through_a_shared_block_is_changed_alone(name: str) -> None:
    model, x = build(name), given_to(name)
    fits = unfitted(model, Change("width", 0, {"mlp": 32}), list(range(32)))
    fits |= {"1:width(mlp=32)": fits["0:width(mlp=32)"]} if name == "albert" else {}
    whole = answers_of(model, x)
    with ps.apply_(model, Plan(changes=[Change("width", 0, {"mlp": 32})]), fits=fits) as handle:
        first = answers_of(model, x)
        if name == "albert":
            with handle.under(Plan(changes=[Change("width", 1, {"mlp": 32})])):
                assert not torch.equal(answers_of(model, x), first)
    assert not torch.equal(first, whole)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("timm")])
def test_a_block_without_either_half_hands_on_what_it_is_given(name: str) -> None:
    model, x = build(name), given_to(name)
    whole = answers_of(model, x)
    skips = [Change("skip", 1, {"part": part}) for part in ("attention", "mlp")]
    with ps.apply_(model, Plan(changes=skips)) as handle, handle.observing() as entering:
        without = answers_of(model, x)
        if len(entering) > 2 and name != "yolos":  # which adds places between its blocks
            assert torch.equal(entering[1], entering[2])
        with handle.under(Plan()):
            assert torch.equal(answers_of(model, x), whole)
    assert not torch.equal(without, whole)
    assert torch.equal(answers_of(model, x), whole)


@pytest.mark.parametrize("name", ["mpnet", "deberta", "wavlm", "t5", "beit"])
def test_an_mlp_is_smaller_under_a_stage_of_its_block(name: str) -> None:
    """Where attention is looked at from outside, or is bound to places: the stage sees it all the same."""
    model, x = build(name), given_to(name)
    change, stages = Change("width", 1, {"mlp": 16}), ps.Schedule([ps.Stage(1, 0.6, "attention_received", "drop")])
    judge = zeroed(model, change, list(range(16)))
    with ps.apply_(judge, stages):
        wanted = answers_of(judge, x)
    fits = unfitted(model, change, list(range(16)))
    with ps.apply_(model, Plan(stages, [change]), fits=fits):
        assert torch.allclose(answers_of(model, x), wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit", "modernbert", "bert"])
def test_one_half_left_out_is_the_other_alone(name: str) -> None:
    """The slow way: a layer that answers nought, its half's norm behind it left out too where it is post-norm."""
    model, x = build(name), given_to(name)
    with ps.apply_(model, Plan(changes=[Change("skip", 1, {"part": "mlp"})])):
        found = answers_of(model, x)
    judge = copy.deepcopy(model)
    blocks, core = core_of(judge)
    if name == "bert":
        blocks[1].feed_forward_chunk = lambda hidden: hidden  # type: ignore[assignment]
    else:
        out: Any = blocks[1].get_submodule(find_half(blocks[1], core, "mlp").out)
        with torch.no_grad():
            out.weight.zero_()
            if out.bias is not None:
                out.bias.zero_()
    assert torch.allclose(found, answers_of(judge, x), atol=1e-5)


def test_a_stage_needs_the_attention_of_its_block() -> None:
    skip = Change("skip", 1, {"part": "attention"})
    with pytest.raises(PruneSearchError, match="block 1 has a stage, which its attention scores"):
        Plan(STAGES, [skip])
    Plan(STAGES, [Change("skip", 0, {"part": "attention"})])


@pytest.mark.parametrize("name", ["vit", "bert", "whisper-audio"])
def test_together_with_stages_and_int8(name: str) -> None:
    """int8 of a smaller block is what torch makes of the smaller block."""
    model, x = build(name), given_to(name)
    changes = [Change("width", 1, {"heads": 1}), Change("rank", 0, {"mlp": 8}), Change("width", 2, {"mlp": 16})]
    changes = [c for c in changes if (c.block or 0) < len(core_of(model)[0])]
    fits = fitted(model, x, changes)
    whole = answers_of(model, x)
    with ps.apply_(model, Plan(STAGES, changes), fits=fits) as handle:
        twins = handle._twins.of(changes)
        small = answers_of(model, x)
        with handle.under(Plan(STAGES, [INT8, *changes])):
            both = answers_of(model, x)
    judge = copy.deepcopy(model)
    blocks, core = core_of(judge)
    for index, twin in twins.items():
        for half in ("attention", "mlp"):
            _same_sizes(blocks[index], twin.block, half, core)
        blocks[index].__dict__.update({k: v for k, v in twin.block.__dict__.items() if k != "forward"})
    with ps.apply_(judge, STAGES):
        assert torch.equal(answers_of(judge, x), small)
    with ps.apply_(judge, Plan(STAGES, [INT8])):
        assert torch.equal(answers_of(judge, x), both)
    assert not torch.equal(small, both)
    assert torch.equal(answers_of(model, x), whole)


def _same_sizes(block: nn.Module, twin: nn.Module, half: str, core: str) -> None:
    before = sum(p.numel() for p in block.parameters())
    assert sum(p.numel() for p in twin.parameters()) < before, half


def test_a_copy_of_the_model_has_the_smaller_blocks_too() -> None:
    model, x = build("vit"), given_to("vit")
    change = Change("width", 1, {"heads": 1})
    fits = fitted(model, x, [change])
    whole = answers_of(model, x)
    handle = ps.apply_(model, Plan(STAGES, [change]), fits=fits)
    small, twin = answers_of(model, x), copy.deepcopy(model)
    handle.remove()
    assert torch.equal(answers_of(twin, x), small)
    own = ps.handle_of(twin)
    assert own is not None
    own.remove()
    assert torch.equal(answers_of(twin, x), whole)


def test_shadows_follow_the_weights() -> None:
    model, x = build("vit"), given_to("vit")
    change = Change("width", 1, {"mlp": 16})
    with ps.apply_(model, Plan(changes=[change]), fits=fitted(model, x, [change])):
        before = answers_of(model, x)
        with torch.no_grad():
            model.vit.layers[1].mlp.fc1.weight.mul_(1.5)
        assert not torch.equal(answers_of(model, x), before)


def test_the_fit_is_the_least_squares_of_the_rows() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 24, dtype=torch.float64) @ torch.randn(24, 24, dtype=torch.float64) + 0.5
    layer = nn.Linear(24, 8).double()
    block = nn.ModuleDict({"into": nn.Linear(8, 24), "out": layer})
    moments = Moments.of(24)
    moments.add(x[:150])
    moments.add(x[150:])
    half = find_half(block, "attention", "mlp")
    found = fit_width(block, half, moments, [16])[0]
    kept = found["kept"]
    left = torch.cat([x[:, kept], torch.ones(400, 1, dtype=torch.float64)], dim=1)
    best = torch.linalg.lstsq(left, layer(x).detach()).solution
    wanted, mine = left @ best, x[:, kept] @ found["weight"].double().T + found["bias"].double()
    off, least = (mine - layer(x)).square().mean(), (wanted - layer(x)).square().mean()
    assert least <= off <= 1.01 * least + 1e-6
    own = x[:, kept] @ layer.weight[:, kept].T + layer.bias  # without the fit
    assert off < 0.5 * (own - layer(x)).square().mean()


def test_groups_go_one_by_one_where_least_is_lost() -> None:
    """Against trying every group in turn, with a least-squares fit each time."""
    torch.manual_seed(1)
    x = torch.randn(300, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    weight = torch.randn(5, 12, dtype=torch.float64)
    spread = x.T @ x / 300
    found = kept_groups(weight, spread, 3, [3, 2, 1])
    alive = [0, 1, 2, 3]
    for keep in (3, 2, 1):
        losses = {}
        for group in alive:
            columns = columns_of(torch.tensor([g for g in alive if g != group]), 3)
            fit = torch.linalg.lstsq(x[:, columns], x @ weight.T).solution
            losses[group] = float((x[:, columns] @ fit - x @ weight.T).square().sum())
        alive.remove(min(losses, key=lambda g: losses[g]))
        assert found[keep].tolist() == alive


def test_factors_lose_least_on_the_rows() -> None:
    torch.manual_seed(2)
    x = torch.randn(500, 16, dtype=torch.float64) @ torch.diag(torch.linspace(0.01, 4, 16, dtype=torch.float64)) + 1
    layer = nn.Linear(16, 12).double()
    moments = Moments.of(16)
    moments.add(x)
    found = {name: value.double() for name, value in factors(layer, moments, 4).items()}
    mine = x @ found["down"].T @ found["up"].T + found["bias"]
    centred = (x - x.mean(0)) @ layer.weight.T
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    least = (centred - u[:, :4] * s[:4] @ v[:4]).square().sum()  # no answer of rank 4 is nearer
    off = (mine - layer(x)).square().sum()
    assert least - 1e-9 <= off <= 1.02 * least
    plain_u, plain_s, plain_v = torch.linalg.svd(layer.weight)
    plain = x @ (plain_u[:, :4] * plain_s[:4] @ plain_v[:4]).T + layer.bias
    assert off < 0.9 * (plain - layer(x)).square().sum()


def test_fits_are_written_and_read(tmp_path: Path) -> None:
    model, x = build("bert"), given_to("bert")
    changes = [
        Change("width", 1, {"heads": 1}),
        Change("rank", 0, {"mlp": 8}),
        Change("skip", 0, {"part": "attention"}),
    ]
    fits = fitted(model, x, changes)
    assert list(fits) == ["1:width(heads=1)", "0:rank(mlp=8)"]
    save_fits(fits, tmp_path / "fits.safetensors")
    again = load_fits(tmp_path)
    assert {k: set(v) for k, v in again.items()} == {k: set(v) for k, v in fits.items()}
    assert all(torch.equal(again[k][name], value) for k, of in fits.items() for name, value in of.items())
    small = fit_changes(*core_of(model), changes, lambda: model(**x), most_bytes=1)
    assert all(torch.equal(small[k][name], value) for k, of in fits.items() for name, value in of.items())
    with pytest.raises(PruneSearchError, match="there is no"):
        load_fits(tmp_path / "other.safetensors")
    (tmp_path / "fits.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(CorruptFileError, match="delete it"):
        load_fits(tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (Change("width", 0, {"heads": 2}), r"`heads < 2` must hold, but got 2"),
        (Change("width", 0, {"mlp": 64}), r"`mlp < 64` must hold, but got 64"),
        (
            Change("width", 99, {"mlp": 8}),
            r"`block < \d+` must hold for a model of \d+ blocks, but got 99:width\(mlp=8\)",
        ),
        (Change("rank", 0, {"mlp": 40}), r"`mlp < 21` must hold for a rank, but got 40"),
    ],
)
def test_what_cannot_be_is_refused(change: Change, why: str) -> None:
    model = build("vit")
    nothing = {"kept": torch.arange(2), "weight": torch.zeros(1, 1)}
    nothing |= {f"mlp.{name}.{part}": torch.zeros(1, 1) for name in ("fc1", "fc2") for part in ("down", "up")}
    with pytest.raises(PruneSearchError, match=why):
        ps.apply_(model, Plan(changes=[change]), fits={str(change): nothing})
    assert ps.handle_of(model) is None
    with pytest.raises(PruneSearchError, match="fitted on calibration rows: give them"):
        ps.apply_(model, Plan(changes=[Change("width", 0, {"mlp": 16})]))


def test_a_plan_is_fitted_outside_of_a_search() -> None:
    model, x = build("vit"), given_to("vit")
    plan = Plan(STAGES, [Change.parse("0:width(heads=1)"), Change.parse("1:skip(part=mlp)"), INT8])
    fits = ps.fit_plan(model, plan, [x, x])
    assert list(fits) == ["0:width(heads=1)"]
    whole = answers_of(model, x)
    with ps.apply_(model, plan, fits=fits):
        assert not torch.equal(answers_of(model, x), whole)
    assert torch.equal(answers_of(model, x), whole)
    with pytest.raises(PruneSearchError, match="a bias between places is made for each of them"):
        ps.fit_plan(build("t5"), Plan(changes=[Change.parse("0:width(heads=1)")]), [given_to("t5")])


def test_changes_of_half_a_block_as_text() -> None:
    for text, half, word in (
        ("3:width(heads=4)", "attention", "heads4"),
        ("0:width(mlp=512)", "mlp", "mlp512"),
        ("2:rank(attention=96)", "attention", "rank96"),
        ("1:skip(part=mlp)", "mlp", "none"),
    ):
        change = Change.parse(text)
        assert (str(change), change.half, change.word) == (text, half, word)
        assert Change.from_dict(change.to_dict()) == change
        assert Plan.parse(f"3:0.50 cls_attention+fuse | int8 | {text}").variant == "int8"
    plan = Plan(changes=[INT8, Change.parse("0:width(mlp=512)"), Change.parse("0:skip(part=attention)")])
    assert plan.done == "int8, 1 half block smaller, 1 half block left out"
    assert plan.skips == {(0, "attention")}
    for wrong in (
        {"block": None, "params": {"heads": 2}},
        {"block": 0, "params": {"heads": 2, "mlp": 8}},
        {"block": 0, "params": {"heads": 0}},
        {"block": 0, "params": {"heads": True}},
    ):
        with pytest.raises(PruneSearchError):
            Change("width", **wrong)  # type: ignore[arg-type]
    with pytest.raises(PruneSearchError, match="one of attention, mlp, but got 'all'"):
        Change("skip", 0, {"part": "all"})
    with pytest.raises(PruneSearchError, match="one change of the mlp of block 0"):
        Plan(changes=[Change.parse("0:width(mlp=512)"), Change.parse("0:skip(part=mlp)")])
