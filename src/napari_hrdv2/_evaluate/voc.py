"""PASCAL VOC 2007 and 2012: where things are, and the boxes of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

from ..core.explore import Box
from .layout import DataSet, DataSetError, Pair, find_root, read_lines

_YEARS = (2007, 2012)
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
# The largest there are have some 30 kB.
_MAX_BYTES = 1 << 20


class Object(NamedTuple):
    """Something annotated.

    Attributes
    ----------
    box
        Around it.
    is_hard
        Whether it is marked as difficult, or truncated by the image's edge or something before it.
    """

    box: Box
    is_hard: bool


@dataclass(frozen=True, eq=False)
class Voc(DataSet):
    """Images of VOC with one of its kinds of annotation; the folder may be VOCdevkit.

    Attributes
    ----------
    task
        ``"Main"``, annotated with boxes, or ``"Segmentation"``, with the class of every pixel.
    split
        Name of a list of this task, in ImageSets.
    year
        2007 or 2012; by default that whose folder there is.
    """

    task: Literal["Main", "Segmentation"]
    split: str
    year: int | None = None

    @cached_property
    def known_year(self) -> int:
        """The year, found out where it was not given.

        Raises
        ------
        DataSetError
            If the folder is of another one, or of both, or of none.
        """
        given, year = self.folder, self.year
        if year not in (*_YEARS, None):
            raise DataSetError(f"the year of VOC is {' or '.join(map(str, _YEARS))}, not {year}")
        here = [
            one for one in _YEARS if given.name == f"VOC{one}" or (given / f"VOC{one}").is_dir()
        ]
        if not given.is_dir():
            raise DataSetError(f"there is no folder {given}: give VOCdevkit")
        if not here:
            raise DataSetError(f"{given} is neither VOCdevkit nor VOC2007 or VOC2012 in it")
        if year is None and len(here) > 1:
            raise DataSetError(f"{given} holds VOC of both years: choose one with --year")
        if year not in (*here, None):
            raise DataSetError(f"{given} is not VOC{year}, nor does it hold that folder")
        return year or here[0]

    @cached_property
    def _root(self) -> Path:
        annotations = "Annotations" if self.task == "Main" else "SegmentationClass"
        inside = ("JPEGImages", annotations, f"ImageSets/{self.task}")
        return find_root(self.folder, f"VOC{self.known_year}", *inside)

    @cached_property
    def names(self) -> Sequence[str]:
        """Such as ``"2007_000033"``."""
        lines = read_lines(self._root / f"ImageSets/{self.task}/{self.split}.txt")
        return [line.split()[0] for line in lines]

    def pair(self, name: str) -> Pair:
        """The files of one."""
        folder, kind = (
            ("Annotations", "xml") if self.task == "Main" else ("SegmentationClass", "png")
        )
        return Pair(self._root / f"JPEGImages/{name}.jpg", self._root / f"{folder}/{name}.{kind}")


def read_objects(path: Path) -> list[Object]:
    """The objects of an image, in the file's order.

    Corners are pixels from 1 on, both inclusive: (1, 1) to (w, h) is all of an image.

    Parameters
    ----------
    path
        A file of Annotations.

    Raises
    ------
    DataSetError
        If it is missing or broken.
    """
    if not path.is_file():
        raise DataSetError(f"the annotation {path} is missing")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        text = path.read_text(encoding="utf-8")
        # These files define nothing; what does may unfold to gigabytes.
        if "<!DOCTYPE" in text:
            raise ValueError("it defines entities")
        root = ElementTree.fromstring(text)  # noqa: S314
        return [_object(one) for one in root.findall("object")]
    except (ValueError, ElementTree.ParseError) as reason:
        raise DataSetError(f"the annotation {path} cannot be read: {reason}") from reason


def _object(element: ElementTree.Element) -> Object:
    left, top, right, bottom = (
        _number(element, f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")
    )
    if not (1 <= left <= right and 1 <= top <= bottom):
        raise ValueError(f"a box from ({left}, {top}) to ({right}, {bottom})")
    hard = [element.findtext(name, "0").strip() for name in ("difficult", "truncated")]
    return Object(Box(top - 1, left - 1, bottom, right), "1" in hard)


def _number(element: ElementTree.Element, path: str) -> int:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"an object has no {path}")
    # Some are fractions.
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{path} is {text}")
    return round(value)
