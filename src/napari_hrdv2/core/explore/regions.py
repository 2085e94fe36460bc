"""An image cut into regions where nobody says what its regions are."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from skimage.measure import label as connected
from skimage.segmentation import slic

from ..errors import HRDv2Error, ImageError
from ..normalise import stretch
from ..tokens import Tokens
from .clusters import Clusters

RegionKind = Literal["clusters", "superpixels", "grid"]

# So many clusters are found and merged to so many classes: enough for what one image shows.
_CLUSTERS, _CLASSES, _SAMPLES = 20, 8, 10_000
# Of the image, below which a region is a stray.
_SMALLEST = 1 / 400
_SUPERPIXELS = 100
# Cells of the grid along the shorter side.
_CELLS = 6


def regions_of(
    tokens: Tokens, image: npt.ArrayLike, kind: RegionKind = "clusters"
) -> npt.NDArray[np.int32]:
    """Cut an image into regions.

    Parameters
    ----------
    tokens
        Of the image.
    image
        (h, w), (h, w, 3 or 4), or (h, w, n) where the tokens are of channels; any real dtype.
    kind
        ``"clusters"``: connected pixels of the same class of features, without strays: parts of
        things, large and small. ``"superpixels"``: about 100 regions of like size and colour
        (SLIC). ``"grid"``: squares, a sixth of the shorter side: where texture counts alone.

    Returns
    -------
    ndarray of int32
        (h, w), from 1; 0 where there is no region.

    Raises
    ------
    HRDv2Error
        If there is no such kind.
    ImageError
        If the image is of another size than the tokens', or cannot be used.
    """
    if kind not in get_args(RegionKind):
        raise HRDv2Error(f"regions are {', '.join(get_args(RegionKind))}, not {kind!r}")
    shape = np.shape(image)[:2]
    if shape != tokens.image_shape:
        raise ImageError(f"the image is {shape}, its tokens are of {tokens.image_shape}")
    if kind == "grid":
        side = max(1, -(-min(shape) // _CELLS))
        y, x = (np.arange(n) // side for n in shape)
        cells: npt.NDArray[np.int32] = (y[:, None] * (x[-1] + 1) + x + 1).astype(np.int32)
        return cells
    found: npt.NDArray[Any]
    if kind == "superpixels":
        pixels = stretch(image, tokens.settings.percentiles, apart=tokens.settings.has_channels)
        is_rgb = pixels.shape[-1] == 3 and not tokens.settings.has_channels
        found = slic(
            pixels,
            _SUPERPIXELS,
            compactness=10 if is_rgb else 0.1,
            convert2lab=is_rgb,
            channel_axis=-1,
        )
    else:
        count = min(_CLUSTERS, shape[0] * shape[1])
        clusters = Clusters.fit([tokens], count, samples=_SAMPLES)
        classes = clusters.merged(n_classes=min(_CLASSES, count)).segment(tokens)
        found = connected(classes, background=0, connectivity=1)
        areas = np.bincount(found.ravel())
        is_kept = areas >= min(_SMALLEST * found.size, areas.max())
        # Those left out become 0, the others are counted anew.
        found = (np.cumsum(is_kept) * is_kept)[found]
    return found.astype(np.int32)
