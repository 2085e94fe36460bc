"""What is compared on: an image, and what is known of its labels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._io import open_image, open_strokes
from ..core.base import check_strokes
from ..core.errors import ImageError
from .probe import Labels, Task


class Case(NamedTuple):
    """What things are compared on.

    Attributes
    ----------
    name
        Of the image.
    image
        (h, w) or (h, w, 3 or 4), any real dtype.
    task
        For a linear probe, if there is to be one.
    """

    name: str
    image: npt.NDArray[np.generic]
    task: Task | None = None

    @classmethod
    def read(cls, path: Path, axes: str | None, strokes: Path | None, truth: Path | None) -> Case:
        """Read an image of one plane, and strokes and truth of it, see :meth:`.Task.of`.

        Raises
        ------
        ImageError
            If the image cannot be read, or holds several planes or channels.
        StrokesError
            If strokes or truth cannot be read, do not fit the image, or do not suffice for a probe.
        """
        planes = open_image(path, axes=axes).planes
        indices = list(planes.indices())
        if planes.channel_count is not None or len(indices) > 1:
            raise ImageError(
                f"{path} holds several planes or channels: what is compared is compared on a grey "
                "or RGB image"
            )
        (index,) = indices

        def labels(of: Path | None) -> Labels | None:
            if of is None:
                return None
            return check_strokes(open_strokes(of, planes).read(index), planes.shape)

        task = Task.of(labels(strokes), labels(truth))
        return cls(path.name, planes.read(index), task)
