"""Joint bilateral upsampling: tokens spread where the image looks as it does around them.

Kopf, Cohen, Lischinski and Uyttendaele, 'Joint bilateral upsampling' (ACM Transactions on
Graphics 26(3), 2007). With c(t) the centre of token t, f(t) its vector, I the image and I(t) the
image around the token,

    F(p) = sum_t w(p, t) f(t) / sum_t w(p, t),
    w(p, t) = exp(-|p - c(t)|^2 / 2 s^2) exp(-|I(p) - I(t)|^2 / 2 r^2),

over the tokens next to p. The weights hang on the image alone: F is linear in the tokens, which
are projected first. Other than in the paper, I(t) is not the pixel at the token's centre but the
mean of its patch: a token is of all of its patch, and one that lies across an edge is like
neither side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..errors import HRDv2Error
from ..tokens import Tokens
from ..transforms import AxisLattice, fold
from ..upsample import Rows, project
from .base import Floats, GuidedFeatures, OnePass, Pixels, guide_of

# Pixels whose weights are held at once, with as many tokens each as are next to them.
_PIXELS = 16_384


@dataclass(frozen=True)
class JointBilateral(OnePass):
    """Joint bilateral upsampling of the tokens of one pass, with the image as the guide.

    Attributes
    ----------
    sigma_spatial
        Standard deviation s of the Gaussian of distances, in distances of tokens; above 0.
    sigma_range
        Standard deviation r of the Gaussian of differences of the image, whose grey levels or
        colours go from 0 to 1; above 0. Of colours the distance counts, up to the root of 3.
    reach
        Tokens that count on each side of the nearest one, from 1.

    Raises
    ------
    HRDv2Error
        If one of them is out of range.

    Examples
    --------
    >>> JointBilateral(sigma_range=0.2).name
    'guided'
    """

    sigma_spatial: float = 0.7
    sigma_range: float = 0.1
    reach: int = 2
    name: str = "guided"

    def __post_init__(self) -> None:
        if not (self.sigma_spatial > 0 and self.sigma_range > 0 and self.reach >= 1):
            raise HRDv2Error(
                "joint bilateral upsampling wants deviations above 0 and a reach from 1, got "
                f"{self.sigma_spatial:g}, {self.sigma_range:g} and {self.reach}"
            )

    def upsample(self, image: npt.ArrayLike, tokens: Tokens) -> BilateralFeatures:
        """As :meth:`.Upsampler.upsample`."""
        return BilateralFeatures(tokens, guide_of(image, tokens), self)


class _Axis(NamedTuple):
    """For every pixel of an axis the tokens next to it.

    Attributes
    ----------
    tokens
        (n, 2 reach + 1) of int64.
    exponent
        Of as many, the exponent of their weight; minus infinity where there is no token.
    patches
        (tokens, n): the share of every pixel in each token's patch; rows sum to 1.
    """

    tokens: torch.Tensor
    exponent: torch.Tensor
    patches: torch.Tensor

    @classmethod
    def of(cls, n: int, lattice: AxisLattice, patch: int, how: JointBilateral) -> _Axis:
        offsets = np.arange(-how.reach, how.reach + 1)
        index, exponent = [], []
        patches = np.zeros((lattice.size, n), np.float32)
        for pixels, one, first in lattice.stretches(n):
            place = (np.arange(pixels.start, pixels.stop) + 0.5 - one.origin) / one.stride
            nearest = np.clip(np.floor(place + 0.5).astype(np.int64), 0, one.size - 1)
            token = nearest[:, None] + offsets
            weight = -((place[:, None] - token) ** 2) / (2 * how.sigma_spatial**2)
            weight[(token < 0) | (token >= one.size)] = -np.inf
            index.append(np.clip(token, 0, one.size - 1) + first)
            exponent.append(weight)
            begin = np.rint(one.origin - patch / 2 + one.stride * np.arange(one.size)).astype(int)
            covered = fold(begin[:, None] + np.arange(patch), n, "reflect")
            np.add.at(patches[first:], (np.arange(one.size)[:, None], covered), 1 / patch)
        return cls(
            torch.from_numpy(np.concatenate(index)),
            torch.from_numpy(np.concatenate(exponent)).float(),
            torch.from_numpy(patches),
        )


@dataclass(frozen=True, eq=False)
class BilateralFeatures(GuidedFeatures):
    """Features as :class:`JointBilateral` gives them.

    Attributes
    ----------
    how
        With which deviations.
    """

    how: JointBilateral

    @cached_property
    def _axes(self) -> tuple[_Axis, _Axis]:
        patch = self.tokens.settings.patch
        assert patch is not None
        along = zip(self.shape, self.tokens.lattices[0], strict=True)
        y, x = (_Axis.of(n, lattice, patch, self.how) for n, lattice in along)
        device = self.guide.device
        return _Axis(*(one.to(device) for one in y)), _Axis(*(one.to(device) for one in x))

    @cached_property
    def _seen(self) -> torch.Tensor:
        """What the guide is around each token: (ny, nx, channels)."""
        y, x = self._axes
        along = torch.tensordot(y.patches, self.guide, 1)
        return torch.einsum("iqc,jq->ijc", along, x.patches)

    def _weights(self, y: torch.Tensor, x: torch.Tensor) -> Rows:
        """The rows of the operator at some pixels."""
        rows, columns = self._axes
        ny, nx = self._seen.shape[:2]
        index = rows.tokens[y][:, :, None] * nx + columns.tokens[x][:, None, :]
        index = index.flatten(1)
        exponent = (rows.exponent[y][:, :, None] + columns.exponent[x][:, None, :]).flatten(1)
        for own, seen in zip(self.guide[y, x].T, self._seen.reshape(ny * nx, -1).T, strict=True):
            exponent -= (seen[index] - own[:, None]) ** 2 / (2 * self.how.sigma_range**2)
        # Of a pixel that is like none of its tokens the most alike counts.
        return Rows(index, exponent.softmax(1))

    def rows(self, pixels: Pixels) -> Floats:
        device = self.guide.device
        vectors = self.tokens.data.flatten(0, 2).to(device, torch.float32)
        found = [
            (self._weights(*torch.from_numpy(some.T.copy()).to(device)) @ vectors).cpu()
            for some in np.array_split(pixels, -(-max(1, len(pixels)) // _PIXELS))
        ]
        whole: Floats = torch.cat(found).numpy()
        return whole

    def maps(self, weight: Floats, bias: Floats | float = 0.0) -> Floats:
        (h, w), device = self.shape, self.guide.device
        # The weights of a pixel sum to 1: a bias at the tokens is one at the pixels.
        vectors = project(self.tokens.data, weight).flatten(0, 2).to(device)
        vectors += torch.as_tensor(bias, device=device)
        whole = torch.empty((h, w, len(weight)))
        for start in range(0, h, step := max(1, _PIXELS // w)):
            y = torch.arange(start, min(start + step, h), device=device)
            at = (y.repeat_interleave(w), torch.arange(w, device=device).repeat(len(y)))
            whole[start : start + step] = (self._weights(*at) @ vectors).view(len(y), w, -1)
        found: Floats = whole.numpy()
        return found
