"""Where in a folder of images there is something like a region of another image."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from ._batch import Input, find_inputs, stamp_of
from ._io import open_image, open_strokes
from ._job import Cancellable, Progress
from .core.apply import planes_for
from .core.base import HEADER_KEY, refuse_differences
from .core.cache import TokenStore
from .core.errors import HRDv2Error, ImageError, ImageWarning, StrokesError, go_on
from .core.explore import RegionIndex, RegionKind, Regions, descriptor, regions_of
from .core.extraction import FeatureExtractor
from .core.files import replacing
from .core.planes import Index, Planes
from .core.settings import Settings
from .core.tokens import Tokens

SUFFIX = ".regions.safetensors"

_FORMAT = 2
_MASKS = (".tif", ".tiff", ".png")
_Ints = npt.NDArray[np.int64]


class Plane(BaseModel):
    """A plane of an image in the folder.

    Attributes
    ----------
    path
        Of the image, from the folder.
    index
        Of the plane, see :meth:`.Planes.read`.
    shape
        (h, w) in pixels.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    index: tuple[NonNegativeInt, ...]
    shape: tuple[PositiveInt, PositiveInt]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.path} [{', '.join(map(str, self.index))}]" if self.index else self.path


class _Header(BaseModel):
    version: int
    folder: str
    settings: Settings
    kind: str
    axes: str | None
    stamp: str
    planes: tuple[Plane, ...]


class Found(NamedTuple):
    """A region that is like what was looked for.

    Attributes
    ----------
    plane
        That it is in.
    label
        Of the region there.
    similarity
        Cosine similarity, in [-1, 1].
    place
        Index of the plane.
    """

    plane: Plane
    label: int
    similarity: float
    place: int


