"""What a file of an image says of itself, made the same for files of every kind."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..core.errors import ImageError
from ..core.planes import Planes, guess_axes

_T = TypeVar("_T")

# Under this name files keep what only this package reads.
KEY = "napari-hrdv2"

# Metres, and OME's symbol. The names are those of NGFF.
_UNITS = {
    "picometer": (1e-12, "pm"),
    "angstrom": (1e-10, "Å"),
    "nanometer": (1e-9, "nm"),
    "micrometer": (1e-6, "µm"),
    "millimeter": (1e-3, "mm"),
    "centimeter": (1e-2, "cm"),
    "meter": (1.0, "m"),
}
# ImageJ writes the micro sign as an escape.
_ALIASES = {"um": "micrometer", "\\u00b5m": "micrometer", "micron": "micrometer"}


@dataclass(frozen=True, eq=False)
class Source:
    """An image in a file, of which nothing but the metadata is read yet.

    Attributes
    ----------
    planes
        The image. Of PNG and JPEG files, and of compressed TIFFs where zarr is not installed, all
        pixels are in memory; of all others only what is read is loaded.
    pixel_size
        Size of a pixel along Z, Y and X, as far as the file tells.
    unit
        Of these sizes, such as ``micrometer``; None where the file does not tell.
    channel_names
        A name for every channel, or nothing.
    """

    planes: Planes
    pixel_size: dict[str, float]
    unit: str | None
    channel_names: tuple[str, ...]


class Length(NamedTuple):
    """A length, and the unit as the file spells it."""

    value: float
    unit: str | None


class Found(NamedTuple):
    """What a reader of some format finds.

    Attributes
    ----------
    array
        With a shape and a dtype; slicing it loads what is asked for.
    names
        What each axis is called, in lower case; empty where it has no name.
    sizes
        Of a pixel, for the letters of axes.
    channels
        Their names.
    """

    array: Any
    names: Sequence[str]
    sizes: dict[str, Length]
    channels: Sequence[str | None] = ()


@dataclass(frozen=True, eq=False)
class _Squeezed:
    """Array of a file without some axes of length 1, which names the file where it is damaged."""

    path: Path
    array: Any
    kept: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(self.array.shape[k]) for k in self.kept)

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = np.dtype(self.array.dtype).newbyteorder("=")
        return found

    def __getitem__(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        whole: list[int | slice] = [0] * len(self.array.shape)
        for at, one in zip(self.kept, key, strict=True):
            whole[at] = one
        try:
            # PyTorch knows no other byte order than the machine's.
            return np.asarray(self.array[tuple(whole)]).astype(self.dtype, copy=False)
        except Exception as reason:
            raise ImageError(f"{self.path}: {first_line(reason)}") from reason


def make_source(path: Path, found: Found, axes: str | None) -> Source:
    """Make of what a reader found, and of what the user says of its axes, a source.

    Parameters
    ----------
    path
        Of the file, to tell of it.
    found
        In it.
    axes
        A letter for every axis of the file, or for every one longer than 1; None: as the file
        says, else as :func:`guess_axes` does.

    Raises
    ------
    ImageError
        If the axes do not fit the image.
    """
    shape = tuple(int(n) for n in found.array.shape)
    given = None if axes is None else axes.upper()
    names = list(found.names) or [""] * len(shape)
    if given is not None and len(given) == len(shape):
        names = list(given.lower())
    # At least height and width stay.
    dropped = [k for k, n in enumerate(shape) if n == 1 and names[k] not in ("y", "x")]
    dropped = dropped[: max(0, len(shape) - 2)]
    kept = tuple(k for k in range(len(shape)) if k not in dropped)
    if given is None:
        letters = _letters([shape[k] for k in kept], [names[k] for k in kept])
    else:
        letters = "".join(given[k] for k in kept) if len(given) == len(shape) else given
    planes = Planes(_Squeezed(path, found.array, kept), letters)
    sizes, unit = _in_one_unit({k: size for k, size in found.sizes.items() if k in letters})
    channels = tuple(str(name) for name in found.channels if name)
    return Source(planes, sizes, unit, channels if len(channels) == planes.channel_count else ())


def _letters(shape: Sequence[int], names: Sequence[str]) -> str:
    rgb = [k for k, name in enumerate(names) if name == "s" and shape[k] in (3, 4)]
    # No image is that narrow.
    if not any(names) and len(shape) > 2 and shape[-1] in (3, 4) and shape[-2] > 4:
        rgb = [len(shape) - 1]
    others = [k for k in range(len(shape)) if k not in rgb]
    order = [*others, *rgb]
    guessed = guess_axes(
        tuple(shape[k] for k in order), rgb=bool(rgb), names=tuple(names[k] for k in others)
    )
    return "".join(guessed[order.index(k)] for k in range(len(shape)))


def _in_one_unit(sizes: dict[str, Length]) -> tuple[dict[str, float], str | None]:
    """Sizes in the unit of X, without those that have no such size."""
    named = {
        axis: (size, unit_name(unit))
        for axis, (size, unit) in sizes.items()
        # Sizes of 1 in pixels say nothing.
        if math.isfinite(size) and size > 0 and (unit or "").rstrip("s") != "pixel"
    }
    if not named:
        return {}, None
    _, unit = named.get("X", next(iter(named.values())))
    metres = metres_of(unit)
    found = {}
    for axis, (size, own) in named.items():
        if own == unit:
            found[axis] = size
        elif metres and (others := metres_of(own)):
            found[axis] = size * (others / metres)
    return found, unit


def unit_name(text: str | None) -> str | None:
    """NGFF's name of a unit of length, however it is spelt; None if it is not known."""
    plain = unicodedata.normalize("NFKC", text or "").strip()
    for name, (_, symbol) in _UNITS.items():
        if plain == unicodedata.normalize("NFKC", symbol):
            return name
    plain = plain.lower().removesuffix("s").replace("metre", "meter")
    plain = _ALIASES.get(plain, plain)
    return plain if plain in _UNITS else None


def metres_of(unit: str | None) -> float | None:
    """Metres in a unit; None if that is not known."""
    return _UNITS[unit][0] if unit in _UNITS else None


def symbol_of(unit: str) -> str:
    """OME's symbol of a unit that is known."""
    return _UNITS[unit][1]


def pick(items: Sequence[_T], index: int, what: str) -> _T:
    """One of several things in a file; raises ImageError if there are not so many."""
    if not 0 <= index < len(items):
        raise ImageError(
            f"there is no {what} {index}: it has {len(items)}, from 0 to {len(items) - 1}"
        )
    return items[index]


def first_line(reason: Exception) -> str:
    """What an error of a library says, short enough for one line."""
    return (str(reason).splitlines() or [type(reason).__name__])[0][:200]
