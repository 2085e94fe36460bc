"""OME-Zarr (NGFF 0.1 to 0.5) and plain Zarr, on a disk of this machine."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.base import PixelClass
from ..core.errors import ImageError, ImageWarning
from .source import KEY, Found, Length, pick

_CHUNK = 512
# NGFF's, of which axes of its own go where channels do.
_ORDER = {"T": 0, "C": 1, "Z": 2, "Y": 3, "X": 4}
_FILES = ("zarr.json", ".zarray", ".zgroup")


def is_zarr(path: Path) -> bool:
    """Whether a folder is an array or a group of Zarr, of either version."""
    return any((path / name).is_file() for name in _FILES)


def find_zarr() -> Any | None:
    """The package zarr; None where it is missing, or older than version 3."""
    try:
        import zarr
    except ImportError:
        return None
    return zarr if hasattr(zarr, "create_array") else None


def _zarr() -> Any:
    zarr = find_zarr()
    if zarr is None:
        raise ImageError("OME-Zarr needs zarr: pip install 'napari-hrdv2[zarr]'")
    return zarr


def open_ngff(path: Path, scene: int, level: int, *, is_whole: bool) -> Found:
    """Find an image in a Zarr store; raises whatever a damaged one drives zarr into.

    Parameters
    ----------
    path
        Of a group or an array.
    scene, level
        Which image, and which of its resolutions.
    is_whole
        Whether chunks that are not there are missed. An image has practically none that is empty;
        of painted labels most are.
    """
    zarr = _zarr()
    node = zarr.open(path, mode="r")
    about = _about(node)
    if "bioformats2raw.layout" in about:
        scenes = sorted((key for key in node if key.isdigit()), key=int)
        node = node[pick(scenes, scene, "scene")]
        about, scene = _about(node), 0
    if "multiscales" in about:
        image = pick(about["multiscales"], scene, "scene")
        dataset = pick(image["datasets"], level, "level")
        axes = image.get("axes", "tczyx")
        units = [one.get("unit") if isinstance(one, dict) else None for one in axes]
        names = [_name(one) for one in axes]
        scale = np.ones(len(names))
        for step in (dataset, image):
            for transformation in step.get("coordinateTransformations", ()):
                if transformation["type"] == "scale":
                    scale = scale * transformation["scale"]
        sizes = {
            name.upper(): Length(float(size), unit)
            for name, size, unit in zip(names, scale, units, strict=True)
            if name in ("z", "y", "x") and "axes" in image
        }
        channels = [one.get("label") for one in about.get("omero", {}).get("channels", ())]
        return Found(_Chunks(path, node[dataset["path"]], is_whole), names, sizes, channels)
    if "plate" in about:
        raise ImageError(
            "it is a plate of many images: give the path of one, such as "
            f"{path.name}/{about['plate']['wells'][0]['path']}/0"
        )
    if not isinstance(node, zarr.Array):
        arrays = [name for name, _ in node.arrays()]
        if len(arrays) != 1:
            raise ImageError(
                f"it holds {len(arrays)} arrays and does not tell which are an image: give the "
                f"path of one, such as {path.name}/{(arrays or ['0'])[0]}"
            )
        node = node[arrays[0]]
    pick([node], scene, "scene")
    pick([node], level, "level")
    dimensions = getattr(node.metadata, "dimension_names", None)
    dimensions = dimensions or node.attrs.get("_ARRAY_DIMENSIONS") or [""] * node.ndim
    return Found(_Chunks(path, node, is_whole), [(one or "").lower() for one in dimensions], {})


def _about(node: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = node.attrs.asdict()
    return dict(attributes.get("ome", attributes))


def _name(axis: str | Mapping[str, str]) -> str:
    if isinstance(axis, str):
        return axis.lower()
    # Axes of these types may be called anything.
    kind = axis.get("type")
    return kind[0] if kind in ("channel", "time") else axis["name"].lower()


class _Chunks:
    """An array whose chunks are looked for before they are read.

    Zarr takes a chunk that is not there for one full of the fill value, and often rightly so:
    some programs leave out chunks without a signal, as those around a stitched image. Nothing
    tells these from chunks that were lost, so the user is told, once; only where no chunk is
    there at all it is an error.
    """

    def __init__(self, path: Path, array: Any, is_whole: bool) -> None:
        self._path, self._array, self._is_whole = path, array, is_whole
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        if self._is_whole and not all(self._files(key)):
            self._is_whole = False
            there, count = self._array.nchunks_initialized, self._array.nchunks
            if there == 0:
                raise ImageError(f"none of its {count} chunks are there: copy it anew")
            warnings.warn(
                f"{self._path / self._array.path}: {count - there} of {count} chunks are missing "
                "and taken for empty: copy it anew if they should not be",
                ImageWarning,
                stacklevel=2,
            )
        return np.asarray(self._array[key])

    def _files(self, key: tuple[int | slice, ...]) -> Iterator[bool]:
        """Whether the file of each chunk of a region is there."""
        folder = Path(self._array.store.root) / self._array.path
        sides = self._array.shards or self._array.chunks
        touched = []
        for one, side, length in zip(key, sides, self.shape, strict=True):
            start, stop = one.indices(length)[:2] if isinstance(one, slice) else (one, one + 1)
            touched.append(range(start // side, -(-stop // side)))
        for chunk in itertools.product(*touched):
            yield (folder / self._array.metadata.encode_chunk_key(chunk)).exists()


def ngff_notes(path: Path) -> dict[str, Any]:
    """What a result in a Zarr store says of itself beside NGFF's metadata; nothing in others."""
    return dict(_zarr().open(path, mode="r").attrs.get(KEY, {}))


