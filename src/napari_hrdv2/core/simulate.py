"""Strokes drawn as a person draws them, on images whose truth is known."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import StrokesError

# After the strokes of strokes/micrograph and tcell in the benchmark data: people touch several
# places of every class, with single dabs of a few pixels where a class is rare.
_STROKES_A_CLASS = 6
_DAB = 4
_MEDIAN_LENGTH_PX = 25.0
# A stroke keeps away from borders by the brush's width, or by this share of its first point's
# depth where an object is thinner than that.
SHARE_OF_DEPTH = 0.6


def draw_stroke(
    strokes: npt.NDArray[np.integer], line: npt.NDArray[np.floating], width: float, label: int
) -> None:
    """Draw a line with a round brush, in place.

    Parameters
    ----------
    strokes
        (h, w) of labels.
    line
        (n, 2) of (y, x) in pixels, joined by straight pieces.
    width
        Diameter of the brush in pixels.
    label
        Label to paint.
    """
    radius = width / 2
    for a, b in pairwise(line):
        low = np.maximum(np.floor(np.minimum(a, b) - radius), 0).astype(int)
        high = np.minimum(np.ceil(np.maximum(a, b) + radius) + 1, strokes.shape).astype(int)
        grid = np.stack(
            np.meshgrid(*(np.arange(s, e) for s, e in zip(low, high, strict=True)), indexing="ij"),
            axis=-1,
        )
        along = b - a
        share = np.clip(((grid - a) @ along) / max(float(along @ along), 1e-12), 0, 1)
        distance = np.linalg.norm(grid - a - share[..., None] * along, axis=-1)
        strokes[low[0] : high[0], low[1] : high[1]][distance <= radius] = label


def simulate_strokes(
    truth: npt.ArrayLike, fraction: float, seed: int = 0, width: float = 3.0
) -> npt.NDArray[Any]:
    """Paint a fraction of every class with strokes like a person's.

    Short, slightly bent lines of a round brush, begun well inside the regions more often than
    near their borders, kept clear of borders where the region is wide enough for that, and
    shortened to dabs where little of a class is to be painted: a class that is rare gets a few
    of its objects touched rather than one long line. Nothing is painted outside its class.

    Parameters
    ----------
    truth
        (h, w) of integers: 0 where unknown, else the class's label. Unknown pixels are never
        painted.
    fraction
        Share of each class's pixels to paint, above 0 and at most 1. Rounded to whole pixels,
        at least one for every class.
    seed
        Of the random numbers; the same seed paints the same strokes.
    width
        Diameter of the brush in pixels, at least 1.

    Returns
    -------
    ndarray
        (h, w) of ``truth``'s dtype: 0 where not painted, else the label.

    Raises
    ------
    StrokesError
        If the truth is no array of labels, or fraction or width are out of range.

    Examples
    --------
    >>> truth = np.repeat([1, 2], 50)[:, None].repeat(100, axis=1)
    >>> strokes = simulate_strokes(truth, 0.01)
    >>> [int((strokes == label).sum()) for label in (1, 2)]
    [50, 50]
    """
    labels = checked_labels(truth, width)
    if not 0 < fraction <= 1:
        raise StrokesError(f"the fraction must be above 0 and at most 1, got {fraction:g}")
    strokes = np.zeros_like(labels)
    for label in np.unique(labels[labels > 0]):
        # Of its own for each class, so that a class more does not move the others' strokes.
        rng = np.random.default_rng([seed, int(label)])
        strokes[_paint(labels == label, fraction, width, rng)] = label
    return strokes


def checked_labels(truth: npt.ArrayLike, width: float) -> npt.NDArray[Any]:
    """What is to be painted on, (h, w) of labels, with a brush that wide.

    Raises
    ------
    StrokesError
        If it is no image of labels, or the brush less than a pixel wide.
    """
    labels = np.asarray(truth)
    if labels.ndim != 2 or labels.dtype.kind not in "bui":
        raise StrokesError(
            "labels must be an image (h, w) of whole numbers; "
            f"got shape {labels.shape} of {labels.dtype}"
        )
    if labels.size and labels.min() < 0:
        raise StrokesError(f"there is the label {labels.min()}: labels go from 1")
    if not (width >= 1 and np.isfinite(width)):
        raise StrokesError(f"the brush must be at least 1 pixel wide, got {width:g}")
    return labels


def _paint(
    region: npt.NDArray[np.bool_], fraction: float, width: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Strokes inside one class."""
    from scipy import ndimage as ndi

    # A frame of unknown: the walk needs no other test for the image's edges. Depth is taken
    # before it is added, as people do paint up to the image's edges.
    depth = np.pad(_depth(region), 1)
    objects = np.pad(ndi.label(region, np.ones((3, 3)))[0], 1)
    inside = np.flatnonzero(objects)
    wanted = max(1, round(fraction * inside.size))
    longest = max(_DAB, -(-wanted // _STROKES_A_CLASS))
    # A weighted draw without replacement (Efraimidis and Spirakis, 2006), all at once.
    weight = np.minimum(depth.ravel()[inside], 4 * width) ** 2
    starts = inside[np.argsort(rng.exponential(size=inside.size) / weight)]
    painted = np.zeros(objects.shape, bool)
    brush = round_brush(width)
    done = 0
    for start in zip(*np.unravel_index(starts, objects.shape), strict=True):
        if done == wanted:
            break
        if not painted[start]:
            budget = min(longest, wanted - done)
            done += wander(painted, objects, depth, start, budget, brush, width, rng)
    return painted[1:-1, 1:-1]


def wander(
    painted: npt.NDArray[np.bool_],
    objects: npt.NDArray[np.integer],
    depth: npt.NDArray[np.floating],
    start: tuple[int, int],
    budget: int,
    brush: npt.NDArray[np.intp],
    width: float,
    rng: np.random.Generator,
) -> int:
    """Draw one stroke of at most ``budget`` pixels, in place.

    Parameters
    ----------
    painted
        (h, w) of bool.
    objects
        (h, w) of integers, 0 all around: the stroke stays where it is what it is at the start.
    depth
        (h, w), distance of its pixels to others, in pixels.
    start
        (y, x) of the first pixel.
    budget
        A count of pixels.
    brush
        See :func:`round_brush`.
    width
        Of it, in pixels.
    rng
        Decides on length and way.

    Returns
    -------
    int
        How many pixels it painted that were not painted before.
    """
    clear = min(width, SHARE_OF_DEPTH * depth[start])
    heading = rng.uniform(0, 2 * np.pi)
    bend = rng.normal(0, 0.06)
    steps = int(rng.lognormal(np.log(_MEDIAN_LENGTH_PX), 0.7))
    turns = np.array([0, 0.25, -0.25, 0.5, -0.5]) * rng.choice([-1, 1])
    # The first step may go anywhere, later ones bend: lines glide along borders or end there.
    ways = np.concatenate([turns, turns + np.pi / 2, turns - np.pi / 2, turns + np.pi])
    at = np.array(start, float)
    last = np.array(objects.shape) - 1
    count = idle = 0
    for _ in range(1 + steps):
        dab = np.clip(np.rint(at).astype(int) + brush, 0, last)
        dab = dab[objects[dab[:, 0], dab[:, 1]] == objects[start]]
        fresh = dab[~painted[dab[:, 0], dab[:, 1]]][: budget - count]
        painted[fresh[:, 0], fresh[:, 1]] = True
        count += len(fresh)
        idle = 0 if len(fresh) else idle + 1
        # Over strokes that are there already a person does not go on for long.
        if count == budget or idle > 2 * width:
            break
        heading += bend + rng.normal(0, 0.05)
        for turn in ways:
            ahead = at + np.array([np.sin(heading + turn), np.cos(heading + turn)])
            pixel = tuple(np.rint(ahead).astype(int))
            if objects[pixel] == objects[start] and depth[pixel] >= clear:
                at, heading, ways = ahead, heading + turn, turns
                break
        else:
            break
    return count


def _depth(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.floating]:
    """Distance of a class's pixels to the nearest pixel of none or another, in pixels."""
    from scipy import ndimage as ndi

    if region.all():
        return np.full(region.shape, float(max(region.shape)))
    depth: npt.NDArray[np.floating] = ndi.distance_transform_edt(region)
    return depth


def round_brush(width: float) -> npt.NDArray[np.intp]:
    """Offsets (y, x) of the pixels under a round brush, its middle first."""
    reach = int(width / 2)
    side = np.arange(-reach, reach + 1)
    offsets = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    distance = np.hypot(*offsets.T)
    order = np.argsort(distance, kind="stable")
    near: npt.NDArray[np.intp] = offsets[order][distance[order] <= width / 2]
    return near
