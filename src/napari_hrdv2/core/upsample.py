"""The operator A that turns tokens into features of pixels, without ever building them.

Every pass is interpolated between its tokens' true centres, beyond the outermost ones by the
outermost token, and the passes are averaged:

    F(p) = mean over passes of  sum_ij  U_y[p_y, i] U_x[p_x, j] T[i, j]

As this is linear, class scores F W' + b are A (T W') + b: the tokens are projected to K maps
first, and only those are brought to full size. As it is separable, and passes that share a
lattice along an axis share its matrix, all passes together are one product U_y Z U_x'. And as
the sum of piecewise linear functions is piecewise linear between all their knots, U = L V: V
evaluates the sum at the token centres of all lattices together, L draws straight lines between
these, two entries a pixel, however many the passes and however wide the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from .transforms import AxisLattice, Lattice, Stretch

if TYPE_CHECKING:
    from .tokens import Tokens

Kernel = Literal["nearest", "bilinear"]

# Rows at full resolution that a processor's cache holds, and tokens whose single precision it does.
_ROWS = 128
_TOKENS = 4096
# Pixels of which all channels in single precision it does.
_PIXELS = 8192


@dataclass(frozen=True, eq=False)
class Rows:
    """Sparse matrix with as many entries in every row.

    Attributes
    ----------
    index
        (n, entries) of int64, their columns.
    weight
        (n, entries) of float32, their values.
    """

    index: torch.Tensor
    weight: torch.Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __matmul__(self, dense: torch.Tensor) -> torch.Tensor:
        """Product with a dense matrix (columns, k) of float32."""
        index, weight = self.index.to(dense.device), self.weight.to(dense.device)
        return F.embedding_bag(index, dense, per_sample_weights=weight, mode="sum")

    def __getitem__(self, rows: slice | torch.Tensor) -> Rows:
        return Rows(self.index[rows], self.weight[rows])

    def dense(self, columns: int) -> torch.Tensor:
        """The same as a matrix (rows, columns) of float32, on the CPU."""
        return torch.zeros(len(self), columns).scatter_add_(1, self.index, self.weight)

    @classmethod
    def beside(cls, blocks: list[Rows], columns: int) -> Rows:
        """Matrices of so many columns each, side by side."""
        index = torch.cat([one.index + k * columns for k, one in enumerate(blocks)], 1)
        return cls(index, torch.cat([one.weight for one in blocks], 1))

    @classmethod
    def below(cls, blocks: list[Rows]) -> Rows:
        """Matrices of the same columns, one below the other."""
        index = torch.cat([one.index for one in blocks])
        return cls(index, torch.cat([one.weight for one in blocks]))


def interpolation(at: npt.NDArray[np.floating], n: int, lattice: Lattice, kernel: Kernel) -> Rows:
    """Matrix that interpolates tokens along one axis.

    Parameters
    ----------
    at
        (k,) coordinates in pixels; pixel p has its centre at p + 0.5.
    n
        Length of the axis in pixels.
    lattice
        Where the tokens lie.
    kernel
        ``"bilinear"`` interpolates linearly between the two nearest centres, ``"nearest"``
        takes the nearest one, the mean of both where they are equally far.

    Returns
    -------
    Rows
        (k, lattice.size) with two entries a row, which sum to 1.
    """
    if lattice.start is not None:
        at = (at - lattice.start) % n + lattice.start
    place = np.clip((at - lattice.origin) / lattice.stride, 0, lattice.size - 1)
    below = np.minimum(place.astype(np.int64), max(lattice.size - 2, 0))
    fraction = place - below
    if kernel == "nearest":
        fraction = np.heaviside(fraction - 0.5, 0.5)
    above = np.minimum(below + 1, lattice.size - 1)
    index = torch.from_numpy(np.stack([below, above], 1))
    return Rows(index, torch.from_numpy(np.stack([1 - fraction, fraction], 1)).float())


class _Axis:
    """The factor of the operator along one axis.

    Attributes
    ----------
    pixels
        U: (n, m tokens), the matrices of the m distinct lattices side by side.
    block
        Of each pass, which of the lattices is its.
    """

    def __init__(self, n: int, lattices: list[AxisLattice], kernel: Kernel) -> None:
        self._n, self._kernel = n, kernel
        self.distinct = list(dict.fromkeys(lattices))
        self.block = torch.tensor([self.distinct.index(one) for one in lattices])
        # Of each stretch of the axis, one of every lattice.
        self._stretches = list(zip(*(one.stretches(n) for one in self.distinct), strict=True))

    def _at(self, at: npt.NDArray[np.floating], stretch: tuple[Stretch, ...]) -> Rows:
        blocks = []
        for one in stretch:
            rows = interpolation(at, self._n, one.lattice, self._kernel)
            blocks.append(Rows(rows.index + one.first, rows.weight))
        return Rows.beside(blocks, self.distinct[0].size)

    @cached_property
    def pixels(self) -> Rows:
        return Rows.below([self._at(_centres(one[0].pixels), one) for one in self._stretches])

    @cached_property
    def factors(self) -> tuple[Rows, Rows | None]:
        """L and V of U = L V; None for a V of one lattice, which changes nothing."""
        if len(self.distinct) == 1:
            return self.pixels, None
        some = [one.lattice for stretch in self._stretches for one in stretch]
        if self._kernel == "nearest" or any(one.start is not None for one in some):
            # These jump: every pixel is a knot.
            same = torch.arange(self._n)[:, None]
            return Rows(same, torch.ones(self._n, 1)), self.pixels
        lines, unions, count = [], [], 0
        for stretch in self._stretches:
            pixels = _centres(stretch[0].pixels)
            own = [one.lattice for one in stretch]
            knots = np.unique([one.origin + one.stride * np.arange(one.size) for one in own])
            after = np.clip(np.searchsorted(knots, pixels), 1, max(len(knots) - 1, 1))
            before = after - 1
            after = np.minimum(after, len(knots) - 1)
            gap = np.where(after > before, knots[after] - knots[before], 1.0)
            fraction = np.clip((pixels - knots[before]) / gap, 0, 1)
            index = torch.from_numpy(np.stack([before, after], 1)) + count
            weight = torch.from_numpy(np.stack([1 - fraction, fraction], 1)).float()
            lines.append(Rows(index, weight))
            unions.append(self._at(knots, stretch))
            count += len(knots)
        return Rows.below(lines), Rows.below(unions)


def _centres(pixels: slice) -> npt.NDArray[np.floating]:
    return np.arange(pixels.start, pixels.stop) + 0.5


class Operator:
    """The operator A of one set of tokens, factored along the axes.

    Parameters
    ----------
    shape
        (h, w) of the image in pixels.
    lattices
        For each pass, where its tokens lie along y and along x.
    kernel
        Interpolation between the tokens' centres.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        lattices: tuple[tuple[AxisLattice, AxisLattice], ...],
        kernel: Kernel,
    ) -> None:
        self.shape = shape
        self._passes = len(lattices)
        self._y, self._x = (
            _Axis(n, [pair[axis] for pair in lattices], kernel) for axis, n in enumerate(shape)
        )
        pixels = tuple(Lattice(0.5, 1, n) for n in shape)
        # There is nothing to interpolate, and most of the filters' channels lie there.
        self._is_of_pixels = lattices == (pixels,)

    def maps(self, tokens: torch.Tensor) -> torch.Tensor:
        """Average the upsampled maps of all passes: A applied to ``tokens``.

        Parameters
        ----------
        tokens
            (passes, ny, nx, K), the projected tokens, of any floating dtype on any device.

        Returns
        -------
        torch.Tensor of float32
            (h, K, w), on the same device; on the CPU for MPS, which lacks the product.
        """
        return torch.cat(list(self.blocks(tokens, self.shape[0])))

    def blocks(self, tokens: torch.Tensor, rows: int) -> Iterator[torch.Tensor]:
        """The maps by blocks of so many rows: (rows, K, w), the last one with what is left."""
        if len(tokens) != self._passes:
            raise ValueError(f"tokens of {len(tokens)} passes, the operator is of {self._passes}")
        if tokens.device.type == "mps":
            tokens = tokens.cpu()
        if self._is_of_pixels:
            for start in range(0, self.shape[0], rows):
                yield tokens[0, start : start + rows].float().transpose(1, 2)
            return
        (line, _), knots = self._y.factors, self.knots(tokens)
        for start in range(0, self.shape[0], rows):
            block = line[start : start + rows] @ knots
            yield block.reshape(len(block), -1, self.shape[1])

    def knots(self, tokens: torch.Tensor) -> torch.Tensor:
        """The maps at the knots along y: (knots, K w) of float32."""
        passes, ny, nx, k = tokens.shape
        my, mx = len(self._y.distinct), len(self._x.distinct)
        z = tokens.float()
        if passes > 1:
            z = torch.zeros((my * mx, ny, nx, k), device=tokens.device)
            block = (self._y.block * mx + self._x.block).to(tokens.device)
            z.index_add_(0, block, tokens.float(), alpha=1 / passes)
        # x leads; y and the classes follow.
        z = z.reshape(my, mx, ny, nx, k).permute(1, 3, 0, 2, 4).reshape(mx * nx, my * ny * k)
        line, union = self._x.factors
        z = line @ (z if union is None else union @ z)
        z = z.reshape(self.shape[1], my * ny, k).permute(1, 2, 0).reshape(my * ny, -1)
        union = self._y.factors[1]
        return z if union is None else union @ z

    def rows(self, tokens: torch.Tensor, pixels: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Features at some pixels: the rows of A at these, applied to ``tokens``.

        Parameters
        ----------
        tokens
            (passes, ny, nx, C), of any floating dtype on any device.
        pixels
            (n, 2) of (y, x) in pixels.

        Returns
        -------
        ndarray of float32
            (n, C).
        """
        passes, ny, nx, _ = tokens.shape
        y, x = torch.from_numpy(pixels.T.copy())
        parts = []
        for axis, size, along in ((self._y, ny, y), (self._x, nx, x)):
            rows = axis.pixels[along]
            # (n, passes, 2): the two entries of every pass's own lattice.
            mine = axis.block[:, None] * 2 + torch.arange(2)
            parts.append((rows.index[:, mine] % size, rows.weight[:, mine]))
        (iy, wy), (ix, wx) = parts
        index = iy[..., :, None] * nx + ix[..., None, :]
        index += (torch.arange(passes) * ny * nx)[:, None, None]
        weight = wy[..., :, None] * wx[..., None, :] / passes
        # Strokes touch few tokens: only those leave the device, and half precision.
        used, columns = torch.unique(index.flatten(1), return_inverse=True)
        at = torch.stack([used // (ny * nx), used // nx % ny, used % nx]).to(tokens.device)
        features = tokens[at[0], at[1], at[2]].float().cpu()
        found: npt.NDArray[np.float32] = (Rows(columns, weight.flatten(1)) @ features).numpy()
        return found


def rows_at(tokens: Tokens, pixels: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Features F at the given pixels.

    Parameters
    ----------
    tokens
        Tokens of one image.
    pixels
        (n, 2) of (y, x) in pixels.

    Returns
    -------
    ndarray of float32
        (n, C), the features of all grids one after the other.
    """
    return np.concatenate([g.operator.rows(g.data, pixels) for g in tokens.grids], axis=1)


def project(data: torch.Tensor, weight: npt.NDArray[np.float32]) -> torch.Tensor:
    """Vectors (passes, ny, nx, C) times weights (K, C): (passes, ny, nx, K) of float32."""
    w = torch.as_tensor(weight, device=data.device)
    on_cpu = data.device.type == "cpu"
    if data.stride(-1) != 1 and len(data) == 1:
        # Channels of filters lie one after the other: the longer the rows of a product the faster.
        planes = data[0].permute(2, 0, 1)
        _, height, width = planes.shape
        maps = torch.empty((len(w), height, width), device=data.device)
        step = max(1, _PIXELS // width) if on_cpu else height
        for start in range(0, height, step):
            piece = planes[:, start : start + step].flatten(1).float()
            maps[:, start : start + step] = (w @ piece).view(len(w), -1, width)
        return maps.permute(1, 2, 0)[None]
    flat = data.reshape(-1, data.shape[-1])
    projected = torch.empty((len(flat), len(w)), device=data.device)
    # Single precision of all tokens at once would leave the cache, and a GPU needs no pieces.
    step = _TOKENS if on_cpu else len(flat)
    for start in range(0, len(flat), step):
        torch.mm(flat[start : start + step].float(), w.T, out=projected[start : start + step])
    return projected.reshape(*data.shape[:-1], -1)


def _scores(
    tokens: Tokens,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | float,
    rows: int,
) -> Iterator[torch.Tensor]:
    """The maps F W' + b by blocks of so many rows: (rows, K, w) of float32."""
    parts, start = [], 0
    for grid in tokens.grids:
        w = weight[:, start : start + grid.channels]
        if w.shape[1] == 0:
            # Colours that a model of grey images does not know.
            break
        if w.shape[1] < grid.channels:
            raise ValueError(f"weights of {weight.shape[1]} features do not fit these tokens")
        parts.append((grid.operator, project(grid.data, w)))
        start += grid.channels
    # The rows of A sum to one: a bias at the tokens is one at the pixels.
    parts[0][1].add_(torch.as_tensor(bias, device=tokens.data.device))
    blocks = (operator.blocks(projected, rows) for operator, projected in parts)
    for block in zip(*blocks, strict=True):
        yield reduce(torch.add, block)


def projected_maps(
    tokens: Tokens,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | float = 0.0,
) -> npt.NDArray[np.float32]:
    """Maps F W' + b at full resolution, by way of the projected tokens.

    Parameters
    ----------
    tokens
        Tokens of one image. Where it is grey and the weights know colours, these are those of
        a grey image, nought; colours that the weights do not know are left out.
    weight
        (K, C).
    bias
        (K,).

    Returns
    -------
    ndarray of float32
        (h, w, K).

    Raises
    ------
    ValueError
        If the weights are of other features.
    """
    whole = torch.empty((*tokens.image_shape, len(weight)))
    start = 0
    for maps in _scores(tokens, weight, bias, _rows_at_once(tokens)):
        whole[start : start + len(maps)] = maps.transpose(1, 2)
        start += len(maps)
    found: npt.NDArray[np.float32] = whole.numpy()
    return found


def predicted(
    tokens: Tokens, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
) -> npt.NDArray[np.integer]:
    """Index of the highest of the maps F W' + b at every pixel, the first of equals.

    The maps are never there as a whole, but on a GPU.

    Parameters
    ----------
    tokens, weight, bias
        As of :func:`projected_maps`.

    Returns
    -------
    ndarray of uint8, or int32 for more than 256 maps
        (h, w).
    """
    return best_of(_scores(tokens, weight, bias, _rows_at_once(tokens)))


def _rows_at_once(tokens: Tokens) -> int:
    return _ROWS if tokens.data.device.type == "cpu" else tokens.image_shape[0]


def best_of(blocks: Iterable[torch.Tensor]) -> npt.NDArray[np.integer]:
    """Index of the highest of maps that come by blocks (rows, K, w), at every pixel."""
    found = []
    for maps in blocks:
        count = maps.shape[1]
        dtype = torch.uint8 if count <= 256 else torch.int32
        best = maps[:, 0]
        index = torch.zeros(best.shape, dtype=dtype, device=maps.device)
        for k in range(1, count):
            # Branches over the classes' borders are slow; a blend has none.
            is_better = maps[:, k] > best
            index = torch.where(is_better, torch.tensor(k, dtype=dtype), index)
            best = torch.maximum(best, maps[:, k])
        found.append(index)
    whole: npt.NDArray[np.integer] = torch.cat(found).cpu().numpy()
    return whole


def dense_map(tokens: Tokens) -> npt.NDArray[np.float32]:
    """Features F of every pixel, for small uses: 4 C bytes a pixel.

    Returns
    -------
    ndarray of float32
        (h, w, C).
    """
    maps = [grid.operator.maps(grid.data).cpu().numpy() for grid in tokens.grids]
    return np.concatenate([one.swapaxes(1, 2) for one in maps], axis=2)