@contextmanager
def ngff_target(
    path: Path,
    axes: str,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    *,
    pixel_size: Mapping[str, float],
    unit: str | None,
    classes: Sequence[PixelClass],
    notes: Mapping[str, Any],
    chunks: tuple[int, ...] | None,
) -> Iterator[Any]:
    """Give what takes the pixels of an OME-Zarr image, piece by piece.

    It is written as NGFF 0.4, which more programs read than 0.5.
    """
    zarr = _zarr()
    from numcodecs import Blosc

    stored = "".join(sorted(axes, key=lambda one: _ORDER.get(one, _ORDER["C"])))
    lengths = dict(zip(axes, shape, strict=True))
    sides = dict.fromkeys(axes, 1) | {one: min(lengths[one], _CHUNK) for one in "YX"}
    if chunks is not None:
        sides = dict(zip(axes, chunks, strict=True))
    group = zarr.create_group(path, zarr_format=2)
    array = group.create_array(
        "0",
        shape=tuple(lengths[one] for one in stored),
        dtype=np.dtype(dtype),
        chunks=tuple(sides[one] for one in stored),
        compressors=Blosc("zstd"),
        fill_value=0,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        # What was written is there: a chunk that is missing was lost.
        config={"write_empty_chunks": True},
    )
    described: list[dict[str, str]] = []
    for axis in stored:
        kind = {"C": "channel", "T": "time", "Z": "space", "Y": "space", "X": "space"}.get(axis)
        described.append({"name": axis.lower()} | ({"type": kind} if kind else {}))
        if unit is not None and axis in pixel_size:
            described[-1]["unit"] = unit
    scale = [pixel_size.get(axis, 1.0) for axis in stored]
    transformations = [{"type": "scale", "scale": scale}]
    dataset = {"path": "0", "coordinateTransformations": transformations}
    about: dict[str, Any] = {
        "multiscales": [
            {"version": "0.4", "name": path.stem, "axes": described, "datasets": [dataset]}
        ]
    }
    if notes:
        about[KEY] = notes
    if "C" not in axes:
        colours = [
            {"label-value": one.label, "rgba": [round(255 * part) for part in one.colour]}
            for one in classes
        ]
        properties = [{"label-value": one.label, "name": one.name} for one in classes]
        about["image-label"] = {"version": "0.4", "colors": colours, "properties": properties}
    elif classes:
        window = {"min": 0, "max": 1, "start": 0, "end": 1}
        channels = [
            {
                "label": one.name,
                "color": "".join(f"{round(255 * part):02X}" for part in one.colour[:3]),
                "window": window,
                "active": True,
            }
            for one in classes
        ]
        about["omero"] = {"channels": channels}
    group.attrs.update(about)
    yield _Reordered(array, axes, stored)


class _Reordered:
    """An array to assign regions of planes to, whose axes have another order than one's own."""

    def __init__(self, array: Any, axes: str, stored: str) -> None:
        self._array, self._stored = array, stored
        self._stack = [one for one in axes if one not in "CYX"]

    def __setitem__(self, key: tuple[Any, ...], values: npt.NDArray[Any]) -> None:
        *index, _, rows, columns = key
        along = dict(zip(self._stack, index, strict=True))
        along |= {"C": slice(None), "Y": rows, "X": columns}
        self._array[tuple(along[one] for one in self._stored)] = values
