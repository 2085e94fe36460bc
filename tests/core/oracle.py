"""The method done the naive way: dense maps, one pass after the other, plain numpy.

Nothing here uses the package's transforms, lattices or operators. A pass is a list of steps,
('shift', dy, dx), ('flip', axis) or ('turn', quarters), done and undone with np.roll, np.flip
and np.rot90 on a canvas: with the reflect boundary the image is padded by reflection far
enough that nothing rolled in from the far side is ever seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Step = tuple[Any, ...]
Backbone = Callable[[np.ndarray], np.ndarray]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def do(array: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """Apply the steps to an array (h, w, ...) in order."""
    for name, *by in steps:
        if name == "shift":
            array = np.roll(array, by, axis=(0, 1))
        elif name == "flip":
            array = np.flip(array, by[0])
        else:
            array = np.rot90(array, by[0])
    return array


def undo(array: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """Undo the steps, the last one first."""
    for name, *by in reversed(steps):
        if name == "shift":
            array = np.roll(array, [-v for v in by], axis=(0, 1))
        elif name == "flip":
            array = np.flip(array, by[0])
        else:
            array = np.rot90(array, -by[0])
    return array


def pad(array: np.ndarray, after: Sequence[int], boundary: str, before: int = 0) -> np.ndarray:
    """Extend the first two axes of an array by its boundary rule."""
    width = [(before, before + n) for n in after] + [(0, 0)] * (array.ndim - 2)
    mode = "wrap" if boundary == "periodic" else "reflect"
    if mode == "reflect" and 1 in array.shape[:2]:
        # numpy's reflect refuses an axis of one pixel: it looks the same everywhere.
        for axis in (0, 1):
            one = [(0, 0)] * array.ndim
            one[axis] = width[axis]
            array = np.pad(array, one, mode="edge" if array.shape[axis] == 1 else "reflect")
        return array
    return np.pad(array, width, mode=mode)


def weights_1d(at: np.ndarray, count: int, patch: int, stride: int, kernel: str) -> np.ndarray:
    """How much each of ``count`` tokens counts at the coordinates ``at``, one row for each."""
    centres = [i * stride + patch / 2 for i in range(count)]
    table = np.zeros((len(at), count))
    for row, x in zip(table, at, strict=True):
        x = min(max(x, centres[0]), centres[-1])
        if kernel == "nearest":
            distance = [abs(x - c) for c in centres]
            closest = [i for i, d in enumerate(distance) if d == min(distance)]
            row[closest] = 1 / len(closest)
        else:
            for i, c in enumerate(centres):
                row[i] = max(0.0, 1 - abs(x - c) / stride)
    return table


def resize(
    tokens: np.ndarray, at: Sequence[np.ndarray], patch: int, stride: int, kernel: str
) -> np.ndarray:
    """Token map (ny, nx, C) brought to the coordinates ``at`` along y and x."""
    y, x = (weights_1d(a, n, patch, stride, kernel) for a, n in zip(at, tokens.shape, strict=False))
    return np.einsum("hi,wj,ijc->hwc", y, x, tokens.astype(np.float64), optimize=True)


def windowed(length: int, patch: int, stride: int) -> int:
    """Pixels that whole patches cover when none of the axis is left out."""
    n = 1
    while patch + (n - 1) * stride < length:
        n += 1
    return patch + (n - 1) * stride


def dense_pass(
    image: np.ndarray,
    steps: Sequence[Step],
    backbone: Backbone,
    *,
    patch: int,
    stride: int,
    boundary: str,
    kernel: str,
) -> np.ndarray:
    """Dense features (h, w, C) of one pass over an image (h, w, channels)."""
    far = 0
    if boundary == "reflect":
        far = 2 * patch + sum(abs(v) for name, *by in steps if name == "shift" for v in by)
    canvas = do(pad(image, (0, 0), boundary, before=far), steps)
    height, width = (n - 2 * far for n in canvas.shape[:2])
    window = [windowed(n, patch, stride) for n in (height, width)]
    if boundary == "periodic":
        seen = pad(canvas, (window[0] - height, window[1] - width), boundary)
    else:
        seen = canvas[far : far + window[0], far : far + window[1]]
    tokens = backbone(seen)
    at = [np.arange(n + 2 * far) - far + 0.5 for n in (height, width)]
    dense = undo(resize(tokens, at, patch, stride, kernel), steps)
    return dense[far : dense.shape[0] - far, far : dense.shape[1] - far]


def features(
    image: np.ndarray,
    passes: Sequence[Sequence[Step]],
    backbones: Sequence[Backbone],
    **options: Any,
) -> np.ndarray:
    """Mean over the passes' dense features (h, w, C), float64."""
    dense = [
        dense_pass(image, steps, backbone, **options)
        for steps, backbone in zip(passes, backbones, strict=True)
    ]
    return np.mean(dense, axis=0)


def backbone_of(vit: Any, stride: int, move: tuple[float, float] = (0, 0)) -> Backbone:
    """The ViT as a function of an image (h, w, 1 or 3) in [0, 1]."""

    def run(seen: np.ndarray) -> np.ndarray:
        normalised = (np.repeat(seen, 3 // seen.shape[-1], axis=-1) - MEAN) / STD
        batch = torch.from_numpy(np.ascontiguousarray(normalised)).float().permute(2, 0, 1)[None]
        return vit(batch, stride, moves=[move])[0].numpy()

    return run
