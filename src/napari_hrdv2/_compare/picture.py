"""Pictures of what is compared, in rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ..core.base import default_class
from ..core.normalise import stretch
from .reading import Case

Colours = npt.NDArray[np.floating]

_SIDE_PX, _GAP_PX, _LINE_PX = 224, 8, 18


class Cell(NamedTuple):
    """Lines of text, and colours (h, w, 3) in [0, 1] that are drawn below them."""

    lines: Sequence[str] = ()
    colours: Colours | None = None


def sheet(rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """Draw rows of cells; RGB."""
    drawn = [[_drawn(one) for one in row] for row in rows]
    tops = _GAP_PX + np.cumsum([0, *(max(one.height for one in row) + _GAP_PX for row in drawn)])
    pitch = _SIDE_PX + _GAP_PX
    size = (_GAP_PX + max(map(len, rows)) * pitch, int(tops[-1]))
    canvas = Image.new("RGB", size, "white")
    for top, row in zip(tops.tolist(), drawn, strict=False):
        for column, one in enumerate(row):
            canvas.paste(one, (_GAP_PX + column * pitch, top))
    return canvas


def _drawn(cell: Cell) -> Image.Image:
    top = _LINE_PX * len(cell.lines)
    picture = None if cell.colours is None else _fitted(cell.colours)
    canvas = Image.new("RGB", (_SIDE_PX, top + (picture.height if picture else 0)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for k, line in enumerate(cell.lines):
        draw.text((0, k * _LINE_PX), line, "black", font)
    if picture:
        canvas.paste(picture, (0, top))
    return canvas


def _fitted(colours: Colours) -> Image.Image:
    """Colours as a picture that fills its place."""
    h, w = colours.shape[:2]
    factor = _SIDE_PX / max(h, w)
    whole = Image.fromarray(np.rint(255 * colours).astype(np.uint8))
    size = (max(1, round(w * factor)), max(1, round(h * factor)))
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    return whole.resize(size, how)


def shown(case: Case) -> tuple[Colours, Colours | None]:
    """The image as colours, and the labels of its task on it in grey."""
    task, shape = case.task, case.image.shape[:2]
    seen = np.broadcast_to(stretch(case.image), (*shape, 3))
    if task is None:
        return seen, None
    drawn: Colours = np.repeat(seen.mean(-1, keepdims=True), 3, -1)
    for k in np.unique(task.shown[task.shown > 0]).tolist():
        colour, mask = np.array(default_class(k).colour[:3]), task.shown == k
        drawn[mask] = 0.25 * drawn[mask] + 0.75 * colour
    return seen, drawn
