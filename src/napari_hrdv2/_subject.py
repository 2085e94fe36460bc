"""An image of a session with what is painted on it, as the places where work is done."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .core.base import BasePixelClassifier, check_strokes
from .core.errors import StrokesError
from .core.normalise import Levels
from .core.planes import Index, Planes, Region
from .core.refine import Refinement
from .core.settings import Settings
from .core.tiles import Piece, Tile, levels_in, piece_of, tiles

Strokes = npt.NDArray[np.integer]


class Place(NamedTuple):
    """A tile of a plane.

    Attributes
    ----------
    plane
        Its index.
    tile
        Which of the tiles of a plane.
    """

    plane: Index
    tile: int


class Stamp(NamedTuple):
    """What the segmentation of a place comes from."""

    classifier: BasePixelClassifier
    passes: int
    refinement: Refinement


class Subject:
    """An image of a session with its strokes.

    Attributes
    ----------
    planes, strokes
        The image, and the labels painted on it, None before there are any.
    is_training
        Whether its strokes are learnt from.
    tiles
        Those of each of its planes.
    drawn
        What is painted, by place; copies that nobody changes.
    done
        Of the places segmented so far, what from.

    Examples
    --------
    >>> subject = Subject(Planes(stack, "ZYX"), Planes(strokes, "ZYX"))  # doctest: +SKIP
    >>> subject.cut(Settings())  # doctest: +SKIP
    >>> subject.read_strokes()  # doctest: +SKIP
    """

    def __init__(self, planes: Planes, strokes: Planes | None = None) -> None:
        self.planes, self.strokes = planes, strokes
        self.is_training = True
        self.tiles: tuple[Tile, ...] = ()
        self.drawn: dict[Place, Strokes] = {}
        self.done: dict[Place, Stamp] = {}
        self._problems: dict[Place, StrokesError] = {}
        self._levels: dict[tuple[Index, tuple[float, float]], Levels] = {}

    def fits(self, settings: Settings) -> bool:
        """Whether images of these channels are what the settings are for."""
        mine = self.planes.channels
        counts = {None, self.planes.channel_count}
        return settings.channels == mine and settings.channel_count in counts

    def cut(self, settings: Settings) -> None:
        """Cut planes into tiles as the settings say."""
        cut = tiles(self.planes.shape, settings)
        if cut != self.tiles:
            self.tiles = cut
            self.done.clear()
            self.drawn.clear()
            self._problems.clear()
            self.read_strokes()

    def core(self, place: Place) -> Region:
        """Rows and columns of a place."""
        return self.tiles[place.tile].core

    def at(self, index: Index, region: Region | None = None) -> list[Place]:
        """The places of a plane that a region touches, from its middle outwards."""
        if region is None:
            return [Place(index, k) for k in range(len(self.tiles))]
        centre = [(part.start + part.stop) / 2 for part in region]
        found = []
        for k, tile in enumerate(self.tiles):
            if all(
                a.start < b.stop and b.start < a.stop
                for a, b in zip(tile.core, region, strict=True)
            ):
                middle = [(part.start + part.stop) / 2 for part in tile.core]
                found.append((math.dist(middle, centre), Place(index, k)))
        return [place for _, place in sorted(found)]

    def everywhere(self, index: Index) -> list[Place]:
        """All places, those of the planes nearest to one first."""
        near = sorted(self.planes.indices(), key=lambda other: math.dist(other, index))
        return [place for one in near for place in self.at(one)]

    def stroked(self, places: Iterable[Place]) -> bool:
        """Whether anything is painted at some places."""
        return any(place in self.drawn for place in places)

    def read_strokes(self, places: Iterable[Place] | None = None) -> bool:
        """See what is painted, by default everywhere; whether anything is new.

        Strokes that cannot be used count as none, see :meth:`check_strokes`.
        """
        is_new = False
        if places is None:
            places = [place for one in self.planes.indices() for place in self.at(one)]
        usable = self.strokes is not None and self.strokes.labels_shape == self.planes.labels_shape
        for place in places:
            old = self.drawn.get(place)
            new = None
            if usable:
                assert self.strokes is not None
                new = self.strokes.read(place.plane, self.core(place))
                self._problems.pop(place, None)
                try:
                    new = check_strokes(new, self.tiles[place.tile].shape)
                except StrokesError as error:
                    new, self._problems[place] = None, error
            if new is None or not new.any():
                is_new |= self.drawn.pop(place, None) is not None
            elif old is None or not np.array_equal(old, new):
                self.drawn[place] = np.array(new)
                is_new = True
        return is_new

    def check_strokes(self) -> None:
        """Refuse strokes that cannot be used.

        Raises
        ------
        StrokesError
            If they are of another shape than the image, no integers, or out of range.
        """
        if self.strokes is None:
            return
        if self.strokes.labels_shape != self.planes.labels_shape:
            raise StrokesError(
                f"the strokes have shape {self.strokes.labels_shape}, the image "
                f"{self.planes.labels_shape}: they must be the same"
            )
        for error in self._problems.values():
            raise error

    def piece(self, place: Place, settings: Settings) -> Piece:
        """Read what features of a place hang on; from any thread.

        Raises
        ------
        ImageError
            If it cannot be read.
        """
        levels, key = None, (place.plane, settings.percentiles)
        if len(self.tiles) > 1:
            if key not in self._levels:
                self._levels[key] = levels_in(self.planes, place.plane, settings)
            levels = self._levels[key]
        return piece_of(self.planes, place.plane, self.tiles[place.tile], levels)

    def forget_levels(self) -> None:
        """Find anew what is stretched to black and white: pixels may have been changed."""
        self._levels.clear()

    def pixels(self, place: Place) -> npt.NDArray[Any]:
        """Read the pixels of a place; from any thread."""
        return self.planes.read(place.plane, self.core(place))
