"""Singular values of an update, and the similarity of subspaces."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def held(update: Any) -> Floats:
    """Share of an update's squared Frobenius norm that its best approximation of rank 1, 2, ... holds; 0 for no update.

    The sum of the r largest squared singular values over the sum of all (Eckart and Young, Psychometrika 1, 1936).
    `update` is a matrix; the result has as many entries as its shorter side.
    """
    squares = energies(update)
    total = squares.sum()
    return np.cumsum(squares) / total if total > 0 else np.zeros_like(squares)


def energies(update: Any) -> Floats:
    """The squared singular values of a matrix, largest first."""
    return np.linalg.svd(np.asarray(update, dtype=np.float32), compute_uv=False).astype(np.float64) ** 2


def directions(a: Any, b: Any) -> Floats:
    """Right singular vectors of B A, largest first, as columns (inputs x rank); A: rank x inputs, B: outputs x rank.

    B A itself is never made: with B = Qb Rb and A^T = Qa Ra its singular vectors are those of Rb Ra^T, turned by Qa.
    """
    qa, ra = np.linalg.qr(np.asarray(a, dtype=np.float64).T)
    rb = np.linalg.qr(np.asarray(b, dtype=np.float64), mode="r")
    _, _, right = np.linalg.svd(rb @ ra.T)
    return np.asarray(qa @ right.T)


def row_space(a: Any) -> Floats:
    """Right singular vectors of A (rank x inputs), largest first, as columns: inputs x rank."""
    _, _, right = np.linalg.svd(np.asarray(a, dtype=np.float64), full_matrices=False)
    return np.asarray(right.T)


def similarity(first: Floats, second: Floats) -> Floats:
    """phi(i, j) in 0..1 for the first i columns of one basis and the first j of another, each orthonormal.

    phi(i, j) = ||Ui^T Vj||_F^2 / min(i, j) (Hu et al. 2021, arXiv:2106.09685, section 7.2 and appendix G): 1 where the
    smaller subspace lies in the larger one, 0 where they are orthogonal. Entry [i-1, j-1] of the result.
    """
    squares = (first.T @ second) ** 2
    sums = np.cumsum(np.cumsum(squares, axis=0), axis=1)
    i, j = np.indices(sums.shape) + 1
    return np.asarray(sums / np.minimum(i, j))


def chance(i: int, j: int, width: int) -> float:
    """phi(i, j) that two random subspaces of `width` dimensions have on average: i j / width / min(i, j)."""
    return max(i, j) / width
