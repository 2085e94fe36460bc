"""Images with a known answer, and a backbone that tells their colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.tokens import Tokens
from napari_hrdv2.core.transforms import Lattice
from napari_hrdv2.core.upsample import dense_map

PATCH = 8
SETTINGS = Settings(model="planted", weights_sha256="0" * 64, patch=PATCH, stride=PATCH, passes=2)


def planted(
    labels: np.ndarray,
    *,
    seed: int = 0,
    noise: float = 0.02,
    channels: int = 24,
    spread: float = 1.5,
) -> Tokens:
    """Tokens of two passes whose vectors tell the label (ny, nx) of their patch, and little else.

    Every label has a direction of its own, the same whatever the seed; lengths differ.
    """
    directions = np.random.default_rng(99).normal(size=(labels.max() + 1, channels))
    rng = np.random.default_rng(seed)
    vectors = directions[labels] * rng.uniform(0.5, 0.5 + spread, (2, *labels.shape, 1))
    vectors += noise * rng.normal(size=vectors.shape)
    lattices = tuple(
        tuple(Lattice(PATCH / 2 + by, PATCH, n) for n in labels.shape) for by in (-2, 2)
    )
    shape = (labels.shape[0] * PATCH, labels.shape[1] * PATCH)
    return Tokens(torch.from_numpy(vectors).float(), lattices, shape, SETTINGS)


def dense_unit(tokens: Tokens) -> np.ndarray:
    """Features (h, w, C) of every pixel at length 1, the naive way."""
    dense = dense_map(replace(tokens, filters=())).astype(np.float64)
    return dense / np.linalg.norm(dense, axis=-1, keepdims=True)
