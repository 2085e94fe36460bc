"""Images and strokes from files of every kind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ValidationError

from ..core.base import PixelClass
from ..core.errors import ImageError, StrokesError
from ..core.planes import Planes
from .ngff import is_zarr, ngff_notes, open_ngff
from .source import Found, Length, Source, first_line, make_source, pick
from .tiff import open_tiff, tiff_notes

_TIFF = (".tif", ".tiff")
_JPEG = (".jpg", ".jpeg")
_PICTURES = (".png", *_JPEG)


def open_image(path: Path, *, axes: str | None = None, scene: int = 0, level: int = 0) -> Source:
    """Open an image of any kind; its pixels are loaded when they are read.

    Parameters
    ----------
    path
        A TIFF, also of OME or ImageJ, PNG or JPEG; a folder of OME-Zarr or Zarr; a file of any
        other kind that bioio reads, where it and its plug-in for that kind are installed.
    axes
        A letter for every axis, see :class:`Planes`; axes of length 1 may be left out. By default
        as the file says, or else as :func:`guess_axes` does.
    scene
        Which image, of files that hold several.
    level
        Which resolution, of files that hold several: 0 is the full one.

    Raises
    ------
    ImageError
        If the file is missing, of another kind or damaged, or the axes do not fit.

    Examples
    --------
    >>> source = open_image(Path("embryo.ome.tif"), axes="TZYX")  # doctest: +SKIP
    >>> source.planes.read((4, 7)).shape, source.pixel_size, source.unit  # doctest: +SKIP
    ((512, 512), {'Z': 1.0, 'Y': 0.2, 'X': 0.2}, 'micrometer')
    """
    return _open(path, axes, scene, level)


def open_strokes(path: Path, planes: Planes, what: str = "strokes") -> Planes:
    """Open strokes: a label image, in which 0 is not painted.

    Parameters
    ----------
    path
        A TIFF, PNG or folder of Zarr; of a PNG with a palette, the indices.
    planes
        The image that they are of.
    what
        What errors call them: a truth is read like strokes on all that is known.

    Returns
    -------
    Planes
        Of the same indices as the image's.

    Raises
    ------
    StrokesError
        If the file is missing, of another kind or damaged, or does not fit the image.
    """
    if path.suffix.lower() in _JPEG:
        raise StrokesError(f"{path} is a JPEG, whose compression changes labels: use TIFF or PNG")
    try:
        strokes = _open(path, None, 0, 0, is_strokes=True).planes
    except ImageError as error:
        raise StrokesError(str(error)) from error
    if strokes.array.dtype.kind not in "bui":
        raise StrokesError(
            f"{what} must be whole numbers, 0 where not painted; those of {path} are "
            f"{strokes.array.dtype}"
        )
    if strokes.array.shape != planes.labels_shape:
        raise StrokesError(
            f"the {what} of {path} have shape {strokes.array.shape}, the image "
            f"{planes.labels_shape}: they must be the same"
        )
    # Which axis is which, the image says.
    return Planes(strokes.array, planes.labels_axes)


def is_image(path: Path) -> bool:
    """Whether a file or folder is, by its name, of a kind that is read without bioio."""
    return is_zarr(path) if path.is_dir() else path.suffix.lower() in (*_TIFF, *_PICTURES)


def read_classes(path: Path) -> tuple[PixelClass, ...]:
    """Classes that a segmentation or probabilities written by this package are of.

    Parameters
    ----------
    path
        A TIFF or a folder of Zarr.

    Returns
    -------
    tuple of PixelClass
        None in files of others.

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    found = read_notes(path).get("classes", ())
    try:
        return tuple(PixelClass.model_validate(one) for one in found)
    except ValidationError as reason:
        raise ImageError(f"the classes of {path} are damaged: {first_line(reason)}") from reason


def read_notes(path: Path) -> dict[str, Any]:
    """What a result written by this package says of itself, see :func:`open_results`.

    Parameters
    ----------
    path
        A TIFF or a folder of Zarr.

    Returns
    -------
    dict
        JSON; nothing in files of others.

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    try:
        return ngff_notes(path) if path.is_dir() else tiff_notes(path)
    except Exception as reason:
        raise ImageError(f"what {path} is, cannot be read: {first_line(reason)}") from reason


def _open(
    path: Path, axes: str | None, scene: int, level: int, *, is_strokes: bool = False
) -> Source:
    if not path.exists():
        raise ImageError(f"there is no file {path}")
    try:
        return make_source(path, _find(path, scene, level, is_strokes), axes)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Exception as reason:
        # The readers raise whatever a damaged file drives them into.
        raise ImageError(f"{path} cannot be read: {first_line(reason)}") from reason


def _find(path: Path, scene: int, level: int, is_strokes: bool) -> Found:
    suffix = path.suffix.lower()
    if path.is_dir():
        if not is_zarr(path):
            raise ImageError("it is a folder, but not one of OME-Zarr")
        return open_ngff(path, scene, level, is_whole=not is_strokes)
    if suffix in _TIFF:
        return open_tiff(path, scene, level)
    if suffix not in _PICTURES:
        if is_strokes:
            raise ImageError("it is none of the kinds that strokes can be: TIFF, PNG or OME-Zarr")
        return _open_bioio(path, scene, level)
    pick([path], scene, "scene")
    pick([path], level, "level")
    pixels: Callable[[Image.Image], npt.NDArray[Any]] = np.asarray if is_strokes else _colours
    with Image.open(path) as image:
        array = pixels(image)
    return Found(array, "yxs"[: array.ndim], {})


def _colours(image: Image.Image) -> npt.NDArray[Any]:
    """Pixels of an image as intensities, whatever its mode."""
    if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    if image.mode in ("LA", "La"):
        image = image.convert("L")
    return np.asarray(image)


def _open_bioio(path: Path, scene: int, level: int) -> Found:
    """Find an image in a file of one of the many kinds that bioio has plug-ins for."""
    try:
        from bioio import BioImage
    except ImportError:
        raise ImageError(
            f"it is none of the kinds that can be read, {', '.join(_TIFF + _PICTURES)} and "
            "OME-Zarr; for others install bioio and its plug-in for that kind, such as bioio-czi: "
            "pip install 'napari-hrdv2[bioio]' bioio-czi"
        ) from None
    image = BioImage(path)
    pick(image.scenes, scene, "scene")
    image.set_scene(scene)
    pick(image.resolution_levels, level, "level")
    image.set_resolution_level(level)
    sizes = {}
    # Its plug-ins fail in many ways where a file lacks them; younger versions alone tell units.
    with suppress(Exception):
        for axis in "ZYX":
            unit = getattr(getattr(image, "dimension_properties", None), axis, None)
            if size := getattr(image.physical_pixel_sizes, axis):
                spelt = getattr(unit, "unit", None)
                sizes[axis] = Length(float(size), None if spelt is None else str(spelt))
    return Found(image.dask_data, tuple(image.dims.order.lower()), sizes, image.channel_names or ())
