"""Invertible image transforms as maps of the pixel and token lattices.

Shifts, flips, 90-degree rotations and all their products form one group: signed
permutations of the two axes followed by an integer translation. Written relative to the
image's centre its elements do not depend on the image's size, so composing and inverting
them is exact, also on non-square images. They act on the image extended without end by its
boundary rule, which makes padding to the token grid part of the same read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

Boundary = Literal["reflect", "periodic"]
Pattern = Literal["lattice", "von_neumann", "moore"]
Matrix = tuple[tuple[int, int], tuple[int, int]]
Share = tuple[float, float]

_IDENTITY: Matrix = ((1, 0), (0, 1))


def fold(index: np.ndarray, n: int, boundary: Boundary) -> np.ndarray:
    """Map indices on the endless axis to the pixels ``0 ... n-1`` that they show.

    Parameters
    ----------
    index
        Integers of any size and sign.
    n
        Length of the axis in pixels, at least 1.
    boundary
        ``"reflect"`` mirrors about the outermost pixels, which are not repeated;
        ``"periodic"`` wraps the far edge in.
    """
    if boundary == "periodic" or n == 1:
        return index % n
    index = index % (2 * n - 2)
    mirrored: np.ndarray = np.minimum(index, 2 * n - 2 - index)
    return mirrored


@dataclass(frozen=True)
class Lattice:
    """Where the tokens of one pass lie along one axis of the original image.

    Token ``i`` of ``size`` has its centre at ``origin + i * stride``, in pixels from the
    image's edge: pixel ``p`` covers ``[p, p + 1)`` and has its centre at ``p + 0.5``.

    Attributes
    ----------
    origin
        Centre of the first token in pixels; may lie outside the image.
    stride
        Distance of neighbouring centres in pixels.
    size
        Number of tokens.
    start
        For a periodic image, the coordinate at which the transformed image began: the
        pixels before it were read a period later. ``None`` for a reflected one.
    """

    origin: float
    stride: float
    size: int
    start: float | None = None

    def scaled(self, factor: float) -> Lattice:
        """The same tokens where pixels are so many times as large."""
        start = None if self.start is None else self.start * factor
        return Lattice(self.origin * factor, self.stride * factor, self.size, start)

    def moved(self, by: float) -> Lattice:
        """The same tokens where pixels are counted from so much farther on."""
        start = None if self.start is None else self.start - by
        return Lattice(self.origin - by, self.stride, self.size, start)

    def stretches(self, n: int) -> tuple[Stretch, ...]:
        """The one stretch of the axis, of ``n`` pixels, that it is of."""
        return (Stretch(slice(0, n), self, 0),)


@dataclass(frozen=True)
class Joined:
    """Lattices of stretches of an axis, one after the other: every pixel hangs on its stretch's.

    Attributes
    ----------
    parts
        Of each stretch, in pixels from the axis's beginning; they may overlap.
    ends
        For each stretch, the pixel before which it ends.
    """

    parts: tuple[Lattice, ...]
    ends: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return sum(one.size for one in self.parts)

    def stretches(self, n: int) -> tuple[Stretch, ...]:
        """The stretches of the axis, of ``n`` pixels."""
        pixels = [slice(*pair) for pair in pairwise((0, *self.ends))]
        first = accumulate((one.size for one in self.parts), initial=0)
        return tuple(map(Stretch, pixels, self.parts, first))


class Stretch(NamedTuple):
    """A stretch of an axis.

    Attributes
    ----------
    pixels
        Those of the stretch.
    lattice
        Where their tokens lie.
    first
        Index of the first of these among all tokens of the axis.
    """

    pixels: slice
    lattice: Lattice
    first: int


AxisLattice = Lattice | Joined


def join(parts: Sequence[Lattice], ends: Sequence[int]) -> AxisLattice:
    """Lattices of stretches that end at some pixels, as the lattice of the whole axis."""
    return parts[0] if len(parts) == 1 else Joined(tuple(parts), tuple(ends))


def cropped(
    lattices: Sequence[AxisLattice], n: int, part: slice
) -> tuple[list[list[slice]], list[AxisLattice]]:
    """Those tokens that some pixels of an axis hang on.

    Parameters
    ----------
    lattices
        Of several passes, all of the same stretches.
    n
        Length of the axis in pixels.
    part
        The pixels.

    Returns
    -------
    list of list of slice
        For each lattice, which of its tokens: a slice for each stretch that the part touches. Of
        every lattice they are as many.
    list of Lattice or Joined
        Where these lie, in pixels from the part's beginning.
    """
    taken: list[list[slice]] = [[] for _ in lattices]
    parts: list[list[Lattice]] = [[] for _ in lattices]
    ends = []
    for mine in zip(*(one.stretches(n) for one in lattices), strict=True):
        pixels = mine[0].pixels
        start, stop = max(part.start, pixels.start), min(part.stop, pixels.stop)
        if start >= stop:
            continue
        ends.append(stop - part.start)
        along = [one.lattice for one in mine]
        spans = []
        for one in along:
            low = math.floor((start + 0.5 - one.origin) / one.stride)
            high = math.ceil((stop - 0.5 - one.origin) / one.stride)
            spans.append([min(max(k, 0), one.size - 1) for k in (low, high)])
        size = max(high - low for low, high in spans) + 1
        for k, ((low, _), one) in enumerate(zip(spans, along, strict=True)):
            first = min(low, one.size - size)
            at = mine[k].first + first
            taken[k].append(slice(at, at + size))
            origin = one.origin + first * one.stride - part.start
            parts[k].append(replace(one, origin=origin, size=size))
    return taken, [join(one, ends) for one in parts]


@dataclass(frozen=True)
class Transform:
    """One element of the group: ``q = matrix @ p + shift`` about the image's centre.

    Compose with ``@``: ``(b @ a)`` applies ``a`` first, then ``b``; the inverse of that is
    ``a.inverse @ b.inverse``.

    Attributes
    ----------
    matrix
        Signed permutation of the (y, x) axes.
    shift
        Displacement (y, x) of the content in pixels, after the permutation.

    Examples
    --------
    >>> t = Transform.shifted(0, 3) @ Transform.rotated(1)
    >>> t @ t.inverse == Transform()
    True
    """

    matrix: Matrix = _IDENTITY
    shift: tuple[int, int] = (0, 0)

    @classmethod
    def shifted(cls, dy: int, dx: int) -> Transform:
        """Move the content down by ``dy`` and right by ``dx`` pixels."""
        return cls(shift=(dy, dx))

    @classmethod
    def flipped(cls, *, vertical: bool = False, horizontal: bool = False) -> Transform:
        """Mirror top to bottom (``vertical``), left to right (``horizontal``) or both."""
        return cls(((-1 if vertical else 1, 0), (0, -1 if horizontal else 1)))

    @classmethod
    def rotated(cls, quarters: int) -> Transform:
        """Rotate counter-clockwise by ``quarters`` times 90 degrees, as :func:`numpy.rot90`."""
        turn = cls(((0, -1), (1, 0)))
        out = cls()
        for _ in range(quarters % 4):
            out = turn @ out
        return out

    def __matmul__(self, first: Transform) -> Transform:
        a, b = np.array(self.matrix), np.array(first.matrix)
        return _from_arrays(a @ b, a @ np.array(first.shift) + np.array(self.shift))

    @property
    def inverse(self) -> Transform:
        """The transform that undoes this one."""
        back = np.array(self.matrix).T
        return _from_arrays(back, -back @ np.array(self.shift))

    @property
    def transposes(self) -> bool:
        """Whether height and width change places."""
        return self.matrix[0][0] == 0

    def out_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the transformed image of an image of ``shape``."""
        return shape[::-1] if self.transposes else shape

    def _axis(self, axis: int) -> tuple[int, int, int]:
        """For an axis of the original: its axis in the output, the sign, the shift there."""
        out = 1 - axis if self.transposes else axis
        return out, self.matrix[out][axis], self.shift[out]

    def read(
        self,
        image: torch.Tensor,
        boundary: Boundary,
        window: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """Transform an image.

        Parameters
        ----------
        image
            (..., h, w), any dtype, on any device.
        boundary
            How the image goes on beyond its edges.
        window
            (height, width) to read from the transformed image's top left corner, beyond its
            size where larger. By default its own size.

        Returns
        -------
        torch.Tensor
            (..., window height, window width), of the same dtype and device.
        """
        shape = self.out_shape(window) if window else (image.shape[-2], image.shape[-1])
        return read_all([self], image, boundary, shape)[0]

    def _begin(self, axis: int, n: int, length: int) -> int:
        """First pixel, along an axis of ``n`` endlessly extended ones, of ``length`` read."""
        _, sign, shift = self._axis(axis)
        return -shift if sign > 0 else n - length + shift

    def _mirrored(self) -> list[int]:
        """Axes of the original that run backwards."""
        return [axis for axis in (0, 1) if self._axis(axis)[1] < 0]

    def undo_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Bring token maps (..., ny', nx', C) back to the original's axes and directions."""
        if self.transposes:
            tokens = tokens.transpose(-3, -2)
        # Even without axes to flip it would copy.
        mirrored = [axis - 3 for axis in self._mirrored()]
        return tokens.flip(mirrored) if mirrored else tokens

    def lattice(
        self, shape: tuple[int, int], patch: int, stride: int, boundary: Boundary
    ) -> tuple[Lattice, Lattice]:
        """Where the tokens of this pass lie in the original, after :meth:`undo_tokens`.

        Parameters
        ----------
        shape
            (h, w) of the original image in pixels.
        patch, stride
            Size and distance of the patches in pixels.
        boundary
            How the image goes on beyond its edges.

        Returns
        -------
        tuple of Lattice
            Along y and along x, with ascending centres.
        """
        y, x = (self.axis_lattice(axis, n, patch, stride, boundary) for axis, n in enumerate(shape))
        return y, x

    def axis_lattice(
        self, axis: int, n: int, patch: int, stride: int, boundary: Boundary
    ) -> Lattice:
        """Where the tokens of this pass lie along one axis, of ``n`` pixels."""
        _, sign, shift = self._axis(axis)
        size = token_count(n, patch, stride)
        first = patch / 2 - shift
        # On a mirrored axis the last patch became the first, counted from the far edge.
        origin = first if sign > 0 else n - first - (size - 1) * stride
        start = -sign * shift if boundary == "periodic" else None
        return Lattice(origin, stride, size, start)


def _from_arrays(matrix: np.ndarray, shift: np.ndarray) -> Transform:
    (a, b), (c, d) = matrix.tolist()
    y, x = shift.tolist()
    return Transform(((a, b), (c, d)), (y, x))


def read_all(
    transforms: Sequence[Transform],
    image: torch.Tensor,
    boundary: Boundary,
    shape: tuple[int, int],
) -> list[torch.Tensor]:
    """Transform an image in several ways.

    Parameters
    ----------
    transforms
        The ways.
    image, boundary
        As for :meth:`Transform.read`.
    shape
        (height, width) to read in the image's own axes, from where each transformed image has its
        top left corner.

    Returns
    -------
    list of torch.Tensor
        (..., height, width), or with both exchanged where a transform does so. They share memory.
    """
    begins, index = [], []
    for axis, length in enumerate(shape):
        n = image.shape[axis - 2]
        # Where a whole period farther on all looks the same, the extended image need not be larger.
        period = n if boundary == "periodic" else max(1, 2 * n - 2)
        half = period // 2
        mine = [(t._begin(axis, n, length) + half) % period - half for t in transforms]
        low, high = min(mine), max(mine) + length
        begins.append([one - low for one in mine])
        index.append(_extended(low, high, n, boundary, image.device))
    extended = image[..., index[0][:, None], index[1]]
    found = []
    for t, y, x in zip(transforms, *begins, strict=True):
        one = extended[..., y : y + shape[0], x : x + shape[1]]
        if mirrored := t._mirrored():
            one = one.flip([axis - 2 for axis in mirrored])
        found.append(one.transpose(-1, -2) if t.transposes else one)
    return found


@lru_cache
def _extended(
    low: int, high: int, n: int, boundary: Boundary, device: torch.device
) -> torch.Tensor:
    """What pixels of the endless axis show; kept, as a GPU waits for what it is sent."""
    import torch

    return torch.from_numpy(fold(np.arange(low, high), n, boundary)).to(device)


def token_count(n: int, patch: int, stride: int) -> int:
    """Tokens along an axis of ``n`` pixels, the last patch padded where it sticks out."""
    return max(0, -(-(n - patch) // stride)) + 1


def spread(count: int) -> tuple[Share, ...]:
    """Points that fill the unit square evenly, each in the largest hole the ones before left.

    The first is (0, 0), the second (1/2, 1/2). However many there are, the next ones do not
    move them; every 4 ** n first ones are a regular grid.

    Returns
    -------
    tuple of (float, float)
        (y, x) in [0, 1).
    """
    points = []
    for k in range(count):
        # Morton order, the lowest bits first, visits each quadrant before it refines any.
        y = x = 0.0
        half = 0.5
        while k:
            diagonal, row = k & 1, (k >> 1) & 1
            y += half * (diagonal ^ row)
            x += half * diagonal
            k, half = k >> 2, half / 2
        points.append((y, x))
    return tuple(points)


def lattice_shifts(stride: int, count: int) -> list[tuple[int, int]]:
    """Shifts that fill the token lattice evenly, coarse to fine.

    The first is (0, 0), the second half a stride along both axes, the third and fourth half
    a stride along one: every one halves the largest hole that the ones before it left.
    Shifts lie in ``(-stride/2, stride/2]``, so that no pass looks far beyond the edges.

    Parameters
    ----------
    stride
        Distance of the tokens in pixels.
    count
        Number of shifts, at most ``stride ** 2``.

    Returns
    -------
    list of (int, int)
        (dy, dx) in pixels.
    """
    wanted = min(count, stride**2)
    shifts: dict[tuple[int, int], None] = {}
    points = wanted
    while len(shifts) < wanted:
        # Rounded to pixels, several may be one.
        shifts = dict.fromkeys(
            (_centred(round(y * stride), stride), _centred(round(x * stride), stride))
            for y, x in spread(points)
        )
        points *= 4
    return list(shifts)[:wanted]


def _centred(shift: int, stride: int) -> int:
    shift %= stride
    return shift - stride if shift > stride // 2 else shift


def neighbour_shifts(pattern: Pattern, distances: tuple[int, ...]) -> list[tuple[int, int]]:
    """No shift, then the shifts to the 4 (von Neumann) or 8 (Moore) neighbours.

    Parameters
    ----------
    pattern
        ``"von_neumann"`` or ``"moore"``.
    distances
        Length of the steps along each axis in pixels; one ring of neighbours for each
        that differs.

    Returns
    -------
    list of (int, int)
        (dy, dx) in pixels.
    """
    steps = [(1, 0), (-1, 0), (0, 1), (0, -1)]
    if pattern == "moore":
        steps += [(1, 1), (-1, -1), (1, -1), (-1, 1)]
    rings = dict.fromkeys(distances)
    return [(0, 0)] + [(d * dy, d * dx) for d in rings for dy, dx in steps]


@lru_cache
def pass_transforms(
    *,
    passes: int,
    stride: int,
    shifts: Pattern,
    distances: tuple[int, ...],
    flips: bool,
    rotations: bool,
) -> tuple[Transform, ...]:
    """Transforms of the passes, in the order in which they sharpen the features most.

    Every shift goes with every flip and rotation; successive passes take successive
    shifts and successive orientations, so that few passes already hold some of each.

    Parameters
    ----------
    passes
        How many to return.
    stride
        Distance of the tokens in pixels, filled by ``shifts="lattice"``.
    shifts, distances
        Pattern of the shifts, and the length of the steps in pixels where it has neighbours.
    flips
        Whether mirror images take part.
    rotations
        Whether rotations by 90, 180 and 270 degrees take part.

    Raises
    ------
    ValueError
        If there are fewer than ``passes`` different transforms.
    """
    turns = [Transform.rotated(k) for k in (range(4) if rotations else (0,))]
    mirrors = [Transform()]
    if flips:
        mirrors.append(Transform.flipped(horizontal=True))
        if not rotations:
            mirrors += [
                Transform.flipped(vertical=True),
                Transform.flipped(vertical=True, horizontal=True),
            ]
    orientations = [mirror @ turn for turn in turns for mirror in mirrors]
    if shifts == "lattice":
        displacements = lattice_shifts(stride, passes)
    else:
        displacements = neighbour_shifts(shifts, distances)
    n, m = len(displacements), len(orientations)
    if passes > n * m:
        raise ValueError(
            f"{passes} passes asked for, but these transforms give only {n * m} different "
            "ones: lower the number of passes, or add flips, rotations or distances"
        )
    return tuple(
        Transform.shifted(*displacements[k % n]) @ orientations[(k % n + k // n) % m]
        for k in range(passes)
    )
