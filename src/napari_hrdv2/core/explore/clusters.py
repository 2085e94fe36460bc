"""Groups of pixels whose features point in like directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.cluster import AgglomerativeClustering, KMeans, MiniBatchKMeans
from sklearn.metrics import pairwise_distances

from ..base import refuse_differences
from ..errors import HRDv2Error
from ..settings import Settings
from ..tokens import Tokens
from ..upsample import predicted
from .common import Floats, Mask, checked, checked_mask, rows, sampled, unit
from .similarity import Similarity

Labels = npt.NDArray[np.uint16]

_BINS = 20


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of the pixels of one or several images, and the classes that they were merged to.

    A pixel belongs to the centroid c of the smallest angle. Its feature's length is the same to
    all of them, so that this is the largest of F c, a projection of the tokens. As centroids and
    normalised features have length 1, it is the smallest Euclidean distance too.

    Attributes
    ----------
    centroids
        (n, C) of float32, of length 1.
    classes
        (n,) of int, from 1: of each cluster the class that it is merged to; its own at first.
    settings
        With which the tokens were made.

    Examples
    --------
    >>> clusters = Clusters.fit([tokens]).merged(n_classes=4)  # doctest: +SKIP
    >>> labels = clusters.segment(tokens)  # doctest: +SKIP
    """

    centroids: Floats
    classes: npt.NDArray[np.intp]
    settings: Settings

    @classmethod
    def fit(
        cls,
        images: Sequence[Tokens],
        n_clusters: int = 80,
        *,
        masks: Sequence[npt.ArrayLike] | None = None,
        samples: int = 50_000,
        exact: bool = False,
    ) -> Self:
        """Find the clusters by k-means on features of length 1.

        Parameters
        ----------
        images
            Tokens of the images, all made alike.
        n_clusters
            Number n of clusters.
        masks
            For each image (h, w), not 0 where its pixels take part, such as its foreground; by
            default all do.
        samples
            Pixels that are clustered, of all images together, at random (a count).
        exact
            Whether every step sees all of these (Lloyd's), rather than a batch of them, which
            is several times faster and nearly as good.

        Raises
        ------
        HRDv2Error
            If there are no images or fewer pixels than clusters, or a mask does not fit.
        SettingsMismatchError
            If the tokens were made with different settings.
        """
        found = _sampled_features(checked(images), masks, samples)
        if not 1 <= n_clusters <= len(found):
            raise HRDv2Error(f"{n_clusters} clusters asked for: there are {len(found)} pixels")
        kind = KMeans if exact else MiniBatchKMeans
        options = {} if exact else {"batch_size": 4096}
        model = kind(n_clusters, n_init=1, random_state=0, **options).fit(found)
        classes = np.arange(1, n_clusters + 1)
        return cls(unit(model.cluster_centers_), classes, images[0].settings)

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return int(self.classes.max())

    def assign(self, tokens: Tokens) -> npt.NDArray[np.integer]:
        """The cluster of every pixel, (h, w) from 0.

        Raises
        ------
        SettingsMismatchError
            If the tokens were made with other settings.
        """
        refuse_differences(self.settings, tokens.settings, "those of the clusters")
        return predicted(tokens, self.centroids, np.zeros(len(self.centroids), np.float32))

    def segment(self, tokens: Tokens, mask: npt.ArrayLike | None = None) -> Labels:
        """The class of every pixel, (h, w) from 1; 0 where a mask is.

        Raises
        ------
        HRDv2Error
            If the mask is empty or does not fit.
        SettingsMismatchError
            If the tokens were made with other settings.
        """
        labels: Labels = self.classes.astype(np.uint16)[self.assign(tokens)]
        if mask is not None:
            labels[~checked_mask(mask, tokens)] = 0
        return labels

    def cutoff(self, is_foreground: npt.ArrayLike) -> float:
        """The distance at which most of the foreground differs from the background.

        As HR-Dv2 has it (arXiv 2410.19836): of the histogram of distances between foreground
        and background clusters, 20 bins, the upper edge of the fullest one.

        Parameters
        ----------
        is_foreground
            (n,) of bool, see :func:`.salient_clusters`.

        Returns
        -------
        float
            Euclidean, of vectors of length 1, in [0, 2].

        Raises
        ------
        HRDv2Error
            If all clusters are foreground, or none.
        """
        chosen = np.asarray(is_foreground, bool)
        if chosen.all() or not chosen.any():
            raise HRDv2Error(
                "all clusters are of the foreground, or none: choose a number of classes instead"
            )
        distances = pairwise_distances(self.centroids[chosen], self.centroids[~chosen])
        counts, edges = np.histogram(distances, _BINS)
        return float(edges[counts.argmax() + 1])

    def merged(self, *, n_classes: int | None = None, cutoff: float | None = None) -> Self:
        """Merge clusters that are alike, by complete linkage, into classes.

        Parameters
        ----------
        n_classes
            Number of classes, or
        cutoff
            Euclidean distance, in [0, 2], from which clusters stay apart; see :meth:`cutoff`.

        Returns
        -------
        Clusters
            The same ones with other classes, the class of most clusters first.

        Raises
        ------
        HRDv2Error
            If not just one is given, or there are not so many clusters.
        """
        n = len(self.centroids)
        if (n_classes is None) == (cutoff is None):
            raise HRDv2Error("choose a number of classes or a cutoff, one of them")
        if n_classes is not None and not 1 <= n_classes <= n:
            raise HRDv2Error(f"{n_classes} classes asked for: there are 1 to {n}, the clusters")
        if n == 1:
            return self
        model = AgglomerativeClustering(n_classes, linkage="complete", distance_threshold=cutoff)
        found = model.fit_predict(self.centroids)
        order = np.argsort(-np.bincount(found), kind="stable")
        return replace(self, classes=np.argsort(order)[found] + 1)

    def probabilities(self, tokens: Tokens, temperature: float = 0.1) -> Floats:
        """How much every pixel is of every class, for :meth:`.Refinement.apply`.

        The softmax of the negative distances to the classes, each that to its nearest centroid:
        without refinement the most probable class is that of :meth:`segment`.

        Parameters
        ----------
        tokens
            Of the image.
        temperature
            Distance, of vectors of length 1, that makes a class e times less probable.

        Returns
        -------
        ndarray of float32
            (h, w, classes), summing to 1.

        Raises
        ------
        SettingsMismatchError
            If the tokens were made with other settings.
        """
        refuse_differences(self.settings, tokens.settings, "those of the clusters")
        similarity = Similarity(tokens)
        planes = np.full((*tokens.image_shape, self.class_count), -1, np.float32)
        # One by one: hundreds of maps at full size would not fit.
        for centroid, label in zip(self.centroids, self.classes, strict=True):
            plane = planes[..., label - 1]
            np.maximum(plane, similarity.to(centroid), out=plane)
        np.sqrt(2 - 2 * planes, out=planes)
        planes -= planes.min(-1, keepdims=True)
        planes /= -temperature
        np.exp(planes, out=planes)
        planes /= planes.sum(-1, keepdims=True)
        return planes


def _sampled_features(
    images: Sequence[Tokens], masks: Sequence[npt.ArrayLike] | None, samples: int
) -> Floats:
    """Features of length 1 of so many pixels of all images, of each in proportion."""
    chosen: list[Mask] = [
        np.ones(one.image_shape, bool) if masks is None else checked_mask(masks[k], one)
        for k, one in enumerate(images)
    ]
    share = min(1.0, samples / sum(int(mask.sum()) for mask in chosen))
    parts = []
    for tokens, mask in zip(images, chosen, strict=True):
        pixels = np.flatnonzero(mask)
        pixels = pixels[sampled(len(pixels), round(share * len(pixels)))]
        parts.append(rows(tokens, np.stack(np.unravel_index(pixels, mask.shape), 1)))
    return unit(np.concatenate(parts))
