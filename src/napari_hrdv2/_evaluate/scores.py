"""How well what was found agrees with the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Counts = npt.NDArray[np.int64]
Labels = npt.NDArray[np.integer]


def mask_iou(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks (h, w), in [0, 1]; 0 where both are empty."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 0.0


class Agreement(NamedTuple):
    """Of a segmentation with the true one.

    Attributes
    ----------
    accuracy
        Share of the pixels that have their true class, in [0, 1].
    ious
        For each class that is in the truth or was found, intersection over union, in [0, 1]; None
        of the others.
    """

    accuracy: float
    ious: tuple[float | None, ...]

    @property
    def mean_iou(self) -> float:
        """Over the classes that have one."""
        return float(np.mean([one for one in self.ious if one is not None]))


def agreement(counts: Counts) -> Agreement:
    """Accuracy and intersections over unions.

    Parameters
    ----------
    counts
        (classes or more, classes): numbers of pixels, by the class found and the true one. Further
        rows are of pixels that were given none of the classes: they are wrong.

    Returns
    -------
    Agreement
        Of all classes.
    """
    n = counts.shape[1]
    right = np.diagonal(counts)
    union = counts.sum(0) + counts[:n].sum(1) - right
    ious = [int(a) / int(b) if b else None for a, b in zip(right, union, strict=True)]
    return Agreement(int(right.sum()) / max(1, int(counts.sum())), tuple(ious))


def counted(truth: Labels, found: Labels, n: int) -> Counts:
    """Count pixels by the class found and the true one.

    Parameters
    ----------
    truth
        Classes from 0, of any shape; pixels below 0 are of none and do not count.
    found
        Classes from 0, of the same shape.
    n
        Number of classes.

    Returns
    -------
    ndarray of int64
        (n, n), as for :func:`agreement`.
    """
    known = truth >= 0
    pairs = found[known].astype(np.int64) * n + truth[known]
    counts: Counts = np.bincount(pairs, minlength=n * n).reshape(n, n)
    return counts


def of_labels(truth: Labels, found: Labels) -> tuple[Labels, Agreement]:
    """Agreement of labels where the truth is known.

    Parameters
    ----------
    truth
        Labels from 1, 0 where unknown: at least one pixel is not.
    found
        Labels of the same shape.

    Returns
    -------
    tuple
        The labels in either, ascending, and the agreement, of each of these.
    """
    known = truth > 0
    both = np.stack([truth[known], found[known]])
    labels, index = np.unique(both, return_inverse=True)
    truth, found = index.reshape(both.shape)
    return labels, agreement(counted(truth, found, len(labels)))


def mean_iou(truth: Labels, found: Labels) -> float:
    """Mean intersection over union of labels, see :func:`of_labels`."""
    return of_labels(truth, found)[1].mean_iou


def matched(counts: Counts) -> tuple[dict[int, int], Counts]:
    """Give every cluster the class that together agree on the most pixels (Hungarian method).

    Parameters
    ----------
    counts
        (clusters, classes): numbers of pixels.

    Returns
    -------
    dict
        The class of each cluster, from 0; clusters beyond the number of classes have none.
    ndarray of int64
        (classes + 1, classes): the same by the class found, those of no class in the last row.
    """
    n = counts.shape[1]
    clusters, classes = linear_sum_assignment(counts, maximize=True)
    classes_of = dict(zip(clusters.tolist(), classes.tolist(), strict=True))
    found: Counts = np.zeros((n + 1, n), np.int64)
    for k, row in enumerate(counts):
        found[classes_of.get(k, n)] += row
    return classes_of, found
