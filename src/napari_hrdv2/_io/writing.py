"""Results to files: segmentations and probabilities, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.base import PixelClass
from ..core.errors import ImageError
from ..core.files import replacing
from ..core.planes import Index, Region
from .ngff import is_zarr, ngff_target
from .tiff import has_tiff_axes, tiff_target


def check_output(path: Path, *inputs: Path, axes: str = "YX") -> None:
    """Refuse the name of a result that cannot be one, before any work is done for it.

    Parameters
    ----------
    path
        Of the result.
    inputs
        Files and folders that it is made of.
    axes
        Of the result.

    Raises
    ------
    ImageError
        If its ending is of no kind that results have, or of one without such axes, or it would
        replace an input or a folder of something else.
    """
    is_ngff = path.suffix.lower() == ".zarr"
    if not is_ngff and path.suffix.lower() not in (".tif", ".tiff"):
        raise ImageError(f"the result is a TIFF or OME-Zarr: give {path} the ending .tif or .zarr")
    if not is_ngff and not has_tiff_axes(axes):
        raise ImageError(
            f"a TIFF cannot have the axes {axes}: call them otherwise by --axes, such as T, Z and "
            f"Q, or give {path} the ending .zarr"
        )
    if path.resolve() in {one.resolve() for one in inputs}:
        raise ImageError(f"{path} is one of the inputs: give the result another name")
    if path.is_dir() and not (is_ngff and is_zarr(path)):
        raise ImageError(f"{path} is a folder of something else: give the result another name")


class Results:
    """What takes a result, piece by piece; :func:`open_results` gives it.

    Examples
    --------
    >>> with open_results(path, "ZYX", (9, 64, 48), "uint8") as results:  # doctest: +SKIP
    ...     results.write((4,), (slice(0, 32), slice(0, 48)), labels)
    """

    def __init__(self, path: Path, target: Any, dtype: npt.DTypeLike, has_channels: bool) -> None:
        self._path, self._target, self._dtype = path, target, np.dtype(dtype)
        self._has_channels = has_channels

    def write(self, index: Index, region: Region | None, values: npt.ArrayLike) -> None:
        """Write a plane, or a region of it.

        Parameters
        ----------
        index
            Of the plane, one number for each axis but C, Y and X.
        region
            Rows and columns; None: all.
        values
            (h, w) of labels, or (h, w, K) of probabilities.

        Raises
        ------
        OSError
            If the disk is full, or cannot be written to for another reason.
        """
        array = np.asarray(values, self._dtype)
        if self._has_channels:
            array = np.moveaxis(array, -1, 0)
        rows, columns = region or (slice(None), slice(None))
        with _telling(self._path):
            self._target[(*index, ..., rows, columns)] = array


@contextmanager
def open_results(
    path: Path,
    axes: str,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    *,
    pixel_size: Mapping[str, float] | None = None,
    unit: str | None = None,
    classes: Sequence[PixelClass] = (),
    notes: Mapping[str, Any] | None = None,
    chunks: tuple[int, ...] | None = None,
) -> Iterator[Results]:
    """Write a segmentation or probabilities; all at once or not at all.

    Until the ``with`` block is left they are under another name; after an error they are gone
    and an old result of that name is as it was.

    Parameters
    ----------
    path
        Ends with ``.tif`` or ``.tiff``, of OME-TIFF, or ``.zarr``, of OME-Zarr. A TIFF of more
        than 256 MB is not compressed, so that it need not be in memory.
    axes
        A letter for every axis, as :attr:`Planes.labels_axes`; probabilities have C before Y
        and X. OME-Zarr puts them into its own order: T, C, Z, Y, X.
    shape
        Length of each.
    dtype
        Of the values.
    pixel_size, unit
        As of a :class:`Source`.
    classes
        Of the segmentation; with a C axis, those that its channels are of.
    notes
        More to keep in the file, as JSON; :func:`read_notes` finds it.
    chunks
        Of OME-Zarr, along these axes; by default planes in squares of 512 pixels.

    Yields
    ------
    Results
        What takes the values. What is not written is 0.

    Raises
    ------
    ImageError
        If a result cannot have that name, see :func:`check_output`.
    OSError
        If the disk is full, or cannot be written to for another reason.
    """
    check_output(path, axes=axes)
    about: dict[str, Any] = {
        "pixel_size": {k: size for k, size in (pixel_size or {}).items() if k in axes},
        "unit": unit,
        "classes": classes,
        "notes": dict(notes or {})
        | ({"classes": [one.model_dump() for one in classes]} if classes else {}),
    }
    with replacing(path) as whole, ExitStack() as stack:
        if path.suffix.lower() == ".zarr":
            target = ngff_target(whole, axes, shape, dtype, chunks=chunks, **about)
        else:
            target = tiff_target(whole, axes, shape, dtype, **about)
        with _telling(path):
            taken = stack.enter_context(target)
        yield Results(path, taken, dtype, "C" in axes)
        with _telling(path):
            stack.close()


def write_labels(path: Path, labels: npt.NDArray[np.integer]) -> None:
    """Write labels (h, w), in 8 bits where they fit; all at once or not at all."""
    with open_results(path, "YX", labels.shape, label_dtype(labels)) as results:
        results.write((), None, labels)


def label_dtype(labels: npt.NDArray[np.integer]) -> np.dtype[Any]:
    """The smallest type that results with these labels have."""
    return np.min_scalar_type(int(labels.max(initial=0)))


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Say of errors of the disk which file they cost."""
    try:
        yield
    except OSError as reason:
        told = OSError(f"{path} cannot be written: {reason.strerror or reason}")
        told.errno = reason.errno
        raise told from reason
