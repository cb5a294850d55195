"""Sums of vectors by class, and the scatter within and between the classes that follows from them."""

from __future__ import annotations

import numpy as np


def class_sums(vectors: np.ndarray, classes: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count [C], total [C, H], products [H, H]) of vectors [T, H] in classes [T] (-1: left out), in float64.

    Plain sums: those of two sets add up to those of both. Rows with a NaN are left out too.

    >>> count, total, products = class_sums(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1]), 2)
    >>> count.tolist(), total.tolist(), products.tolist()
    ([0, 2], [[0.0, 0.0], [4.0, 2.0]], [[10.0, 2.0], [2.0, 4.0]])
    """
    known = (classes >= 0) & ~np.isnan(vectors).any(axis=1)
    x, own = vectors[known].astype(np.float64), classes[known]
    total = np.zeros((n_classes, vectors.shape[1]))
    np.add.at(total, own, x)
    return np.bincount(own, minlength=n_classes), total, x.T @ x


def scatter(count: np.ndarray, total: np.ndarray, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(within [H, H], between [H, H]) covariance from `class_sums`, both divided by the number of vectors.

    >>> within, between = scatter(*class_sums(np.array([[0.0], [2.0], [5.0]]), np.array([0, 0, 1]), 2))
    >>> round(within.item(), 6), round(between.item(), 6)  # within: (1 + 1)/3; between: (2·4/3² + (8/3)²)/3
    (0.666667, 3.555556)
    """
    n = max(int(count.sum()), 1)
    mean = total.sum(axis=0) / n
    means = total / np.maximum(count, 1)[:, None]
    within = products / n - (means.T * count) @ means / n
    away = np.where(count[:, None] > 0, means - mean, 0)
    return within, (away.T * count) @ away / n
