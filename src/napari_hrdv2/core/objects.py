"""From a class to things that can be counted: objects, their sizes, and how much of each class."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage as ndi
from skimage import measure, segmentation
from skimage.morphology import local_maxima, reconstruction

from .base import PixelClass
from .errors import ImageError, altered, go_on, never
from .files import replacing

_Mask = npt.NDArray[np.bool_]
_Objects = npt.NDArray[np.int32]

#: Columns of an object's measures: what scikit-image calls them, and what they are called here.
_NAMES = {
    "area": "area_px",
    "equivalent_diameter_area": "diameter_px",
    "axis_major_length": "major_axis_px",
    "axis_minor_length": "minor_axis_px",
    "eccentricity": "eccentricity",
}
_ONLY_FLAT = ("axis_major_length", "axis_minor_length", "eccentricity")


class ObjectSettings(BaseModel):
    """How the pixels of a class become objects; by default its connected components.

    Objects that touch are told apart by the necks between them. The distance to the border is
    largest in an object's middle and smaller at a neck. Of the peaks of that distance, smoothed
    over a pixel, each starts an object that rises ``neck`` above the pass to a higher one
    (h-maxima), and a watershed divides the pixels among them. Unlike a least distance between
    middles this needs no size, so that small objects beside large ones are found: on simulated
    touching discs and ellipses with rough borders, of many sizes, it was as good or better than
    every single least distance.

    Examples
    --------
    >>> ObjectSettings(split=True, min_size=20).neck
    0.5
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: bool = Field(
        False,
        description="Whether objects that touch are split where there is a neck between them "
        "(watershed); otherwise they are one.",
    )
    neck: float = Field(
        0.5,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="How much less than the radius of the smaller object half the width of the "
        "neck must be for a split (pixels): more where rough borders split what is one.",
    )
    min_size: int = Field(
        0, ge=0, description="Objects of fewer pixels are dropped (a count; 0: none)."
    )
    clear_border: bool = Field(
        False,
        description="Whether objects that touch the image's edge, and so may be cut, are dropped; "
        "of a volume, also those in its first and last plane.",
    )
    corners: bool = Field(
        True,
        description="Whether pixels that touch at a corner only are of one object.",
    )
    volume: bool = Field(
        False,
        description="Whether the last three axes are one volume of 3-D objects; otherwise every "
        "plane is by itself.",
    )


def make_object_settings(settings: ObjectSettings | None = None, **changes: Any) -> ObjectSettings:
    """Settings with some fields changed, checked.

    Raises
    ------
    HRDv2Error
        If a field does not exist or its value is out of range; the message names it.
    """
    return altered(settings or ObjectSettings(), **changes)


def find_objects(
    labels: Any,
    label: int,
    settings: ObjectSettings | None = None,
    probabilities: Any = None,
    *,
    pixel_size: Sequence[float] | None = None,
    is_cancelled: Callable[[], bool] = never,
) -> _Objects:
    """Objects of one class.

    Parameters
    ----------
    labels
        (..., h, w) of integers, a segmentation: an array of numpy, dask, zarr or the like, read
        plane by plane, or volume by volume. All of a plane is in memory at once, with up to 40
        bytes a pixel where objects are split, as no part of it tells which objects it shares.
    label
        Of the class.
    settings
        How; by default connected components of every plane.
    probabilities
        Of the class, in [0, 1], of the same shape. Where objects are split, the distance to the
        border counts by it: a seam on which the class is less sure is as good as a neck.
    pixel_size
        Along the last two or three axes, in any unit, for volumes whose planes lie farther apart
        than their pixels. Only its proportions matter.
    is_cancelled
        Asked before every plane or volume whether to give up; from any thread.

    Returns
    -------
    ndarray of int32
        As ``labels``: 0 where there is no object, else its number, from 1 without gaps, unique
        over all planes.

    Raises
    ------
    ImageError
        If there are too few axes, or the probabilities are of another shape.
    Cancelled
        If somebody gave up.
    """
    settings = settings or ObjectSettings()
    shape = tuple(labels.shape)
    pieces = _pieces(shape, settings.volume)
    if probabilities is not None and tuple(probabilities.shape) != shape:
        raise ImageError(
            f"the probabilities are {tuple(probabilities.shape)}, the segmentation {shape}"
        )
    found = np.zeros(shape, np.int32)
    last = 0
    for index in pieces:
        go_on(is_cancelled)
        mask = np.asarray(labels[index]) == label
        sure = None if probabilities is None else np.asarray(probabilities[index])
        objects = _objects(mask, settings, sure, pixel_size)
        np.add(objects, last, out=found[index], where=objects > 0)
        last += int(objects.max(initial=0))
    return found


