"""Where else there is something like this: regions of many images, ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from skimage.measure import regionprops

from ..errors import HRDv2Error
from ..tokens import Tokens
from .common import Floats, checked
from .similarity import direction


class Match(NamedTuple):
    """A region that was found.

    Attributes
    ----------
    image
        Index of the image that it is in.
    label
        Of the region there.
    similarity
        Cosine similarity to what was looked for, in [-1, 1].
    """

    image: int
    label: int
    similarity: float


class Regions(NamedTuple):
    """Regions of one image, each with what stands for it.

    Attributes
    ----------
    descriptors
        (n, C) of float32, of length 1.
    labels
        Of the regions, ascending.
    """

    descriptors: Floats
    labels: tuple[int, ...]

    @classmethod
    def of(cls, tokens: Tokens, labels: npt.NDArray[np.integer]) -> Self:
        """Describe the regions of a label image (h, w), in which 0 is none."""
        found = regionprops(labels)
        descriptors = [direction(tokens, one.coords) for one in found]
        channels = tokens.grids[0].channels
        return cls(
            np.stack(descriptors) if found else np.empty((0, channels), np.float32),
            tuple(int(one.label) for one in found),
        )


@dataclass(frozen=True, eq=False)
class RegionIndex:
    """Descriptors of the regions of many images.

    Attributes
    ----------
    descriptors
        (n, C) of float32, of length 1.
    places
        For each, the index of the image and the label of the region.

    Examples
    --------
    >>> index = RegionIndex.build(images, segmentations)  # doctest: +SKIP
    >>> index.rank(descriptor(tokens, mask), 10)  # doctest: +SKIP
    """

    descriptors: Floats
    places: tuple[tuple[int, int], ...]

    @classmethod
    def build(cls, images: Sequence[Tokens], regions: Sequence[npt.NDArray[np.integer]]) -> Self:
        """Describe the regions.

        Parameters
        ----------
        images
            Tokens of the images, all made alike.
        regions
            For each image (h, w): the label of the region of every pixel, 0 where there is none.

        Raises
        ------
        HRDv2Error
            If there are no images, no regions, or those of an image are of another size.
        SettingsMismatchError
            If the tokens were made with different settings.
        """
        if len(regions) != len(images):
            raise HRDv2Error(f"there are {len(images)} images, but regions of {len(regions)}")
        parts = []
        for k, (tokens, labels) in enumerate(zip(checked(images), regions, strict=True)):
            if labels.shape != tokens.image_shape:
                raise HRDv2Error(
                    f"the regions of image {k} are {labels.shape}, the image {tokens.image_shape}"
                )
            parts.append(Regions.of(tokens, labels))
        return cls.join(parts)

    @classmethod
    def join(cls, parts: Sequence[Regions]) -> Self:
        """The regions of several images, whose features were described one by one.

        Raises
        ------
        HRDv2Error
            If there are no regions.
        """
        places = tuple((k, label) for k, one in enumerate(parts) for label in one.labels)
        if not places:
            raise HRDv2Error("there are no regions in any image: segment them first")
        return cls(np.concatenate([one.descriptors for one in parts if one.labels]), places)

    def rank(self, wanted: Floats, count: int | None = None) -> tuple[Match, ...]:
        """The regions most like a descriptor, the most alike first.

        Parameters
        ----------
        wanted
            (C,) of length 1, see :func:`.descriptor`; its tokens made as the images' were.
        count
            How many at most; by default all.

        Raises
        ------
        HRDv2Error
            If it is of other features.
        """
        channels = self.descriptors.shape[1]
        if wanted.shape != (channels,):
            raise HRDv2Error(
                f"the descriptor is {wanted.shape}, those of the regions have {channels} channels"
            )
        alike = np.clip(self.descriptors @ wanted, -1, 1)
        best = np.argsort(-alike, kind="stable")[:count]
        found = ((*self.places[k], float(alike[k])) for k in best)
        return tuple(map(Match._make, found))
