"""How well labels agree with a truth: pixel accuracy and intersection over union."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer] | npt.NDArray[np.bool_]


class Confusion:
    """Pixels of every class by what they were taken for.

    Parameters
    ----------
    counts
        (K, K) of pixels: rows are the truth's classes, columns those found.

    Examples
    --------
    >>> counts = confusion_of(np.array([[0, 0, 1, -1]]), np.array([[0, 1, 1, 1]]), 3)
    >>> found = Confusion(counts)
    >>> round(found.accuracy, 3), found.iou.tolist(), found.mean_iou
    (0.667, [0.5, 0.5, nan], 0.5)
    """

    def __init__(self, counts: npt.NDArray[np.int64]) -> None:
        self.counts = counts

    @property
    def accuracy(self) -> float:
        """Share of the pixels that are right, in [0, 1]; NaN of none."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")

    @cached_property
    def iou(self) -> npt.NDArray[np.float64]:
        """(K,) intersection over union in [0, 1]; NaN of classes in neither truth nor labels."""
        right = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - right
        return np.where(union > 0, right / np.maximum(union, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes in either, in [0, 1]; NaN where there are none."""
        known = self.iou[~np.isnan(self.iou)]
        return float(known.mean()) if known.size else float("nan")


def confusion_of(truth: Labels, found: Labels, count: int) -> npt.NDArray[np.int64]:
    """Count the pixels of every class by what they were taken for.

    Parameters
    ----------
    truth
        Classes from 0, of any shape; those below 0 or from ``count`` on take no part.
    found
        Classes from 0 to ``count - 1``, of the same shape.
    count
        Number K of classes.

    Returns
    -------
    ndarray of int64
        (K, K): rows are the truth's classes, columns those found.

    Raises
    ------
    ValueError
        If shapes differ or a class found is none of the ``count``.
    """
    if truth.shape != found.shape:
        raise ValueError(f"the truth has shape {truth.shape}, the labels {found.shape}")
    known = (truth >= 0) & (truth < count)
    pairs = truth[known].astype(np.int64) * count + found[known]
    if found[known].size and not 0 <= found[known].min() <= found[known].max() < count:
        raise ValueError(f"labels must be below {count}, got {found[known].max()}")
    counts: npt.NDArray[np.int64] = np.bincount(pairs, minlength=count**2).reshape(count, count)
    return counts


def mean_iou(truth: Labels, found: Labels) -> float:
    """Mean over the classes in either of intersection over union, where the truth is known.

    Parameters
    ----------
    truth
        Labels from 1, 0 where unknown.
    found
        Labels of the same shape.

    Returns
    -------
    float
        In [0, 1]; NaN where nothing is known.
    """
    return of_labels(truth, found)[1].mean_iou


def of_labels(truth: Labels, found: Labels) -> tuple[npt.NDArray[np.integer], Confusion]:
    """Count the pixels whose truth is known.

    Parameters
    ----------
    truth, found
        As for :func:`mean_iou`.

    Returns
    -------
    tuple
        The labels in either (K,), ascending, and the pixels of each by what they were taken for.
    """
    known = truth > 0
    truth, found = truth[known], found[known]
    labels, index = np.unique(np.concatenate([truth, found]), return_inverse=True)
    one, other = np.split(index, 2)
    return labels, Confusion(confusion_of(one, other, len(labels)))
