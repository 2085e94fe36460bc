"""What several images have in common, as jobs of an exploration, without a window."""

from __future__ import annotations

import hashlib
import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from skimage.color import hsv2rgb

from ._explore import Exploration, Exploring, Features, Fits, Labels, Mask, Steps
from ._job import Progress, Spot
from ._retrieval import SUFFIX, FolderIndex, Found, Indexing
from .core.cache import CacheWarning, default_folder
from .core.errors import HRDv2Error
from .core.explore import (
    Correspondences,
    CoSegmentation,
    RegionKind,
    attention_maps,
    correspondences,
    cosegment,
)

# Regions that are listed; of the others nobody reads.
_LISTED = 50
# Quarter turns of an image.
_QUARTERS = 4


class Retrieved(NamedTuple):
    """Regions of a folder that are like one looked for.

    Attributes
    ----------
    folder
        All its regions.
    found
        The most alike first.
    """

    folder: FolderIndex
    found: tuple[Found, ...]


class Sight(NamedTuple):
    """A region that was found, to look at.

    Attributes
    ----------
    path
        Of the image.
    found
        The region.
    pixels
        Of its plane, (h, w), (h, w, 3 or 4) or (h, w, n) of n channels.
    has_channels
        Whether they are channels.
    mask
        (h, w) of bool.
    """

    path: Path
    found: Found
    pixels: npt.NDArray[Any]
    has_channels: bool
    mask: Mask


