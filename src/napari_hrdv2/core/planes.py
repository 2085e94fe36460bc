"""Images of any dimensions as what is segmented of them: planes, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ImageError

Index = tuple[int, ...]
Region = tuple[slice, slice]

# Up to how many of them channels are taken for channels where nothing tells what an axis is.
_FEW = 4
# Usual order of those axes, from the last but Y and X backwards, where nothing tells.
_STACK = "ZTQPRVUW"
_NAMES = {
    "c": "C",
    "ch": "C",
    "channel": "C",
    "channels": "C",
    "t": "T",
    "time": "T",
    "frame": "T",
    "frames": "T",
    "z": "Z",
    "slice": "Z",
    "plane": "Z",
    "y": "Y",
    "x": "X",
}


@dataclass(frozen=True, eq=False)
class Planes:
    """The planes of an array, and what its axes are.

    Attributes
    ----------
    array
        Of numpy, dask, zarr or the like: it has a shape and a dtype, and what slicing gives is
        what :func:`numpy.asarray` makes an array of. Only what is read is loaded.
    axes
        A letter for every axis. ``Y`` and ``X`` are those of a plane, ``C`` goes over channels,
        ``S``, of length 3 or 4, over red, green, blue (alpha); all others, such as ``T`` and
        ``Z``, go over planes.
    channels
        Indices of the channels used, where there is a ``C`` longer than 1; by default all.

    Raises
    ------
    ImageError
        If axes do not fit the array, or there are no such channels.

    Examples
    --------
    >>> planes = Planes(np.zeros((5, 2, 64, 48)), "ZCYX")
    >>> planes.stack_shape, planes.shape, planes.read((4,)).shape
    ((5,), (64, 48), (64, 48, 2))
    """

    array: Any
    axes: str
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.array.shape)
        axes = self.axes
        if len(axes) != len(shape) or len(set(axes)) != len(axes):
            raise ImageError(f"axes {axes} do not fit an image of shape {shape}: one letter each")
        if "Y" not in axes or "X" not in axes:
            raise ImageError(f"axes {axes} lack Y or X, those of a plane")
        if "S" in axes and ("C" in axes or shape[axes.index("S")] not in (3, 4)):
            raise ImageError(
                f"axes {axes} of shape {shape}: S stands for the 3 or 4 samples of RGB(A), "
                "channels are C"
            )
        if 0 in shape:
            raise ImageError(f"the image has shape {shape}: it holds no pixels")
        count = self.channel_count
        if count is None:
            object.__setattr__(self, "channels", None)
            return
        chosen = tuple(range(count)) if self.channels is None else tuple(self.channels)
        wrong = [k for k in chosen if not 0 <= k < count]
        if wrong or not chosen or len(set(chosen)) != len(chosen):
            raise ImageError(
                f"channels {', '.join(map(str, chosen)) or 'none'} asked for, but the image has "
                f"{count}, from 0 to {count - 1}"
            )
        object.__setattr__(self, "channels", chosen)

    def _length(self, axis: str) -> int:
        return int(self.array.shape[self.axes.index(axis)])

    @property
    def channel_count(self) -> int | None:
        """How many channels there are to choose from; None for grey and RGB images."""
        count = self._length("C") if "C" in self.axes else 1
        return None if count == 1 else count

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of a plane in pixels."""
        return self._length("Y"), self._length("X")

    @property
    def stack_axes(self) -> str:
        """The axes that go over planes, in the array's order."""
        return "".join(one for one in self.axes if one not in "CYXS")

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """Lengths of these; () of a single plane."""
        return tuple(self._length(one) for one in self.stack_axes)

    @property
    def count(self) -> int:
        """Number of planes."""
        return math.prod(self.stack_shape)

    @property
    def labels_axes(self) -> str:
        """Axes of a segmentation: those over planes, then Y and X."""
        return f"{self.stack_axes}YX"

    @property
    def labels_shape(self) -> tuple[int, ...]:
        """Shape of a segmentation."""
        return self.stack_shape + self.shape

    def indices(self) -> Iterator[Index]:
        """Index of every plane, one number for each of :attr:`stack_axes`."""
        return np.ndindex(self.stack_shape)

    def read(self, index: Index = (), region: Region | None = None) -> npt.NDArray[Any]:
        """Load a plane, or a region of it.

        Parameters
        ----------
        index
            Of the plane, one number for each of :attr:`stack_axes`.
        region
            Rows and columns; by default all.

        Returns
        -------
        ndarray
            (h, w) grey, (h, w, 3 or 4) RGB(A), or (h, w, n) of the n channels used.

        Raises
        ------
        ImageError
            If it cannot be loaded, for instance for want of a file.
        """
        rows, columns = region or (slice(None), slice(None))
        along: dict[str, Any] = dict(zip(self.stack_axes, index, strict=True))
        along |= {"Y": rows, "X": columns, "S": slice(None)}
        # Of channels the slice that holds them: not everything that is sliced takes lists.
        chosen = self.channels or (0,)
        first = min(chosen)
        along["C"] = slice(first, max(chosen) + 1)
        try:
            found = np.asarray(self.array[tuple(along[one] for one in self.axes)])
        except Exception as reason:  # whatever a damaged file drives its reader into
            text = (str(reason).splitlines() or [type(reason).__name__])[0]
            raise ImageError(f"a part of the image cannot be read: {text[:200]}") from reason
        left = [one for one in self.axes if one in "YXCS"]
        last = [one for one in "CS" if one in left]
        found = found.transpose([left.index(one) for one in ("Y", "X", *last)])
        if "C" not in left:
            return found
        if self.channels is None:
            return found[..., 0]
        return found[..., [k - first for k in self.channels]]


def guess_axes(
    shape: tuple[int, ...], *, rgb: bool = False, names: tuple[str, ...] | None = None
) -> str:
    """Axes of an array, as far as they can be told.

    Parameters
    ----------
    shape
        Of the array.
    rgb
        Whether its last axis are red, green, blue (alpha).
    names
        What its axes but the last of RGB are called, if they are called anything. Names that say
        nothing of what an axis is, are passed over.

    Returns
    -------
    str
        A letter for every axis, see :class:`Planes`. Where names do not tell, the last two are
        Y and X, the shortest of the others, if it is no longer than four, are channels, and the
        rest go over planes.

    Raises
    ------
    ImageError
        If there are fewer than two axes.
    """
    n = len(shape) - rgb
    if n < 2:
        raise ImageError(f"the image has shape {shape}: at least height and width are needed")
    found: list[str | None] = [None] * n
    if names is not None and len(names) == n:
        found = [_NAMES.get(name.strip().lower()) for name in names]
        if rgb:
            # Of an RGB image there are no other channels.
            found = [None if one == "C" else one for one in found]
        if len(set(found) - {None}) < n - found.count(None):
            found = [None] * n
    for at, letter in ((n - 2, "Y"), (n - 1, "X")):
        if letter not in found:
            if found[at] is not None:
                # Names that contradict where a plane lies in every other image.
                found = [*[None] * (n - 2), "Y", "X"]
                break
            found[at] = letter
    unknown = [k for k, one in enumerate(found) if one is None]
    if unknown and not rgb and "C" not in found:
        shortest = min(unknown, key=lambda k: shape[k])
        if 1 < shape[shortest] <= _FEW:
            found[shortest] = "C"
            unknown.remove(shortest)
    free = iter([one for one in _STACK if one not in found])
    for k in reversed(unknown):
        found[k] = next(free)
    return "".join(one or "" for one in found) + ("S" if rgb else "")
