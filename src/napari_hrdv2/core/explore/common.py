"""What all explorations share: the backbone's own features of pixels, and their lengths.

Everything here leaves hand-made filters out: without strokes nothing tells which of them matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ..base import refuse_differences
from ..errors import HRDv2Error
from ..settings import Settings
from ..tokens import Tokens

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.intp]

_NO_IMAGE = "there is no image to explore: pass the tokens of at least one"


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
        raise HRDv2Error(_NO_IMAGE)
    for other in images[1:]:
        _check_alike(images[0].settings, other.settings)
    return images


def _check_alike(first: Settings, other: Settings) -> None:
    refuse_differences(first, other, "those of the first image")


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


def sampled_tokens(images: Iterable[Tokens], wanted: int) -> tuple[Floats, Settings]:
    """Up to so many tokens (n, C) of all images together, each as likely, and their settings.

    The images are looked at one after the other, and nothing is kept of them but the sample: every
    token draws a number, and the smallest ones stay (reservoir sampling with a random sort).
    Raises as :func:`checked`.
    """
    rng = np.random.default_rng(0)
    numbers, kept = np.empty(0), np.empty((0, 0), np.float32)
    settings = None
    for tokens in images:
        settings = settings or tokens.settings
        _check_alike(settings, tokens.settings)
        vectors = tokens.data.flatten(0, 2)
        drawn = rng.random(len(vectors))
        mine = np.argsort(drawn)[:wanted]
        if len(numbers) == wanted:
            mine = mine[drawn[mine] < numbers[-1]]
        found = vectors[torch.from_numpy(mine).to(vectors.device)].float().cpu().numpy()
        numbers = np.concatenate([numbers, drawn[mine]])
        kept = np.concatenate([kept, found]) if len(kept) else found
        stay = np.argsort(numbers)[:wanted]
        numbers, kept = numbers[stay], kept[stay]
    if settings is None:
        raise HRDv2Error(_NO_IMAGE)
    return kept, settings


def spread_indices(count: int, wanted: int) -> Pixels:
    """Up to so many of ``count`` indices, the first and the last among them, evenly between.

    Examples
    --------
    >>> spread_indices(100, 4).tolist()
    [0, 33, 66, 99]
    """
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(np.intp)
