"""Tokens of one image: a value that knows where its tokens lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from .settings import Settings
from .transforms import AxisLattice, cropped
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
    edges
        For each channel, whether it tells that there is an edge, but not which side of it a
        pixel is on; none where empty.
    """

    data: torch.Tensor
    lattices: tuple[tuple[AxisLattice, AxisLattice], ...]
    image_shape: tuple[int, int]
    kernel: Kernel = "bilinear"
    edges: tuple[bool, ...] = ()

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
        taken, lattices = [], []
        for axis, (n, part) in enumerate(zip(self.image_shape, region, strict=True)):
            mine, along = cropped([pair[axis] for pair in self.lattices], n, part)
            taken.append(mine)
            lattices.append(along)
        pieces = [
            _taken(_taken(one, rows, 0), columns, 1)
            for one, rows, columns in zip(self.data, *taken, strict=True)
        ]
        shape = (region[0].stop - region[0].start, region[1].stop - region[1].start)
        # Of a single pass nothing is copied.
        data = torch.stack(pieces) if len(pieces) > 1 else pieces[0][None]
        return replace(
            self, data=data, lattices=tuple(zip(*lattices, strict=True)), image_shape=shape
        )


def _taken(data: torch.Tensor, parts: Sequence[slice], axis: int) -> torch.Tensor:
    """Some slices along an axis, one after the other."""
    found = [data.narrow(axis, one.start, one.stop - one.start) for one in parts]
    return found[0] if len(found) == 1 else torch.cat(found, axis)


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
    lattices: tuple[tuple[AxisLattice, AxisLattice], ...]
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
