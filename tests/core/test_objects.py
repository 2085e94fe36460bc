"""Objects of a class: planted things must be found, no more and no fewer, and their sizes."""

from __future__ import annotations

import csv
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy import ndimage as ndi

from napari_hrdv2.core.base import default_class
from napari_hrdv2.core.errors import Cancelled, HRDv2Error, ImageError
from napari_hrdv2.core.objects import (
    ObjectSettings,
    find_objects,
    make_object_settings,
    measure_classes,
    measure_objects,
    rows_of,
    write_csv,
)

SPLIT = ObjectSettings(split=True)


def balls(shape: tuple[int, ...], *planted: tuple[Any, ...]) -> np.ndarray:
    """Class 2 within balls (or discs) of (*middle, radius), class 1 around them."""
    axes = np.indices(shape)
    labels = np.ones(shape, np.uint8)
    for *middle, radius in planted:
        squares = sum((axis - at) ** 2 for axis, at in zip(axes, middle, strict=True))
        labels[squares <= radius**2] = 2
    return labels


# Finding ----------------------------------------------------------------------------------------


def test_discs_apart_are_counted_and_numbered_without_gaps() -> None:
    labels = balls((90, 120), (20, 20, 8), (20, 60, 12), (60, 30, 5), (60, 90, 20))
    for settings in (ObjectSettings(), SPLIT):
        objects = find_objects(labels, 2, settings)
        assert objects.dtype == np.int32
        assert np.unique(objects).tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(objects > 0, labels == 2)


@pytest.mark.parametrize("radii", [(10, 10), (8, 24), (40, 25)])
def test_touching_discs_are_split_at_their_neck(radii: tuple[int, int]) -> None:
    a, b = radii
    distance = a + b - round(0.4 * min(radii))
    row, left, right = 50, 45, 45 + distance
    labels = balls((100, 200), (row, left, a), (row, right, b))
    assert find_objects(labels, 2).max() == 1
    objects = find_objects(labels, 2, SPLIT)
    assert objects.max() == 2
    np.testing.assert_array_equal(objects > 0, labels == 2)
    # The chord in which the circles cross, up to a pixel or two.
    chord = left + (distance**2 + a**2 - b**2) / (2 * distance)
    columns = np.arange(200)
    for number, side in (
        (objects[row, left], columns < chord - 2),
        (objects[row, right], columns > chord + 2),
    ):
        assert set(np.unique(objects[:, side])) == {0, number}


def test_many_sizes_and_rough_borders(rng: np.random.Generator) -> None:
    """A chain of touching discs, whose borders wander by a pixel, is taken apart."""
    radii = [5, 9, 16, 30, 14, 7]
    middles = np.cumsum([20, *(0.93 * (a + b) for a, b in pairwise(radii))])
    rows, columns = np.indices((80, int(middles[-1]) + 30))
    wander = ndi.gaussian_filter(rng.normal(size=rows.shape), 2)
    wander *= 0.7 / wander.std()
    inside = [
        np.hypot(rows - 40, columns - x) < r + wander for x, r in zip(middles, radii, strict=True)
    ]
    mask = np.any(inside, 0)
    assert find_objects(mask, 1, ObjectSettings(min_size=20)).max() == 1
    objects = find_objects(mask, 1, ObjectSettings(split=True, min_size=20))
    assert objects.max() == len(radii)
    assert len({objects[40, round(x)] for x in middles}) == len(radii)


def test_a_narrower_neck_is_asked_for() -> None:
    labels = balls((60, 100), (30, 30, 20), (30, 60, 20))
    assert find_objects(labels, 2, SPLIT).max() == 2
    assert find_objects(labels, 2, ObjectSettings(split=True, neck=10)).max() == 1


