"""Strokes drawn as a person draws them, on images whose truth is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def draw_stroke(
    strokes: npt.NDArray[np.integer], line: npt.NDArray[np.floating], width: float, label: int
) -> None:
    """Draw a line with a round brush, in place.

    Parameters
    ----------
    strokes
        (h, w) of labels.
    line
        (n, 2) of (y, x) in pixels, joined by straight pieces.
    width
        Diameter of the brush in pixels.
    label
        Label to paint.
    """
    radius = width / 2
    for a, b in zip(line[:-1], line[1:], strict=True):
        low = np.maximum(np.floor(np.minimum(a, b) - radius), 0).astype(int)
        high = np.minimum(np.ceil(np.maximum(a, b) + radius) + 1, strokes.shape).astype(int)
        grid = np.stack(
            np.meshgrid(*(np.arange(s, e) for s, e in zip(low, high, strict=True)), indexing="ij"),
            axis=-1,
        )
        along = b - a
        share = np.clip(((grid - a) @ along) / max(float(along @ along), 1e-12), 0, 1)
        distance = np.linalg.norm(grid - a - share[..., None] * along, axis=-1)
        strokes[low[0] : high[0], low[1] : high[1]][distance <= radius] = label
