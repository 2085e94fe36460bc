"""Files of every kind people have: what is read of them, and what is written."""

from __future__ import annotations

import errno
import gc
import io
import json
import sys
import tracemalloc
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_hrdv2._io import (
    Source,
    check_output,
    open_image,
    open_results,
    open_strokes,
    read_classes,
    read_notes,
    tiff,
    write_labels,
)
from napari_hrdv2.core.base import PixelClass
from napari_hrdv2.core.errors import ImageError, ImageWarning, StrokesError
from napari_hrdv2.core.planes import Planes

CLASSES = (
    PixelClass(label=1, name="Zellkern µ", colour=(1, 0, 0, 1)),
    PixelClass(label=3, name="Grund", colour=(0, 0.2, 1, 1)),
)
UM = {"Z": 0.5, "Y": 0.25, "X": 0.125}


def numbers(*shape: int, dtype: str = "uint16") -> np.ndarray:
    """An array of which no two planes are alike."""
    return np.random.default_rng(1).integers(1, 250, shape).astype(dtype)


def check(source: Source, array: np.ndarray, axes: str) -> None:
    """Every plane is there, its channels last."""
    planes = source.planes
    assert planes.axes == axes
    assert planes.array.dtype == array.dtype.newbyteorder("=")
    assert planes.array.dtype.isnative
    last = [k for k, one in enumerate(axes) if one in "CS"]
    order = [k for k, one in enumerate(axes) if one not in "CSYX"]
    order += [axes.index("Y"), axes.index("X"), *last]
    stack = array.transpose(order)
    assert planes.count == np.prod(planes.stack_shape)
    for index in planes.indices():
        np.testing.assert_array_equal(planes.read(index), stack[index])
    y, x = slice(1, 4), slice(2, 7)
    np.testing.assert_array_equal(planes.read(index, (y, x)), stack[index][y, x])


def dimmed(path: Path, keep: int = 10) -> None:
    """Damage a file: only its beginning is left."""
    path.write_bytes(path.read_bytes()[:keep])


# TIFF


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((9, 11), "YX"),
        ((3, 9, 11), "CYX"),
        ((5, 9, 11), "ZYX"),
        ((2, 5, 2, 9, 11), "TZCYX"),
        ((5, 9, 11), "TYX"),
    ],
)
def test_ome_tiff_tells_its_axes(
    tmp_path: Path, shape: tuple[int, ...], axes: str, compression: str | None
) -> None:
    array = numbers(*shape)
    options = {"photometric": "minisblack", "metadata": {"axes": axes}}
    path = tmp_path / "image.ome.tif"
    tifffile.imwrite(path, array, compression=compression, **options)
    check(open_image(path), array, axes)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((9, 11), "YX"), ((3, 9, 11), "CYX"), ((7, 9, 11), "ZYX"), ((7, 3, 9, 11), "ZCYX")],
)
def test_of_plain_tiffs_axes_are_guessed_and_given(
    tmp_path: Path, shape: tuple[int, ...], axes: str
) -> None:
    array = numbers(*shape)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, array, photometric="minisblack", byteorder=">")
    check(open_image(path), array, axes)
    other = "PQYX"[-len(axes) :]
    check(open_image(path, axes=other.lower()), array, other)


def test_colour_tiffs(tmp_path: Path) -> None:
    colours = numbers(9, 11, 3, dtype="uint8")
    path = tmp_path / "rgb.tif"
    tifffile.imwrite(path, colours, photometric="rgb")
    check(open_image(path), colours, "YXS")
    tifffile.imwrite(path, np.stack([colours] * 4), photometric="rgb", compression="zlib")
    check(open_image(path), np.stack([colours] * 4), "ZYXS")
    apart = np.moveaxis(colours, -1, 0)
    tifffile.imwrite(path, apart, photometric="rgb", planarconfig="separate")
    check(open_image(path), apart, "SYX")


