"""Per-image percentile stretch: what makes models transfer between images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import ImageError

_SAMPLE = 1 << 21


def stretch(
    image: npt.ArrayLike, percentiles: tuple[float, float] = (1.0, 99.0)
) -> npt.NDArray[np.float32]:
    """Stretch an image's percentiles to black and white.

    Colour channels are stretched together, so that hues stay. Values that are not finite
    take no part in the percentiles; infinities become black or white, NaN mid-grey. A
    constant image becomes mid-grey.

    Parameters
    ----------
    image
        (h, w) grey, or (h, w, 3) or (h, w, 4) RGB(A), whose alpha is dropped; bool, any
        integer or real floating dtype.
    percentiles
        Lower and upper percentile in percent.

    Returns
    -------
    ndarray of float32
        (h, w, 1) or (h, w, 3), in [0, 1].

    Raises
    ------
    ImageError
        If the image has other dimensions, no pixels, no finite ones, or is not real.
    """
    image = np.asarray(image)
    if np.iscomplexobj(image):
        raise ImageError("the image is complex: pass its magnitude, np.abs(image), or its phase")
    if image.dtype.kind not in "buif":
        raise ImageError(f"the image holds {image.dtype}, not numbers")
    if image.ndim == 2:
        image = image[..., None]
    elif image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ImageError(
            f"the image has shape {image.shape}: a grey image (h, w) or RGB(A) image "
            "(h, w, 3 or 4) is needed"
        )
    image = image[..., :3]
    if image.size == 0:
        raise ImageError(f"the image has shape {image.shape[:2]}: it holds no pixels")
    # Integers of 32 bits and more and doubles lose nothing that a percentile could show.
    values: npt.NDArray[np.floating] = image.astype(
        np.float32 if image.dtype.itemsize <= 2 else np.float64
    )
    finite = np.isfinite(values)
    known = values[finite]
    if known.size == 0:
        raise ImageError("the image has no finite pixel: it is all NaN or infinite")
    # An evenly spaced sample of millions gives the same percentiles to a grey level.
    low, high = np.percentile(known[:: max(1, known.size // _SAMPLE)], percentiles)
    if not high > low:
        low, high = known.min(), known.max()
    if not high > low:
        stretched: npt.NDArray[np.floating] = np.full(values.shape, 0.5)
        stretched[np.isposinf(values)], stretched[np.isneginf(values)] = 1, 0
    else:
        # Halves first: the span of the largest doubles is no double.
        span = high / 2 - low / 2
        # Outliers may lie beyond all numbers when measured in tiny spans: black and white too.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            stretched = np.clip((values / 2 - low / 2) / span, 0, 1)
    whole: npt.NDArray[np.float32] = np.nan_to_num(stretched, nan=0.5).astype(np.float32)
    return whole