def measure_objects(
    objects: Any,
    *,
    pixel_size: Sequence[float] | None = None,
    unit: str | None = None,
    intensity: Any = None,
    volume: bool = False,
    is_cancelled: Callable[[], bool] = never,
) -> dict[str, npt.NDArray[Any]]:
    """Table of objects, one row each, in the order of planes and numbers.

    Parameters
    ----------
    objects
        (..., h, w) of integers, 0 where there is none, see :func:`find_objects`.
    pixel_size
        Along the last two axes, of a volume three.
    unit
        Of ``pixel_size``.
    intensity
        An image, of the shape of ``objects``, or with a further axis of channels.
    volume
        Whether the last three axes are one volume; otherwise every plane is by itself, and an
        object that reaches through several has a row in each.
    is_cancelled
        Asked before every plane or volume whether to give up; from any thread.

    Returns
    -------
    dict of ndarray
        Columns of equal length: ``label``; ``axis_0`` and so on, the plane's index, where there
        are several; ``area_px``, pixels or voxels; ``y`` and ``x``, of a volume also ``z``, its
        middle in pixels; ``diameter_px`` of the disc or ball of that area; of flat ones
        ``major_axis_px``, ``minor_axis_px`` and ``eccentricity`` (0: round) of the ellipse of
        those moments; ``mean_intensity``, with channels ``mean_intensity_0`` and so on, if there
        is an image; ``area`` in unit² (unit³) and ``diameter`` if the pixels' size is known, and
        ``unit`` if that is.

    Raises
    ------
    ImageError
        If there are too few axes, or image or pixel size do not fit.
    Cancelled
        If somebody gave up.
    """
    shape = tuple(objects.shape)
    pieces = list(_pieces(shape, volume))
    if intensity is not None and tuple(intensity.shape[: len(shape)]) != shape:
        raise ImageError(f"the image is {tuple(intensity.shape)}, the objects {shape}")
    ndim = 3 if volume else 2
    size = None if pixel_size is None else _checked(pixel_size, ndim)
    names = {one: name for one, name in _NAMES.items() if ndim == 2 or one not in _ONLY_FLAT}
    wanted = ["label", "centroid", *names, *([] if intensity is None else ["intensity_mean"])]
    tables = []
    for index in pieces:
        go_on(is_cancelled)
        # Numbers without gaps, or a plane would cost as much as all that are before it.
        dense, _, numbers = segmentation.relabel_sequential(np.asarray(objects[index]))
        image = None if intensity is None else np.asarray(intensity[index])
        table = measure.regionprops_table(dense, image, properties=wanted)
        table["label"] = np.asarray(numbers)[table["label"]]
        planes = {
            f"axis_{k}": np.full(len(table["label"]), at, np.int64) for k, at in enumerate(index)
        }
        tables.append({"label": table.pop("label")} | planes | table)
    whole = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    names |= {f"centroid-{k}": axis for k, axis in enumerate("zyx"[-ndim:])}
    columns = {
        names.get(name, name.replace("intensity_mean", "mean_intensity").replace("-", "_")): column
        for name, column in whole.items()
    }
    columns["area_px"] = columns["area_px"].astype(np.int64)
    if size is not None:
        columns["area"] = columns["area_px"] * math.prod(size)
        columns["diameter"] = columns["diameter_px"] * math.prod(size) ** (1 / ndim)
        if unit is not None:
            columns["unit"] = np.full(len(columns["label"]), unit)
    return columns