def test_axes_of_length_1_are_dropped_but_not_height_and_width(tmp_path: Path) -> None:
    path = tmp_path / "image.ome.tif"
    array = numbers(4, 9, 11)
    options = {"photometric": "minisblack", "metadata": {"axes": "TZCYX"}}
    tifffile.imwrite(path, array[None, :, None], **options)
    check(open_image(path), array, "ZYX")
    check(open_image(path, axes="TYX"), array, "TYX")
    tifffile.imwrite(path, array[:, :1], metadata={"axes": "ZYX"}, photometric="minisblack")
    assert open_image(path).planes.shape == (1, 11)
    zarr.create_array(tmp_path / "row.zarr", data=numbers(1, 1, 11))
    assert open_image(tmp_path / "row.zarr").planes.axes == "YX"
    zarr.create_array(tmp_path / "deep.zarr", data=numbers(1, 4, 9, 11))
    check(open_image(tmp_path / "deep.zarr", axes="ctyx"), array * 0 + numbers(4, 9, 11), "TYX")


def test_sizes_and_channels_of_ome_tiff(tmp_path: Path) -> None:
    path = tmp_path / "image.ome.tif"
    about: dict[str, Any] = {"axes": "ZCYX", "Channel": {"Name": ["DAPI", "01"]}}
    about |= {"PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.3}
    about |= {"PhysicalSizeZ": 500.0, "PhysicalSizeZUnit": "nm"}
    options = {"photometric": "minisblack", "metadata": about}
    tifffile.imwrite(path, numbers(5, 2, 9, 11), **options)
    source = open_image(path)
    assert source.pixel_size == pytest.approx({"X": 0.2, "Y": 0.3, "Z": 0.5})
    assert source.unit == "micrometer"
    assert source.channel_names == ("DAPI", "01")


@pytest.mark.parametrize(
    ("unit", "expected", "name"),
    [
        ("um", {"Z": 2.5, "Y": 0.2, "X": 0.25}, "micrometer"),
        ("\\u00B5m", {"Z": 2.5, "Y": 0.2, "X": 0.25}, "micrometer"),
        ("microns", {"Z": 2.5, "Y": 0.2, "X": 0.25}, "micrometer"),
        ("nm", {"Z": 2.5, "Y": 0.2, "X": 0.25}, "nanometer"),
        ("pixel", {}, None),
        ("inch", {}, None),
        (None, {}, None),
    ],
)
def test_imagej_hyperstacks(
    tmp_path: Path, unit: str | None, expected: dict[str, float], name: str | None
) -> None:
    path, array = tmp_path / "image.tif", numbers(2, 5, 3, 9, 11)
    about = {"axes": "TZCYX", "spacing": 2.5} | ({"unit": unit} if unit else {})
    tifffile.imwrite(path, array, imagej=True, resolution=(4, 5), metadata=about)
    source = open_image(path)
    check(source, array, "TZCYX")
    assert source.pixel_size == pytest.approx(expected)
    assert source.unit == name


@pytest.mark.parametrize(
    ("unit", "resolution", "expected"),
    [("CENTIMETER", 50_000, 0.2), ("CENTIMETER", 28.35, None), ("INCH", 72, None)],
)
def test_a_resolution_is_believed_where_it_is_a_microscopes(
    tmp_path: Path, unit: str, resolution: float, expected: float | None
) -> None:
    path = tmp_path / "image.tif"
    options = {"resolution": (resolution, resolution), "resolutionunit": unit}
    tifffile.imwrite(path, numbers(9, 11), **options)
    source = open_image(path)
    assert source.pixel_size == ({} if expected is None else {"X": expected, "Y": expected})
    assert source.unit == (None if expected is None else "micrometer")


def test_levels_and_scenes_of_tiffs(tmp_path: Path) -> None:
    path, fine = tmp_path / "pyramid.ome.tif", numbers(64, 96)
    about = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path) as writer:
        options: dict[str, Any] = {"tile": (16, 16), "compression": "zlib"}
        writer.write(fine, subifds=1, metadata=about, **options)
        writer.write(fine[::2, ::2], subfiletype=1, **options)
        writer.write(numbers(9, 11), metadata={"PhysicalSizeX": 3.0})
    check(open_image(path), fine, "YX")
    half = open_image(path, level=1)
    check(half, fine[::2, ::2], "YX")
    assert half.pixel_size == {"X": 1.0, "Y": 1.0}
    check(open_image(path, scene=1), numbers(9, 11), "YX")
    assert open_image(path, scene=1).pixel_size == {"X": 3.0}
    with pytest.raises(ImageError, match="no level 2: it has 2, from 0 to 1"):
        open_image(path, level=2)
    with pytest.raises(ImageError, match=r"pyramid\.ome\.tif: there is no scene 2"):
        open_image(path, scene=2)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_of_a_tiff_only_what_is_asked_for_is_read(tmp_path: Path, compression: str | None) -> None:
    path, array = tmp_path / "image.tif", numbers(20, 256, 256)
    tifffile.imwrite(path, array, compression=compression, photometric="minisblack")
    tracemalloc.start()
    try:
        planes = open_image(path).planes
        np.testing.assert_array_equal(planes.read((3,)), array[3])
        assert tracemalloc.get_traced_memory()[1] < array.nbytes / 3
    finally:
        tracemalloc.stop()


