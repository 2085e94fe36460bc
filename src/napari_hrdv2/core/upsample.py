"""The operator A that turns tokens into features of pixels, without ever building them.

Every pass is interpolated between its tokens' true centres, beyond the outermost ones by the
outermost token, and the passes are averaged:

    F(p) = mean over passes of  sum_ij  U_y[p_y, i] U_x[p_x, j] T[i, j]

As this is linear, class scores F W' + b are A (T W') + b: the tokens are projected to K maps
first, and only those are brought to full size. As it is separable, and passes that share a
lattice along an axis share its matrix, all passes together are one product U_y Z U_x' with
sparse U_y and U_x of a few entries a row: no more than twice the stride, however many the passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from .transforms import Lattice

if TYPE_CHECKING:
    from .tokens import Tokens

Kernel = Literal["nearest", "bilinear"]


def interpolation(n: int, lattice: Lattice, kernel: Kernel) -> sp.csr_array:
    """Matrix that interpolates tokens along one axis at the centres of the pixels.

    Parameters
    ----------
    n
        Length of the axis in pixels.
    lattice
        Where the tokens lie.
    kernel
        ``"bilinear"`` interpolates linearly between the two nearest centres, ``"nearest"``
        takes the nearest one, the mean of both where they are equally far.

    Returns
    -------
    scipy.sparse.csr_array of float32
        (n, lattice.size); every row sums to 1.
    """
    at = np.arange(n) + 0.5
    if lattice.start is not None:
        at = (at - lattice.start) % n + lattice.start
    place = np.clip((at - lattice.origin) / lattice.stride, 0, lattice.size - 1)
    below = np.minimum(place.astype(np.int64), max(lattice.size - 2, 0))
    fraction = place - below
    if kernel == "nearest":
        fraction = np.heaviside(fraction - 0.5, 0.5)
    above = np.minimum(below + 1, lattice.size - 1)
    rows = np.arange(n)
    entries = np.concatenate([1 - fraction, fraction]).astype(np.float32)
    matrix = sp.csr_array(
        (entries, (np.tile(rows, 2), np.concatenate([below, above]))), shape=(n, lattice.size)
    )
    matrix.eliminate_zeros()
    return matrix


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
        lattices: tuple[tuple[Lattice, Lattice], ...],
        kernel: Kernel,
    ) -> None:
        self.shape = shape
        # Of the distinct lattices along an axis, the matrices lie side by side.
        distinct = [list(dict.fromkeys(pair[axis] for pair in lattices)) for axis in (0, 1)]
        self._blocks = [
            (distinct[0].index(along_y), distinct[1].index(along_x))
            for along_y, along_x in lattices
        ]
        self._counts = (len(distinct[0]), len(distinct[1]))
        self._u = [
            sp.csr_array(sp.hstack([interpolation(n, one, kernel) for one in distinct[axis]]))
            for axis, n in enumerate(shape)
        ]

    def maps(self, tokens: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Average the upsampled maps of all passes: A applied to ``tokens``.

        Parameters
        ----------
        tokens
            (passes, ny, nx, K), the projected tokens.

        Returns
        -------
        ndarray of float32
            (h, w, K).
        """
        passes, ny, nx, k = tokens.shape
        (my, mx), (h, w) = self._counts, self.shape
        z = np.zeros((my, ny, mx, nx, k), np.float32)
        for (block_y, block_x), one in zip(self._blocks, tokens, strict=True):
            z[block_y, :, block_x] += one
        z /= passes
        along_y = self._u[0] @ z.reshape(my * ny, -1)
        swapped = np.ascontiguousarray(along_y.reshape(h, mx * nx, k).swapaxes(0, 1))
        both = self._u[1] @ swapped.reshape(mx * nx, -1)
        out: npt.NDArray[np.float32] = both.reshape(w, h, k).swapaxes(0, 1)
        return out

    def rows(self, tokens: torch.Tensor, pixels: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Features at some pixels: the rows of A at these, applied to ``tokens``.

        Parameters
        ----------
        tokens
            (passes, ny, nx, C), of any floating dtype on any device.
        pixels
            (n, 2) of (y, x).

        Returns
        -------
        ndarray of float32
            (n, C).
        """
        passes, ny, nx, channels = tokens.shape
        out = np.zeros((len(pixels), channels), np.float32)
        u_y, u_x = self._u[0][pixels[:, 0]], self._u[1][pixels[:, 1]]
        for (block_y, block_x), one in zip(self._blocks, tokens, strict=True):
            a = u_y[:, block_y * ny : (block_y + 1) * ny]
            b = u_x[:, block_x * nx : (block_x + 1) * nx]
            product = _row_products(a, b)
            # Strokes touch few tokens: only those leave the device, and half precision.
            used, columns = np.unique(product.indices, return_inverse=True)
            features = one.reshape(ny * nx, channels)[torch.from_numpy(used).to(one.device)]
            product = sp.csr_array(
                (product.data, columns, product.indptr), shape=(len(pixels), len(used))
            )
            out += product @ features.float().cpu().numpy()
        out /= passes
        return out


def _row_products(a: sp.csr_array, b: sp.csr_array) -> sp.csr_array:
    """Row by row Kronecker product of two sparse matrices (face-splitting product)."""
    n = a.shape[0]
    count_a, count_b = np.diff(a.indptr), np.diff(b.indptr)
    pairs = count_a * count_b
    indptr = np.concatenate([[0], np.cumsum(pairs)])
    row = np.repeat(np.arange(n), pairs)
    k = np.arange(indptr[-1]) - indptr[row]
    i = a.indptr[row] + k // count_b[row]
    j = b.indptr[row] + k % count_b[row]
    return sp.csr_array(
        (a.data[i] * b.data[j], a.indices[i] * b.shape[1] + b.indices[j], indptr),
        shape=(n, a.shape[1] * b.shape[1]),
    )


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
        (n, C).
    """
    return tokens.operator.rows(tokens.data, pixels)


def projected_maps(
    tokens: Tokens,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | float = 0.0,
) -> npt.NDArray[np.float32]:
    """Maps F W' + b at full resolution, by way of the projected tokens.

    Parameters
    ----------
    tokens
        Tokens of one image.
    weight
        (K, C).
    bias
        (K,).

    Returns
    -------
    ndarray of float32
        (h, w, K).
    """
    w = torch.as_tensor(weight.T.copy(), device=tokens.data.device)
    # Pass by pass, so that half-precision tokens are never widened all at once.
    projected = torch.stack([one.float() @ w for one in tokens.data])
    maps = tokens.operator.maps(projected.cpu().numpy())
    maps += bias
    return maps


def dense_map(tokens: Tokens) -> npt.NDArray[np.float32]:
    """Features F of every pixel, for small uses: 4 C bytes a pixel.

    Returns
    -------
    ndarray of float32
        (h, w, C).
    """
    return tokens.operator.maps(tokens.data.float().cpu().numpy())
