"""What a learned upsampler gets to see: blocks of tokens with the part of the image below them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from ..backbone import IMAGENET
from ..errors import ImageError
from ..tokens import Tokens
from ..transforms import AxisLattice, fold

# Tokens by which blocks of a fixed size overlap, where they are larger.
_OVERLAP = 4


class Block(NamedTuple):
    """Tokens side by side, and the image as the backbone saw it below them.

    Attributes
    ----------
    pixels
        Rows and columns of the image for which it answers.
    inner
        Where these are in its own part of the image.
    tokens
        (1, C, ny, nx) of float32.
    image
        (1, 3, patch ny, patch nx) of float32, of mean 0 and deviation 1 in ImageNet.
    """

    pixels: tuple[slice, slice]
    inner: tuple[slice, slice]
    tokens: torch.Tensor
    image: torch.Tensor


def blocks(
    guide: torch.Tensor, tokens: Tokens, size: tuple[int, int] | None = None
) -> Iterator[Block]:
    """Cut the tokens of one pass into blocks.

    Parameters
    ----------
    guide
        (h, w, 1 or 3), in [0, 1], see :func:`.guide_of`.
    tokens
        Of one pass, whose patches tile the image.
    size
        (ny, nx), tokens of every block; by default there is one for every window that the
        backbone looked through.

    Raises
    ------
    ImageError
        If there are not so many tokens.
    """
    patch = tokens.settings.patch
    assert patch is not None
    along = [
        list(_cuts(n, lattice, patch, None if size is None else size[axis]))
        for axis, (n, lattice) in enumerate(zip(guide.shape, tokens.lattices[0], strict=False))
    ]
    mean, std = (torch.tensor(v, device=guide.device).view(3, 1, 1) for v in IMAGENET)
    image = (guide.permute(2, 0, 1) - mean) / std
    for y in along[0]:
        for x in along[1]:
            vectors = tokens.data[0, y.tokens, x.tokens].to(guide.device, torch.float32)
            seen = image[:, y.seen.to(guide.device)[:, None], x.seen.to(guide.device)]
            inner = (y.inner, x.inner)
            yield Block((y.pixels, x.pixels), inner, vectors.permute(2, 0, 1)[None], seen[None])


class _Cut(NamedTuple):
    tokens: slice
    pixels: slice
    inner: slice
    seen: torch.Tensor


def _cuts(n: int, lattice: AxisLattice, patch: int, size: int | None) -> Iterator[_Cut]:
    for pixels, one, first in lattice.stretches(n):
        wanted = one.size if size is None else size
        if one.size < wanted:
            raise ImageError(
                f"the upsampler is for {wanted} tokens along an axis, the image has {one.size}: "
                "take a larger image, or export the upsampler for a smaller one"
            )
        overlap = min(_OVERLAP, wanted - 1)
        count = -(-(one.size - overlap) // (wanted - overlap))
        starts = np.rint(np.linspace(0, one.size - wanted, count)).astype(int).tolist()
        # Where the first patch begins; neighbours meet in the middle of their overlap.
        origin = round(one.origin - patch / 2)
        meet = [origin + patch * (b + a + wanted) // 2 for a, b in pairwise(starts)]
        ends = [pixels.start, *meet, pixels.stop]
        for start, (a, b) in zip(starts, pairwise(ends), strict=True):
            begin = origin + patch * start
            seen = fold(np.arange(begin, begin + patch * wanted), n, "reflect")
            yield _Cut(
                slice(first + start, first + start + wanted),
                slice(a, b),
                slice(a - begin, b - begin),
                torch.from_numpy(seen),
            )
