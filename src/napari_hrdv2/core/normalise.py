"""Per-image percentile stretch: what makes models transfer between images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ImageError

Levels = npt.NDArray[np.float64]

_SAMPLE = 1 << 21


def stretch(
    image: npt.ArrayLike,
    percentiles: tuple[float, float] = (1.0, 99.0),
    *,
    levels: Levels | None = None,
    apart: bool = False,
) -> npt.NDArray[np.float32]:
    """Stretch an image's percentiles to black and white.

    Colours are stretched together, so that hues stay. Values that are not finite take no part in
    the percentiles; infinities become black or white, NaN mid-grey. What is constant becomes
    mid-grey.

    Parameters
    ----------
    image
        (h, w) grey, or (h, w, 3) or (h, w, 4) RGB(A), whose alpha is dropped; bool, any
        integer or real floating dtype.
    percentiles
        Lower and upper percentile in percent.
    levels
        What becomes black and white instead, of an image that is a part of another; see
        :func:`levels_of`.
    apart
        Whether the last axis are channels, (h, w, n), each of which is stretched by itself.

    Returns
    -------
    ndarray of float32
        (h, w, 1), (h, w, 3) or (h, w, n), in [0, 1].

    Raises
    ------
    ImageError
        If the image has other dimensions, no pixels, no finite ones, or is not real.
    """
    pixels = _checked(image, apart)
    if levels is None:
        levels = levels_of(pixels, percentiles, apart=apart)
    if _is_small(pixels.dtype):
        # What becomes of a value is found once, and looked up.
        values = np.arange(int(pixels.max()) + 1, dtype=pixels.dtype)
        table = _stretched(values[:, None], levels)
        columns = np.broadcast_to(table, (len(values), pixels.shape[-1])).T
        looked_up = map(np.take, columns, np.moveaxis(pixels, -1, 0))
        return np.stack(list(looked_up), -1)
    return _stretched(pixels, levels)


def _is_small(dtype: np.dtype[Any]) -> bool:
    """Whether a type has so few values, from 0 on, that they can be counted."""
    return dtype.kind == "u" and dtype.itemsize <= 2


def _stretched(pixels: npt.NDArray[Any], levels: Levels) -> npt.NDArray[np.float32]:
    # Integers of 32 bits and more and doubles lose nothing that a percentile could show.
    values: npt.NDArray[np.floating] = pixels.astype(
        np.float32 if pixels.dtype.itemsize <= 2 else np.float64
    )
    low, high = levels.T.astype(values.dtype)
    # Halves first: the span of the largest doubles is no double.
    span = high / 2 - low / 2
    # Outliers may lie beyond all numbers when measured in tiny spans: black and white too.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        stretched = np.clip((values / 2 - low / 2) / span, 0, 1)
    flat = ~(high > low)
    if flat.any():
        constant = np.where(np.isinf(values), values > 0, 0.5)
        stretched = np.where(flat, constant, stretched)
    whole: npt.NDArray[np.float32] = np.nan_to_num(stretched, nan=0.5).astype(np.float32)
    return whole


def levels_of(
    image: npt.ArrayLike, percentiles: tuple[float, float] = (1.0, 99.0), *, apart: bool = False
) -> Levels:
    """Values that become black and white.

    Parameters
    ----------
    image, percentiles, apart
        As for :func:`stretch`.

    Returns
    -------
    ndarray of float64
        (1, 2), or (n, 2) of n channels apart: of each the lower and the upper; the same where all
        finite values are.

    Raises
    ------
    ImageError
        As :func:`stretch`.
    """
    pixels = _checked(image, apart)
    planes = np.moveaxis(pixels, -1, 0) if apart else pixels[None]
    return np.array([_levels(plane, percentiles) for plane in planes])


def _levels(
    plane: npt.NDArray[Any], percentiles: tuple[float, float]
) -> tuple[np.floating, np.floating]:
    known = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane.ravel()
    if known.size == 0:
        raise ImageError("the image has no finite pixel: it is all NaN or infinite")
    # An evenly spaced sample of millions gives the same percentiles to a grey level.
    sample = known[:: max(1, known.size // _SAMPLE)]
    if _is_small(sample.dtype):
        low, high = _counted_percentiles(sample, percentiles)
    else:
        low, high = np.percentile(sample.astype(np.float64), percentiles)
    return (low, high) if high > low else (known.min(), known.max())


def _counted_percentiles(
    sample: npt.NDArray[np.unsignedinteger[Any]], percentiles: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Percentiles as NumPy's, of few different values: these are counted, not sorted."""
    ends = np.bincount(sample).cumsum()
    ranks = np.array(percentiles) / 100 * (len(sample) - 1)
    below = np.floor(ranks)
    first, second = (
        np.searchsorted(ends, one, "right").astype(np.float64) for one in (below, np.ceil(ranks))
    )
    between: npt.NDArray[np.float64] = first + (ranks - below) * (second - first)
    return between


def _checked(image: npt.ArrayLike, apart: bool) -> npt.NDArray[Any]:
    """An image as (h, w, channels), without alpha."""
    image = np.asarray(image)
    if np.iscomplexobj(image):
        raise ImageError("the image is complex: pass its magnitude, np.abs(image), or its phase")
    if image.dtype.kind not in "buif":
        raise ImageError(f"the image holds {image.dtype}, not numbers")
    if image.ndim == 2:
        image = image[..., None]
    elif image.ndim != 3 or not (apart or image.shape[-1] in (1, 3, 4)):
        raise ImageError(
            f"the image has shape {image.shape}: a grey image (h, w) or RGB(A) image "
            "(h, w, 3 or 4) is needed"
        )
    if not apart:
        image = image[..., :3]
    if image.size == 0:
        raise ImageError(f"the image has shape {image.shape[:2]}: it holds no pixels")
    return image
