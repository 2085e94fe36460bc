"""Reading what is compared on: an image, and what is known of its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from .._io import open_image, open_strokes
from ..core.base import check_strokes
from ..core.errors import ImageError
from .probe import Task


def read_sample(
    image: Path, axes: str | None, strokes: Path | None, truth: Path | None
) -> tuple[npt.NDArray[np.generic], Task | None]:
    """Read an image, and what a probe learns on it.

    Parameters
    ----------
    image
        A grey or RGB image of one plane.
    axes
        What its axes are, by default as the file says.
    strokes, truth
        Label images, see :meth:`.Task.of`.

    Returns
    -------
    ndarray, Task or None
        (h, w) or (h, w, 3 or 4), any real dtype; None without strokes and truth.

    Raises
    ------
    ImageError
        If the image cannot be read, or holds several planes or channels.
    StrokesError
        If strokes or truth cannot be read, do not fit the image, or do not suffice for a probe.
    """
    planes = open_image(image, axes=axes).planes
    indices = list(planes.indices())
    if planes.channel_count is not None or len(indices) > 1:
        raise ImageError(
            f"{image} holds several planes or channels: what is compared is compared on a grey or "
            "RGB image"
        )
    (index,) = indices
    drawn, known = (
        None if one is None else check_strokes(open_strokes(one, planes).read(index), planes.shape)
        for one in (strokes, truth)
    )
    return planes.read(index), Task.of(drawn, known)
