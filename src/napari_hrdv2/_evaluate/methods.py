"""The methods that are scored, from an image to what is compared with its annotation."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from skimage.measure import label, regionprops

from ..core.base import default_class
from ..core.errors import HRDv2Error
from ..core.explore import (
    Box,
    Clusters,
    attention_maps,
    boxes,
    component_foreground,
    cosegment,
    salient_clusters,
)
from ..core.explore.similarity import direction
from ..core.extraction import FeatureExtractor
from ..core.refine import Refinement
from ..core.tokens import Tokens

Image = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.integer]

_KINDS = ("attention", "component")

_I = TypeVar("_I", contravariant=True)
_O = TypeVar("_O", covariant=True)


class Method(Protocol[_I, _O]):
    """What an evaluation scores: it is called with an image, or some, as they are read."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that changes what it finds, as JSON has it."""

    def __call__(self, seen: _I, /) -> _O:
        """Find it."""


@dataclass(frozen=True, eq=False)
class _Salient:
    """What stands out of an image.

    Attributes
    ----------
    extractor
        Of features.
    kind
        ``"attention"``: clusters that the class token attends to, see :func:`.salient_clusters`;
        ``"component"``: a side of the first principal component, see
        :func:`.component_foreground`.
    n_clusters
        Clusters of an image, for attention.
    refinement
        What is done to the segmentation.

    Raises
    ------
    HRDv2Error
        If there is no such kind.
    """

    extractor: FeatureExtractor
    kind: str = "attention"
    n_clusters: int = 80
    refinement: Refinement = field(default_factory=Refinement)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            kinds = " or ".join(_KINDS)
            raise HRDv2Error(f"the foreground's method is {kinds}, not {self.kind!r}")

    @property
    def settings(self) -> Mapping[str, Any]:
        """As :class:`Method` has it."""
        clusters = {"clusters": self.n_clusters} if self.kind == "attention" else {}
        return {
            "method": self.kind,
            **clusters,
            "refinement": self.refinement.model_dump(mode="json"),
            "features": self.extractor.settings.model_dump(mode="json"),
        }

    def find(self, image: Image, *, apart: bool = False) -> tuple[Tokens, Labels]:
        """The tokens of an image and the classes (h, w) of its foreground, 0 being background.

        Parameters
        ----------
        image
            (h, w) or (h, w, 3 or 4).
        apart
            Whether clusters that are not alike are classes of their own, where there are clusters.
        """
        tokens = self.extractor.extract(image)
        if self.kind == "component":
            mask = component_foreground(tokens, image)
            return tokens, self._refined(image, np.stack([~mask, mask], -1).astype(np.float32))
        _, attention = attention_maps(self.extractor.facets(image, "attention"))
        clusters = _with_background(tokens, attention, self.n_clusters, apart)
        if self.refinement.is_off:
            return tokens, clusters.segment(tokens) - 1
        return tokens, self._refined(image, clusters.probabilities(tokens))

    def _refined(self, image: Image, probabilities: npt.NDArray[np.float32]) -> Labels:
        classes = [default_class(k + 1) for k in range(probabilities.shape[-1])]
        return self.refinement.refine(probabilities, image, classes).labels - 1


def _with_background(
    tokens: Tokens, attention: npt.NDArray[np.floating], count: int, apart: bool
) -> Clusters:
    """Clusters of one image; their classes are 1, the background, and 2 and so on."""
    clusters = Clusters.fit([tokens], count)
    salient = salient_clusters(clusters.assign(tokens), attention, count)
    classes = np.ones(count, np.intp)
    # Where attention is even, none stands out.
    if apart and salient.any():
        kinds = clusters.merged(cutoff=clusters.cutoff(salient)).classes[salient]
        classes[salient] = 2 + np.unique(kinds, return_inverse=True)[1]
    else:
        classes[salient] = 2
    return replace(clusters, classes=classes)


@dataclass(frozen=True, eq=False)
class Foreground(_Salient):
    """Masks of what stands out."""

    def __call__(self, image: Image) -> Mask:
        """The foreground (h, w) of an image."""
        mask: Mask = self.find(image)[1] != 0
        return mask


@dataclass(frozen=True, eq=False)
class Objects(_Salient):
    """Boxes around the classes of what stands out, that of the largest region first."""

    def __call__(self, image: Image) -> tuple[Box, ...]:
        """The boxes of an image."""
        return boxes(self.find(image, apart=True)[1])


class Region(NamedTuple):
    """A part of an image that is one thing.

    Attributes
    ----------
    pixels
        (n, 2) of (y, x).
    descriptor
        (C,) of float32, of length 1.
    """

    pixels: npt.NDArray[np.intp]
    descriptor: npt.NDArray[np.float32]

    def packed(self) -> str:
        """The descriptor as text, bit for bit."""
        return base64.b64encode(self.descriptor.astype("<f4").tobytes()).decode()


def unpacked(text: str) -> npt.NDArray[np.float32]:
    """A descriptor from what :meth:`Region.packed` made of it."""
    found: npt.NDArray[np.float32] = np.frombuffer(base64.b64decode(text), "<f4")
    return found


# Smaller ones are no things, as boxes have it.
_MIN_SIZE = 200


@dataclass(frozen=True, eq=False)
class Regions(_Salient):
    """Connected regions of what stands out, of more than 200 px, with the mean feature of each."""

    def __call__(self, image: Image) -> tuple[Region, ...]:
        """The regions of an image."""
        tokens, labels = self.find(image)
        found = [one.coords for one in regionprops(label(labels)) if one.num_pixels > _MIN_SIZE]
        return tuple(Region(pixels, direction(tokens, pixels)) for pixels in found)


@dataclass(frozen=True, eq=False)
class CommonForeground:
    """Masks of what several images have in common.

    Attributes
    ----------
    extractor
        Of features.
    n_clusters, votes
        As for :func:`.cosegment`.
    """

    extractor: FeatureExtractor
    n_clusters: int = 80
    votes: float = 0.5

    @property
    def settings(self) -> Mapping[str, Any]:
        """As :class:`Method` has it."""
        return {
            "clusters": self.n_clusters,
            "votes": self.votes,
            "features": self.extractor.settings.model_dump(mode="json"),
        }

    def __call__(self, images: Sequence[Image]) -> tuple[Mask, ...]:
        """The common foreground (h, w) of each image."""
        extractor = self.extractor
        tokens = [extractor.extract(one) for one in images]
        seen = [attention_maps(extractor.facets(one, "attention")).together for one in images]
        return cosegment(tokens, seen, self.n_clusters, votes=self.votes).masks
