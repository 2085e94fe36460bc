"""Applying a model to planes: what is lazy is what is direct, and images that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr

from napari_hrdv2._io import open_image
from napari_hrdv2.core import tiles as tiles_module
from napari_hrdv2.core.apply import parts_of, planes_for, segment_lazy, segment_piece
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import ImageError, SettingsMismatchError
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.planes import Planes
from napari_hrdv2.core.refine import Refinement
from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.tiles import piece_of

SHAPES = {
    "YX": (150, 130),
    "YXS": (150, 130, 3),
    "CYX": (2, 150, 130),
    "ZYX": (2, 150, 130),
    "TZCYX": (2, 1, 3, 150, 130),
}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes of a few windows are cut into tiles, as large ones are."""
    monkeypatch.setattr(tiles_module, "_TOGETHER", 2)


def image_of(axes: str) -> np.ndarray:
    """Two textures beside each other, whose border is elsewhere in every plane."""
    rng = np.random.default_rng(0)
    shape = SHAPES[axes]
    image = rng.normal(60, 12, shape)
    x = np.arange(130).reshape(-1, 1) if axes == "YXS" else np.arange(130)
    image += np.where(x > 65, 90, 0)
    # So that a tile's levels are not the plane's.
    image += np.linspace(0, 80, 150).reshape((-1, 1, 1) if axes == "YXS" else (-1, 1))
    for k in range(shape[0]) if axes[0] in "TZ" else ():
        image[k] = np.roll(image[k], 20 * k, -1)
    return image.clip(0, 255).astype(np.uint8)


def settings_of(axes: str) -> dict[str, Any]:
    count = SHAPES[axes][axes.index("C")] if "C" in axes else None
    chosen = None if count is None else (count - 1, 0)
    return {"channels": chosen, "channel_count": count, "window": 56, "passes": 1}


@pytest.fixture
def model(tiny_weights: Path) -> Callable[[str], tuple[PixelClassifier, FeatureExtractor]]:
    def make(axes: str) -> tuple[PixelClassifier, FeatureExtractor]:
        extractor = FeatureExtractor(weights=tiny_weights, device="cpu", **settings_of(axes))
        planes = planes_for(Planes(image_of(axes), axes), extractor.settings)
        strokes = np.zeros(planes.shape, np.uint8)
        strokes[20:130:9, 5:40], strokes[20:130:9, 90:120] = 1, 2
        pixels = planes.read(next(planes.indices()))
        return PixelClassifier().fit(extractor.extract(pixels), strokes), extractor

    return make


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("axes", SHAPES)
def test_lazy_tiled_and_whole_are_the_same(axes: str, model: Any, tiny_weights: Path) -> None:
    classifier, extractor = model(axes)
    image = image_of(axes)
    planes = planes_for(Planes(image, axes), extractor.settings)
    tiled = np.zeros(planes.labels_shape, np.uint16)
    whole = tiled.copy()
    parts = list(parts_of(planes, extractor.settings))
    assert len(parts) > 2 * planes.count
    for part in parts:
        piece = piece_of(planes, *part)
        found = segment_piece(classifier, extractor.extract(piece), piece)
        tiled[(*part.plane, *part.tile.core)] = found.labels
    for index in planes.indices():
        whole[index] = classifier.predict(extractor.extract(planes.read(index)))
    np.testing.assert_array_equal(tiled, whole)
    assert set(np.unique(whole)) == {1, 2}
    lazy = segment_lazy(classifier, image, axes, device="cpu", weights=str(tiny_weights))
    assert (lazy.shape, lazy.dtype) == (planes.labels_shape, np.uint16)
    assert lazy.npartitions == len(parts)
    np.testing.assert_array_equal(lazy.compute(scheduler="threads", num_workers=3), whole)


