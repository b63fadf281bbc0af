"""Small pieces of linear algebra, written out in tensors."""

from __future__ import annotations

from typing import Any


def correlation_root(partial: Any, size: int) -> tuple[Any, Any]:
    """(lower root of a correlation matrix, what was left of each row's squared length at each of its entries)."""
    import pytensor.tensor as pt

    zero, whole = pt.zeros(()), pt.ones(())
    rows: list[list[Any]] = [[whole] + [zero] * (size - 1)]
    lefts: list[Any] = []
    for i in range(1, size):
        left: Any = whole
        row = []
        for _ in range(i):
            here = partial[len(lefts)]
            row.append(here * pt.sqrt(left))
            lefts.append(left)
            left = left * (1 - here**2)
        rows.append([*row, pt.sqrt(left), *[zero] * (size - 1 - i)])
    return pt.stack([pt.stack(row) for row in rows]), pt.stack(lefts)


def times(a: Any, b: Any) -> Any:
    """Matrix product with few inner terms, written out: PyTensor's own wants a BLAS that pip does not install."""
    return (a[:, :, None] * b[None, :, :]).sum(axis=1)