def test_a_seam_of_lower_probability_splits() -> None:
    labels = np.ones((40, 60), np.uint8)
    labels[10:30, 10:50] = 2
    probabilities = np.where(labels == 2, 0.95, 0.1).astype(np.float32)
    assert find_objects(labels, 2, SPLIT, probabilities).max() == 1
    probabilities[:, 29:31] = 0.55
    assert find_objects(labels, 2, SPLIT).max() == 1
    objects = find_objects(labels, 2, SPLIT, probabilities)
    assert objects.max() == 2
    assert len(np.unique(objects[10:30, 10:29])) == len(np.unique(objects[10:30, 31:50])) == 1


def test_thin_and_tiny_things_survive_splitting() -> None:
    labels = np.ones((20, 40), np.uint8)
    labels[3, 3] = labels[10, 2:38] = 2
    objects = find_objects(labels, 2, SPLIT)
    assert objects.max() == 2
    np.testing.assert_array_equal(objects > 0, labels == 2)


@pytest.mark.parametrize("settings", [ObjectSettings(), SPLIT], ids=["components", "split"])
def test_a_class_that_is_nowhere_or_everywhere(settings: ObjectSettings) -> None:
    labels = np.full((30, 20), 3)
    assert find_objects(labels, 1, settings).max() == 0
    assert (find_objects(labels, 3, settings) == 1).all()


def test_small_objects_are_dropped() -> None:
    labels = balls((60, 60), (15, 15, 4), (40, 40, 10))
    size = int((labels[:30, :30] == 2).sum())
    for settings in (ObjectSettings(), SPLIT):
        changed = make_object_settings(settings, min_size=size)
        assert find_objects(labels, 2, changed).max() == 2
        changed = make_object_settings(settings, min_size=size + 1)
        objects = find_objects(labels, 2, changed)
        assert (objects.max(), objects[15, 15], objects[40, 40]) == (1, 0, 1)


def test_a_splinter_stays_with_its_object() -> None:
    labels = balls((60, 80), (30, 30, 18), (30, 52, 5))
    objects = find_objects(labels, 2, SPLIT)
    assert objects.max() == 2
    small = int((objects == objects[30, 53]).sum())
    objects = find_objects(labels, 2, ObjectSettings(split=True, min_size=small + 1))
    assert objects.max() == 1
    np.testing.assert_array_equal(objects > 0, labels == 2)


def test_objects_at_the_edge_are_dropped_alone() -> None:
    labels = balls((60, 90), (30, 6, 10), (30, 23, 10), (30, 60, 10))
    whole = find_objects(labels, 2, SPLIT)
    assert whole.max() == 3
    objects = find_objects(labels, 2, ObjectSettings(split=True, clear_border=True))
    assert (objects.max(), objects[30, 3]) == (2, 0)
    assert (objects[30, 23], objects[30, 60]) == (1, 2)
    # Not split, the cut one takes its neighbour along.
    assert find_objects(labels, 2, ObjectSettings(clear_border=True)).max() == 1


def test_corners() -> None:
    labels = np.eye(5, dtype=int)
    assert find_objects(labels, 1).max() == 1
    for split in (False, True):
        assert find_objects(labels, 1, ObjectSettings(corners=False, split=split)).max() == 5


def test_a_stack_plane_by_plane_or_as_a_volume() -> None:
    labels = balls((12, 40, 60), (6, 20, 15, 4), (6, 20, 45, 4))
    planes = find_objects(labels, 2)
    volume = find_objects(labels, 2, ObjectSettings(volume=True))
    assert volume.max() == 2
    assert planes.max() == 2 * 9
    assert np.unique(planes).tolist() == list(range(19))
    for k, plane in enumerate(labels):
        np.testing.assert_array_equal(planes[k] > 0, find_objects(plane, 2) > 0)
    # A stack of volumes.
    four = find_objects(np.stack([labels, labels]), 2, ObjectSettings(volume=True))
    np.testing.assert_array_equal(four[0], volume)
    np.testing.assert_array_equal(four[1], np.where(volume, volume + 2, 0))