@dataclass(frozen=True)
class ClassMeasures:
    """How much of a class there is, in one image or several.

    Measures of one class add up, over planes and images. Over the tiles of one plane only its
    pixels do: an object on a seam would count twice.

    Attributes
    ----------
    name, label
        Of the class.
    pixels
        Of the class; voxels of a volume.
    image_pixels
        Of everything, also of what has no class.
    objects
        How many there are.
    object_pixels
        Of these, those that were dropped aside.
    pixel_area
        In unit², of a volume in unit³; None if it is not known.
    unit
        Of length; None if it is not known.
    """

    name: str
    label: int
    pixels: int
    image_pixels: int
    objects: int
    object_pixels: int
    pixel_area: float | None = None
    unit: str | None = None

    def __add__(self, other: ClassMeasures) -> ClassMeasures:
        ours, theirs = ((one.name, one.label, one.pixel_area, one.unit) for one in (self, other))
        if ours != theirs:
            raise ImageError(f"measures of {ours} and of {theirs} do not add up")
        return replace(
            self,
            pixels=self.pixels + other.pixels,
            image_pixels=self.image_pixels + other.image_pixels,
            objects=self.objects + other.objects,
            object_pixels=self.object_pixels + other.object_pixels,
        )

    @property
    def area_fraction(self) -> float:
        """Share of the image that is of the class, in [0, 1]."""
        return self.pixels / self.image_pixels

    @property
    def mean_object_px(self) -> float | None:
        """Pixels of an object on average; None if there is none."""
        return self.object_pixels / self.objects if self.objects else None

    def row(self) -> dict[str, str | int | float | None]:
        """Columns of a table, always the same ones; None where something is not known.

        ``area`` and ``mean_object_area`` are in ``unit``² (``unit``³ of a volume).
        """
        mean, size = self.mean_object_px, self.pixel_area
        return {
            "class": self.name,
            "label": self.label,
            "area_px": self.pixels,
            "area_fraction": self.area_fraction,
            "objects": self.objects,
            "mean_object_px": mean,
            "area": None if size is None else self.pixels * size,
            "mean_object_area": None if size is None or mean is None else mean * size,
            "unit": self.unit,
        }


def measure_classes(
    labels: Any,
    classes: Iterable[PixelClass],
    settings: ObjectSettings | None = None,
    *,
    pixel_size: Sequence[float] | None = None,
    unit: str | None = None,
    is_cancelled: Callable[[], bool] = never,
) -> list[ClassMeasures]:
    """How much of each class a segmentation holds, and in how many objects.

    Parameters
    ----------
    labels
        (..., h, w) of integers, read plane by plane as :func:`find_objects` does. A plane must
        fit into memory: objects of one that comes tile by tile cannot be counted.
    classes
        Those to measure.
    settings
        What an object is, and which count; of a class's pixels all count.
    pixel_size
        Along the last two axes, of a volume three.
    unit
        Of ``pixel_size``.
    is_cancelled
        Asked before every plane and class whether to give up; from any thread.

    Returns
    -------
    list of ClassMeasures
        One for each class, in their order, over all planes.

    Raises
    ------
    ImageError
        If there are too few axes, no pixels, or the pixel size does not fit.
    Cancelled
        If somebody gave up.
    """
    settings = settings or ObjectSettings()
    shape = tuple(labels.shape)
    size = None if pixel_size is None else _checked(pixel_size, 3 if settings.volume else 2)
    measures = [
        ClassMeasures(
            one.name, one.label, 0, 0, 0, 0, None if size is None else math.prod(size), unit
        )
        for one in classes
    ]
    for index in _pieces(shape, settings.volume):
        piece = np.asarray(labels[index])
        for k, one in enumerate(measures):
            go_on(is_cancelled)
            mask = piece == one.label
            objects = _objects(mask, settings, None, size)
            measures[k] += replace(
                one,
                pixels=int(np.count_nonzero(mask)),
                image_pixels=mask.size,
                objects=int(objects.max(initial=0)),
                object_pixels=int(np.count_nonzero(objects)),
            )
    return measures


