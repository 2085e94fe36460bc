"""Foreground without labels, on data sets with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .layout import DataSet, DataSetError, read_picture
from .masks import Cub, Duts, read_mask
from .methods import Image, Mask, Method
from .running import Authors, Evaluation, ImageEvaluation, Row
from .scores import mask_iou

_MEAN = "mean IoU"
_SOURCE = "HR-Dv2, arXiv 2410.19836"


@dataclass(frozen=True, eq=False)
class ForegroundIou(ImageEvaluation):
    """Mean over the images of the IoU of what was found and the mask.

    Attributes
    ----------
    data
        The images.
    method
        From an image to its foreground.
    """

    scores = "foreground against the masks"
    data: DataSet
    method: Method[Image, Mask]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the method too."""
        return self.method.settings

    def measure(self, item: str) -> Row:
        """The IoU of an image."""
        pair = self.data.pair(item)
        image = read_picture(pair.image)
        truth = read_mask(pair.annotation, (image.shape[0], image.shape[1]))
        return {"iou": mask_iou(self.method(image), truth)}

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Every image counts the same."""
        return {_MEAN: float(np.mean([row["iou"] for row in rows]))}


@dataclass(frozen=True, eq=False)
class CubForeground(ForegroundIou):
    """On CUB-200-2011."""

    name = "cub-foreground"
    data: Cub

    @property
    def authors(self) -> Authors:
        """Of HR-Dv2."""
        return Authors(_SOURCE, {_MEAN: 0.785})

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the method too."""
        return {"split": self.data.split, **super().settings}


@dataclass(frozen=True, eq=False)
class DutsForeground(ForegroundIou):
    """On DUTS-TE."""

    name = "duts-foreground"
    data: Duts

    @property
    def authors(self) -> Authors:
        """Of HR-Dv2."""
        return Authors(_SOURCE, {_MEAN: 0.654})


@dataclass(frozen=True, eq=False)
class CubCosegment(Evaluation):
    """Common foreground of groups of images of one kind of bird, on CUB-200-2011.

    A group of which a file is broken is left out, as it would be another group without that.

    Attributes
    ----------
    data
        The images.
    method
        From the images of a group to their common foreground.
    size
        Images of a group, about: those of a class are split evenly, in their order.
    """

    name = "cub-cosegment"
    scores = "common foreground of images of one class against the masks"
    data: Cub
    method: Method[Sequence[Image], Sequence[Mask]]
    size: int = 10

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the method too."""
        return {"split": self.data.split, "group": self.size, **self.method.settings}

    @cached_property
    def _groups(self) -> dict[str, list[str]]:
        if self.size < 2:
            raise DataSetError(f"a group has two images at least, not {self.size}")
        classes: dict[str, list[str]] = {}
        for name in self.data.names:
            classes.setdefault(name.split("/")[0], []).append(name)
        groups = {}
        for kind, names in classes.items():
            count = max(1, round(len(names) / self.size))
            for k, part in enumerate(np.array_split(names, count), 1):
                groups[f"{kind}/{k}"] = [str(one) for one in part]
        return groups

    @cached_property
    def items(self) -> Sequence[str]:
        """Names of the groups: class and number."""
        return list(self._groups)[: self.limit]

    def files(self, item: str) -> Sequence[Path]:
        """All images and masks of a group."""
        return [path for name in self._groups[item] for path in self.data.pair(name)]

    def measure(self, item: str) -> Row:
        """The IoU of every image."""
        names = self._groups[item]
        pairs = [self.data.pair(name) for name in names]
        images = [read_picture(one.image) for one in pairs]
        truths = [
            read_mask(one.annotation, (image.shape[0], image.shape[1]))
            for one, image in zip(pairs, images, strict=True)
        ]
        found = self.method(images)
        ious = [mask_iou(*both) for both in zip(found, truths, strict=True)]
        return {"images": names, "iou": ious}

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Every image counts the same."""
        ious = [iou for row in rows for iou in row["iou"]]
        return {_MEAN: float(np.mean(ious)), "images": len(ious)}
