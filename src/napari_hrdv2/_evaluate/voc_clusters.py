"""Semantic segmentation without labels on PASCAL VOC 2012."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans

from ..core.threads import single_thread
from .layout import DataSetError, read_annotation, read_picture
from .methods import Image, Method, Region, unpacked
from .running import ImageEvaluation, Row
from .scores import agreement, matched
from .voc import CLASSES, Voc

_IGNORED = 255


@dataclass(frozen=True, eq=False)
class VocClusters(ImageEvaluation):
    """Regions of all images, clustered, every cluster matched with one class.

    Each image is split into regions of its foreground and the rest, the background. The regions'
    mean features, of all images together, are clustered by k-means; clusters and background are
    matched with the classes that they share the most pixels with, one to one. It is the scheme of
    'Deep Spectral Methods' (arXiv 2205.07839) without its training on what was found. Of an image
    only its regions' features and how many pixels of which class they hold are kept.

    Attributes
    ----------
    data
        Images with the class of every pixel.
    method
        From an image to its regions, which do not overlap.
    n_clusters
        Clusters of the regions; more than 20, the classes but the background, leave some without
        a class, and their pixels wrong.
    """

    name = "voc-clusters"
    scores = "segmentation by clusters that are matched with the classes"
    data: Voc
    method: Method[Image, Sequence[Region]]
    n_clusters: int = len(CLASSES) - 1

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the method too."""
        own = {"split": self.data.split, "region_clusters": self.n_clusters}
        return {**own, **self.method.settings}

    def measure(self, item: str) -> Row:
        """Pixels of every class, in the background and in each region."""
        path, annotation = self.data.pair(item)
        image = read_picture(path)
        truth = read_annotation(annotation, (image.shape[0], image.shape[1]))
        if ((truth >= len(CLASSES)) & (truth != _IGNORED)).any():
            raise DataSetError(f"the annotation {annotation} has other labels than VOC's classes")
        parts = np.zeros(truth.shape, np.intp)
        regions = self.method(image)
        for k, region in enumerate(regions, 1):
            parts[tuple(region.pixels.T)] = k
        known = truth != _IGNORED
        n = len(CLASSES)
        pairs = parts[known] * n + truth[known]
        counts = np.bincount(pairs, minlength=(len(regions) + 1) * n).reshape(-1, n).tolist()
        return {
            "background": counts[0],
            "regions": counts[1:],
            "_descriptors": [one.packed() for one in regions],
        }

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Of all images together, as a pixel counts the same in each."""
        regions = np.array([one for row in rows for one in row["regions"]], np.int64)
        vectors = [unpacked(one) for row in rows for one in row["_descriptors"]]
        # Fewer there may be in a part of the data set.
        n = min(self.n_clusters, len(vectors))
        counts = np.zeros((n + 1, len(CLASSES)), np.int64)
        counts[0] = np.sum([row["background"] for row in rows], 0)
        if n:
            # Several threads add up in no fixed order.
            with single_thread():
                found = KMeans(n, n_init=10, random_state=0).fit_predict(np.stack(vectors))
            np.add.at(counts, found + 1, regions)
        classes_of, by_class = matched(counts)
        result = agreement(by_class)
        return {
            "pixel accuracy": result.accuracy,
            "mean IoU": result.mean_iou,
            "regions per image": len(vectors) / len(rows),
            "background is matched with": CLASSES[classes_of[0]],
            **{f"IoU {name}": iou for name, iou in zip(CLASSES, result.ious, strict=True)},
        }
