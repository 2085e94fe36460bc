"""What stands out of an image, without a label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage.color import rgb2gray
from skimage.filters.rank import entropy
from skimage.morphology import disk
from skimage.util import img_as_ubyte

from ..errors import HRDv2Error, ImageError
from ..normalise import stretch
from ..tokens import Tokens
from .common import Mask
from .pca import PrincipalComponents

_ENTROPY_PX = 10


def salient_clusters(
    assignment: npt.NDArray[np.integer], attention: npt.NDArray[np.floating], count: int
) -> Mask:
    """Which clusters the class token attends to more than to others.

    Those whose attention per pixel is above the mean of that over the clusters there are in the
    image (HR-Dv2, arXiv 2410.19836).

    Parameters
    ----------
    assignment
        (h, w), the cluster of every pixel from 0, see :meth:`.Clusters.assign`.
    attention
        (h, w), all heads together, see :func:`.attention_maps`.
    count
        Number of clusters.

    Returns
    -------
    ndarray of bool
        (count,); clusters that are not in the image are not salient.

    Raises
    ------
    HRDv2Error
        If attention and clusters are of images of different sizes.
    """
    if assignment.shape != attention.shape:
        raise HRDv2Error(
            f"the attention is {attention.shape}, the clusters {assignment.shape}: both must be of "
            "the same image"
        )
    areas = np.bincount(assignment.ravel(), minlength=count)
    sums = np.bincount(assignment.ravel(), attention.ravel(), minlength=count)
    density = np.divide(sums, areas, out=np.zeros(count), where=areas > 0)
    salient: Mask = (areas > 0) & (density > density[areas > 0].mean())
    return salient


def attended_foreground(
    assignment: npt.NDArray[np.integer], attention: npt.NDArray[np.floating]
) -> Mask:
    """The pixels of salient clusters, (h, w); see :func:`salient_clusters`."""
    foreground: Mask = salient_clusters(assignment, attention, assignment.max() + 1)[assignment]
    return foreground


def component_foreground(tokens: Tokens, image: npt.ArrayLike) -> Mask:
    """One side of the first principal component of tokens of length 1: the busier one.

    The sign of the component splits the image in two; the foreground is the side whose grey levels
    have the higher mean entropy within 10 pixels.

    Parameters
    ----------
    tokens
        Of the image.
    image
        (h, w) or (h, w, 3 or 4), any real dtype.

    Returns
    -------
    ndarray of bool
        (h, w).

    Raises
    ------
    ImageError
        If the image is of another size than the tokens', or cannot be used.
    """
    grey = stretch(image)
    if grey.shape[:2] != tokens.image_shape:
        raise ImageError(f"the image is {grey.shape[:2]}, its tokens are of {tokens.image_shape}")
    levels = img_as_ubyte(rgb2gray(grey) if grey.shape[-1] == 3 else grey[..., 0])
    component = PrincipalComponents.fit([tokens], 1, normalised=True).maps(tokens)[..., 0]
    side: Mask = component > 0
    busy = entropy(levels, disk(_ENTROPY_PX))
    # The mean of one side is below that of the other where it is below that of both.
    return ~side if (busy[side] - busy.mean()).sum() < 0 else side
