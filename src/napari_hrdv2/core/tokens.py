"""Tokens of one image: a value that knows where its tokens lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from .settings import Settings
from .transforms import Lattice
from .upsample import Operator


@dataclass(frozen=True, eq=False)
class Tokens:
    """What the backbone saw of one image, in all passes made so far.

    Attributes
    ----------
    data
        (passes, ny, nx, C), float16 or float32; every pass brought back to the image's own
        axes and directions.
    lattices
        For each pass, where its tokens lie along y and along x.
    image_shape
        (h, w) of the image in pixels.
    settings
        The resolved settings that made them; they may foresee more passes.
    """

    data: torch.Tensor
    lattices: tuple[tuple[Lattice, Lattice], ...]
    image_shape: tuple[int, int]
    settings: Settings

    @property
    def passes(self) -> int:
        """Number of passes made."""
        return len(self.lattices)

    @property
    def is_complete(self) -> bool:
        """Whether all passes that the settings foresee are made."""
        return self.passes == self.settings.passes

    @property
    def channels(self) -> int:
        """Channels C of a token."""
        return self.data.shape[-1]

    @cached_property
    def operator(self) -> Operator:
        """The operator A that upsamples and averages them."""
        return Operator(self.image_shape, self.lattices, self.settings.kernel)