def rows_of(table: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    """Rows of a table of columns."""
    columns = [column.tolist() for column in table.values()]
    return [dict(zip(table, values, strict=True)) for values in zip(*columns, strict=True)]


def write_csv(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    header: Sequence[str] | None = None,
) -> None:
    """Write a table as CSV (UTF-8), all at once or not at all.

    Parameters
    ----------
    path
        The file.
    rows
        Values by column; None is an empty cell.
    header
        Names of the columns, in order; by default those of the first row.

    Raises
    ------
    ValueError
        If a row has other columns, or there is neither row nor header.
    OSError
        If the file cannot be written.
    """
    if header is None:
        if not rows:
            raise ValueError("a table without rows needs a header")
        header = [*rows[0]]
    with replacing(path) as whole, whole.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _pieces(shape: tuple[int, ...], volume: bool) -> Iterator[tuple[int, ...]]:
    """Indices of the planes, or volumes, of an array."""
    ndim = 3 if volume else 2
    if len(shape) < ndim:
        what = "objects of a volume need three" if volume else "objects need two"
        raise ImageError(f"the segmentation has {len(shape)} dimensions: {what}")
    if 0 in shape:
        raise ImageError(f"the segmentation has shape {shape}: it holds no pixels")
    return np.ndindex(*shape[:-ndim])


def _checked(pixel_size: Sequence[float], ndim: int) -> tuple[float, ...]:
    size = tuple(float(one) for one in pixel_size)
    if len(size) != ndim or not all(0 < one < math.inf for one in size):
        raise ImageError(f"the pixels' size is {size}: give {ndim} positive numbers")
    return size


def _objects(
    mask: _Mask,
    settings: ObjectSettings,
    sure: npt.NDArray[Any] | None,
    pixel_size: Sequence[float] | None,
) -> _Objects:
    """Objects of a plane or volume, numbered without gaps."""
    connectivity = mask.ndim if settings.corners else 1
    objects = measure.label(mask, connectivity=connectivity)
    if settings.split:
        objects = _split(mask, objects, connectivity, settings, sure, pixel_size)
    if settings.clear_border:
        objects = segmentation.clear_border(objects)
    large = np.bincount(objects.ravel()) >= max(settings.min_size, 1)
    large[0] = False
    numbers = np.cumsum(large, dtype=np.int32) * large
    found: _Objects = numbers[objects]
    return found


def _split(
    mask: _Mask,
    parts: npt.NDArray[Any],
    connectivity: int,
    settings: ObjectSettings,
    sure: npt.NDArray[Any] | None,
    pixel_size: Sequence[float] | None,
) -> npt.NDArray[Any]:
    """Connected parts divided at their necks."""
    spacing = np.ones(mask.ndim)
    if pixel_size is not None:
        spacing = np.array(_checked(pixel_size, mask.ndim))
        spacing /= spacing.min()
    height = ndi.distance_transform_edt(mask, sampling=spacing).astype(np.float32)
    if sure is not None:
        height *= sure
    # Over a pixel of the finest axis: what is left of a border's roughness makes peaks.
    height = ndi.gaussian_filter(height, 1 / spacing) * mask

    def flood(peaks: _Mask) -> npt.NDArray[Any]:
        has_peak = np.zeros(parts.max() + 1, bool)
        has_peak[parts[peaks]] = True
        # What is too thin for a peak, or has none that counts, stays whole.
        seeds = measure.label(peaks | (mask & ~has_peak[parts]), connectivity=connectivity)
        found: npt.NDArray[Any] = segmentation.watershed(
            -height, seeds, connectivity=connectivity, mask=mask
        )
        return found

    # The h-maxima as they are defined; skimage's own takes peaks of one height for several.
    around = ndi.generate_binary_structure(mask.ndim, connectivity)
    tops = reconstruction(height - np.float32(settings.neck), height, footprint=around)
    peaks = local_maxima(tops, connectivity=connectivity) & mask
    objects = flood(peaks)
    small = np.bincount(objects.ravel()) < settings.min_size
    # What would be dropped belongs to its neighbour, unless it is alone.
    return flood(peaks & ~small[objects]) if small.any() else objects