def test_a_damaged_part_does_not_cost_the_others(tmp_path: Path) -> None:
    path, array = tmp_path / "image.tif", numbers(6, 64, 64)
    tifffile.imwrite(path, array, compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        end = file.pages[2].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(end)
        file.write(b"\xff" * 50)
    planes = open_image(path).planes
    np.testing.assert_array_equal(planes.read((1,)), array[1])
    with pytest.raises(ImageError, match=r"image\.tif"):
        planes.read((2,))


def test_tiffs_need_no_zarr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    array = numbers(5, 9, 11)
    for compression in (None, "zlib"):
        tifffile.imwrite(tmp_path / "image.tif", array, compression=compression)
        check(open_image(tmp_path / "image.tif"), array, "ZYX")
    zarr.create_array(tmp_path / "image.zarr", data=array)
    with pytest.raises(ImageError, match=r"pip install 'napari-hrdv2\[zarr\]'"):
        open_image(tmp_path / "image.zarr")


def test_no_file_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, numbers(5, 9, 11), compression="zlib")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        source = open_image(path)
        source.planes.read((1,))
        del source
        gc.collect()
    assert [str(one.message) for one in said] == []


# OME-Zarr


def ngff(
    path: Path,
    levels: list[np.ndarray],
    axes: str,
    version: str = "0.5",
    scale: tuple[float, ...] = (),
    **options: Any,
) -> None:
    """Write OME-Zarr as other programs do, level by level half as fine."""
    kinds = {"T": "time", "C": "channel"}
    described = [{"name": one.lower(), "type": kinds.get(one, "space")} for one in axes]
    for one in described:
        if one["type"] == "space":
            one["unit"] = "nanometer" if one["name"] == "z" else "micrometer"
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3, overwrite=True)
    if version == "0.4":
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    datasets = []
    for k, level in enumerate(levels):
        group.create_array(str(k), data=level, **options)
        scales = [n * (2**k if one in "YX" else 1) for n, one in zip(scale, axes, strict=True)]
        transformation = {"type": "scale", "scale": scales}
        datasets.append({"path": str(k), "coordinateTransformations": [transformation]})
    about: dict[str, Any] = {"multiscales": [{"axes": described, "datasets": datasets}]}
    if "C" in axes:
        names = [{"label": f"stain {k}"} for k in range(levels[0].shape[axes.index("C")])]
        about["omero"] = {"channels": names}
    group.attrs.update(about if version == "0.4" else {"ome": {"version": version, **about}})


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("shape", "axes"), [((9, 12), "YX"), ((3, 4, 2, 9, 12), "TZCYX"), ((2, 4, 9, 12), "CZYX")]
)
def test_ome_zarr(tmp_path: Path, version: str, shape: tuple[int, ...], axes: str) -> None:
    path, array = tmp_path / "image.zarr", numbers(*shape)
    scale = tuple({"Z": 500.0, "Y": 0.25, "X": 0.125}.get(one, 1.0) for one in axes)
    chunks = (1,) * (len(shape) - 2) + (5, 5)
    half = array[..., ::2, ::2]
    ngff(path, [array, half], axes, version, scale, chunks=chunks)
    source = open_image(path)
    check(source, array, axes)
    expected = {k: v for k, v in UM.items() if k in axes}
    assert source.pixel_size == pytest.approx(expected)
    assert source.unit == "micrometer"
    assert source.channel_names == (("stain 0", "stain 1") if "C" in axes else ())
    coarse = open_image(path, level=1)
    check(coarse, half, axes)
    assert coarse.pixel_size["X"] == 0.25
    with pytest.raises(ImageError, match="no level 2"):
        open_image(path, level=2)


