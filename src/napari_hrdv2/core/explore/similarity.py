"""How much alike pixels are, within an image and between images."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from ..errors import HRDv2Error
from ..tokens import Tokens
from ..upsample import projected_maps
from .common import Floats, Pixels, checked_mask, rows, sampled, unit

# Pixels of a region whose mean stands for it; neighbours tell next to nothing new.
_PIXELS = 4096
# Channels, and rows of these, that a processor's cache holds at full resolution.
_CHANNELS, _ROWS = 16, 32


def descriptor(tokens: Tokens, where: tuple[int, int] | npt.ArrayLike) -> Floats:
    """What stands for a pixel or a region: the direction of its mean feature.

    Parameters
    ----------
    tokens
        Of the image.
    where
        (y, x) of a pixel, or a mask (h, w) that is not 0 in the region.

    Returns
    -------
    ndarray of float32
        (C,), of length 1.

    Raises
    ------
    HRDv2Error
        If the pixel is not in the image, the mask of another shape, or the region empty.
    """
    if isinstance(where, tuple):
        if not all(0 <= at < n for at, n in zip(where, tokens.image_shape, strict=True)):
            raise HRDv2Error(f"pixel {where} is not in the image, {tokens.image_shape}")
        pixels = np.array([where], np.intp)
    else:
        pixels = np.argwhere(checked_mask(where, tokens))
    return direction(tokens, pixels)


def direction(tokens: Tokens, pixels: Pixels) -> Floats:
    """Direction (C,) of the mean feature of pixels (n, 2), or of a sample of these."""
    return unit(rows(tokens, pixels[sampled(len(pixels), _PIXELS)]).mean(0))


def lengths(tokens: Tokens) -> Floats:
    """Euclidean length of the backbone's feature at every pixel.

    Some channels at a time: the map of all of them is never there.

    Returns
    -------
    ndarray of float32
        (h, w).
    """
    grid = tokens.grids[0]
    total = torch.zeros(tokens.image_shape)
    for part in torch.split(grid.data, _CHANNELS, dim=-1):
        start = 0
        for maps in grid.operator.blocks(part, _ROWS):
            total[start : start + len(maps)] += maps.square().sum(1).cpu()
            start += len(maps)
    found: Floats = total.sqrt().numpy()
    return found


class Similarity:
    """Cosine similarity of all pixels of an image to descriptors.

    cos(F(p), d) = F(p) d / |F(p)|: the numerator is one projection of the tokens, the lengths do
    not depend on the descriptor and are computed once.

    Parameters
    ----------
    tokens
        Of the image.

    Examples
    --------
    >>> similarity = Similarity(tokens)  # doctest: +SKIP
    >>> similarity.to(descriptor(tokens, (120, 80)))  # doctest: +SKIP
    >>> Similarity(other).to(descriptor(tokens, mask))  # doctest: +SKIP
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    @cached_property
    def _lengths(self) -> Floats:
        found = lengths(self.tokens)
        return np.maximum(found, np.finfo(np.float32).tiny)

    def to(self, wanted: Floats) -> Floats:
        """Similarity to a descriptor.

        Parameters
        ----------
        wanted
            (C,) of length 1, see :func:`descriptor`; of this or of another image.

        Returns
        -------
        ndarray of float32
            (h, w), in [-1, 1].

        Raises
        ------
        HRDv2Error
            If it is of other features.
        """
        return self.to_all(wanted[None])[..., 0]

    def to_all(self, wanted: Floats) -> Floats:
        """Similarity to each of several descriptors (K, C): (h, w, K), as :meth:`to`."""
        if wanted.shape[1] != self.tokens.data.shape[-1]:
            raise HRDv2Error(
                f"the descriptor has {wanted.shape[1]} channels, the image's tokens "
                f"{self.tokens.data.shape[-1]}: make both with the same settings"
            )
        cosines = projected_maps(self.tokens, wanted)
        cosines /= self._lengths[..., None]
        return np.clip(cosines, -1, 1, out=cosines)
