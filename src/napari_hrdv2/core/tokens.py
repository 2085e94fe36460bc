"""Tokens of one image: a value that knows where its tokens lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from .settings import Settings
from .transforms import Lattice
from .upsample import Kernel, Operator


@dataclass(frozen=True, eq=False)
class Grid:
    """Vectors of one kind on the lattices of one or several passes.

    Attributes
    ----------
    data
        (passes, ny, nx, C), float16 or float32; every pass in the image's own axes and directions.
    lattices
        For each pass, where its vectors lie along y and along x.
    image_shape
        (h, w) of the image in pixels.
    kernel
        Interpolation between them.
    """

    data: torch.Tensor
    lattices: tuple[tuple[Lattice, Lattice], ...]
    image_shape: tuple[int, int]
    kernel: Kernel = "bilinear"

    @property
    def channels(self) -> int:
        """Channels C of a vector."""
        return self.data.shape[-1]

    @cached_property
    def operator(self) -> Operator:
        """The operator A that upsamples and averages them."""
        return Operator(self.image_shape, self.lattices, self.kernel)

    def crop(self, region: tuple[slice, slice]) -> Grid:
        """Those vectors that the pixels of a region hang on, as a grid of the region."""
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
        return Grid(torch.stack(pieces), tuple(zip(*lattices, strict=True)), shape, self.kernel)


@dataclass(frozen=True, eq=False)
class Tokens:
    """What is known of one image: what the backbone saw in the passes so far, and the filters.

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
    filters
        Hand-made channels, see :func:`.filter_grids`.
    """

    data: torch.Tensor
    lattices: tuple[tuple[Lattice, Lattice], ...]
    image_shape: tuple[int, int]
    settings: Settings
    filters: tuple[Grid, ...] = ()

    @property
    def passes(self) -> int:
        """Number of passes made."""
        return len(self.lattices)

    @property
    def is_complete(self) -> bool:
        """Whether all passes that the settings foresee are made."""
        return self.passes == self.settings.passes

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """The tokens' own grid, then those of the filters."""
        own = Grid(self.data, self.lattices, self.image_shape, self.settings.kernel)
        return (own, *self.filters)

    @property
    def channels(self) -> int:
        """Features C of a pixel, those of all grids together."""
        return sum(grid.channels for grid in self.grids)

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return sum(grid.data.nbytes for grid in self.grids)

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
        own, *filters = (grid.crop(region) for grid in self.grids)
        return Tokens(own.data, own.lattices, own.image_shape, self.settings, tuple(filters))
