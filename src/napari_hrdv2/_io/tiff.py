"""TIFF, OME-TIFF and ImageJ's TIFF."""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile

from ..core.base import PixelClass
from ..core.errors import ImageError, ImageWarning
from .ngff import find_zarr
from .source import KEY, Found, Length, metres_of, pick, symbol_of, unit_name

# Bytes up to which a result is gathered in memory and compressed; a larger one is written to the
# file piece by piece, as it is.
_IN_MEMORY = 256 << 20
# Pixels per cm that a resolution without a word on what it is of must have to be a microscope's
# rather than a screen's or a printer's.
_MICROSCOPE = 1000


def open_tiff(path: Path, scene: int, level: int) -> Found:
    """Find an image in a TIFF; raises whatever a damaged file drives tifffile into."""
    with ExitStack() as stack:
        with _heeding_damage(path):
            tiff = stack.enter_context(tifffile.TiffFile(path))
            series = pick(tiff.series, scene, "scene")
        plane = pick(series.levels, level, "level")
        try:
            sizes, channels = _metadata(tiff, scene)
        except (ElementTree.ParseError, ValueError):
            # The pixels are worth more than what is said of them.
            sizes, channels = {}, ()
        shrunk = dict(zip(series.axes, np.divide(series.shape, plane.shape), strict=True))
        sizes = {k: Length(v * float(shrunk.get(k, 1)), unit) for k, (v, unit) in sizes.items()}
        if plane.dataoffset is not None:
            array: Any = tifffile.memmap(path, series=scene, level=level, mode="r")
        elif (zarr := find_zarr()) is None:
            array = plane.asarray()
        else:
            array = zarr.open_array(series.aszarr(level=level), mode="r")
            # The file stays open for as long as its pixels may be asked for.
            weakref.finalize(array, stack.pop_all().close)
        return Found(array, tuple(plane.axes.lower()), sizes, channels)


@contextmanager
def _heeding_damage(path: Path) -> Iterator[None]:
    """Tell of damage that tifffile reads past, and refuse a stack that was cut short.

    tifffile takes what it finds for the whole, and tells its log alone.
    """
    log = logging.getLogger("tifffile")
    kept = BufferingHandler(sys.maxsize)
    log.addHandler(kept)
    try:
        yield
    finally:
        log.removeHandler(kept)
    said = [record.getMessage() for record in kept.buffer if record.levelno >= logging.WARNING]
    if any("invalid page offset" in one for one in said):
        raise ImageError("it ends before its last page: copy it anew")
    if said:
        text = f"{path} may be damaged: {said[0][:200]}"
        warnings.warn(text, ImageWarning, stacklevel=2)


