"""Clusters of features, colours and places together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage.color import rgb2hsv
from sklearn.cluster import MiniBatchKMeans

from ..errors import HRDv2Error, ImageError
from ..normalise import stretch
from ..tokens import Tokens
from .common import Floats, sampled
from .pca import PrincipalComponents


def fused_features(
    tokens: Tokens,
    image: npt.ArrayLike,
    *,
    components: int = 5,
    colour: float = 1.0,
    position: float = 1.0,
) -> Floats:
    """Some principal components of every pixel's feature beside its colour and place.

    Parameters
    ----------
    tokens
        Of the image.
    image
        (h, w) or (h, w, 3 or 4), any real dtype.
    components
        Number K of components; they are scaled so that the first has a deviation of 1.
    colour
        Factor of cosine and sine of the hue, saturation and value, of the image's grey level
        where it has no colours; all are in [-1, 1].
    position
        Factor of x and y, in [0, 1] along the longer side.

    Returns
    -------
    ndarray of float32
        (h, w, K + 6), or (h, w, K + 3) of a grey image.

    Raises
    ------
    HRDv2Error
        If there are not so many components.
    ImageError
        If the image is of another size than the tokens', or cannot be used.
    """
    pixels = stretch(image)
    shape = tokens.image_shape
    if pixels.shape[:2] != shape:
        raise ImageError(f"the image is {pixels.shape[:2]}, its tokens are of {shape}")
    maps = PrincipalComponents.fit([tokens], components, normalised=True).maps(tokens)
    deviation = maps[..., 0].std()
    maps /= deviation if deviation > 0 else 1
    if pixels.shape[-1] == 3:
        hue, saturation, value = np.moveaxis(rgb2hsv(pixels), -1, 0)
        angle = 2 * np.pi * hue
        pixels = np.stack([np.cos(angle), np.sin(angle), saturation, value], -1)
    y, x = (at / max(shape) for at in np.indices(shape, np.float32))
    parts = [maps, colour * pixels, position * x[..., None], position * y[..., None]]
    features: Floats = np.concatenate(parts, -1).astype(np.float32)
    return features


def fused_clusters(
    tokens: Tokens,
    image: npt.ArrayLike,
    n_clusters: int = 80,
    *,
    components: int = 5,
    colour: float = 1.0,
    position: float = 1.0,
    samples: int = 50_000,
) -> npt.NDArray[np.uint16]:
    """Cluster the pixels of an image by k-means on :func:`fused_features`.

    Parameters
    ----------
    tokens, image, components, colour, position
        As for :func:`fused_features`.
    n_clusters
        Number of clusters.
    samples
        Pixels that they are found from, at random (a count); all are assigned.

    Returns
    -------
    ndarray of uint16
        (h, w), from 1.

    Raises
    ------
    HRDv2Error
        If there are fewer pixels than clusters, and as :func:`fused_features`.
    """
    features = fused_features(
        tokens, image, components=components, colour=colour, position=position
    )
    flat = features.reshape(-1, features.shape[-1])
    chosen = flat[sampled(len(flat), samples)]
    if not 1 <= n_clusters <= len(chosen):
        raise HRDv2Error(f"{n_clusters} clusters asked for: there are {len(chosen)} pixels")
    model = MiniBatchKMeans(n_clusters, n_init=1, random_state=0, batch_size=4096).fit(chosen)
    labels: npt.NDArray[np.uint16] = model.predict(flat).astype(np.uint16) + np.uint16(1)
    return labels.reshape(features.shape[:2])
