"""Tokens of one image: a value that knows where its tokens lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
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

    def crop(self, region: tuple[slice, slice]) -> Tokens:
        """Those tokens that the pixels of a region hang on, as tokens of the region.

        Parameters
        ----------
        region
            Rows and columns, each with a start and a stop within the image.

        Raises
        ------
        ValueError
            If the boundary is periodic: there the far edge counts too.
        """
        if self.settings.boundary == "periodic":
            raise ValueError("tokens of a periodic image cannot be cropped")
        starts, lattices = [], []
        for axis, part in enumerate(region):
            along = [pair[axis] for pair in self.lattices]
            ends = [
                [int((at - one.origin) // one.stride) for one in along]
                for at in (part.start + 0.5, part.stop - 0.5)
            ]
            size = min(along[0].size, max(b - a for a, b in zip(*ends, strict=True)) + 2)
            first = [min(max(a, 0), one.size - size) for a, one in zip(ends[0], along, strict=True)]
            starts.append([slice(a, a + size) for a in first])
            lattices.append(
                [
                    replace(one, origin=one.origin + a * one.stride - part.start, size=size)
                    for a, one in zip(first, along, strict=True)
                ]
            )
        pieces = [one[y, x] for one, y, x in zip(self.data, *starts, strict=True)]
        shape = (region[0].stop - region[0].start, region[1].stop - region[1].start)
        return Tokens(torch.stack(pieces), tuple(zip(*lattices, strict=True)), shape, self.settings)
