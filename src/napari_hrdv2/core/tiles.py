"""How planes are cut: into windows that the backbone looks through, and tiles to work on.

A transformer looks through windows of about the size that it was trained with. That is faster than
at a large image as a whole, where every token attends to all others, and it segments better
(docs/accuracy.md). Every pixel's features come from one window, in whose middle it lies, so that
a tile, made of some of the windows, has just the features that it has in the whole image.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .cache import digest_of
from .normalise import Levels, levels_of
from .planes import Index, Planes, Region
from .settings import Settings

# Pixels, as the backbone sees them, that a window reaches beyond those that it is for, and pixels
# of the image that filters reach.
_MARGIN, _REACH = 56, 40
# A little larger than a window is no reason for a second one.
_SLACK = 0.25
# Up to how many windows a plane is one tile, and windows along an axis of a tile otherwise.
_TOGETHER, _SIDE = 20, 2
# Up to how many pixels of a plane its levels are taken from all of them; beyond, from so many
# blocks along each axis, of so many pixels squared.
_ALL, _BLOCKS, _BLOCK = 1 << 24, 16, 128


class Cut(NamedTuple):
    """Pixels along an axis.

    Attributes
    ----------
    core
        Those whose features are wanted.
    window
        Those looked at for that.
    """

    core: slice
    window: slice

    def moved(self, by: int) -> Cut:
        """The same, counted from another pixel."""
        core, window = (slice(one.start - by, one.stop - by) for one in self)
        return Cut(core, window)


class Tile(NamedTuple):
    """Some of a plane's windows, which go together.

    Attributes
    ----------
    rows, columns
        The windows along y and along x.
    """

    rows: tuple[Cut, ...]
    columns: tuple[Cut, ...]

    @property
    def core(self) -> Region:
        """Rows and columns of the pixels whose features are wanted."""
        y, x = (slice(one[0].core.start, one[-1].core.stop) for one in self)
        return y, x

    @property
    def window(self) -> Region:
        """Rows and columns of the pixels looked at."""
        y, x = (slice(one[0].window.start, one[-1].window.stop) for one in self)
        return y, x

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the pixels whose features are wanted."""
        y, x = (one.stop - one.start for one in self.core)
        return y, x

    def inner(self) -> Tile:
        """The same, in pixels from the beginning of :attr:`window`."""
        y, x = (
            tuple(one.moved(part.start) for one in cuts)
            for cuts, part in zip(self, self.window, strict=True)
        )
        return Tile(y, x)


def cuts(n: int, settings: Settings) -> tuple[Cut, ...]:
    """The windows along an axis of ``n`` pixels, as far as any pass looks."""
    margin = max(_margin(settings, zoom) for zoom in (1.0, *settings.zooms))
    return tuple(_around(core, margin, n) for core in _cores(slice(0, n), settings, 1.0))


def zoomed_cuts(along: Sequence[Cut], settings: Settings, zoom: float) -> list[tuple[Cut, ...]]:
    """For each of an axis's windows, those through which passes of a zoom look at its core."""
    end, margin = max(one.window.stop for one in along), _margin(settings, zoom)
    return [
        tuple(_around(core, margin, end) for core in _cores(one.core, settings, max(zoom, 1.0)))
        for one in along
    ]


def _cores(part: slice, settings: Settings, zoom: float) -> Iterator[slice]:
    """Even parts of some pixels, a window's each."""
    n, count = part.stop - part.start, 1
    if settings.window and settings.boundary != "periodic":
        count = max(1, math.ceil(n * settings.scale * zoom / settings.window - _SLACK))
    step = _even(n / count)
    for start in range(part.start, part.stop, step):
        yield slice(start, min(start + step, part.stop))


def _around(core: slice, margin: int, n: int) -> Cut:
    return Cut(core, slice(max(0, core.start - margin), min(n, core.stop + margin)))


def _margin(settings: Settings, zoom: float) -> int:
    return _even(max(_MARGIN / (settings.scale * zoom), _REACH))


def _even(length: float) -> int:
    # As some filters lie on every second pixel.
    return 2 * math.ceil(length / 2)


def whole(shape: tuple[int, int], settings: Settings) -> Tile:
    """The tile that is all of a plane (h, w)."""
    return Tile(cuts(shape[0], settings), cuts(shape[1], settings))


def tiles(shape: tuple[int, int], settings: Settings) -> tuple[Tile, ...]:
    """The tiles of a plane (h, w), row by row; one where it is not large."""
    everything = whole(shape, settings)
    rows, columns = everything
    if len(rows) * len(columns) <= _TOGETHER:
        return (everything,)
    return tuple(Tile(y, x) for y in _grouped(rows) for x in _grouped(columns))


def _grouped(all_cuts: tuple[Cut, ...]) -> Iterator[tuple[Cut, ...]]:
    for start in range(0, len(all_cuts), _SIDE):
        yield all_cuts[start : start + _SIDE]


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a plane, with all that its features hang on but the settings.

    Attributes
    ----------
    pixels
        (h, w), (h, w, 3 or 4) or (h, w, n): those of the tile's :attr:`Tile.window`.
    tile
        Which part it is; None for an image that is by itself.
    levels
        What is stretched to black and white; None for an image's own.
    """

    pixels: npt.NDArray[Any]
    tile: Tile | None = None
    levels: Levels | None = None

    @cached_property
    def digest(self) -> str:
        """Identity of the content, in hex."""
        found = digest_of(self.pixels)
        if self.tile is None and self.levels is None:
            return found
        where = None if self.tile is None else self.tile.inner()
        levels = None if self.levels is None else self.levels.tolist()
        return hashlib.sha256(f"{found} {where} {levels}".encode()).hexdigest()


def level_regions(shape: tuple[int, int]) -> list[Region]:
    """The parts of a plane (h, w) that its levels are taken from: of a very large one, few."""
    height, width = shape
    if height * width <= _ALL:
        return [(slice(0, height), slice(0, width))]
    # Of an axis shorter than all blocks together some would be the same.
    y, x = (
        np.unique(np.linspace(0, max(0, n - _BLOCK), _BLOCKS).astype(int)).tolist() for n in shape
    )
    return [(slice(a, a + _BLOCK), slice(b, b + _BLOCK)) for a in y for b in x]


def levels_from(parts: Sequence[npt.NDArray[Any]], settings: Settings) -> Levels:
    """Levels of a plane, from the pixels of its :func:`level_regions`."""
    pixels = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return levels_of(pixels, settings.percentiles, apart=settings.has_channels)


def levels_in(planes: Planes, index: Index, settings: Settings) -> Levels:
    """Levels of a plane, from a part of its pixels where it is very large."""
    parts = [planes.read(index, region) for region in level_regions(planes.shape)]
    return levels_from(parts, settings)


def piece_of(planes: Planes, index: Index, tile: Tile, levels: Levels | None) -> Piece:
    """Read a part of a plane.

    Parameters
    ----------
    planes, index
        The plane.
    tile
        The part, one of :func:`tiles`.
    levels
        Of the plane, see :func:`levels_in`; not needed of a tile that is the whole plane.

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    pixels = planes.read(index, tile.window)
    if tile.shape == planes.shape:
        return Piece(pixels)
    return Piece(pixels, tile, levels)