def test_channels_and_times_of_ome_zarr_may_be_called_anything(tmp_path: Path) -> None:
    path, array = tmp_path / "image.zarr", numbers(6, 7, 9, 12)
    ngff(path, [array], "TCYX", "0.4", (1, 1, 1, 1))
    group = zarr.open_group(path)
    about = group.attrs.asdict()
    about["multiscales"][0]["axes"][1]["name"] = "stain"
    group.attrs.update(about)
    check(open_image(path), array, "TCYX")


def test_scenes_and_plates_of_ome_zarr(tmp_path: Path) -> None:
    path, array = tmp_path / "slide.zarr", numbers(9, 12)
    zarr.create_group(path, zarr_format=2, attributes={"bioformats2raw.layout": 3})
    for k in range(2):
        ngff(path / str(k), [array + k], "YX", "0.4", (1, 1))
    check(open_image(path, scene=1), array + 1, "YX")
    with pytest.raises(ImageError, match="no scene 2"):
        open_image(path, scene=2)
    plate = {"version": "0.4", "wells": [{"path": "A/1"}]}
    zarr.create_group(path, zarr_format=2, overwrite=True, attributes={"plate": plate})
    with pytest.raises(ImageError, match=r"slide\.zarr/A/1/0"):
        open_image(path)


@pytest.mark.parametrize("version", [2, 3])
def test_plain_zarr(tmp_path: Path, version: int) -> None:
    path, array = tmp_path / "array.zarr", numbers(7, 2, 9, 12)
    zarr.create_array(path, data=array, zarr_format=version)
    check(open_image(path), array, "ZCYX")
    check(open_image(path, axes="ZTYX"), array, "ZTYX")
    with pytest.raises(ImageError, match=r"array\.zarr: axes ZYX do not fit"):
        open_image(path, axes="ZYX")
    group = zarr.create_group(tmp_path / "group.zarr", zarr_format=version)
    group.create_array("raw", data=numbers(9, 12, 3))
    check(open_image(tmp_path / "group.zarr"), numbers(9, 12, 3), "YXS")
    group.create_array("other", data=array)
    with pytest.raises(ImageError, match="2 arrays"):
        open_image(tmp_path / "group.zarr")
    check(open_image(tmp_path / "group.zarr" / "other"), array, "ZCYX")


def test_named_dimensions_of_plain_zarr(tmp_path: Path) -> None:
    array = numbers(5, 2, 9, 12)
    names = ("time", "slice", "y", "x")
    zarr.create_array(tmp_path / "3.zarr", data=array, dimension_names=names)
    check(open_image(tmp_path / "3.zarr"), array, "TZYX")
    about = {"_ARRAY_DIMENSIONS": list(names)}
    zarr.create_array(tmp_path / "2.zarr", data=array, zarr_format=2, attributes=about)
    check(open_image(tmp_path / "2.zarr"), array, "TZYX")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_of_a_big_zarr_only_what_is_asked_for_is_read(tmp_path: Path, version: str) -> None:
    path, array = tmp_path / "image.zarr", numbers(4, 2, 64, 64)
    ngff(path, [array], "ZCYX", version, (1, 1, 1, 1), chunks=(1, 1, 16, 16))
    chunks = [one for one in (path / "0").rglob("*") if one.is_file() and one.name.isdigit()]
    assert len(chunks) == 4 * 2 * 16
    wanted = {(2, c, y, x) for c in range(2) for y in range(1, 3) for x in range(2)}
    for one in chunks:
        if tuple(map(int, one.parts[-4:])) not in wanted:
            dimmed(one)
    region = slice(16, 48), slice(5, 32)
    planes = open_image(path).planes
    np.testing.assert_array_equal(
        planes.read((2,), region), np.moveaxis(array[2][:, 16:48, 5:32], 0, -1)
    )
    with pytest.raises(ImageError, match=r"image\.zarr"):
        planes.read((2,))


