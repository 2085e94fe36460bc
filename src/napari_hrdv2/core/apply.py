"""Applying a model to planes of any size: tile by tile, at once or when asked for."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .base import BasePixelClassifier, PixelClass
from .errors import HRDv2Error, ImageError, RefinementWarning, SettingsMismatchError, never
from .extraction import FeatureExtractor
from .normalise import Levels
from .planes import Index, Planes, Region
from .refine import Refinement, gone
from .settings import Settings
from .tiles import Piece, Tile, level_regions, levels_from, levels_in, tiles
from .tokens import Tokens
from .weights import Progress

if TYPE_CHECKING:
    import dask.array as da

# A device runs one backbone at a time: two at once gain nothing and need room for two.
_one_at_a_time = threading.Lock()


class Part(NamedTuple):
    """What is segmented at a time.

    Attributes
    ----------
    plane
        Its index.
    tile
        Of the plane.
    levels
        Of the plane; None where the tile is all of it.
    """

    plane: Index
    tile: Tile
    levels: Levels | None


class Segmented(NamedTuple):
    """The segmentation of a part.

    Attributes
    ----------
    labels
        (h, w) of uint16, of the tile's core.
    probabilities
        (h, w, K) of float32; None where nobody asked for them.
    vanished
        Classes that refining took away from this part.
    """

    labels: npt.NDArray[np.uint16]
    probabilities: npt.NDArray[np.float32] | None
    vanished: tuple[PixelClass, ...]


class Losses:
    """Classes that refining took away from all parts of an image.

    Examples
    --------
    >>> losses = Losses()
    >>> losses.tell("cells.tif")
    """

    def __init__(self) -> None:
        self._lost: dict[int, PixelClass] = {}
        self._left: set[int] = set()

    def add(self, found: Segmented) -> None:
        """Look at a part."""
        self._lost |= {one.label: one for one in found.vanished}
        self._left.update(np.flatnonzero(np.bincount(found.labels.ravel())).tolist())

    def tell(self, name: str) -> None:
        """Warn with a :class:`RefinementWarning` of those of which no part has anything left."""
        lost = [one for label, one in self._lost.items() if label not in self._left]
        if lost:
            warnings.warn(f"{name}: {gone(lost)}", RefinementWarning, stacklevel=2)


def planes_for(planes: Planes, settings: Settings) -> Planes:
    """The same planes, of which the channels are used that settings are for.

    Raises
    ------
    ImageError
        If the image has other channels, or none.
    """
    count, wanted = planes.channel_count, settings.channel_count
    if not settings.has_channels:
        if count is not None:
            raise ImageError(
                f"the image has {count} channels, a grey or RGB image is needed: if they are no "
                "channels, say by the axes what they are, such as Z or T"
            )
        return planes
    needed = f"{wanted} channels are" if wanted else "an image of several channels is"
    if count is None:
        what = "RGB" if "S" in planes.axes else "grey"
        raise ImageError(f"the image is {what}, {needed} needed: say by the axes which is C")
    if wanted not in (None, count):
        raise ImageError(
            f"the image has {count} channels, {needed} needed, as of the images trained on"
        )
    return Planes(planes.array, planes.axes, settings.channels)


def parts_of(
    planes: Planes, settings: Settings, indices: Iterable[Index] | None = None
) -> Iterator[Part]:
    """All tiles of planes, in order.

    Parameters
    ----------
    planes, settings
        See :func:`planes_for`.
    indices
        Of the planes; by default of all.

    Raises
    ------
    ImageError
        If a plane, whose levels are needed for its first tile, cannot be read.
    """
    cut = tiles(planes.shape, settings)
    for index in planes.indices() if indices is None else indices:
        levels = levels_in(planes, index, settings) if len(cut) > 1 else None
        for tile in cut:
            yield Part(index, tile, levels)


def extractor_for(
    settings: Settings,
    *,
    device: str = "auto",
    weights: str | None = None,
    progress: Progress | None = None,
) -> FeatureExtractor:
    """An extractor of just these features, which a model was trained on.

    Parameters
    ----------
    settings
        Resolved ones.
    device, weights, progress
        As for :class:`FeatureExtractor`.

    Raises
    ------
    SettingsMismatchError
        If the weights are others.
    HRDv2Error
        If weights or device cannot be used; the subclass says which.
    """
    extractor = FeatureExtractor(settings, device=device, weights=weights, progress=progress)
    if extractor.settings != settings:
        ours, theirs = settings.weights_sha256, extractor.settings.weights_sha256
        raise SettingsMismatchError(
            f"the weights {extractor.weights.path} are not those that the model was trained with: "
            f"weights_sha256 {theirs} against {ours}"
        )
    return extractor


def segment_piece(
    classifier: BasePixelClassifier,
    tokens: Tokens,
    piece: Piece,
    refinement: Refinement | None = None,
    *,
    probabilities: bool = False,
    is_cancelled: Callable[[], bool] = never,
) -> Segmented:
    """Segment a tile, and refine that by what the tile shows.

    Its labels are those that the whole plane would have. Refining is different there: near the
    tile's border it sees nothing beyond, and a speck that two tiles share is two.

    Parameters
    ----------
    classifier
        A fitted one.
    tokens
        Of the piece.
    piece
        See :func:`.piece_of`.
    refinement
        What is done to it; by default nothing.
    probabilities
        Whether they are wanted too; they are not refined.
    is_cancelled
        Asked now and then whether to give up.

    Raises
    ------
    SettingsMismatchError
        If the tokens were made with other settings than the classifier's.
    Cancelled
        If somebody gave up.
    """
    refinement = refinement or Refinement()
    if refinement.is_off and not probabilities:
        return Segmented(classifier.predict(tokens, is_cancelled), None, ())
    found = classifier.predict_proba(tokens, is_cancelled)
    pixels = piece.pixels if piece.tile is None else piece.pixels[piece.tile.inner().core]
    refined = refinement.refine(
        found,
        pixels,
        classifier.pixel_classes_,
        is_cancelled,
        apart=tokens.settings.has_channels,
    )
    return Segmented(refined.labels, found if probabilities else None, refined.vanished)


def segment_lazy(
    classifier: BasePixelClassifier,
    array: Any,
    axes: str,
    *,
    device: str = "auto",
    weights: str | None = None,
    refinement: Refinement | None = None,
) -> da.Array:
    """Segment an array of any size when, and as far as, it is asked for.

    It works with every scheduler of dask. Threads take turns at the backbone; every process of a
    cluster has its own, on its own device.

    Parameters
    ----------
    classifier
        A fitted one.
    array
        The image, of dask, zarr, numpy or the like.
    axes
        A letter for every axis, see :class:`Planes`; all channels that there are, of which the
        classifier picks its own.
    device, weights
        As for :class:`FeatureExtractor`, in the process that does the work.
    refinement
        What is done to every tile, see :func:`segment_piece`; by default nothing.

    Returns
    -------
    dask.array.Array of uint16
        Labels, one for every pixel of every plane: axes as :attr:`Planes.labels_axes`. A chunk is
        a tile, or a plane where that is not large.

    Raises
    ------
    HRDv2Error
        If dask is missing.
    ImageError
        If axes or channels do not fit. What else may be wrong is told when labels are computed.

    Examples
    --------
    >>> labels = segment_lazy(classifier, stack, "TZCYX")  # doctest: +SKIP
    >>> labels[3, 10].compute()  # one plane  # doctest: +SKIP
    """
    try:
        import dask
        import dask.array as da
    except ImportError:
        raise HRDv2Error(
            "lazy segmentation needs dask: pip install 'napari-hrdv2[cluster]'"
        ) from None
    settings = classifier.settings_
    lazy = array
    if not isinstance(array, da.Array):
        # What it holds is told, or dask would ask for more than a shape, a dtype and slices.
        meta = np.empty((0,) * len(array.shape), array.dtype)
        lazy = da.from_array(array, chunks=getattr(array, "chunks", None) or "auto", meta=meta)
    planes = planes_for(Planes(lazy, axes), settings)
    cut = tiles(planes.shape, settings)
    model = dask.delayed(classifier)
    make_levels, make_labels = dask.delayed(_lazy_levels), dask.delayed(_lazy_labels)
    chunks: dict[tuple[int, ...], Any] = {}
    rows = list(dict.fromkeys(tile.core[0].start for tile in cut))
    columns = list(dict.fromkeys(tile.core[1].start for tile in cut))
    for index in planes.indices():
        levels = None
        if len(cut) > 1:
            parts = [_cut(planes, index, region) for region in level_regions(planes.shape)]
            levels = make_levels(parts, axes, planes.channels, settings)
        for tile in cut:
            pixels = _cut(planes, index, tile.window)
            labels = make_labels(
                model, pixels, axes, planes.channels, tile, levels, refinement, device, weights
            )
            shape = (1,) * len(index) + tile.shape
            y, x = tile.core
            at = (*index, rows.index(y.start), columns.index(x.start))
            chunks[at] = da.from_delayed(labels, shape, np.uint16)
    grid = np.empty((*planes.stack_shape, len(rows), len(columns)), object)
    for at, chunk in chunks.items():
        grid[at] = chunk
    found: da.Array = da.block(grid.tolist())
    return found


def _cut(planes: Planes, index: Index, region: Region) -> Any:
    """A region of a plane of a lazy array, with all axes."""
    along = dict(zip(planes.stack_axes, (slice(k, k + 1) for k in index), strict=True))
    along |= {"Y": region[0], "X": region[1]}
    return planes.array[tuple(along.get(one, slice(None)) for one in planes.axes)]


def _pixels(block: npt.NDArray[Any], axes: str, channels: tuple[int, ...] | None) -> Any:
    planes = Planes(block, axes, channels)
    return planes.read(next(planes.indices()))


def _lazy_levels(
    parts: Sequence[npt.NDArray[Any]],
    axes: str,
    channels: tuple[int, ...] | None,
    settings: Settings,
) -> Levels:
    return levels_from([_pixels(one, axes, channels) for one in parts], settings)


def _lazy_labels(
    classifier: BasePixelClassifier,
    block: npt.NDArray[Any],
    axes: str,
    channels: tuple[int, ...] | None,
    tile: Tile,
    levels: Levels | None,
    refinement: Refinement | None,
    device: str,
    weights: str | None,
) -> npt.NDArray[np.uint16]:
    pixels = _pixels(block, axes, channels)
    piece = Piece(pixels) if levels is None else Piece(pixels, tile, levels)
    labels = segment_here(classifier, piece, refinement, device=device, weights=weights).labels
    return labels.reshape((1,) * (len(set(axes) - set("CSYX"))) + labels.shape)


def segment_here(
    classifier: BasePixelClassifier,
    piece: Piece,
    refinement: Refinement | None = None,
    *,
    probabilities: bool = False,
    device: str = "auto",
    weights: str | None = None,
) -> Segmented:
    """Segment a tile with this process's own extractor, from any thread.

    Parameters
    ----------
    classifier, piece, refinement, probabilities
        As for :func:`segment_piece`.
    device, weights
        As for :func:`extractor_for`.

    Raises
    ------
    HRDv2Error
        As :func:`extractor_for` and :func:`segment_piece`, and of images that cannot be used.
    """
    with _one_at_a_time:
        tokens = _own_extractor(classifier.settings_, device, weights).extract(piece)
    return segment_piece(classifier, tokens, piece, refinement, probabilities=probabilities)


@lru_cache(maxsize=1)
def _own_extractor(settings: Settings, device: str, weights: str | None) -> FeatureExtractor:
    return extractor_for(settings, device=device, weights=weights)
