"""What all explorations share: the backbone's own features of pixels, and their lengths.

Everything here leaves hand-made filters out: without strokes nothing tells which of them matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ..base import refuse_differences
from ..errors import HRDv2Error
from ..tokens import Tokens

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.intp]


def checked(images: Sequence[Tokens]) -> Sequence[Tokens]:
    """Tokens of one or several images, which must have been made alike.

    Raises
    ------
    HRDv2Error
        If there are none.
    SettingsMismatchError
        If they were made with different settings.
    """
    if not images:
        raise HRDv2Error("there is no image to explore: pass the tokens of at least one")
    for other in images[1:]:
        refuse_differences(images[0].settings, other.settings, "those of the first image")
    return images


def checked_mask(mask: npt.ArrayLike, tokens: Tokens) -> Mask:
    """A mask (h, w) of bool that fits the image and is not empty.

    Raises
    ------
    HRDv2Error
        If it does not, or is.
    """
    found: Mask = np.asarray(mask) != 0
    if found.shape != tokens.image_shape:
        raise HRDv2Error(f"the region is {found.shape}, the image {tokens.image_shape}")
    if not found.any():
        raise HRDv2Error("the region is empty: paint at least one pixel")
    return found


def unit_tokens(tokens: Tokens) -> Tokens:
    """The same tokens, each of length 1, without filters."""
    data = F.normalize(tokens.data.float(), dim=-1).to(tokens.data.dtype)
    return replace(tokens, data=data, filters=())


def rows(tokens: Tokens, pixels: Pixels) -> Floats:
    """The backbone's features (n, C) of pixels (n, 2) of (y, x)."""
    return tokens.grids[0].operator.rows(tokens.data, pixels)


def unit(vectors: npt.NDArray[np.floating]) -> Floats:
    """Vectors (..., C) at length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: Floats = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return found


def sampled(count: int, wanted: int) -> Pixels:
    """Up to so many of ``count`` indices, in order; the same each time.

    At random, as even steps would see but some columns of a lattice.
    """
    if count <= wanted:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, wanted, replace=False))


def sampled_tokens(images: Sequence[Tokens], wanted: int) -> Floats:
    """About so many tokens (n, C) of all images together, of each in proportion to its own."""
    vectors = [one.data.flatten(0, 2) for one in images]
    share = min(1.0, wanted / sum(map(len, vectors)))
    chosen = [
        one[torch.from_numpy(sampled(len(one), round(share * len(one)))).to(one.device)]
        for one in vectors
    ]
    found: Floats = torch.cat(chosen).float().cpu().numpy()
    return found
