"""Object localisation on PASCAL VOC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.explore import Box
from .layout import read_picture
from .methods import Image, Method
from .running import Authors, ImageEvaluation, Row
from .voc import Voc, read_objects

_MIN_IOU = 0.5
_CORLOC = "CorLoc"
_FIGURES = {2007: 0.716, 2012: 0.725}


@dataclass(frozen=True, eq=False)
class VocBoxes(ImageEvaluation):
    """Share of the images in which a box meets an object.

    Attributes
    ----------
    data
        Images with boxes.
    method
        From an image to its boxes, that of the largest region first.
    keep_hard
        Whether objects marked as difficult or truncated count; else images that have no others are
        left out.
    """

    name = "voc-boxes"
    scores = "boxes that meet an object (IoU > 0.5)"
    data: Voc
    method: Method[Image, Sequence[Box]]
    keep_hard: bool = False

    @property
    def authors(self) -> Authors:
        """Of HR-Dv2."""
        return Authors("HR-Dv2, arXiv 2410.19836", {_CORLOC: _FIGURES[self.data.known_year]})

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the method too."""
        own = {"year": self.data.known_year, "split": self.data.split}
        return {**own, "keep_hard": self.keep_hard, **self.method.settings}

    def measure(self, item: str) -> Row:
        """Boxes as (top, left, bottom, right), the last two exclusive; of each its best IoU."""
        image, annotation = self.data.pair(item)
        objects = read_objects(annotation)
        truth = [one.box for one in objects if self.keep_hard or not one.is_hard]
        if not truth:
            return {"truth": [], "boxes": [], "iou": []}
        found = self.method(read_picture(image))
        best = [max(box.iou(other) for other in truth) for box in found]
        return {"truth": _plain(truth), "boxes": _plain(found), "iou": best}

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Of the images that have an object."""
        chosen = [row for row in rows if row["truth"]]
        figures = {"images with an object": len(chosen)}
        if not chosen:
            return figures
        hit = [max(row["iou"], default=0) > _MIN_IOU for row in chosen]
        first = [bool(row["iou"]) and row["iou"][0] > _MIN_IOU for row in chosen]
        return {
            _CORLOC: float(np.mean(hit)),
            "CorLoc of the largest region's box alone": float(np.mean(first)),
            "boxes per image": float(np.mean([len(row["boxes"]) for row in chosen])),
            **figures,
        }


def _plain(boxes: Sequence[Box]) -> list[list[int]]:
    return [[int(one) for one in box] for box in boxes]
