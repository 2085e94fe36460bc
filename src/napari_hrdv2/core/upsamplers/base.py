"""What upsamplers have in common: they turn a backbone's tokens into features of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..errors import HRDv2Error, ImageError
from ..normalise import stretch
from ..settings import Settings
from ..tokens import Tokens

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.intp]


class PixelFeatures(Protocol):
    """Features F of every pixel of an image, which need not be there all at once.

    Whoever wants colours or class scores asks for these: where features are linear in the
    tokens, the tokens are projected first, and the map of all channels is never built.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the image in pixels."""

    @property
    def channels(self) -> int:
        """Features C of a pixel."""

    def rows(self, pixels: Pixels) -> Floats:
        """Features of some pixels.

        Parameters
        ----------
        pixels
            (n, 2) of (y, x) in pixels.

        Returns
        -------
        ndarray of float32
            (n, C).
        """

    def maps(self, weight: Floats, bias: Floats | float = 0.0) -> Floats:
        """Maps F W' + b of all pixels.

        Parameters
        ----------
        weight
            (K, C).
        bias
            (K,).

        Returns
        -------
        ndarray of float32
            (h, w, K).
        """


class Upsampler(Protocol):
    """A way from the tokens of an image to features of its pixels.

    Examples
    --------
    >>> upsampler = make_upsampler("guided")
    >>> extractor = FeatureExtractor(upsampler.settings(settings))  # doctest: +SKIP
    >>> features = upsampler.upsample(image, extractor.extract(image))  # doctest: +SKIP
    >>> colours = features.maps(components, offset)  # doctest: +SKIP
    """

    @property
    def name(self) -> str:
        """What it is called in tables and pictures."""

    def settings(self, base: Settings) -> Settings:
        """The settings of the tokens that it wants.

        Parameters
        ----------
        base
            Resolved settings, of which passes, stride, kernel and scale are not asked.

        Raises
        ------
        HRDv2Error
            If there are none for this backbone.
        """

    def upsample(self, image: npt.ArrayLike, tokens: Tokens) -> PixelFeatures:
        """Features of an image's pixels.

        Parameters
        ----------
        image
            (h, w) or (h, w, 3 or 4), any real dtype.
        tokens
            Its tokens, of the wanted settings.

        Raises
        ------
        HRDv2Error
            If image or tokens do not suit it.
        """


class OnePass:
    """What upsamplers share that work on a single pass whose patches tile the image."""

    def settings(self, base: Settings) -> Settings:
        """As :meth:`.Upsampler.settings`."""
        return base.model_copy(
            update={"passes": 1, "stride": base.patch, "scale": 1.0, "kernel": "bilinear"}
        )


@dataclass(frozen=True, eq=False)
class TokenFeatures(PixelFeatures):
    """What features have in common that are made of tokens when they are asked for.

    Attributes
    ----------
    tokens
        Of the image.
    """

    tokens: Tokens

    @property
    def shape(self) -> tuple[int, int]:
        return self.tokens.image_shape

    @property
    def channels(self) -> int:
        return self.tokens.data.shape[-1]


@dataclass(frozen=True, eq=False)
class GuidedFeatures(TokenFeatures):
    """Features of tokens of one pass, and of the image.

    Attributes
    ----------
    guide
        (h, w, 1 or 3) of float32, in [0, 1], see :func:`guide_of`.
    """

    guide: torch.Tensor


def guide_of(image: npt.ArrayLike, tokens: Tokens) -> torch.Tensor:
    """An image as a guide for its tokens: (h, w, 1 or 3) of float32, in [0, 1].

    It is where the tokens are, but for MPS.

    Raises
    ------
    ImageError
        If it is not of their size, or cannot be used.
    HRDv2Error
        If the tokens are of more than one pass, or their patches do not tile the image.
    """
    settings = tokens.settings
    scale = settings.scale * settings.zooms[0]
    if tokens.passes != 1 or settings.stride != settings.patch or scale != 1:
        raise HRDv2Error(
            "an upsampler with a guide wants tokens of one pass, with the patch size as the stride "
            f"and scale 1; these are of {tokens.passes} passes, stride {settings.stride}, scale "
            f"{scale:g}"
        )
    guide = stretch(image, settings.percentiles)
    if guide.shape[:2] != tokens.image_shape:
        raise ImageError(f"the image is {guide.shape[:2]}, its tokens' {tokens.image_shape}")
    # MPS lacks the products that follow.
    device = tokens.data.device
    return torch.from_numpy(guide).to(device if device.type != "mps" else "cpu")
