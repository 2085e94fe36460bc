"""Reading images and strokes, writing results: what the command line needs of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from .core.errors import HRDv2Error, ImageError, StrokesError
from .core.files import replacing

_TIFF = (".tif", ".tiff")
_OTHERS = (".png", ".jpg", ".jpeg")


def read_image(path: Path) -> npt.NDArray[Any]:
    """Read a 2-D grey or RGB(A) image.

    Parameters
    ----------
    path
        TIFF, PNG or JPEG.

    Returns
    -------
    ndarray
        (h, w) or (h, w, 3 or 4), of the file's dtype.

    Raises
    ------
    ImageError
        If the file is missing, of another kind, damaged, or holds a stack.
    """
    image = _read(path, ImageError, _colours)
    if image.ndim == 3 and image.shape[0] in (3, 4) and image.shape[2] not in (3, 4):
        image = np.moveaxis(image, 0, -1)  # TIFFs may keep their colour planes apart
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] in (3, 4)):
        raise ImageError(
            f"{path} has shape {image.shape}: only single grey (h, w) or RGB images can be read"
        )
    return image


def read_labels(path: Path) -> npt.NDArray[Any]:
    """Read strokes: a 2-D label image, in which 0 is not painted.

    Parameters
    ----------
    path
        TIFF or PNG; of a PNG with a palette, the indices.

    Returns
    -------
    ndarray of int or bool
        (h, w).

    Raises
    ------
    StrokesError
        If the file is missing, of another kind, damaged, or holds no label image.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise StrokesError(f"{path} is a JPEG, whose compression changes labels: use TIFF or PNG")
    labels = _read(path, StrokesError, np.asarray)
    if labels.ndim != 2:
        raise StrokesError(
            f"{path} has shape {labels.shape}: strokes must be one (h, w) label image"
        )
    return labels


def _colours(image: Image.Image) -> npt.NDArray[Any]:
    """Pixels of an image as intensities, whatever its mode."""
    if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    if image.mode in ("LA", "La"):
        image = image.convert("L")
    return np.asarray(image)


def _read(
    path: Path, error: type[HRDv2Error], pixels: Callable[[Image.Image], npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    if not path.is_file():
        raise error(f"there is no file {path}")
    suffix = path.suffix.lower()
    if suffix not in _TIFF + _OTHERS:
        raise error(f"{path} is none of the kinds that can be read: {', '.join(_TIFF + _OTHERS)}")
    try:
        if suffix in _TIFF:
            return _plane(tifffile.imread(path))
        with Image.open(path) as image:
            return pixels(image)
    except Exception as reason:
        # The readers raise whatever a damaged file drives them into.
        text = (str(reason).splitlines() or [type(reason).__name__])[0]
        raise error(f"{path} cannot be read: {text[:200]}") from None


def _plane(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Drop the axes of length 1 that TIFFs have beside height and width."""
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def write_labels(path: Path, labels: npt.NDArray[np.integer]) -> None:
    """Write labels (h, w) as a TIFF, of as few bits as hold them; all at once or not at all."""
    _write_tiff(path, labels.astype(np.min_scalar_type(labels.max(initial=0))), "YX")


def write_probabilities(path: Path, probabilities: npt.NDArray[np.float32]) -> None:
    """Write probabilities (h, w, K) as a float32 TIFF of K channels (K, h, w)."""
    _write_tiff(path, np.ascontiguousarray(np.moveaxis(probabilities, -1, 0)), "CYX")


def _write_tiff(path: Path, array: npt.NDArray[Any], axes: str) -> None:
    with replacing(path) as whole:
        tifffile.imwrite(
            whole,
            array,
            compression="zlib",
            photometric="minisblack",
            metadata={"axes": axes},
        )