def test_touching_balls_of_a_volume_with_planes_far_apart() -> None:
    fine = balls((60, 60, 100), (30, 30, 34, 18), (30, 30, 62, 18))
    coarse = fine[6::12]
    settings = ObjectSettings(volume=True, split=True)
    assert find_objects(fine, 2, settings).max() == 2
    # Along its axes the neck is as many voxels wide as the balls.
    assert find_objects(coarse, 2, settings).max() == 1
    objects = find_objects(coarse, 2, settings, pixel_size=(6, 0.5, 0.5))
    assert objects.max() == 2
    assert objects[2, 30, 34] != objects[2, 30, 62]


def test_what_is_read_slice_by_slice() -> None:
    class Lazy:
        """As zarr's arrays: it has a shape, and what slicing gives becomes an array."""

        def __init__(self, array: np.ndarray) -> None:
            self.shape, self._array = array.shape, array
            self.largest = 0

        def __getitem__(self, index: Any) -> np.ndarray:
            part = self._array[index]
            self.largest = max(self.largest, part.size)
            return part

    labels = balls((5, 30, 40), (2, 15, 15, 8), (2, 15, 30, 3))
    lazy: Any = Lazy(labels)
    np.testing.assert_array_equal(find_objects(lazy, 2), find_objects(labels, 2))
    assert measure_classes(lazy, [default_class(2)]) == measure_classes(labels, [default_class(2)])
    assert lazy.largest == 30 * 40


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans()),
    st.sampled_from([0, 1]),
    st.builds(
        ObjectSettings,
        min_size=st.integers(0, 5),
        corners=st.booleans(),
        clear_border=st.booleans(),
    ),
)
def test_flips_change_no_count(mask: np.ndarray, axis: int, settings: ObjectSettings) -> None:
    objects, flipped = (find_objects(one, 1, settings) for one in (mask, np.flip(mask, axis)))
    assert sorted(np.bincount(objects.ravel())) == sorted(np.bincount(flipped.ravel()))
    assert not objects[mask == 0].any()
    structure = np.ones((3, 3)) if settings.corners else None
    # Against scipy: what stays is whole.
    parts, _ = ndi.label(mask, structure)
    for number in range(1, objects.max() + 1):
        (part,) = np.unique(parts[objects == number])
        assert (objects[parts == part] == number).all()


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.booleans()),
    st.integers(0, 6),
    st.booleans(),
)
def test_splitting_divides_components(mask: np.ndarray, min_size: int, corners: bool) -> None:
    whole = find_objects(mask, 1, ObjectSettings(corners=corners))
    settings = ObjectSettings(split=True, corners=corners, min_size=min_size)
    objects = find_objects(mask, 1, settings)
    sizes = np.bincount(objects.ravel())[1:]
    assert (sizes >= max(min_size, 1)).all()
    for number in range(1, objects.max() + 1):
        assert len(np.unique(whole[objects == number])) == 1
    # Of a component that is large enough nothing is lost.
    large = np.bincount(whole.ravel()) >= max(min_size, 1)
    np.testing.assert_array_equal(objects > 0, large[whole] & (whole > 0))


def test_bad_input_is_told() -> None:
    labels = np.ones((4, 5), int)
    for wrong, words in (
        (lambda: find_objects(labels[0], 1), "1 dimensions: objects need two"),
        (lambda: find_objects(labels, 1, ObjectSettings(volume=True)), "a volume need three"),
        (lambda: find_objects(labels[:0], 1), "no pixels"),
        (lambda: find_objects(labels, 1, SPLIT, np.ones((5, 4))), r"\(5, 4\).*\(4, 5\)"),
        (lambda: find_objects(labels, 1, SPLIT, pixel_size=(1,)), "give 2 positive numbers"),
        (lambda: measure_objects(labels, pixel_size=(1, 0)), "give 2 positive numbers"),
        (lambda: measure_objects(labels, intensity=np.ones((5, 4))), r"\(5, 4\).*\(4, 5\)"),
        (lambda: measure_classes(labels, [], pixel_size=(1, 1, 1)), "give 2 positive numbers"),
    ):
        with pytest.raises(ImageError, match=words):
            wrong()
    for changes, words in (
        ({"neck": 0}, "neck"),
        ({"min_size": -1}, "min_size"),
        ({"x": 1}, "x"),
    ):
        with pytest.raises(HRDv2Error, match=words):
            make_object_settings(**changes)
    with pytest.raises(ValidationError, match="frozen"):
        SPLIT.split = False  # type: ignore[misc]