def _metadata(tiff: Any, scene: int) -> tuple[dict[str, Length], Sequence[str | None]]:
    """Sizes of pixels and names of channels."""
    if tiff.is_ome:
        root = ElementTree.fromstring(tiff.ome_metadata)  # noqa: S314, tifffile has parsed it
        found = root.findall("{*}Image/{*}Pixels")
        if scene >= len(found):
            return {}, ()
        pixels = found[scene].attrib
        sizes = {
            axis: Length(float(size), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
            for axis in "ZYX"
            if (size := pixels.get(f"PhysicalSize{axis}"))
        }
        return sizes, [one.get("Name") for one in found[scene].iterfind("{*}Channel")]
    page = tiff.series[scene].keyframe
    per_unit = {
        axis: tag.value[0] / tag.value[1]
        for axis in "YX"
        if (tag := page.tags.get(f"{axis}Resolution")) and tag.value[1]
    }
    plain = {axis: 1 / value for axis, value in per_unit.items() if value}
    if tiff.is_imagej:
        about = tiff.imagej_metadata
        unit = about.get("unit")
        # Inches are what ImageJ takes the resolution of a screen or printer for.
        if unit_name(unit) is None:
            return {}, ()
        if "spacing" in about:
            plain["Z"] = float(about["spacing"])
        return {axis: Length(size, unit) for axis, size in plain.items()}, ()
    in_cm = page.tags.valueof("ResolutionUnit") == tifffile.RESUNIT.CENTIMETER
    if in_cm and all(value >= _MICROSCOPE for value in per_unit.values()):
        return {axis: Length(1e4 * size, "micrometer") for axis, size in plain.items()}, ()
    return {}, ()


def tiff_notes(path: Path) -> dict[str, Any]:
    """What a result in a TIFF says of itself beside OME's metadata; nothing in other TIFFs."""
    with tifffile.TiffFile(path) as tiff:
        if not tiff.is_ome:
            return {}
        root = ElementTree.fromstring(tiff.ome_metadata)  # noqa: S314, tifffile has parsed it
    text = root.findtext("{*}Image/{*}Description") or ""
    return dict(json.loads(text)[KEY]) if text.startswith(f'{{"{KEY}"') else {}


def has_tiff_axes(axes: str) -> bool:
    """Whether an OME-TIFF can have these axes: few beside T, Z and C, and not in every order."""
    n = len(axes)
    try:
        tifffile.OmeXml().addimage("uint8", (2,) * n, (2 ** (n - 2), 1, 1, 2, 2, 1), axes=axes)
    except tifffile.OmeXmlError:
        return False
    return True


@contextmanager
def tiff_target(
    path: Path,
    axes: str,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    *,
    pixel_size: Mapping[str, float],
    unit: str | None,
    classes: Sequence[PixelClass],
    notes: Mapping[str, Any],
) -> Iterator[Any]:
    """Give what takes the pixels of an OME-TIFF, piece by piece."""
    about: dict[str, Any] = {"axes": axes}
    options: dict[str, Any] = {"ome": True, "photometric": "minisblack", "metadata": about}
    if notes:
        about["Description"] = json.dumps({KEY: notes})
    if classes and "C" in axes:
        about["Channel"] = {"Name": [one.name for one in classes]}
    metres = metres_of(unit)
    if unit is not None and metres is not None:
        for axis, size in pixel_size.items():
            about[f"PhysicalSize{axis}"] = size
            about[f"PhysicalSize{axis}Unit"] = symbol_of(unit)
        if {"X", "Y"} <= set(pixel_size):
            # For programs that read no OME-XML.
            options["resolution"] = tuple(1e-2 / (pixel_size[one] * metres) for one in "XY")
            options["resolutionunit"] = "CENTIMETER"
    if math.prod(shape) * np.dtype(dtype).itemsize <= _IN_MEMORY:
        array = np.zeros(shape, dtype)
        yield array
        tifffile.imwrite(path, array, compression="zlib", **options)
    else:
        offset, _ = tifffile.imwrite(
            path, None, shape=shape, dtype=dtype, bigtiff=True, returnoffset=True, **options
        )
        with path.open("r+b") as file:
            yield _Pixels(file, offset, shape)


class _Pixels:
    """Pixels of a file, to assign regions of planes to.

    Not mapped into memory: a disk that fills up would end the process instead of raising.
    """

    def __init__(self, file: BinaryIO, offset: int, shape: tuple[int, ...]) -> None:
        self._file, self._offset, self._shape = file, offset, shape

    def __setitem__(self, key: tuple[Any, ...], values: npt.NDArray[Any]) -> None:
        *stack, height, width = self._shape
        *index, _, rows, columns = key
        y, *_ = rows.indices(height)
        x, *_ = columns.indices(width)
        # Of a channel axis, which no index is given for, all planes. No stack, as if of one.
        index = [0, *index, *[0] * (len(stack) - len(index))]
        first = int(np.ravel_multi_index(index, (1, *stack)))
        for k, plane in enumerate(values.reshape(-1, *values.shape[-2:]), first):
            for row, line in enumerate(plane, k * height + y):
                self._file.seek(self._offset + (row * width + x) * values.itemsize)
                self._file.write(line.tobytes())
        self._file.flush()