class Across:
    """What several images of an exploration have in common.

    Its methods make jobs, as those of the exploration do.

    Parameters
    ----------
    exploration
        Whose images and settings they are.

    Examples
    --------
    >>> across = Across(exploration)  # doctest: +SKIP
    >>> job = across.cosegment([first, second], n_classes=3)  # doctest: +SKIP
    """

    def __init__(self, exploration: Exploration) -> None:
        self._exploration = exploration
        self._fits = Fits()
        # The last one, and where it is kept.
        self._index: tuple[Path, FolderIndex] | None = None

    def cosegment(
        self, spots: list[Spot], n_classes: int = 1
    ) -> Exploring[tuple[tuple[Spot, Labels], ...]]:
        """Job that finds the foreground that planes share, (h, w) of labels of each.

        Parameters
        ----------
        spots
            The planes.
        n_classes
            That the foreground is cut into, see :meth:`.CoSegmentation.labels`.

        Raises
        ------
        HRDv2Error
            If there are fewer than two planes.
        """
        _check_several(spots)
        kind = self._exploration.kind

        def task(source: Exploring[Any]) -> Steps[tuple[tuple[Spot, Labels], ...]]:
            features = yield from source.features_of(spots, kind)
            common = yield from self._common(source, features)
            return tuple(zip(spots, common.labels(n_classes), strict=True))

        return self._exploration.job(task)

    def _common(
        self, source: Exploring[Any], features: tuple[Features, ...]
    ) -> Steps[CoSegmentation]:
        seen = yield from source.features_of([one.spot for one in features], "attention")
        yield Progress(0, 0, "Finding what is common")

        def make() -> CoSegmentation:
            attentions = [attention_maps(one.tokens).together for one in seen]
            return cosegment([one.tokens for one in features], attentions)

        return self._fits.get(tuple((one.key, one.tokens.settings) for one in features), make)

    def points(
        self,
        first: Spot,
        second: Spot,
        count: int = 50,
        *,
        in_common: bool = False,
        turned: bool = False,
    ) -> Exploring[Correspondences]:
        """Job that finds points of two planes that show the same.

        Parameters
        ----------
        first, second
            The planes.
        count
            Of points at most.
        in_common
            Whether they lie in the foreground that both share.
        turned
            Whether one may be turned against the other: quarter turns are then among the
            passes, and positions are left as they are, so that the features turn with the image.
        """
        kind = self._exploration.kind

        def task(source: Exploring[Any]) -> Steps[Correspondences]:
            features = yield from source.features_of([first, second], kind)
            masks = None
            if in_common:
                one, other = (yield from self._common(source, features)).masks
                if not (one.any() and other.any()):
                    raise HRDv2Error(
                        "the two images have no common foreground: look for points everywhere"
                    )
                masks = one, other
            yield Progress(0, 0, "Comparing points")
            tokens = [one.tokens for one in features]
            return correspondences(tokens[0], tokens[1], masks, count=count)

        if not turned:
            return self._exploration.job(task)
        settings = self._exploration.session.settings
        # Of every zoom.
        passes = max(settings.passes, _QUARTERS * len(settings.zooms))
        return self._exploration.job(task, rotations=True, move_positions=False, passes=passes)

    def retrieve(
        self, spot: Spot, mask: Mask, folder: Path, regions: RegionKind = "clusters"
    ) -> Exploring[Retrieved]:
        """Job that ranks the regions of a folder's images by how like a region they are.

        The index of the folder is kept on disk, until the images change.

        Parameters
        ----------
        spot, mask
            The region (h, w) and the plane that it is in.
        folder
            Of the images.
        regions
            What the images are cut into, see :func:`.regions_of`.

        Raises
        ------
        HRDv2Error
            If the region is empty, or there is no such folder.
        """
        if not mask.any():
            raise HRDv2Error("the region is empty: paint at least one pixel")
        if not folder.is_dir():
            raise HRDv2Error(f"there is no folder {folder}")
        kind = self._exploration.kind

        def task(source: Exploring[Any]) -> Steps[Retrieved]:
            features = yield from source.features(spot, kind)
            extractor = yield from source.extractor(kind)
            indexing = Indexing(
                folder, extractor, regions, store=source.store, _cancelled=source._cancelled
            )
            index = yield from self._indexed(indexing)
            return Retrieved(index, index.search(features.tokens, mask, _LISTED))

        return self._exploration.job(task)

    def _indexed(self, indexing: Indexing) -> Steps[FolderIndex]:
        path = index_path(indexing)
        yield Progress(0, 0, "Looking through the folder")
        known, index = self._index, None
        if known is not None and known[0] == path:
            index = known[1]
        else:
            # One that cannot be read is made again.
            with suppress(HRDv2Error):
                index = FolderIndex.load(path)
        if index is None or not indexing.is_done(index):
            index = yield from indexing.run()
            # Where nothing is to be kept on disk, this is not either.
            if indexing.store is not None and indexing.store.budget > 0:
                _keep(index, path)
        self._index = path, index
        return index

    def look(self, index: FolderIndex, found: Found) -> Exploring[Sight]:
        """Job that reads the image of a region that was found."""

        def task(source: Exploring[Any]) -> Steps[Sight]:
            yield Progress(0, 0, "Reading the image")
            path = index.folder / found.plane.path
            has_channels = index.settings.has_channels
            return Sight(path, found, index.read(found), has_channels, index.mask(found))

        return self._exploration.job(task)


def pair_colours(count: int) -> npt.NDArray[np.float64]:
    """So many colours (n, 4) in [0, 1], those of neighbours as different as can be."""
    # Multiples of the golden ratio fall into the largest gap.
    hue = np.arange(count) * (np.sqrt(5) - 1) / 2 % 1
    value = np.where(np.arange(count) % 2, 0.75, 1.0)
    rgb = hsv2rgb(np.stack([hue, np.ones(count), value], -1))
    colours: npt.NDArray[np.float64] = np.concatenate([rgb, np.ones((count, 1))], 1)
    return colours


def index_path(indexing: Indexing) -> Path:
    """Where the index of a folder is kept: beside the features, one for each way to make it."""
    made = [
        str(indexing.folder.resolve()),
        indexing.kind,
        indexing.extractor.settings.model_dump(mode="json"),
    ]
    name = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return default_folder().with_name("regions") / f"{name}{SUFFIX}"


def _keep(index: FolderIndex, path: Path) -> None:
    try:
        index.save(path)
    except OSError as error:
        warnings.warn(
            f"the index of {index.folder} cannot be kept in {path.parent} "
            f"({error.strerror or error}): it is made again the next time",
            CacheWarning,
            stacklevel=2,
        )


def _check_several(spots: list[Spot]) -> None:
    if len(spots) < 2:
        raise HRDv2Error("choose at least two images")
