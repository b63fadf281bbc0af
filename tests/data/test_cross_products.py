"""Cross products against the rows they are of, offsets a billion times larger than what varies included."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from bayeshlm.data import cross_products
from bayeshlm.data.cross_products import CrossProducts, aliased, project_out, regression

PARTS = 6


def rows(offset: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(columns, weights, part): 60 rows of three columns, the last one a function of the others but for noise."""
    rng = np.random.default_rng(3)
    part = np.concatenate([np.arange(PARTS), rng.integers(0, PARTS, 54)])
    columns = rng.normal(size=(60, 3)) + 2.0 * part[:, None]
    columns[:, 2] += columns[:, 0] - 3 * columns[:, 1]
    return columns + offset, rng.uniform(0.5, 2.0, 60), part


def dense(columns: np.ndarray, weight: np.ndarray, centre: np.ndarray) -> CrossProducts:
    """One part, straight from its rows, means less `centre`."""
    mean = np.average(columns - centre, axis=0, weights=weight)
    deviation = columns - centre - mean
    return CrossProducts(np.asarray(weight.sum()), mean, (deviation.T * weight) @ deviation)


def by_part(columns: np.ndarray, weight: np.ndarray, part: np.ndarray, centre: np.ndarray) -> CrossProducts:
    found = [dense(columns[part == k], weight[part == k], centre) for k in np.unique(part)]
    return CrossProducts(*(np.stack(values) for values in zip(*found, strict=True)))


def assert_equal(found: CrossProducts, wanted: CrossProducts) -> None:
    for mine, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-6 * np.abs(other).max() / 1e3)


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_parts_add_up(offset: float) -> None:
    columns, weight, part = rows(offset)
    centre = np.full(3, offset)
    parts = by_part(columns, weight, part, centre)
    assert_equal(parts.total(), dense(columns, weight, centre))
    coarse = np.array([2, 0, 1, 2, 0, 1])
    assert_equal(parts.pooled(coarse, 3), by_part(columns, weight, coarse[part], centre))
    order = np.array([5, 4, 3, 2, 1, 0])  # nothing meets: only the order changes
    assert_equal(parts.pooled(order, PARTS), by_part(columns, weight, order[part], centre))
    inside = parts.pooled(coarse, 3)
    np.testing.assert_allclose(parts.squares_within(coarse, 3), np.diag(inside.within()), rtol=1e-12)
    np.testing.assert_allclose(inside.within(), inside.scatter.sum(axis=0))


def test_columns_about_any_point() -> None:
    columns, weight, part = rows(0.0)
    parts = by_part(columns, weight, part, np.zeros(3))
    point = np.array([1.0, -2.0, 0.5])
    for k, products in enumerate(parts.about(point)):
        mine = columns[part == k] - point
        np.testing.assert_allclose(products, (mine.T * weight[part == k]) @ mine, rtol=1e-12)
    ones = np.column_stack([np.ones(60), columns])
    np.testing.assert_allclose(
        parts.with_constant().about().sum(axis=0), (ones.T * weight) @ ones, rtol=1e-10, atol=1e-10
    )
    np.testing.assert_allclose(parts.total().with_constant().about(), (ones.T * weight) @ ones, rtol=1e-10, atol=1e-10)
    chosen = [2, 0]
    assert_equal(parts.chosen(chosen), by_part(columns[:, chosen], weight, part, np.zeros(2)))
    assert parts.chosen([]).about().shape == (PARTS, 0, 0)
    assert_equal(parts.moved(point), by_part(columns, weight, part, -point))
    matrix = np.array(
        [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    )  # the second column becomes constant: its square is 0, not -1e-17
    mapped = parts.mapped(matrix)
    assert_equal(mapped, by_part(columns @ matrix.T, weight, part, np.zeros(2)))
    assert (np.einsum("pkk->pk", mapped.scatter) >= 0).all()


def test_projection_is_least_squares() -> None:
    columns, weight, _ = rows(0.0)
    total = dense(columns, weight, np.zeros(3))
    fitted = regression(total.scatter, [0, 1])
    design = np.column_stack([np.ones(60), columns[:, :2]]) * np.sqrt(weight)[:, None]
    wanted, rest, *_ = np.linalg.lstsq(design, columns[:, 2] * np.sqrt(weight))
    np.testing.assert_allclose(fitted, wanted[1:], rtol=1e-9)
    assert regression(total.scatter, []).tolist() == [0.0, 0.0]
    directions, left = project_out(total.scatter, (0, 1))
    assert left[2, 2] == pytest.approx(rest[0], rel=1e-9)
    assert not left[:2].any()
    np.testing.assert_allclose(directions.T @ directions + left, total.scatter, rtol=1e-9)
    batch, remains = project_out(np.stack([total.scatter, 2 * total.scatter], axis=-1), (0, 1))
    np.testing.assert_allclose(batch[..., 0], directions)
    np.testing.assert_allclose(remains[..., 1], 2 * left, rtol=1e-9, atol=1e-9)


def test_aliased_columns_are_found() -> None:
    columns, weight, _ = rows(0.0)
    more = np.column_stack([np.ones(60), columns[:, 0], 5.0 + 0 * weight, columns[:, 1], columns[:, 0] - columns[:, 1]])
    products = (more.T * weight) @ more
    assert aliased(products, 1e-9).tolist() == [False, False, True, False, True]
    zero = np.zeros((2, 2))
    zero[0, 0] = 1.0
    assert aliased(zero, 1e-9).tolist() == [False, True]


def test_examples() -> None:
    assert doctest.testmod(cross_products).failed == 0
