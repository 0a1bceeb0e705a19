"""The roofline against times worked out by hand for a device with round numbers."""

import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.estimate.ops import Op
from prunesearch.cost.estimate.roofline import Efficiency, Roofline, RooflineClock, fused
from prunesearch.cost.tables.specs import DeviceSpec

HALF, FULL = torch.float16, torch.float32


def device(**changed) -> DeviceSpec:
    facts = {
        "name": "round", "matches": "Round", "architecture": "none", "sm_count": 10, "boost_clock_mhz": 1000.0,
        "peak_tflops": {"float32": 1.0, "tf32": 4.0, "float16": 10.0}, "memory_gb": 1.0, "bandwidth_gbs": 1000.0,
        "l2_mb": 1.0, "tdp_w": 10.0, "gemm_tflops": {"float32": 0.5, "tf32": 2.0, "float16": 8.0},
        "sources": ["a test"],
    }  # fmt: skip
    return DeviceSpec(**{**facts, **changed})


def efficiency(**changed) -> Efficiency:
    perfect = {
        "product": 1.0, "half_depth": 0.0, "unaligned": 1.0, "attention": 1.0, "memory": 1.0, "floor_us": 0.0,
        "host_us": {"eager": 5.0, "compile": 2.0}, "gemm_share": {"float32": (1.0, 0.0), "tensor": (1.0, 0.0)},
    }  # fmt: skip
    return Efficiency(**{**perfect, **changed})


def product(m: int, n: int, k: int, dtype=HALF, batch: int = 1, moved: int = 0) -> Op:
    return Op("matmul", dtype, moved, moved, batch, m, n, k)


def memory(moved: int, read: int = 0) -> Op:
    return Op("memory", HALF, moved, read)


def us(op: Op, **changed) -> float:
    return Roofline(device(), efficiency(**changed)).device_us(op)


def test_a_large_product_takes_its_operations_over_the_measured_rate():
    op = product(6400, 6400, 640)  # 100 x 100 tiles, 1,000 waves on 10 multiprocessors: none is idle
    assert us(op) == pytest.approx(op.flops / 8e6)
    assert us(op, product=0.5) == pytest.approx(op.flops / 4e6)
    assert us(op, half_depth=640.0) == pytest.approx(2 * op.flops / 8e6)  # the depth at which half is reached


def test_the_last_wave_of_tiles_keeps_everything_waiting():
    wave = product(64, 640, 64)  # ten tiles
    assert us(product(64, 600, 64)) == us(wave) == pytest.approx(wave.flops / 8e6)
    assert us(product(64, 704, 64)) == pytest.approx(2 * us(wave))
    assert us(product(32, 640, 64)) == us(wave)  # half a tile costs a whole one


def test_a_small_product_is_shared_out_along_its_depth():
    assert us(product(64, 64, 800)) == pytest.approx(us(product(64, 640, 800)) / 8)  # in eight parts, on eight of ten


def test_bytes_bound_what_has_few_operations():
    assert us(memory(10**9)) == pytest.approx(1000.0)
    assert us(memory(10**9), memory=0.8, floor_us=3.0) == pytest.approx(1253.0)
    thin = product(64, 640, 1, moved=10**8)
    assert us(thin) == pytest.approx(100.0)


def test_rows_that_are_not_multiples_of_16_bytes_are_slow_in_half_precision_only():
    ragged, even = product(640, 577, 577), product(640, 584, 584)
    assert us(ragged, unaligned=0.1) == pytest.approx(10 * us(ragged))
    assert us(even, unaligned=0.1) == us(even)
    assert us(product(640, 577, 577, FULL), unaligned=0.1) == us(product(640, 577, 577, FULL))


def test_fused_attention_counts_two_products_padded_to_its_blocks():
    full = Op("attention", HALF, 0, 0, batch=100, m=128, n=128, k=64)
    assert us(full) == pytest.approx(full.flops / 8e6)
    assert us(full, attention=0.5) == pytest.approx(2 * us(full))
    ragged = Op("attention", HALF, 0, 0, batch=100, m=100, n=66, k=40)
    assert us(ragged) == us(full)


