"""What several images have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import HRDv2Error
from ..tokens import Tokens
from .clusters import Clusters, Labels
from .common import Mask
from .foreground import salient_clusters

# An image with a smaller share of a cluster's pixels has but strays of it.
_STRAY = 0.01


class CoSegmentation(NamedTuple):
    """The common foreground of several images.

    Attributes
    ----------
    clusters
        Of all images together; merged, they tell parts of the foreground that are alike.
    is_salient
        (n,) of bool, of every cluster.
    assignments
        For each image (h, w), the cluster of every pixel from 0.
    """

    clusters: Clusters
    is_salient: Mask
    assignments: tuple[npt.NDArray[np.integer], ...]

    @property
    def masks(self) -> tuple[Mask, ...]:
        """For each image (h, w) of bool: its pixels of salient clusters."""
        return tuple(self.is_salient[one] for one in self.assignments)

    def labels(self, n_classes: int = 1) -> tuple[Labels, ...]:
        """The foreground cut into classes, which mean the same in all images.

        Parameters
        ----------
        n_classes
            Number of classes, or that of salient clusters where there are fewer.

        Returns
        -------
        tuple of ndarray of uint16
            For each image (h, w): classes from 1, 0 is background.

        Raises
        ------
        HRDv2Error
            If there is not even one.
        """
        if n_classes < 1:
            raise HRDv2Error(f"{n_classes} classes asked for: there is at least one")
        salient = np.flatnonzero(self.is_salient)
        class_of = np.zeros(len(self.is_salient), np.uint16)
        if len(salient):
            parts = replace(
                self.clusters,
                centroids=self.clusters.centroids[salient],
                classes=np.arange(1, len(salient) + 1),
            )
            class_of[salient] = parts.merged(n_classes=min(n_classes, len(salient))).classes
        return tuple(class_of[one] for one in self.assignments)


def cosegment(
    images: Sequence[Tokens],
    attentions: Sequence[npt.NDArray[np.floating]],
    n_clusters: int = 80,
    *,
    votes: float = 0.5,
    samples: int = 50_000,
) -> CoSegmentation:
    """Find the common foreground of several images.

    Their pixels are clustered together; every image votes for those of its clusters that the class
    token attends to more than to others, and those with votes enough are the foreground of all
    ('Deep ViT Features as Dense Visual Descriptors', arXiv 2112.05814).

    Parameters
    ----------
    images
        Tokens of the images, all made alike.
    attentions
        For each image (h, w), all heads together, see :func:`.attention_maps`.
    n_clusters, samples
        As for :meth:`.Clusters.fit`.
    votes
        Share of the images in which a cluster occurs that must vote for it, in [0, 1].

    Raises
    ------
    HRDv2Error
        If there are not as many attentions as images, or of other sizes, or no images, or fewer
        pixels than clusters.
    SettingsMismatchError
        If the tokens were made with different settings.
    """
    if len(images) != len(attentions):
        raise HRDv2Error(f"there are {len(images)} images, but attention of {len(attentions)}")
    clusters = Clusters.fit(images, n_clusters, samples=samples)
    assignments = [clusters.assign(one) for one in images]
    areas = np.stack([np.bincount(one.ravel(), minlength=n_clusters) for one in assignments])
    is_present = areas > _STRAY * areas.sum(0)
    cast = [
        salient_clusters(assignment, attention, n_clusters)
        for assignment, attention in zip(assignments, attentions, strict=True)
    ] & is_present
    counts = cast.sum(0)
    is_salient = (counts > 0) & (counts >= votes * is_present.sum(0))
    return CoSegmentation(clusters, is_salient, tuple(assignments))
