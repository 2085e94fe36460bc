"""One picture that shows what was done: image, strokes, segmentation and confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from .core.base import PixelClass
from .core.normalise import stretch

_MARGIN, _TITLE = 12, 34
# Anchors of matplotlib's viridis at even steps.
_VIRIDIS = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], float
)


def overview(
    image: npt.NDArray[np.generic],
    strokes: npt.NDArray[np.integer],
    probabilities: npt.NDArray[np.float32],
    classes: Sequence[PixelClass],
) -> Image.Image:
    """Draw image, strokes, segmentation and confidence side by side.

    Parameters
    ----------
    image
        (h, w) or (h, w, 3 or 4).
    strokes
        (h, w) of labels, 0 where not painted.
    probabilities
        (h, w, K), in [0, 1].
    classes
        The K classes, in the same order.

    Returns
    -------
    PIL.Image.Image
        RGB, four panels with their titles and the classes' names.
    """
    grey = np.broadcast_to(stretch(image), (*strokes.shape, 3)) * 255
    colours = np.array([c.colour[:3] for c in classes]) * 255
    painted, segmented = grey.copy(), colours[probabilities.argmax(-1)]
    for one, colour in zip(classes, colours, strict=True):
        painted[strokes == one.label] = colour
    confidence = probabilities.max(-1)
    chance = 1 / len(classes)
    panels = {
        "image": grey,
        "strokes": painted,
        "segmentation": 0.45 * grey + 0.55 * segmented,
        f"confidence ({chance:.2f} to 1)": viridis((confidence - chance) / (1 - chance)),
    }
    h, w = strokes.shape
    side = max(w, 200)
    canvas = Image.new(
        "RGB",
        (len(panels) * (side + _MARGIN) + _MARGIN, h + 2 * _TITLE + _MARGIN),
        "white",
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(18)
    for k, (title, panel) in enumerate(panels.items()):
        x = _MARGIN + k * (side + _MARGIN)
        draw.text((x, 8), title, "black", font)
        canvas.paste(Image.fromarray(panel.round().astype(np.uint8)), (x, _TITLE))
    x = _MARGIN
    for one, colour in zip(classes, colours, strict=True):
        y = h + _TITLE + 10
        draw.rectangle((x, y, x + 20, y + 20), tuple(colour.astype(int).tolist()))
        draw.text((x + 28, y), one.name, "black", font)
        x += 56 + int(draw.textlength(one.name, font))
    return canvas


def with_palette(picture: Image.Image) -> Image.Image:
    """An RGB picture with 256 colours, which as a PNG takes less than half the bytes."""
    # Of Pillow's palettes the one that keeps colours of few pixels; without dithering smooth
    # colours would get steps.
    palette = picture.quantize(256, method=Image.Quantize.FASTOCTREE)
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def viridis(share: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Values (h, w), 0 and below dark, 1 and above bright, as colours (h, w, 3) from 0 to 255."""
    level = np.clip(share, 0, 1) * (len(_VIRIDIS) - 1)
    return np.stack([np.interp(level, range(len(_VIRIDIS)), one) for one in _VIRIDIS.T], -1)
