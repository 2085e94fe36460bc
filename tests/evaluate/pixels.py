"""A backbone whose features of a pixel are its colours: what can be learnt from it is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from napari_hrdv2.core.normalise import stretch
from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.tiles import Piece
from napari_hrdv2.core.tokens import Tokens
from napari_hrdv2.core.transforms import Lattice

SETTINGS = Settings(
    model="pixels", weights_sha256="0" * 64, patch=1, stride=1, passes=1, filters=False
)


class PixelExtractor:
    """Extractor of colours, from -scale to scale.

    Attributes
    ----------
    seen
        Number of images looked at.
    """

    settings = SETTINGS

    def __init__(self, scale: float = 4.0) -> None:
        self.scale, self.seen = scale, 0

    def extract(self, image: Any, *, store: Any = None) -> Tokens:
        self.seen += 1
        piece = image if isinstance(image, Piece) else Piece(np.asarray(image))
        pixels = stretch(piece.pixels, levels=piece.levels)
        shape = pixels.shape[:2]
        data = torch.from_numpy((2 * pixels - 1) * np.float32(self.scale))[None]
        return Tokens(data, (tuple(Lattice(0.5, 1, n) for n in shape),), shape, SETTINGS)