@pytest.mark.parametrize(("version", "shards"), [("0.4", None), ("0.5", None), ("0.5", (32, 32))])
def test_missing_chunks_are_told_once(
    tmp_path: Path, version: str, shards: tuple[int, int] | None
) -> None:
    path, array = tmp_path / "image.zarr", numbers(64, 64)
    ngff(path, [array], "YX", version, (1, 1), chunks=(16, 16), shards=shards)
    lost = path / "0" / ("0/1" if version == "0.4" else "c/0/1")
    lost.unlink()
    side = 32 if shards else 16
    planes = open_image(path).planes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(planes.read((), (slice(16), slice(16))), array[:16, :16])
    with pytest.warns(ImageWarning, match=rf"image\.zarr/0: {4 if shards else 1} of 16 chunks"):
        found = planes.read()
    assert (found[:side, side : 2 * side] == 0).all()
    np.testing.assert_array_equal(found[:, :side], array[:, :side])
    planes.read()  # which would raise if it were told again
    for one in (path / "0").rglob("*"):
        if one.is_file() and one.name.isdigit():
            one.unlink()
    with pytest.raises(ImageError, match=r"image\.zarr: none of its 16 chunks are there"):
        open_image(path).planes.read()


# Pictures, other kinds, and what is none


def test_pictures(tmp_path: Path) -> None:
    grey, colours = numbers(9, 12, dtype="uint8"), numbers(9, 12, 3, dtype="uint8")
    for array, axes in ((grey, "YX"), (colours, "YXS"), (grey.astype("uint16") * 200, "YX")):
        Image.fromarray(array).save(tmp_path / "image.png")
        check(open_image(tmp_path / "image.png"), array, axes)
    Image.fromarray(colours).save(tmp_path / "image.jpg")
    assert open_image(tmp_path / "image.jpg").planes.axes == "YXS"
    with pytest.raises(ImageError, match="no level 1"):
        open_image(tmp_path / "image.png", level=1)


class FakeBioImage:
    """As much of bioio's class as is used of it."""

    scenes = ("a", "b")
    resolution_levels = (0, 1)
    channel_names = ("DAPI", "GFP")
    dims = SimpleNamespace(order="TCZYX")
    physical_pixel_sizes = SimpleNamespace(Z=None, Y=0.2, X=0.1)
    dimension_properties = SimpleNamespace(X=SimpleNamespace(unit="micrometer"), Y=None)

    def __init__(self, path: Path) -> None:
        if path.read_bytes() == b"other":
            raise TypeError("no plug-in\nreads this")
        self.scene = self.level = 0

    def set_scene(self, index: int) -> None:
        self.scene = index

    def set_resolution_level(self, level: int) -> None:
        self.level = level

    @property
    def dask_data(self) -> np.ndarray:
        return numbers(1, 2, 5, 9, 12) + self.scene * 256 + self.level * 512


def test_bioio_reads_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.czi"
    path.write_bytes(b"czi")
    monkeypatch.setitem(sys.modules, "bioio", None)
    with pytest.raises(ImageError, match=r"image\.czi.*pip install 'napari-hrdv2\[bioio\]'"):
        open_image(path)
    bioio = ModuleType("bioio")
    bioio.BioImage = FakeBioImage  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bioio", bioio)
    source = open_image(path, scene=1, level=1)
    check(source, numbers(2, 5, 9, 12) + 256 + 512, "CZYX")
    assert source.pixel_size == {"X": 0.1}
    assert source.unit == "micrometer"
    assert source.channel_names == ("DAPI", "GFP")
    with pytest.raises(ImageError, match="no scene 2"):
        open_image(path, scene=2)
    path.write_bytes(b"other")
    with pytest.raises(ImageError, match=r"image\.czi cannot be read: no plug-in$"):
        open_image(path)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.png", "a.jpg", "a.zarr", "a.txt"])
def test_bad_files_end_in_one_line_that_names_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(ImageError, match=r"^there is no file .*/a\.\w+(\.tif)?$"):
        open_image(path)
    for content in (b"", b"II*\0 no picture"):
        path.write_bytes(content)
        with pytest.raises(ImageError) as caught:
            open_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.unlink()
    path.mkdir()
    with pytest.raises(ImageError, match="a folder, but not one of OME-Zarr"):
        open_image(path)