class _Runs(NamedTuple):
    """A label image, row after row, as runs of pixels of one label.

    Attributes
    ----------
    starts
        (n,), index of each run's first pixel.
    labels
        (n,), of each run.
    """

    starts: _Ints
    labels: _Ints

    @classmethod
    def of(cls, labels: npt.NDArray[np.integer]) -> Self:
        flat = labels.ravel().astype(np.int64)
        starts = np.flatnonzero(np.diff(flat, prepend=flat[0] - 1))
        return cls(starts, flat[starts])

    def mask(self, label: int, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        lengths = np.diff(self.starts, append=shape[0] * shape[1])
        found: npt.NDArray[np.bool_] = np.repeat(self.labels == label, lengths).reshape(shape)
        return found


class _Described(NamedTuple):
    plane: Plane
    regions: Regions
    runs: _Runs


@dataclass(frozen=True, eq=False)
class FolderIndex:
    """Descriptors of the regions of all images in a folder, and where the regions lie.

    Attributes
    ----------
    folder
        Of the images.
    settings
        The resolved settings of their features.
    kind
        What the regions are, see :func:`.regions_of`, or ``"masks"``.
    axes
        As the images were opened with, see :func:`.open_image`.
    stamp
        Of the folder's images, by which one sees that they have changed.
    planes
        Of all images that could be read.
    regions
        Of these planes.

    Examples
    --------
    >>> index = FolderIndex.load("cells.regions.safetensors")  # doctest: +SKIP
    >>> for found in index.search(tokens, mask, 10):  # doctest: +SKIP
    ...     print(found.plane.path, found.similarity, index.mask(found).sum())
    """

    folder: Path
    settings: Settings
    kind: str
    axes: str | None
    stamp: str
    planes: tuple[Plane, ...]
    regions: RegionIndex
    _runs: tuple[_Runs, ...]

    def search(
        self, tokens: Tokens, where: tuple[int, int] | npt.ArrayLike, count: int | None = None
    ) -> tuple[Found, ...]:
        """The regions most like a pixel or region of an image, the most alike first.

        Parameters
        ----------
        tokens
            Of the image.
        where
            (y, x), or a mask (h, w), see :func:`.descriptor`.
        count
            How many at most; by default all.

        Raises
        ------
        SettingsMismatchError
            If the tokens were made with other settings than the index.
        HRDv2Error
            If the place is not in the image, or empty.
        """
        refuse_differences(self.settings, tokens.settings, "those of the index")
        ranked = self.regions.rank(descriptor(tokens, where), count)
        return tuple(
            Found(self.planes[one.image], one.label, one.similarity, one.image) for one in ranked
        )

    def mask(self, found: Found) -> npt.NDArray[np.bool_]:
        """Where a region is in its plane, (h, w)."""
        return self._runs[found.place].mask(found.label, found.plane.shape)

    def read(self, found: Found) -> npt.NDArray[Any]:
        """The pixels of the plane that a region is in, see :meth:`.Planes.read`.

        Raises
        ------
        ImageError
            If the image is gone, cannot be read, or is of another size now.
        """
        planes = _planes(self.folder / found.plane.path, self.axes, self.settings)
        if planes.shape != found.plane.shape or len(found.plane.index) != len(planes.stack_shape):
            raise ImageError(
                f"{found.plane.path} is another image than the one in the index: index the folder "
                "again"
            )
        return planes.read(found.plane.index)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as safetensors with a JSON header, all at once or not at all.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        header = _Header(
            version=_FORMAT,
            folder=str(self.folder.resolve()),
            settings=self.settings,
            kind=self.kind,
            axes=self.axes,
            stamp=self.stamp,
            planes=self.planes,
        )
        arrays: dict[str, npt.NDArray[Any]] = {
            "descriptors": self.regions.descriptors,
            "places": np.array(self.regions.places, np.int64),
            "counts": np.array([len(one.starts) for one in self._runs], np.int64),
            "starts": np.concatenate([one.starts for one in self._runs]),
            "labels": np.concatenate([one.labels for one in self._runs]),
        }
        with replacing(path) as whole:
            whole.write_bytes(serialise(arrays, {HEADER_KEY: header.model_dump_json()}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], settings: Settings | None = None) -> Self:
        """Read an index that :meth:`save` wrote. Nothing in the file is executed.

        Parameters
        ----------
        path
            Of the file.
        settings
            Resolved ones that it must have; by default any.

        Raises
        ------
        SettingsMismatchError
            If it has other settings.
        HRDv2Error
            If the file is missing, damaged, no such index, or of another version.
        """
        if not Path(path).is_file():
            raise HRDv2Error(f"there is no index {path}")
        try:
            with safe_open(path, framework="numpy") as file:
                text = (file.metadata() or {}).get(HEADER_KEY)
                header = _Header.model_validate_json(text or "")
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
        except (SafetensorError, OSError, ValidationError, ValueError, TypeError):
            raise HRDv2Error(f"{path} is damaged or no index of regions") from None
        if header.version != _FORMAT:
            raise HRDv2Error(
                f"{path} has format {header.version}, this napari-hrdv2 reads {_FORMAT}: index the "
                "folder again"
            )
        if settings is not None:
            refuse_differences(header.settings, settings, f"those of the index {path}")
        if not _fit(arrays, header.planes):
            raise HRDv2Error(f"{path} is damaged: what it holds does not fit together")
        ends = np.cumsum(arrays["counts"])[:-1]
        runs = zip(np.split(arrays["starts"], ends), np.split(arrays["labels"], ends), strict=True)
        places = tuple((int(k), int(label)) for k, label in arrays["places"])
        return cls(
            Path(header.folder),
            *(header.settings, header.kind, header.axes, header.stamp, header.planes),
            RegionIndex(arrays["descriptors"], places),
            tuple(_Runs(*one) for one in runs),
        )


_ARRAYS = ("descriptors", "places", "counts", "starts", "labels")


def _fit(arrays: dict[str, npt.NDArray[Any]], planes: tuple[Plane, ...]) -> bool:
    """Whether the arrays of an index are such that nothing goes wrong later."""
    descriptors, places, counts, starts, labels = (arrays[name] for name in _ARRAYS)
    whole = (places, counts, starts, labels)
    if descriptors.dtype != np.float32 or any(one.dtype != np.int64 for one in whole):
        return False
    if descriptors.ndim != 2 or not len(descriptors) or places.shape != (len(descriptors), 2):
        return False
    if counts.shape != (len(planes),) or starts.shape != labels.shape or starts.ndim != 1:
        return False
    if (counts < 1).any() or counts.sum() != len(starts) or not np.isfinite(descriptors).all():
        return False
    if not (places[:, 0] >= 0).all() or not (places[:, 0] < len(planes)).all():
        return False
    firsts = np.cumsum(counts) - counts
    sizes = np.array([one.shape[0] * one.shape[1] for one in planes])
    # Of every plane they begin at its first pixel and ascend, up to its last.
    steps = np.diff(starts, append=0)
    steps[firsts + counts - 1] = sizes - starts[firsts + counts - 1]
    return bool((starts[firsts] == 0).all() and (steps > 0).all())


@dataclass(frozen=True, eq=False)
class Indexing(Cancellable):
    """Describe the regions of all images in a folder, one after the other.

    What cannot be read is left out, with an :class:`.ImageWarning` that names it.

    Attributes
    ----------
    folder
        Of the images.
    extractor
        Of their features.
    kind
        What regions are, see :func:`.regions_of`.
    masks
        A folder of label images instead, NAME.tif or NAME.png, 0 where there is no region.
    recursive
        Whether folders in the folder are looked through too.
    axes
        As for :func:`.open_image`.
    store
        As for :meth:`.FeatureExtractor.passes`.

    Examples
    --------
    >>> indexing = Indexing(Path("plates"), extractor)  # doctest: +SKIP
    >>> index = indexing.finish(print)  # doctest: +SKIP
    """

    folder: Path
    extractor: FeatureExtractor
    kind: RegionKind = "clusters"
    masks: Path | None = None
    recursive: bool = False
    axes: str | None = None
    store: TokenStore | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Generator[Progress, None, FolderIndex]:
        """Do the work; close the generator to cancel.

        Yields
        ------
        Progress
            Before every image.

        Raises
        ------
        ImageError
            If the folder holds no image, or none that can be used.
        Cancelled
            If it was cancelled.
        """
        inputs = self._inputs()
        stamp = self.stamp
        described: list[_Described] = []
        for done, one in enumerate(inputs):
            path = one.path.relative_to(self.folder).as_posix()
            yield Progress(done, len(inputs), path)
            try:
                image = _planes(one.path, self.axes, self.extractor.settings)
                masks = self._open_masks(one.path, image)
                described += [
                    self._describe(path, image, index, masks) for index in image.indices()
                ]
            except (HRDv2Error, OSError, MemoryError) as error:
                reason = " ".join(str(error).split()) or "the memory does not suffice"
                warnings.warn(f"{path} is left out: {reason}", ImageWarning, stacklevel=2)
        if not described:
            raise ImageError(f"none of the images in {self.folder} can be used")
        planes, regions, runs = zip(*described, strict=True)
        whole, settings = RegionIndex.join(regions), self.extractor.settings
        return FolderIndex(
            *(self.folder, settings, self._what, self.axes, stamp, planes, whole, runs)
        )

    @property
    def stamp(self) -> str:
        """Identity of the folder as it is now, in hex: names, sizes and ages of its images.

        Raises
        ------
        ImageError
            If the folder holds no image.
        """
        paths = [one.path for one in self._inputs()]
        if self.masks is not None and self.masks.is_dir():
            paths += sorted(one for one in self.masks.rglob("*") if one.is_file())
        found = [[str(one.resolve()), *stamp_of(one)] for one in paths]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()

    def is_done(self, index: FolderIndex) -> bool:
        """Whether an index is just what would be found; raises ImageError as :attr:`stamp`."""
        made = (index.settings, index.kind, index.axes, index.stamp)
        return made == (self.extractor.settings, self._what, self.axes, self.stamp)

    @property
    def _what(self) -> str:
        return self.kind if self.masks is None else "masks"

    def _inputs(self) -> list[Input]:
        if not self.folder.is_dir():
            raise ImageError(f"there is no folder {self.folder}")
        return find_inputs([self.folder], recursive=self.recursive)

    def finish(self, progress: Any = None) -> FolderIndex:
        """Do the work at once.

        Parameters
        ----------
        progress
            Called with a :class:`.Progress` before every image.

        Raises
        ------
        ImageError, Cancelled
            As :meth:`run`.
        """
        steps = self.run()
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                index: FolderIndex = end.value
                return index
            if progress is not None:
                progress(step)

    def _open_masks(self, path: Path, image: Planes) -> Planes | None:
        if self.masks is None:
            return None
        for suffix in _MASKS:
            labels = self.masks / path.relative_to(self.folder).with_suffix(suffix)
            if labels.is_file():
                return open_strokes(labels, image)
        raise StrokesError(f"there are no masks of it in {self.masks}")

    def _describe(self, path: str, image: Planes, index: Index, masks: Planes | None) -> _Described:
        go_on(self._cancelled.is_set)
        pixels = image.read(index)
        tokens = self.extractor.extract(
            pixels, store=self.store, is_cancelled=self._cancelled.is_set
        )
        if masks is None:
            labels = regions_of(tokens, pixels, self.kind)
        else:
            labels = masks.read(index).astype(np.int32)
        plane = Plane(path=path, index=index, shape=image.shape)
        return _Described(plane, Regions.of(tokens, labels), _Runs.of(labels))


def _planes(path: Path, axes: str | None, settings: Settings) -> Planes:
    return planes_for(open_image(path, axes=axes).planes, settings)
