"""Looking for a data set's parts, and reading them; what is missing or broken is told by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from .._io import open_image
from ..core.errors import HRDv2Error

_NAMED = 3
# Lists of the largest data sets have some megabytes.
_MAX_BYTES = 64 << 20


class DataSetError(HRDv2Error):
    """A data set lacks something, or a file of it is broken."""


class Pair(NamedTuple):
    """An image and its annotation."""

    image: Path
    annotation: Path


@dataclass(frozen=True, eq=False)
class DataSet(ABC):
    """Images with annotations, in a layout of their own.

    Attributes
    ----------
    folder
        What the user gave: the data set's folder, or one that it lies in.
    """

    folder: Path

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of its images, in order.

        Raises
        ------
        DataSetError
            If a folder or list is missing or broken.
        """

    @abstractmethod
    def pair(self, name: str) -> Pair:
        """The files of one."""


def find_root(given: Path, *names: str) -> Path:
    """The folder of a data set, which may be given itself or by a folder that it lies in.

    Parameters
    ----------
    given
        What the user gave.
    *names
        Paths of what lies in the data set's folder at least, such as ``"JPEGImages"``, preceded by
        the folder's own name, such as ``"VOC2007"``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    DataSetError
        If it is not there, or lacks one of these.
    """
    own, *inside = names
    if not given.is_dir():
        raise DataSetError(f"there is no folder {given}: give that of the data set, {own}")
    root = given / own if (given / own).is_dir() else given
    missing = [one for one in inside if not (root / one).exists()]
    if missing:
        raise DataSetError(
            f"{root} lacks {', '.join(missing)}: it is not the folder {own} of the data set, or "
            "a part of the data set was not unpacked"
        )
    return root


def read_lines(path: Path) -> list[str]:
    """The lines of a list that are not empty, without blanks around them.

    Raises
    ------
    DataSetError
        If the file is missing, empty, no text, or too large to be a list.
    """
    if not path.is_file():
        raise DataSetError(f"the list {path} is missing")
    if path.stat().st_size > _MAX_BYTES:
        raise DataSetError(f"{path} is too large to be a list")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataSetError(f"{path} is no text: it may be damaged") from None
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise DataSetError(f"the list {path} is empty")
    return found


def refuse_missing(files: Sequence[Path]) -> None:
    """Refuse a data set that lacks files.

    Raises
    ------
    DataSetError
        If one is missing; the first few are named.
    """
    missing = [str(one) for one in files if not one.is_file()]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise DataSetError(
            f"of {len(files)} files of the data set {len(missing)} are missing: "
            f"{', '.join(missing[:_NAMED])}{more}; unpack them, or leave them out with "
            "--skip-missing"
        )


def read_picture(path: Path) -> npt.NDArray[Any]:
    """An image (h, w) or (h, w, 3 or 4), of uint8 as a rule.

    Raises
    ------
    ImageError
        If it is missing or broken.
    """
    return np.asarray(open_image(path).planes.read(()))


def read_annotation(path: Path, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """A map of labels or grey levels (h, w); of one with a palette, the indices.

    Parameters
    ----------
    path
        A PNG, or another picture without loss.
    shape
        (h, w) of the image that it is of.

    Raises
    ------
    DataSetError
        If it is missing or broken, or of another size.
    """
    if not path.is_file():
        raise DataSetError(f"the annotation {path} is missing")
    try:
        with Image.open(path) as image:
            plain = image.mode in ("1", "L", "P") or image.mode.startswith("I")
            found = np.asarray(image if plain else image.convert("L"))
    except Exception as reason:
        # Its readers raise whatever a damaged file drives them into.
        raise DataSetError(f"the annotation {path} cannot be read: {reason}") from reason
    if found.shape != shape:
        raise DataSetError(f"the annotation {path} is {found.shape}, its image {shape}")
    return found