@pytest.mark.parametrize("name", [".zattrs", ".zgroup", "0/.zarray"])
def test_bad_metadata_of_zarr(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.zarr"
    ngff(path, [numbers(9, 12)], "YX", "0.4", (1, 1))
    dimmed(path / name)
    with pytest.raises(ImageError, match=r"image\.zarr cannot be read: ."):
        open_image(path)


@pytest.mark.parametrize("size", [4, 100, 5000, 100_000])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_tiff(
    tmp_path: Path,
    compression: str | None,
    size: int,
) -> None:
    path = tmp_path / "image.tif"
    options = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(path, numbers(9, 99, 99), compression=compression, **options)
    assert path.stat().st_size > size
    dimmed(path, size)
    with pytest.raises(ImageError, match=r"image\.tif"):
        open_image(path)


def test_damage_that_is_read_past_is_told(tmp_path: Path) -> None:
    path = tmp_path / "image.ome.tif"
    options = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(path, numbers(5, 9, 11), **options)
    damaged = path.read_bytes().replace(b'SizeZ="5"', b'SizeZ="6"')
    path.write_bytes(damaged.replace(b'PlaneCount="5"', b'PlaneCount="6"'))
    with pytest.warns(ImageWarning, match=r"image\.ome\.tif may be damaged: "):
        open_image(path)


def test_metadata_that_cannot_be_read_do_not_cost_the_image(tmp_path: Path) -> None:
    path = tmp_path / "image.ome.tif"
    tifffile.imwrite(path, numbers(9, 11), metadata={"PhysicalSizeX": 1.234})
    path.write_bytes(path.read_bytes().replace(b'"1.234"', b'"a lot"'))
    source = open_image(path)
    check(source, numbers(9, 11), "YX")
    assert source.pixel_size == {}


# Strokes


@pytest.mark.parametrize("name", ["strokes.tif", "strokes.zarr"])
def test_strokes_of_a_stack(tmp_path: Path, name: str) -> None:
    painted = numbers(2, 4, 9, 11, dtype="uint8") % 3
    with open_results(tmp_path / name, "TZYX", painted.shape, "uint8") as results:
        for index in np.ndindex(2, 4):
            results.write(index, None, painted[index])
    image = Planes(np.zeros((2, 3, 4, 9, 11)), "TCZYX")
    strokes = open_strokes(tmp_path / name, image)
    for index in image.indices():
        np.testing.assert_array_equal(strokes.read(index), painted[index])
    with pytest.raises(StrokesError, match=r"\(2, 4, 9, 11\), the image \(4, 9, 11\)"):
        open_strokes(tmp_path / name, Planes(np.zeros((4, 9, 11)), "ZYX"))


def test_of_strokes_chunks_may_be_missing(tmp_path: Path) -> None:
    painted = np.zeros((64, 64), np.uint8)
    painted[3, 4] = 2
    array = zarr.create_array(
        tmp_path / "strokes.zarr", shape=(64, 64), chunks=(16, 16), dtype="u1"
    )
    array[:] = painted
    assert array.nchunks_initialized == 1
    strokes = open_strokes(tmp_path / "strokes.zarr", Planes(np.zeros((64, 64)), "YX"))
    np.testing.assert_array_equal(strokes.read(), painted)


def test_strokes_that_cannot_be(tmp_path: Path) -> None:
    image = Planes(np.zeros((9, 12)), "YX")
    tifffile.imwrite(tmp_path / "half.tif", np.full((9, 12), 0.5))
    (tmp_path / "bad.tif").write_bytes(b"II*\0")
    (tmp_path / "strokes.czi").write_bytes(b"")
    for name, says in {
        "half.tif": "whole numbers",
        "bad.tif": r"bad\.tif cannot be read",
        "strokes.czi": "none of the kinds",
        "none.tif": "there is no file",
        "some.jpg": "JPEG",
    }.items():
        with pytest.raises(StrokesError, match=says):
            open_strokes(tmp_path / name, image)


# Results


@pytest.fixture(params=["tif", "streamed", "zarr"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A name for a result, of each way in which results are written."""
    if request.param == "streamed":
        monkeypatch.setattr(tiff, "_IN_MEMORY", 0)
    return tmp_path / f"out.{'zarr' if request.param == 'zarr' else 'tif'}"


REGIONS = [(slice(y, y + 8), slice(x, min(x + 10, 23))) for y in (0, 8) for x in (0, 10, 20)]


@pytest.mark.parametrize(
    ("axes", "shape"), [("YX", (16, 23)), ("ZYX", (3, 16, 23)), ("TZYX", (2, 3, 16, 23))]
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_labels_come_back_with_all_that_is_known_of_them(
    target: Path, axes: str, shape: tuple[int, ...], dtype: str
) -> None:
    labels = numbers(*shape, dtype=dtype) * (257 if dtype == "uint16" else 1)
    options: dict[str, Any] = {"pixel_size": UM, "unit": "micrometer", "classes": CLASSES}
    with open_results(target, axes, shape, dtype, **options) as results:
        for index in np.ndindex(shape[:-2]):
            for region in REGIONS:
                results.write(index, region, labels[index][region])
        assert not target.exists()
    assert [one.name for one in target.parent.iterdir()] == [target.name]
    source = open_image(target)
    check(source, labels, axes)
    assert source.pixel_size == pytest.approx({k: v for k, v in UM.items() if k in axes})
    assert source.unit == "micrometer"
    assert read_classes(target) == CLASSES
    if target.suffix == ".tif":
        np.testing.assert_array_equal(tifffile.imread(target), labels)
        with tifffile.TiffFile(target) as file:
            assert file.is_ome
            numerator, denominator = file.pages[0].tags["XResolution"].value
            assert denominator / numerator == pytest.approx(0.125e-4)


def test_probabilities_come_back(target: Path) -> None:
    scores = np.random.default_rng(0).random((3, 16, 23, 2), np.float32)
    options: dict[str, Any] = {"classes": CLASSES, "notes": {"made": {"by": [1, "µ"]}}}
    with open_results(target, "ZCYX", (3, 2, 16, 23), "float32", **options) as results:
        for k in range(3):
            for region in REGIONS:
                results.write((k,), region, scores[k][region])
    source = open_image(target)
    if target.suffix == ".zarr":
        check(source, np.moveaxis(scores, -1, 0), "CZYX")
    else:
        check(source, np.moveaxis(scores, -1, 1), "ZCYX")
    assert source.channel_names == ("Zellkern µ", "Grund")
    assert source.pixel_size.get("X", 1) == 1
    assert source.unit is None
    assert read_classes(target) == CLASSES
    assert read_notes(target)["made"] == {"by": [1, "µ"]}


def test_ome_zarr_has_its_own_order_of_axes(tmp_path: Path) -> None:
    path, labels = tmp_path / "out.zarr", numbers(4, 3, 16, 23)
    options: dict[str, Any] = {"pixel_size": UM, "unit": "micrometer", "chunks": (2, 1, 8, 23)}
    with open_results(path, "ZTYX", labels.shape, "uint16", **options) as results:
        for index in np.ndindex(4, 3):
            for region in REGIONS:
                results.write(index, region, labels[index][region])
    source = open_image(path)
    check(source, labels.swapaxes(0, 1), "TZYX")
    assert source.pixel_size == UM
    assert json.loads((path / "0" / ".zarray").read_text())["chunks"] == [1, 2, 8, 23]


def test_ome_zarr_of_labels_is_what_other_programs_look_for(tmp_path: Path) -> None:
    shape = (3, 1000, 700)
    options: dict[str, Any] = {"pixel_size": UM, "unit": "micrometer", "classes": CLASSES}
    with open_results(tmp_path / "out.zarr", "ZYX", shape, "uint8", **options) as results:
        results.write((1,), None, np.ones(shape[1:], np.uint8))
    about = json.loads((tmp_path / "out.zarr" / ".zattrs").read_text())
    (image,) = about["multiscales"]
    assert image["version"] == "0.4"
    assert image["axes"][0] == {"name": "z", "type": "space", "unit": "micrometer"}
    assert image["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [0.5, 0.25, 0.125]}
    ]
    assert about["image-label"]["properties"][1] == {"label-value": 3, "name": "Grund"}
    assert about["image-label"]["colors"][1] == {"label-value": 3, "rgba": [0, 51, 255, 255]}
    stored = json.loads((tmp_path / "out.zarr" / "0" / ".zarray").read_text())
    assert stored["chunks"] == [1, 512, 512]
    assert stored["dimension_separator"] == "/"
    assert (tmp_path / "out.zarr/0/1/1/1").is_file()


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_large_results_are_never_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tiff, "_IN_MEMORY", 1 << 20)
    side, step = 4096, 512
    piece = numbers(step, step, dtype="uint8")
    path = tmp_path / f"out.{kind}"
    tracemalloc.start()
    try:
        with open_results(path, "YX", (side, side), "uint8") as results:
            for y in range(0, side, step):
                for x in range(0, side, step):
                    results.write((), (slice(y, y + step), slice(x, x + step)), piece)
        assert tracemalloc.get_traced_memory()[1] < side * side / 2
    finally:
        tracemalloc.stop()
    last = open_image(path).planes.read((), (slice(side - step, side), slice(side - step, side)))
    np.testing.assert_array_equal(last, piece)


def test_after_an_error_the_old_result_is_as_it_was(target: Path) -> None:
    def fail_halfway() -> None:
        with open_results(target, "YX", (5, 6), "uint8") as results:
            results.write((), None, np.ones((5, 6)))
            raise RuntimeError

    write_labels(target, np.full((5, 6), 7))
    with pytest.raises(RuntimeError):
        fail_halfway()
    assert (open_image(target).planes.read() == 7).all()
    write_labels(target, np.full((5, 6), 300))
    assert (open_image(target).planes.read() == 300).all()
    assert [one.name for one in target.parent.iterdir()] == [target.name]


class FullDisk(io.BytesIO):
    def write(self, *_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing_half_written(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        FullDisk().write()

    async def fail_later(*_: object, **__: object) -> None:
        FullDisk().write()

    def put(self: Any, _: object, *place: Any) -> None:
        self._file, self._offset, self._shape = FullDisk(), *place

    monkeypatch.setattr(zarr.storage.LocalStore, "set", fail_later)
    monkeypatch.setattr(tiff._Pixels, "__init__", put)
    if tiff._IN_MEMORY:
        monkeypatch.setattr(tifffile, "imwrite", fail)
    with (
        pytest.raises(OSError, match=rf"{target.name} cannot be written: No space left"),
        open_results(target, "CYX", (2, 50, 60), "float32") as results,
    ):
        results.write((), None, np.zeros((50, 60, 2)))
    assert list(target.parent.iterdir()) == []


def test_folders_of_other_things_are_not_replaced(tmp_path: Path) -> None:
    for name in ("out.zarr", "out.tif"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("mine")
        with pytest.raises(ImageError, match="a folder of something else"):
            write_labels(tmp_path / name, np.ones((5, 6)))
        assert (tmp_path / name / "thesis.tex").read_text() == "mine"


def test_names_that_results_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"ending \.tif or \.zarr"):
        write_labels(tmp_path / "out.png", np.ones((5, 6)))
    for axes in ("WYX", "PQRHYX"):
        with pytest.raises(ImageError, match=f"cannot have the axes {axes}"):
            check_output(tmp_path / "out.tif", axes=axes)
        check_output(tmp_path / "out.zarr", axes=axes)
    for axes in ("TPZQYX", "AYX", "TEYX", "ZCYX"):
        check_output(tmp_path / "out.tif", axes=axes)
        shape = tuple(range(2, 2 + len(axes)))
        with open_results(tmp_path / "out.tif", axes, shape, "uint8"):
            pass
        assert open_image(tmp_path / "out.tif", axes=axes).planes.array.shape == shape


def test_files_of_others_have_no_classes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", numbers(9, 11))
    about = {"axes": "YX", "Description": '{"other": 1}'}
    tifffile.imwrite(tmp_path / "a.ome.tif", numbers(9, 11), metadata=about)
    zarr.create_array(tmp_path / "a.zarr", data=numbers(9, 11))
    for name in ("a.tif", "a.ome.tif", "a.zarr"):
        assert read_classes(tmp_path / name) == ()
    dimmed(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"what .*a\.tif is, cannot be read"):
        read_classes(tmp_path / "a.tif")