@pytest.mark.usefixtures("small_tiles")
def test_lazy_reads_what_is_asked_for(model: Any, tmp_path: Path, tiny_weights: Path) -> None:
    classifier, extractor = model("ZYX")
    image = image_of("ZYX")
    expected = classifier.predict(extractor.extract(image[1]))
    options = {"device": "cpu", "weights": str(tiny_weights)}
    read = []

    def load(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        read.append(block_info[0]["chunk-location"][0])
        return block

    chunks = da.from_array(image, chunks=(1, 40, 60))
    lazy = segment_lazy(classifier, chunks.map_blocks(load, dtype=np.uint8), "ZYX", **options)
    read.clear()
    np.testing.assert_array_equal(lazy[1].compute(scheduler="sync"), expected)
    assert set(read) == {1}
    stored = zarr.create_array(tmp_path / "a.zarr", data=image, chunks=(1, 64, 64))
    lazy = segment_lazy(classifier, stored, "ZYX", **options)
    np.testing.assert_array_equal(lazy[1].compute(), expected)
    tifffile.imwrite(tmp_path / "a.tif", image, metadata={"axes": "ZYX"})
    planes = open_image(tmp_path / "a.tif").planes
    lazy = segment_lazy(classifier, planes.array, planes.axes, **options)
    np.testing.assert_array_equal(lazy[1].compute(), expected)


def test_levels_of_very_large_planes_are_lazy_too(
    model: Any, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_TOGETHER": 2, "_ALL": 1000, "_BLOCKS": 3, "_BLOCK": 16}.items():
        monkeypatch.setattr(tiles_module, name, value)
    classifier, extractor = model("CYX")
    planes = planes_for(Planes(image_of("CYX"), "CYX"), extractor.settings)
    lazy = segment_lazy(classifier, planes.array, "CYX", device="cpu", weights=str(tiny_weights))
    found = lazy.compute()
    for part in parts_of(planes, extractor.settings):
        piece = piece_of(planes, *part)
        direct = segment_piece(classifier, extractor.extract(piece), piece)
        np.testing.assert_array_equal(found[part.tile.core], direct.labels)


def test_refining_and_probabilities(model: Any) -> None:
    classifier, extractor = model("CYX")
    planes = planes_for(Planes(image_of("CYX"), "CYX"), extractor.settings)
    (part,) = parts_of(planes, extractor.settings)
    piece = piece_of(planes, *part)
    tokens = extractor.extract(piece)
    plain = segment_piece(classifier, tokens, piece, probabilities=True)
    assert plain.probabilities is not None
    np.testing.assert_array_equal(classifier.labels_of(plain.probabilities), plain.labels)
    # Two channels are no colours: each is stretched by itself.
    refined = segment_piece(classifier, tokens, piece, Refinement(guided=4))
    assert refined.probabilities is None
    assert (refined.labels == plain.labels).mean() > 0.9


@pytest.mark.parametrize(
    ("axes", "wanted", "says"),
    [
        ("CYX", {}, "has 2 channels, a grey or RGB image is needed"),
        ("YX", {"channels": (0, 1)}, "is grey, an image of several channels is needed"),
        ("YXS", {"channels": (0,), "channel_count": 3}, "is RGB, 3 channels are needed"),
        ("CYX", {"channels": (0,), "channel_count": 3}, "has 2 channels, 3 channels are needed"),
        ("CYX", {"channels": (0, 4)}, "the image has 2, from 0 to 1"),
    ],
)
def test_images_that_a_model_is_not_for(axes: str, wanted: dict[str, Any], says: str) -> None:
    planes = Planes(image_of(axes), axes)
    with pytest.raises(ImageError, match=says):
        planes_for(planes, Settings(**wanted))


def test_lazy_with_other_weights_says_so(model: Any, tiny_reg_weights: Path) -> None:
    classifier, _ = model("YX")
    lazy = segment_lazy(classifier, image_of("YX"), "YX", weights=str(tiny_reg_weights))
    with pytest.raises(SettingsMismatchError, match="not those that the model was trained with"):
        lazy.compute()
