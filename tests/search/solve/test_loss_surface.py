from __future__ import annotations

import numpy as np
import pytest

from prunesearch.search.solve.gaussian import Posterior
from prunesearch.search.solve.loss_surface import FLOOR, LossSurface, SurfaceScales, method_kernel
from prunesearch.search.space.space import Space
from tests.support.fakes import make_space


def log_loss(space: Space, cell: tuple[int, int, int]) -> float:
    """A smooth surface: less is lost later and milder, methods differ by a constant."""
    layer, level, method = cell
    return float(-1.0 - 0.8 * layer - 3.0 * np.log(1 / (1 - space.keeps[level])) + 0.2 * method)


def all_cells(space: Space) -> list[tuple[int, int, int]]:
    shape = (len(space.layers), len(space.keeps), len(space.methods))
    return [(i, g, m) for i, g, m in np.ndindex(shape) if g > 0]


def test_the_posterior_is_that_of_a_textbook() -> None:
    """Against the joint normal distribution, conditioned by hand."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    joint = root @ root.T + np.eye(6)
    noise, values = np.array([0.1, 0.2, 0.3, 0.4]), rng.normal(size=4)
    inverse = np.linalg.inv(joint[:4, :4] + np.diag(noise))
    found = Posterior(joint[:4, :4], noise, values)
    np.testing.assert_allclose(found.mean(joint[4:, :4]), joint[4:, :4] @ inverse @ values)
    variance = joint[4:, 4:] - joint[4:, :4] @ inverse @ joint[:4, 4:]
    np.testing.assert_allclose(found.variance(joint[4:, :4], np.diag(joint)[4:]), np.diag(variance))


def test_few_cells_tell_of_all() -> None:
    space = make_space(keep=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    cells = all_cells(space)
    rng = np.random.default_rng(1)
    surface = LossSurface(space)
    for k in rng.permutation(len(cells))[: len(cells) // 4]:
        surface.add(cells[k], np.full(16, np.exp(log_loss(space, cells[k]))))
    mean, _ = surface.posterior()
    error = np.array([mean[cell] - np.log(np.exp(log_loss(space, cell)) + FLOOR) for cell in cells])
    assert np.sqrt((error**2).mean()) < 0.3
    assert np.log([np.exp(log_loss(space, cell)) for cell in cells]).std() > 1.5
    assert (mean[:, 0] == np.log(FLOOR)).all()


def test_a_measured_cell_is_surer_than_its_neighbour_and_that_than_a_stranger() -> None:
    space = make_space()
    surface = LossSurface(space)
    surface.add((0, 1, 0), np.full(64, 0.3))
    mean, sd = surface.posterior()
    assert mean[0, 1, 0] == pytest.approx(np.log(0.3), abs=0.05)
    assert sd[0, 1, 0] < sd[0, 2, 0] < sd[3, 2, 0]


def test_scattered_rows_are_trusted_less() -> None:
    space = make_space()
    sds = []
    for spread in (0.0, 0.5):
        surface = LossSurface(space)
        surface.add((1, 2, 1), np.array([1 - spread, 1 + spread] * 8))
        sds.append(surface.posterior()[1][1, 2, 1])
    assert sds[0] < 0.5 * sds[1]


def test_methods_are_kin_by_scorer_and_by_merge() -> None:
    names = ["cls_attention+drop", "cls_attention+fuse", "value_norm+drop", "value_norm+fuse", "bipartite"]
    kernel = method_kernel(names, SurfaceScales())
    assert kernel[0, 1] > 0
    assert kernel[0, 2] > 0
    assert kernel[0, 3] == 0
    assert (kernel[4, :4] == 0).all()
    assert kernel[0, 0] == pytest.approx(kernel[4, 4])
    assert np.linalg.eigvalsh(kernel).min() > 0
