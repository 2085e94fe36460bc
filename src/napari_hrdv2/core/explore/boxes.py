"""Boxes around what was found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from skimage.measure import label, regionprops


class Box(NamedTuple):
    """Pixels ``top ... bottom - 1`` and ``left ... right - 1``."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Number of pixels."""
        return max(0, self.bottom - self.top) * max(0, self.right - self.left)

    def iou(self, other: Box) -> float:
        """Intersection over union with another box, in [0, 1]."""
        inner = Box(*np.maximum(self[:2], other[:2]), *np.minimum(self[2:], other[2:]))
        return inner.area / (self.area + other.area - inner.area)


def boxes(
    labels: npt.NDArray[np.integer] | npt.NDArray[np.bool_],
    *,
    min_size: int = 200,
    max_iou: float = 0.8,
) -> tuple[Box, ...]:
    """Boxes of what is not background.

    First that of the largest connected region of the foreground as a whole, then those of every
    class's connected components, the larger ones first, unless they are nearly one already given
    (HR-Dv2, arXiv 2410.19836).

    Parameters
    ----------
    labels
        (h, w): 0, or False, is background; classes, if there are several, are told apart.
    min_size
        Components of so many pixels or fewer are left out, but for the largest region.
    max_iou
        Intersection over union with an earlier box above which a box is left out, in [0, 1].

    Returns
    -------
    tuple of Box
        Empty where all is background.
    """
    whole = regionprops(label(labels != 0))
    if not whole:
        return ()
    parts = [one for one in regionprops(label(labels)) if one.area > min_size]
    largest = max(whole, key=lambda one: one.area)
    parts.sort(key=lambda one: -one.area)
    found: list[Box] = []
    for region in (largest, *parts):
        box = Box(*region.bbox)
        if all(box.iou(other) <= max_iou for other in found):
            found.append(box)
    return tuple(found)