def test_who_gives_up_is_heard() -> None:
    labels = np.ones((3, 4, 5), int)
    for work in (
        lambda stop: find_objects(labels, 1, is_cancelled=stop),
        lambda stop: measure_objects(labels, is_cancelled=stop),
        lambda stop: measure_classes(labels, [default_class(1)], is_cancelled=stop),
    ):
        answers = iter([False, True])
        with pytest.raises(Cancelled):
            work(lambda: next(answers))  # noqa: B023, called at once


# Measuring --------------------------------------------------------------------------------------


def test_areas_are_exact() -> None:
    objects = np.zeros((40, 60), np.int32)
    objects[5:15, 10:40] = 4
    objects[20:24, 50:54] = 9
    image = np.zeros((40, 60))
    image[objects == 4] = 2.5
    table = measure_objects(objects, pixel_size=(0.5, 0.25), unit="µm", intensity=image)
    assert table["label"].tolist() == [4, 9]
    assert table["area_px"].tolist() == [300, 16]
    assert table["area_px"].dtype == np.int64
    assert table["area"].tolist() == [37.5, 2.0]
    assert table["unit"].tolist() == ["µm", "µm"]
    assert (table["y"].tolist(), table["x"].tolist()) == ([9.5, 21.5], [24.5, 51.5])
    assert table["mean_intensity"].tolist() == [2.5, 0]
    np.testing.assert_allclose(table["diameter_px"], np.sqrt(4 / math.pi * np.array([300, 16])))
    np.testing.assert_allclose(table["diameter"], np.sqrt(4 / math.pi * table["area"]))
    # From the moments of 10 by 30 points.
    assert table["major_axis_px"][0] == pytest.approx(4 * math.sqrt((30**2 - 1) / 12))
    assert table["minor_axis_px"][0] == pytest.approx(4 * math.sqrt((10**2 - 1) / 12))
    assert table["eccentricity"][1] == 0


