"""Retrieval over a folder: planted crops, what is skipped, and what is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file
from skimage.data import coffee, rocket
from skimage.util import img_as_ubyte

from napari_hrdv2 import _retrieval
from napari_hrdv2._retrieval import FolderIndex, Indexing
from napari_hrdv2.core.cache import TokenStore
from napari_hrdv2.core.errors import (
    Cancelled,
    HRDv2Error,
    ImageError,
    ImageWarning,
    SettingsMismatchError,
)
from napari_hrdv2.core.extraction import FeatureExtractor


@pytest.fixture
def folder(tmp_path, rng):
    """Five images of noise; in the third lies a crop."""
    images = img_as_ubyte(rng.random((5, 90, 120)))
    images[2, 15:75, 30:90] = crop()
    folder = tmp_path / "images"
    folder.mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{k}.png")
    return folder


def crop():
    """Stripes, which nothing else in the folder has."""
    return np.tile(np.uint8([0, 0, 0, 255, 255, 255]), (60, 10))


def regions_folder(folder, tmp_path):
    """In each image the square in which the crop lies is a region, and so are its surroundings."""
    masks = tmp_path / "masks"
    masks.mkdir()
    labels = np.full((90, 120), 3, np.uint8)
    labels[15:75, 30:90] = 7
    for path in folder.iterdir():
        Image.fromarray(labels).save(masks / path.name)
    return masks, labels


def test_an_identical_crop_comes_first(folder, tmp_path, extractor):
    masks, labels = regions_folder(folder, tmp_path)
    index = Indexing(folder, extractor, masks=masks).finish()
    image = np.asarray(Image.open(folder / "2.png"))
    found = index.search(extractor.extract(image), labels == 7)
    assert len(found) == 10
    best = found[0]
    assert (best.plane.path, best.label) == ("2.png", 7)
    assert best.similarity == pytest.approx(1, abs=1e-5)
    assert found[1].similarity < 0.999
    np.testing.assert_array_equal(index.mask(best), labels == 7)
    np.testing.assert_array_equal(index.read(best), image)
    assert index.kind == "masks"


@pytest.mark.parametrize("kind", ["clusters", "superpixels", "grid"])
def test_a_crop_of_a_real_image_is_found_in_the_image_that_holds_it(
    tmp_path, real_weights, kind, rng
):
    extractor = FeatureExtractor(model=real_weights.name, weights=real_weights.path, passes=1)
    cup = coffee()[60:284, 130:354]
    scene = rocket()[:224, 200:424].copy()
    ground = img_as_ubyte(rng.random((224, 224, 3)))
    with_cup = scene.copy()
    with_cup[56:196, 56:196] = cup[42:182, 42:182]
    folder = tmp_path / "images"
    folder.mkdir()
    for name, image in {"a": scene, "b": ground, "c": with_cup, "d": scene[::-1]}.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    index = Indexing(folder, extractor, kind).finish()
    mask = np.zeros(cup.shape[:2], bool)
    mask[70:150, 70:150] = True
    best = index.search(extractor.extract(cup), mask, 1)[0]
    assert best.plane.path == "c.png"
    # The region lies where the crop was put.
    inside = np.zeros((224, 224), bool)
    inside[56:196, 56:196] = True
    assert inside[index.mask(best)].mean() > 0.9


# --- what is skipped


def test_what_cannot_be_read_is_left_out_by_name(folder, extractor):
    (folder / "1.png").write_bytes(b"no image")
    tifffile.imwrite(
        folder / "channels.tif", np.zeros((5, 40, 40), np.uint8), metadata={"axes": "CYX"}
    )
    steps = []
    with pytest.warns(ImageWarning) as caught:
        index = Indexing(folder, extractor, "grid").finish(steps.append)
    assert [str(one.message).split(" is left out")[0] for one in caught] == [
        "1.png",
        "channels.tif",
    ]
    assert [one.path for one in index.planes] == ["0.png", "2.png", "3.png", "4.png"]
    assert [(one.done, one.total, one.text) for one in steps][1] == (1, 6, "1.png")
    assert len(steps) == 6


def test_planes_of_a_stack_are_images(tmp_path, extractor, rng):
    stack = img_as_ubyte(rng.random((3, 60, 60)))
    (tmp_path / "deeper").mkdir()
    tifffile.imwrite(
        tmp_path / "deeper" / "stack.tif", stack, photometric="minisblack", metadata={"axes": "ZYX"}
    )
    index = Indexing(tmp_path, extractor, "grid", recursive=True).finish()
    assert [(one.path, one.index) for one in index.planes] == [
        ("deeper/stack.tif", (k,)) for k in range(3)
    ]
    best = index.search(extractor.extract(stack[1]), index.mask(index_of(index, 1)), 1)[0]
    assert best.plane.index == (1,)
    np.testing.assert_array_equal(index.read(best), stack[1])


def index_of(index, place):
    """The first region of a plane."""
    label = next(label for k, label in index.regions.places if k == place)
    return _retrieval.Found(index.planes[place], label, 1.0, place)


def test_images_without_masks_are_left_out(folder, tmp_path, extractor):
    masks, _ = regions_folder(folder, tmp_path)
    (masks / "0.png").unlink()
    Image.fromarray(np.ones((9, 9), np.uint8)).save(masks / "1.png")
    with pytest.warns(ImageWarning) as caught:
        index = Indexing(folder, extractor, masks=masks).finish()
    assert "0.png is left out: there are no masks" in str(caught[0].message)
    assert "1.png is left out: the strokes of" in str(caught[1].message)
    assert len(index.planes) == 3


def test_features_come_from_the_store(folder, make_extractor, tmp_path, monkeypatch):
    extractor = make_extractor(precision="auto", passes=1)
    store = TokenStore(tmp_path / "tokens", 10**8)
    index = Indexing(folder, extractor, store=store).finish()
    monkeypatch.setattr(FeatureExtractor, "_forward", None)
    again = Indexing(folder, extractor, store=store).finish()
    np.testing.assert_array_equal(again.regions.descriptors, index.regions.descriptors)


def test_cancelling_ends_it(folder, extractor):
    indexing = Indexing(folder, extractor, "grid")
    steps = indexing.run()
    next(steps)
    next(steps)
    indexing.cancel()
    with pytest.raises(Cancelled):
        next(steps)


def test_folders_without_images_are_told(tmp_path, extractor):
    with pytest.raises(ImageError, match="no folder"):
        Indexing(tmp_path / "none", extractor).finish()
    with pytest.raises(ImageError, match="holds no image"):
        Indexing(tmp_path, extractor).finish()
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.warns(ImageWarning), pytest.raises(ImageError, match="none of the images"):
        Indexing(tmp_path, extractor).finish()


# --- what is saved


def test_what_is_saved_is_loaded(folder, tmp_path, extractor):
    index = Indexing(folder, extractor, "superpixels").finish()
    path = tmp_path / "new" / f"index{_retrieval.SUFFIX}"
    index.save(path)
    again = FolderIndex.load(path, extractor.settings)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert (again.kind, again.planes, again.settings) == (
        "superpixels",
        index.planes,
        index.settings,
    )
    assert again.folder == folder.resolve()
    tokens = extractor.extract(np.asarray(Image.open(folder / "4.png")))
    found, expected = again.search(tokens, (40, 60)), index.search(tokens, (40, 60))
    assert found == expected
    for one in found[:20]:
        np.testing.assert_array_equal(again.mask(one), index.mask(one))


def test_an_index_of_other_settings_is_refused(folder, tmp_path, extractor, make_extractor):
    path = tmp_path / "index.safetensors"
    index = Indexing(folder, extractor, "grid").finish()
    index.save(path)
    other = make_extractor(scale=2.0)
    with pytest.raises(
        SettingsMismatchError, match=r"index .*index.safetensors: scale 1.0 against 2"
    ):
        FolderIndex.load(path, other.settings)
    with pytest.raises(SettingsMismatchError, match="those of the index: scale"):
        index.search(other.extract(np.zeros((60, 60))), (3, 3))
    with pytest.raises(SettingsMismatchError, match="facet"):
        index.search(extractor.facets(np.eye(60), "k"), (3, 3))


def test_an_index_is_done_until_something_changes(folder, extractor, make_extractor):
    indexing = Indexing(folder, extractor, "grid")
    index = indexing.finish()
    assert indexing.is_done(index)
    assert not Indexing(folder, extractor, "clusters").is_done(index)
    assert not Indexing(folder, make_extractor(scale=2.0), "grid").is_done(index)
    Image.fromarray(np.zeros((60, 60), np.uint8)).save(folder / "3.png")
    assert not indexing.is_done(index)


def test_an_image_that_changed_is_told(folder, extractor):
    index = Indexing(folder, extractor, "grid").finish()
    first = index_of(index, 0)
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(folder / "0.png")
    with pytest.raises(ImageError, match="another image"):
        index.read(first)
    (folder / "0.png").unlink()
    with pytest.raises(ImageError, match="no file"):
        index.read(first)


def test_what_is_no_index_is_told(folder, tmp_path, extractor):
    path = tmp_path / "index.safetensors"
    with pytest.raises(HRDv2Error, match="no index"):
        FolderIndex.load(path)
    Indexing(folder, extractor, "grid").finish().save(path)
    content = path.read_bytes()
    for wrong in (
        b"",
        b"nothing",
        content[:-5],
        content.replace(b'\\"version\\":2', b'\\"version\\":x'),
    ):
        path.write_bytes(wrong)
        with pytest.raises(HRDv2Error, match="damaged or no index"):
            FolderIndex.load(path)
    path.write_bytes(content.replace(b'\\"version\\":2', b'\\"version\\":9'))
    with pytest.raises(HRDv2Error, match="format 9"):
        FolderIndex.load(path)


def edited(name, value):
    def edit(arrays):
        arrays[name] = value(arrays[name])

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        edited("descriptors", lambda a: a * np.nan),
        edited("descriptors", lambda a: a[1:]),
        edited("places", lambda a: a + 99),
        edited("places", lambda a: a - 1),
        edited("counts", lambda a: a + 1),
        edited("counts", lambda a: a[1:]),
        edited("counts", lambda a: a.astype(np.float32)),
        edited("starts", lambda a: a + 1),
        edited("starts", lambda a: a[::-1].copy()),
        edited("starts", lambda a: a * 9999),
        edited("starts", lambda a: np.concatenate([a[:1], a[2:0:-1], a[3:]])),
        edited("labels", lambda a: a[1:]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder, tmp_path, extractor, edit):
    path = tmp_path / "index.safetensors"
    Indexing(folder, extractor, "grid").finish().save(path)
    arrays = dict(load_file(path))
    metadata = _metadata(path)
    edit(arrays)
    save_file(arrays, path, metadata)
    with pytest.raises(HRDv2Error, match="damaged"):
        FolderIndex.load(path)


def _metadata(path: Path):
    with _retrieval.safe_open(path, framework="numpy") as file:
        return file.metadata()


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 999))
def test_runs_are_the_label_image(height, width, seed):
    labels = np.random.default_rng(seed).integers(-1, 4, (height, width))
    runs = _retrieval._Runs.of(labels)
    for label in range(-1, 5):
        np.testing.assert_array_equal(runs.mask(label, labels.shape), labels == label)
