"""The sample: an image that scikit-image brings along, with strokes as a person paints them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .core.base import PixelClass
from .core.simulate import draw_stroke

CLASSES = (
    PixelClass(label=1, name="epithelium", colour=(0.902, 0.624, 0.0, 1.0)),
    PixelClass(label=2, name="stroma", colour=(0.0, 0.447, 0.698, 1.0)),
    PixelClass(label=3, name="lumen", colour=(0.0, 0.62, 0.451, 1.0)),
)
_WIDTH_PX = 5
# (y, x) in pixels along each stroke.
_STROKES = {
    1: [
        [(45, 75), (75, 62), (105, 70)],
        [(175, 150), (200, 185), (215, 215)],
        [(105, 385), (125, 420), (128, 445)],
        [(300, 100), (335, 110), (375, 90)],
        [(360, 300), (395, 320), (430, 335)],
    ],
    2: [
        [(40, 480), (110, 490), (170, 480)],
        [(262, 160), (285, 200), (290, 260)],
        [(345, 195), (400, 200), (450, 185)],
        [(350, 470), (400, 460)],
    ],
    3: [
        [(320, 15), (350, 25), (365, 20)],
        [(105, 335), (130, 347), (155, 360)],
        [(415, 440), (425, 455)],
    ],
}


def sample_image() -> npt.NDArray[np.uint8]:
    """Human colon glands, immunohistochemistry, (512, 512, 3) RGB of scikit-image."""
    from skimage.data import immunohistochemistry

    image: npt.NDArray[np.uint8] = immunohistochemistry()
    return image


def sample_strokes() -> npt.NDArray[np.uint8]:
    """Strokes on it: (512, 512) of 0 (not painted) and the labels of :data:`CLASSES`."""
    strokes = np.zeros((512, 512), np.uint8)
    for label, lines in _STROKES.items():
        for line in lines:
            draw_stroke(strokes, np.array(line, float), _WIDTH_PX, label)
    return strokes


def make_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Layer data of the sample for napari's File > Open Sample."""
    colours: dict[int | None, Any] = {None: (0, 0, 0, 0)}
    colours |= {c.label: c.colour for c in CLASSES}
    # Where the panel and napari's status bar look for the classes' names.
    features = {
        "index": [0, *(c.label for c in CLASSES)],
        "name": ["not painted", *(c.name for c in CLASSES)],
    }
    strokes = {"name": "glands strokes", "colormap": colours, "features": features}
    return [
        (sample_image(), {"name": "glands", "rgb": True}, "image"),
        (sample_strokes(), strokes, "labels"),
    ]