def test_tables_of_volumes_and_stacks() -> None:
    labels = balls((12, 40, 60), (6, 20, 15, 4), (6, 20, 45, 4))
    volume = find_objects(labels, 2, ObjectSettings(volume=True))
    size = int((labels == 2).sum() // 2)
    table = measure_objects(volume, pixel_size=(2, 0.5, 0.5), volume=True)
    assert table["area_px"].tolist() == [size, size]
    assert table["area"].tolist() == [size / 2, size / 2]
    np.testing.assert_allclose(table["diameter"], np.cbrt(6 / math.pi * table["area"]))
    assert [table[axis][1] for axis in "zyx"] == [6, 20, 45]
    assert not {"eccentricity", "unit", "axis_0"} & set(table)
    planes = find_objects(labels, 2)
    colours = np.stack([labels, 3 * labels], -1)
    table = measure_objects(planes, intensity=colours)
    assert table["label"].tolist() == list(range(1, 19))
    assert table["axis_0"].tolist() == np.repeat(range(2, 11), 2).tolist()
    np.testing.assert_array_equal(table["area_px"], np.bincount(planes.ravel())[1:])
    assert set(table["mean_intensity_0"]) == {2}
    assert set(table["mean_intensity_1"]) == {6}
    assert "eccentricity" in table


def test_a_table_of_nothing_has_its_columns() -> None:
    empty = np.zeros((10, 12), np.int32)
    some = measure_objects(np.eye(12, dtype=int), pixel_size=(1, 1), intensity=np.eye(12))
    none = measure_objects(empty, pixel_size=(1, 1), intensity=empty)
    assert list(none) == list(some)
    assert {len(column) for column in none.values()} == {0}


def test_thousands_of_objects_are_quick() -> None:
    labels = np.tile(np.pad(np.ones((8, 8), np.uint8), 4), (64, 64))
    start = time.perf_counter()
    objects = find_objects(labels, 1)
    table = measure_objects(objects)
    rows = measure_classes(labels, [default_class(1)])
    seconds = time.perf_counter() - start
    assert objects.max() == len(table["label"]) == rows[0].objects == 64 * 64
    # A second on a quiet machine; a loop over masks would take a minute.
    assert seconds < 15


def test_classes_of_an_image() -> None:
    labels = balls((50, 80), (20, 20, 8), (20, 60, 12))
    labels[40:] = 0
    small = int((labels[:, :40] == 2).sum())
    both = int((labels == 2).sum())
    classes = [default_class(k) for k in (1, 2, 3)]
    around, discs, nothing = measure_classes(labels, classes, pixel_size=(0.5, 0.5), unit="µm")
    assert (around.pixels, around.objects) == (40 * 80 - both, 1)
    assert (discs.pixels, discs.objects, discs.object_pixels) == (both, 2, both)
    assert discs.area_fraction == both / 4000
    assert discs.row() == {
        "class": "class 2",
        "label": 2,
        "area_px": both,
        "area_fraction": both / 4000,
        "objects": 2,
        "mean_object_px": both / 2,
        "area": both / 4,
        "mean_object_area": both / 8,
        "unit": "µm",
    }
    assert nothing.row() | {"area": None} == {
        "class": "class 3",
        "label": 3,
        "area_px": 0,
        "area_fraction": 0,
        "objects": 0,
        "mean_object_px": None,
        "area": None,
        "mean_object_area": None,
        "unit": "µm",
    }
    # Small ones do not count, but are of the class.
    (discs,) = measure_classes(labels, classes[1:2], ObjectSettings(min_size=small + 1))
    assert (discs.pixels, discs.objects, discs.object_pixels) == (both, 1, both - small)
    assert discs.row()["area"] is None


def test_measures_of_planes_add_up() -> None:
    labels = balls((6, 40, 60), (3, 20, 15, 4), (3, 20, 45, 2))
    classes = [default_class(1), default_class(2)]
    whole = measure_classes(labels, classes)
    summed = measure_classes(labels[0], classes)
    for plane in labels[1:]:
        measures = measure_classes(plane, classes)
        summed = [a + b for a, b in zip(summed, measures, strict=True)]
    assert summed == whole
    (volume,) = measure_classes(labels, classes[1:], ObjectSettings(volume=True))
    assert (volume.objects, volume.pixels) == (2, whole[1].pixels)
    with pytest.raises(ImageError, match="do not add up"):
        whole[0] + whole[1]


# Files ------------------------------------------------------------------------------------------


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "classes.csv"
    labels = balls((50, 80), (20, 20, 8))
    measures = measure_classes(labels, [default_class(2), default_class(3)])
    write_csv(path, [one.row() for one in measures])
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["class 2", "class 3"]
    assert rows[0]["area_px"] == str((labels == 2).sum())
    assert (rows[1]["mean_object_px"], rows[1]["unit"]) == ("", "")
    assert float(rows[0]["area_fraction"]) == measures[0].area_fraction
    table = measure_objects(np.zeros((3, 3), int))
    write_csv(path, rows_of(table), [*table])
    assert path.read_text(encoding="utf-8") == ",".join(table) + "\n"


def test_a_csv_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, [{"a": 1}])
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        write_csv(path, [{"a": 1}, {"a": 1, "b": 2}])
    with pytest.raises(ValueError, match="needs a header"):
        write_csv(path, [])
    assert path.read_text() == "a\n1\n"
    assert list(tmp_path.iterdir()) == [path]
