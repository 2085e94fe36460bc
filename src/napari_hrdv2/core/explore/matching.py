"""Which points of two images show the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..base import refuse_differences
from ..tokens import Tokens
from .common import Floats, Pixels, checked_mask, rows, sampled, unit

# The similarities of all pairs of so many points take 100 MB.
_POINTS = 5000


class Correspondences(NamedTuple):
    """Points of two images that show the same, the most alike first.

    Attributes
    ----------
    first, second
        (n, 2) of int, (y, x) in pixels of either image.
    similarity
        (n,) of float32, cosine similarity of their features, in [-1, 1].
    """

    first: Pixels
    second: Pixels
    similarity: Floats


def correspondences(
    first: Tokens,
    second: Tokens,
    masks: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    count: int = 50,
    step: int | None = None,
) -> Correspondences:
    """Find points of two images that show the same.

    Of points on a grid those that are each other's most similar ones correspond ('best buddies',
    arXiv 2112.05814). The second is then moved to the most similar pixel around it.

    Parameters
    ----------
    first, second
        Tokens of the images, made alike.
    masks
        For each image (h, w), not 0 where points may lie, such as its foreground; by default
        everywhere.
    count
        Number n of correspondences at most.
    step
        Distance of the points on the grid, and how far the second is moved, in pixels; by
        default a patch in the image. Of very many points a sample is taken.

    Raises
    ------
    HRDv2Error
        If a mask is empty or does not fit.
    SettingsMismatchError
        If the tokens were made with different settings.
    """
    refuse_differences(first.settings, second.settings, "those of the first image")
    settings = first.settings
    assert settings.patch is not None
    step = step or max(1, round(settings.patch / settings.scale))
    one, other = (
        _points(tokens, None if masks is None else masks[k], step)
        for k, tokens in enumerate((first, second))
    )
    features = unit(rows(first, one))
    alike = features @ unit(rows(second, other)).T
    best, back = alike.argmax(1), alike.argmax(0)
    mutual = np.flatnonzero(back[best] == np.arange(len(one)))
    order = np.argsort(-alike[mutual, best[mutual]], kind="stable")
    chosen = mutual[order[:count]]
    refined = [_most_like(second, features[k], other[best[k]], step) for k in chosen]
    similarity = np.array([alike for _, alike in refined], np.float32)
    order = np.argsort(-similarity, kind="stable")
    found = np.array([pixel for pixel, _ in refined], np.intp).reshape(-1, 2)
    return Correspondences(one[chosen][order], found[order], similarity[order])


def _points(tokens: Tokens, mask: npt.ArrayLike | None, step: int) -> Pixels:
    """Points (n, 2) of a grid within a mask; all its pixels where the grid misses it."""
    shape = tokens.image_shape
    y, x = (np.arange(min(step, n) // 2, n, step) for n in shape)
    points = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    if mask is not None:
        allowed = checked_mask(mask, tokens)
        within = points[allowed[points[:, 0], points[:, 1]]]
        points = within if len(within) else np.argwhere(allowed)
    return points[sampled(len(points), _POINTS)]


def _most_like(tokens: Tokens, feature: Floats, around: Pixels, step: int) -> tuple[Pixels, float]:
    """The pixel within so many of another that is most like a feature, and how like it is."""
    y, x = (
        np.arange(max(0, at - step), min(n, at + step + 1))
        for at, n in zip(around, tokens.image_shape, strict=True)
    )
    pixels = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    alike = unit(rows(tokens, pixels)) @ feature
    best = int(alike.argmax())
    return pixels[best], float(alike[best])