def test_float32_products_run_on_tensor_cores_if_asked():
    op = product(6400, 6400, 640, FULL)
    slow, fast = (Roofline(device(), efficiency(), tf32=tf32).device_us(op) for tf32 in (False, True))
    assert slow == pytest.approx(4 * fast)
    assert slow == pytest.approx(op.flops / 0.5e6)


def test_a_rate_that_nobody_measured_comes_from_the_datasheet_and_the_watts_behind_it():
    bare = device(gemm_tflops={}, tdp_w=40.0)
    fitted = efficiency(gemm_share={"float32": (0.25, 0.5), "tensor": (0.1, 1.0)})
    assert Roofline(bare, fitted).ceiling(FULL) == pytest.approx(1.0e6 * 0.25 * 40**0.5)
    assert Roofline(bare, fitted).ceiling(HALF) == pytest.approx(10.0e6 * 0.1 * 4)


def test_a_dtype_without_units_is_refused():
    with pytest.raises(
        PruneSearchError, match="round has no units for bfloat16 products: use one of float32, tf32, float16"
    ):
        Roofline(device(), efficiency()).ceiling(torch.bfloat16)


def clock(mode: str, **changed) -> RooflineClock:
    return RooflineClock(Roofline(device(), efficiency(**changed)), mode)


def took(clock: RooflineClock, *ops: Op) -> float:
    begin = clock.mark()
    for op in ops:
        clock.hear(op)
    return clock.between_ms([begin, clock.mark()])[0] * 1e3


SHORT, LONG = memory(10**6), memory(20 * 10**6)  # 1 and 20 us


def test_an_eager_host_bounds_short_kernels_and_runs_ahead_of_long_ones():
    assert took(clock("eager"), *[SHORT] * 10) == pytest.approx(10 * 5 + 1)
    assert took(clock("eager"), *[LONG] * 10) == pytest.approx(5 + 10 * 20)
    assert took(clock("eager"), *[LONG] * 10, *[SHORT] * 10) == pytest.approx(5 + 10 * 20 + 10)  # already launched
    assert took(clock("eager"), *[SHORT] * 10, *[LONG] * 10) == pytest.approx(10 * 5 + 5 + 10 * 20)


def test_nothing_runs_ahead_over_a_synchronisation():
    timer = clock("eager")
    took(timer, *[LONG] * 10)
    assert took(timer, *[SHORT] * 10) == pytest.approx(10 * 5 + 1)


def test_a_cuda_graph_launches_for_nothing():
    assert took(clock("cuda-graph"), *[SHORT] * 10) == pytest.approx(10)


def test_compilation_fuses_within_the_halves_of_blocks():
    chain = [memory(3 * 10**6, 2 * 10**6), memory(2 * 10**6, 10**6), memory(4 * 10**6, 10**6)]
    assert fused(chain).moved == 2 * 10**6 + 3 * 10**6
    timer = clock("compile", host_us={"eager": 5.0, "compile": 2.0})
    marks = [timer.mark()]
    for _ in range(3):  # before a half, the half, after it
        for op in chain:
            timer.hear(op)
        marks.append(timer.mark())
    eager = 3 * 5 + 4  # the last of three launches, and what it launched
    # the fused kernel takes 5 us and is launched meanwhile; the host is then 3 x 5 + 2 + 3 x 5 us along
    assert [x * 1e3 for x in timer.between_ms(marks)] == pytest.approx([eager, 5, 32 + 4 - eager - 5])
    assert took(timer, *chain) == pytest.approx(eager)  # the next forward begins outside again


def test_it_knows_what_held_it_up():
    fast, slow = clock("eager"), clock("eager")
    took(fast, *[LONG] * 3)
    took(slow, *[SHORT] * 3)
    assert (fast.host_bound, slow.host_bound) == (False, True)


def test_an_unknown_mode_is_refused():
    with pytest.raises(
        PruneSearchError,
        match=r"one of torch's \(eager, compile, cuda-graph\).*, but got 'onnxruntime'",
    ):
        clock("onnxruntime")
