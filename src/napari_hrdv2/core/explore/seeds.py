"""What was found without a label, as strokes to start painting from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi
from skimage.measure import label as connected
from skimage.segmentation import find_boundaries

from ..errors import StrokesError
from ..simulate import SHARE_OF_DEPTH, checked_labels, round_brush, wander
from .common import Pixels

# Painted pixels of a stroke, as a multiple of the brush's width.
_LENGTH = 25


def strokes_of(
    labels: npt.ArrayLike,
    *,
    per_class: int = 6,
    width: float = 3.0,
    seed: int = 0,
    certainty: npt.ArrayLike | None = None,
) -> npt.NDArray[Any]:
    """Paint a few short strokes well inside every class of a label image.

    A class's first stroke begins where it is widest; every further one where a pixel is far from
    the class's borders and from the strokes begun before. None begins much nearer to a border than
    the brush is wide while the class is wider elsewhere, and none leaves its class.

    Parameters
    ----------
    labels
        (h, w) of integers: 0 where unknown, else a class's or cluster's label.
    per_class
        Strokes of a class at most, from 1 (a count).
    width
        Diameter of the brush in pixels, at least 1.
    seed
        Of the ways that strokes take; the same seed paints the same strokes.
    certainty
        (h, w), how sure each pixel's label is, such as its largest probability: strokes keep to
        the surer half of their class.

    Returns
    -------
    ndarray
        (h, w) of ``labels``' dtype: 0 where not painted, else the label. Every class that has
        pixels has painted ones.

    Raises
    ------
    StrokesError
        If labels, their certainty, width or count cannot be used.

    Examples
    --------
    >>> labels = np.repeat([1, 2], 50)[:, None].repeat(100, axis=1)
    >>> strokes = strokes_of(labels)
    >>> bool(((strokes == 0) | (strokes == labels)).all()), np.unique(strokes).tolist()
    (True, [0, 1, 2])
    """
    known = checked_labels(labels, width)
    if per_class < 1:
        raise StrokesError(f"at least one stroke a class is painted, not {per_class}")
    allowed = known if certainty is None else _sure(known, np.asarray(certainty))
    # A frame of unknown: strokes need no other test for the image's edges.
    depth = np.pad(_depth(allowed), 1)
    objects = np.pad(connected(allowed, background=0, connectivity=2), 1)
    painted = np.zeros(objects.shape, bool)
    brush = round_brush(width)
    budget = round(_LENGTH * width)
    for pixels in _pixels_of_classes(allowed):
        label = int(allowed[tuple(pixels[0])])
        # Of its own for each class, so that a class more does not move the others' strokes.
        rng = np.random.default_rng([seed, label])
        room = depth[tuple(pixels.T + 1)]
        apart = np.where(room >= min(width, SHARE_OF_DEPTH * room.max()), room, 0)
        for _ in range(per_class):
            best = int(apart.argmax())
            if apart[best] == 0:
                break
            y, x = pixels[best] + 1
            wander(painted, objects, depth, (y, x), budget, brush, width, rng)
            np.minimum(apart, np.hypot(*(pixels - pixels[best]).T), out=apart)
            apart[painted[tuple(pixels.T + 1)]] = 0
    return np.where(painted[1:-1, 1:-1], known, known.dtype.type(0))


def _pixels_of_classes(labels: npt.NDArray[Any]) -> list[Pixels]:
    """The pixels (n, 2) of every class, without those of 0."""
    order = np.argsort(labels, axis=None, kind="stable")
    _, starts = np.unique(labels.ravel()[order], return_index=True)
    parts = np.split(order, starts[1:])
    places = (np.stack(np.unravel_index(one, labels.shape), 1) for one in parts if len(one))
    return [one for one in places if labels[tuple(one[0])]]


def _sure(labels: npt.NDArray[Any], certainty: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels of the surer half of every class, 0 elsewhere."""
    if certainty.shape != labels.shape:
        raise StrokesError(
            f"the certainty is {certainty.shape}, the labels {labels.shape}: both must be of the "
            "same image"
        )
    if not np.isfinite(certainty).all():
        raise StrokesError("the certainty is not finite everywhere")
    found = np.zeros_like(labels)
    for pixels in _pixels_of_classes(labels):
        own = certainty[tuple(pixels.T)]
        sure = pixels[own >= np.median(own)]
        found[tuple(sure.T)] = labels[tuple(sure.T)]
    return found


def _depth(labels: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
    """About how far pixels lie from those of another label, in pixels, from 1."""
    border = find_boundaries(labels, connectivity=1, mode="inner")
    if not border.any():
        return np.full(labels.shape, float(max(labels.shape, default=0)))
    # From the pixels along all borders at once: a transform for each class would take too long.
    depth: npt.NDArray[np.floating] = ndi.distance_transform_edt(~border) + 1
    return depth
