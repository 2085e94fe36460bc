"""Images with a mask of what stands out: CUB-200-2011 and DUTS-TE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .layout import DataSet, DataSetError, Pair, find_root, read_annotation, read_lines

# Grey levels are the share of annotators, or the softness of an edge.
_THRESHOLD = 128


def read_mask(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A mask (h, w) from grey levels: from 128 on it is foreground.

    Raises
    ------
    DataSetError
        As :func:`.read_annotation`.
    """
    found = read_annotation(path, shape)
    if found.dtype == bool:
        return found
    mask: npt.NDArray[np.bool_] = found >= _THRESHOLD
    return mask


@dataclass(frozen=True, eq=False)
class Cub(DataSet):
    """CUB-200-2011, with the masks of its archive of segmentations.

    Attributes
    ----------
    split
        ``"test"``, ``"train"`` or ``"all"``, by train_test_split.txt.
    """

    split: str = "test"

    @cached_property
    def _root(self) -> Path:
        inside = ("images.txt", "train_test_split.txt", "images")
        return find_root(self.folder, "CUB_200_2011", *inside)

    @cached_property
    def _masks(self) -> Path:
        # The archive of masks is another one, whose folder may lie beside.
        places = [one / "segmentations" for one in (self._root, self._root.parent)]
        for one in places:
            if one.is_dir():
                return one
        raise DataSetError(
            f"{places[0]} is missing: the masks are an archive of their own, segmentations.tgz"
        )

    @cached_property
    def names(self) -> Sequence[str]:
        """Such as ``"001.Black_footed_Albatross/Black_Footed_Albatross_0046_18"``."""
        if self.split not in ("test", "train", "all"):
            raise DataSetError(f"the split of CUB is test, train or all, not {self.split!r}")
        images, flags = (self._fields(name) for name in ("images.txt", "train_test_split.txt"))
        if list(images) != list(flags) or not {"0", "1"}.issuperset(flags.values()):
            raise DataSetError(
                f"{self._root / 'train_test_split.txt'} does not fit images.txt beside it"
            )
        wanted = {"test": "0", "train": "1", "all": "01"}[self.split]
        chosen = [path for key, path in images.items() if flags[key] in wanted]
        if not chosen:
            raise DataSetError(f"{self._root} has no images of the split {self.split!r}")
        return [path.rsplit(".", 1)[0] for path in chosen]

    def _fields(self, name: str) -> dict[str, str]:
        """The second field of every line by the first."""
        found: dict[str, str] = {}
        for line in read_lines(self._root / name):
            key, _, value = line.partition(" ")
            if not value or key in found:
                raise DataSetError(f"{self._root / name} has a line that it cannot have: {line!r}")
            found[key] = value
        return found

    def pair(self, name: str) -> Pair:
        """The files of one."""
        return Pair(self._root / f"images/{name}.jpg", self._masks / f"{name}.png")


@dataclass(frozen=True, eq=False)
class Duts(DataSet):
    """DUTS-TE, the part of DUTS to test on."""

    @cached_property
    def _root(self) -> Path:
        return find_root(self.folder, "DUTS-TE", "DUTS-TE-Image", "DUTS-TE-Mask")

    @cached_property
    def names(self) -> Sequence[str]:
        """Of all images and masks, as an image without a mask lacks it, and a mask the image."""
        files = [*self._root.glob("DUTS-TE-Image/*.jpg"), *self._root.glob("DUTS-TE-Mask/*.png")]
        # Files that some systems add.
        found = sorted({one.stem for one in files if not one.name.startswith(".")})
        if not found:
            raise DataSetError(f"there are no images in {self._root / 'DUTS-TE-Image'}")
        return found

    def pair(self, name: str) -> Pair:
        """The files of one."""
        root = self._root
        return Pair(root / f"DUTS-TE-Image/{name}.jpg", root / f"DUTS-TE-Mask/{name}.png")
