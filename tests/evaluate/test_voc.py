"""PASCAL VOC: boxes, and clusters matched with classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_hrdv2._cli import main
from napari_hrdv2._evaluate import DataSetError
from napari_hrdv2._evaluate.layout import read_picture
from napari_hrdv2._evaluate.methods import Foreground, Objects, Region, Regions, unpacked
from napari_hrdv2._evaluate.voc import Object, Voc, read_objects
from napari_hrdv2._evaluate.voc_boxes import VocBoxes
from napari_hrdv2._evaluate.voc_clusters import VocClusters
from napari_hrdv2.core.explore import (
    Box,
    Clusters,
    attended_foreground,
    attention_maps,
    component_foreground,
    descriptor,
)
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.refine import Refinement
from napari_hrdv2.core.tokens import Tokens

from .helpers import (
    Stub,
    annotation,
    check_resumes,
    finish,
    rectangle,
    save_image,
    save_noise,
    save_palette,
    voc_object,
    write_list,
)

# --- boxes


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """VOCdevkit with VOC2007: five images of 20 x 30 pixels."""
    root = tmp_path / "VOCdevkit" / "VOC2007"
    write_list(root / "ImageSets/Main/trainval.txt", *"abcde")
    write_list(root / "ImageSets/Main/one.txt", "b  1")
    for k, name in enumerate("abcde"):
        save_image(root / f"JPEGImages/{name}.jpg", 40 * k)
    texts = [
        # Rows 0 to 9 and columns 0 to 9.
        annotation(voc_object(1, 1, 10, 10)),
        annotation(voc_object(1, 1, 30, 20), voc_object(11, 6, 20, 15)),
        annotation(voc_object(1, 1, 10, 10, difficult=1), voc_object(1, 1, 5, 5, truncated=1)),
        annotation(voc_object(1, 1, 30, 20, difficult=1), voc_object(21, 11, 30, 20)),
        annotation(),
    ]
    (root / "Annotations").mkdir()
    for name, text in zip("abcde", texts, strict=True):
        (root / f"Annotations/{name}.xml").write_text(text)
    return tmp_path / "VOCdevkit"


def some_boxes() -> Stub:
    return Stub(
        {
            # 50 of 100 pixels: not above a half. 51 of 100 need the other box.
            0: [Box(0, 0, 5, 10), Box(0, 0, 10, 6)],
            40: [Box(5, 10, 15, 20)],
            80: [Box(0, 0, 10, 10)],
            120: [Box(0, 0, 20, 30), Box(0, 0, 5, 5), Box(9, 20, 20, 30)],
        }
    )


def test_corloc_by_hand(devkit: Path, tmp_path: Path) -> None:
    boxes = some_boxes()
    evaluation = VocBoxes(Voc(devkit, "Main", "trainval"), boxes)
    _, document = finish(evaluation, tmp_path / "out.json")
    # c has nothing but hard objects, e none: neither is looked at.
    assert boxes.seen == [0, 40, 120]
    assert [row["iou"] for row in document["rows"]] == [
        [0.5, 0.6],
        [1.0],
        [],
        [100 / 600, 0.0, 100 / 110],
        [],
    ]
    assert document["rows"][0]["truth"] == [[0, 0, 10, 10]]
    assert document["summary"] == {
        "CorLoc": 1.0,
        "CorLoc of the largest region's box alone": 1 / 3,
        "boxes per image": 2.0,
        "images with an object": 3,
    }
    assert document["settings"] == {
        "limit": None,
        "year": 2007,
        "split": "trainval",
        "keep_hard": False,
        "method": "stub",
    }
    assert document["authors"]["figures"] == {"CorLoc": 0.716}


def test_hard_objects_count_where_asked_for(devkit: Path, tmp_path: Path) -> None:
    boxes = some_boxes()
    boxes.answers[120].pop()
    evaluation = VocBoxes(Voc(devkit, "Main", "trainval"), boxes, keep_hard=True)
    _, document = finish(evaluation, tmp_path / "out.json")
    assert [row["iou"] for row in document["rows"]][2:] == [[1.0], [1.0, 25 / 600], []]
    assert document["summary"]["CorLoc"] == 1.0
    assert document["summary"]["images with an object"] == 4


def test_half_is_a_miss(devkit: Path, tmp_path: Path) -> None:
    boxes = Stub({0: [Box(0, 0, 5, 10)]})
    evaluation = VocBoxes(Voc(devkit, "Main", "trainval"), boxes, limit=1)
    _, document = finish(evaluation, tmp_path / "out.json")
    assert document["rows"][0]["iou"] == [0.5]
    assert document["summary"]["CorLoc"] == 0


def test_an_image_without_boxes_is_a_miss(devkit: Path, tmp_path: Path) -> None:
    evaluation = VocBoxes(Voc(devkit, "Main", "trainval"), Stub(dict.fromkeys((0, 40, 120), ())))
    _, document = finish(evaluation, tmp_path / "out.json")
    assert document["summary"]["CorLoc"] == document["summary"]["boxes per image"] == 0


def test_no_image_with_an_object(devkit: Path, tmp_path: Path) -> None:
    write_list(devkit / "VOC2007/ImageSets/Main/trainval.txt", "c", "e")
    _, document = finish(VocBoxes(Voc(devkit, "Main", "trainval"), Stub({})), tmp_path / "out.json")
    assert document["summary"] == {"images with an object": 0}


def test_the_folder_of_a_year_another_list_and_a_limit(devkit: Path, tmp_path: Path) -> None:
    other = devkit / "VOC2012"
    (devkit / "VOC2007").rename(other)
    found = VocBoxes(Voc(other, "Main", "one"), some_boxes())
    assert found.items == ["b"]
    assert found.authors.figures == {"CorLoc": 0.725}
    assert VocBoxes(Voc(devkit, "Main", "trainval"), some_boxes(), limit=2).items == ["a", "b"]


def test_boxes_resume(devkit: Path, tmp_path: Path) -> None:
    check_resumes(
        lambda: VocBoxes(Voc(devkit, "Main", "trainval"), some_boxes()), tmp_path / "out", 5
    )


def test_objects_of_an_annotation(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        annotation(voc_object(1, 2, 30, 4), voc_object(2.7, 1, 3.2, 9, truncated=1)).replace(
            "<truncated>0</truncated><difficult>0</difficult>", ""
        )
    )
    assert read_objects(path) == [
        Object(Box(1, 0, 4, 30), False),
        Object(Box(0, 2, 9, 3), True),
    ]


ENTITIES = '<!DOCTYPE a [<!ENTITY b "bb">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<annotation><object>", "no element|mismatched|unclosed"),
        ("", "no element"),
        (annotation("<object><name>cat</name></object>"), "no bndbox/xmin"),
        (annotation(voc_object(5, 1, 4, 2)), r"from \(5, 1\) to \(4, 2\)"),
        (annotation(voc_object(0, 1, 4, 2)), r"from \(0, 1\)"),
        (annotation(voc_object(float("nan"), 1, 4, 2)), "is nan"),
        (annotation(voc_object(1, 1, 4, 2)).replace(">4<", ">four<"), "four"),
        (ENTITIES, "defines entities"),
        ("<annotation>" + " " * (1 << 20) + "</annotation>", "too large"),
        ("\xff\xfe", "utf-8"),
    ],
)
def test_a_broken_annotation_is_left_out_by_name(
    devkit: Path, tmp_path: Path, text: str, told: str
) -> None:
    path = devkit / "VOC2007/Annotations/b.xml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataSetError, match=rf"b\.xml cannot be read: .*({told})"):
        read_objects(path)
    events, document = finish(
        VocBoxes(Voc(devkit, "Main", "trainval"), some_boxes()), tmp_path / "out.json"
    )
    assert [one.item for one in events if one.kind == "skipped"] == ["b"]
    assert "b.xml" in document["skipped"][0]["why"]
    assert document["summary"]["images with an object"] == 2


def test_a_broken_image_is_left_out_by_name(devkit: Path, tmp_path: Path) -> None:
    path = devkit / "VOC2007/JPEGImages/d.jpg"
    path.write_bytes(path.read_bytes()[:200])
    _, document = finish(
        VocBoxes(Voc(devkit, "Main", "trainval"), some_boxes()), tmp_path / "out.json"
    )
    (skipped,) = document["skipped"]
    assert skipped["item"] == "d"
    assert "d.jpg cannot be read" in skipped["why"]


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("", r"there is no folder \S*VOCdevkit"),
        ("VOC2007", r"VOCdevkit is neither VOCdevkit nor VOC2007 or VOC2012"),
        ("VOC2007/Annotations", r"VOC2007 lacks Annotations"),
        ("VOC2007/JPEGImages", r"VOC2007 lacks JPEGImages"),
        ("VOC2007/ImageSets", r"VOC2007 lacks ImageSets/Main"),
        ("VOC2007/ImageSets/Main/trainval.txt", r"the list \S*trainval.txt is missing"),
        ("VOC2007/JPEGImages/c.jpg", r"of 10 files .* 1 are missing: \S*c\.jpg;"),
        ("VOC2007/Annotations/a.xml", r"of 10 files .* 1 are missing: \S*a\.xml;"),
    ],
)
def test_what_is_missing_is_told_by_name(
    devkit: Path, tmp_path: Path, lost: str, told: str
) -> None:
    (devkit / lost).rename(tmp_path / "lost")
    boxes = some_boxes()
    with pytest.raises(DataSetError, match=told):
        finish(VocBoxes(Voc(devkit, "Main", "trainval"), boxes), tmp_path / "out.json")
    assert not boxes.seen


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"\xff\xfe\x00", "no text"),
        (b"a\nb\na", "a twice"),
    ],
)
def test_a_broken_list_is_told_by_name(
    devkit: Path, tmp_path: Path, content: bytes, told: str
) -> None:
    (devkit / "VOC2007/ImageSets/Main/trainval.txt").write_bytes(content)
    with pytest.raises(DataSetError, match=told):
        finish(VocBoxes(Voc(devkit, "Main", "trainval"), some_boxes()), tmp_path / "out.json")


def test_which_year_must_be_clear(devkit: Path) -> None:
    with pytest.raises(DataSetError, match="not VOC2012, nor"):
        Voc(devkit, "Main", "trainval", 2012).names  # noqa: B018
    with pytest.raises(DataSetError, match="2007 or 2012, not 2010"):
        Voc(devkit, "Main", "trainval", 2010).names  # noqa: B018
    (devkit / "VOC2012").mkdir()
    with pytest.raises(DataSetError, match="both years: choose one with --year"):
        Voc(devkit, "Main", "trainval").names  # noqa: B018
    assert Voc(devkit, "Main", "trainval", 2007).known_year == 2007


# --- clusters


def axis(k: int) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[k]


def region(mask: np.ndarray, k: int) -> Region:
    return Region(np.argwhere(mask), axis(k))


UPPER, LOWER = rectangle(0, 0, 10, 10), rectangle(10, 0, 20, 10)


@pytest.fixture
def voc2012(tmp_path: Path) -> Path:
    """VOC2012 with three images of 20 x 30 pixels; classes 0, 8 and 12; a strip is ignored."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    write_list(root / "ImageSets/Segmentation/val.txt", *"abc")
    for k, name in enumerate("abc"):
        save_image(root / f"JPEGImages/{name}.jpg", 40 * k)
        labels = np.zeros((20, 30), int)
        labels[UPPER] = [8, 12, 8][k]
        labels[LOWER] = [0, 8, 0][k]
        labels[:, 29] = 255
        save_palette(root / f"SegmentationClass/{name}.png", labels)
    return tmp_path / "VOCdevkit"


def some_regions() -> Stub:
    return Stub(
        {
            0: [region(rectangle(0, 0, 4, 10), 0), region(rectangle(4, 0, 10, 10), 0)],
            40: [region(UPPER, 1), region(LOWER, 0)],
            # Of class 8, but like those of class 12.
            80: [region(rectangle(0, 0, 10, 5), 1)],
        }
    )


def test_accuracy_and_mean_iou_by_hand(voc2012: Path, tmp_path: Path) -> None:
    evaluation = VocClusters(Voc(voc2012, "Segmentation", "val"), some_regions(), 2)
    _, document = finish(evaluation, tmp_path / "out.json")
    summary = document["summary"]
    # Background is 480 + 380 + 480 pixels, and 50 of class 8 were taken for it.
    assert summary["pixel accuracy"] == (1340 + 200 + 100) / 1740
    assert summary["IoU background"] == 1340 / 1390
    assert summary["IoU cat"] == 200 / 300
    assert summary["IoU dog"] == 100 / 150
    assert summary["IoU person"] is None
    assert summary["mean IoU"] == pytest.approx((1340 / 1390 + 200 / 300 + 100 / 150) / 3)
    assert summary["regions per image"] == 5 / 3
    assert summary["background is matched with"] == "background"
    assert set(document["rows"][0]) == {"item", "background", "regions"}
    assert document["authors"] is None


def test_more_clusters_than_classes_cost(voc2012: Path, tmp_path: Path) -> None:
    regions = some_regions()
    regions.answers = {
        0: [Region(np.array([[0, k]]), np.eye(30, dtype=np.float32)[k]) for k in range(10)],
        40: [Region(np.array([[0, k]]), np.eye(30, dtype=np.float32)[10 + k]) for k in range(10)],
        80: [Region(np.array([[0, k]]), np.eye(30, dtype=np.float32)[20 + k]) for k in range(10)],
    }
    evaluation = VocClusters(Voc(voc2012, "Segmentation", "val"), regions, 30)
    _, document = finish(evaluation, tmp_path / "out.json")
    # The clusters of one pixel each: one is matched with class 8, one with 12, 28 are wrong.
    assert document["summary"]["pixel accuracy"] == (1340 + 2) / 1740
    assert document["summary"]["IoU dog"] == 1 / 100


def test_no_regions_are_all_background(voc2012: Path, tmp_path: Path) -> None:
    evaluation = VocClusters(Voc(voc2012, "Segmentation", "val"), Stub({0: (), 40: (), 80: ()}))
    _, document = finish(evaluation, tmp_path / "out.json")
    assert document["summary"]["pixel accuracy"] == 1340 / 1740


def test_clusters_resume(voc2012: Path, tmp_path: Path) -> None:
    data = Voc(voc2012, "Segmentation", "val")
    check_resumes(lambda: VocClusters(data, some_regions(), 2), tmp_path / "out", 3)


def test_broken_segmentations_are_left_out_by_name(voc2012: Path, tmp_path: Path) -> None:
    folder = voc2012 / "VOC2012/SegmentationClass"
    save_palette(folder / "a.png", np.full((20, 30), 21))
    save_palette(folder / "b.png", np.zeros((20, 31)))
    evaluation = VocClusters(Voc(voc2012, "Segmentation", "val"), some_regions(), 2)
    _, document = finish(evaluation, tmp_path / "out.json")
    assert [one["item"] for one in document["skipped"]] == ["a", "b"]
    assert "a.png has other labels" in document["skipped"][0]["why"]
    assert "b.png is (20, 31), its image (20, 30)" in document["skipped"][1]["why"]
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:60])
    _, document = finish(evaluation, tmp_path / "out.json", overwrite=True)
    assert "a.png cannot be read" in document["skipped"][0]["why"]


# --- with a backbone


@pytest.fixture
def real_layout(tmp_path: Path) -> Path:
    """VOC2012 with both tasks, two images with something in them."""
    root = tmp_path / "VOC2012"
    for task, split in (("Main", "trainval"), ("Segmentation", "val")):
        write_list(root / f"ImageSets/{task}/{split}.txt", "a", "b")
    (root / "Annotations").mkdir()
    for k, name in enumerate("ab"):
        save_noise(root / f"JPEGImages/{name}.jpg", k)
        (root / f"Annotations/{name}.xml").write_text(annotation(voc_object(15, 15, 42, 42)))
        labels = 8 * rectangle(14, 14, 42, 42, (56, 70))
        save_palette(root / f"SegmentationClass/{name}.png", labels)
    return root


@pytest.mark.parametrize("kind", ["attention", "component"])
@pytest.mark.parametrize("refinement", [Refinement(), Refinement(guided=4, min_size=20)])
def test_boxes_and_regions_are_of_the_foreground(
    real_layout: Path,
    make_extractor: Callable[..., FeatureExtractor],
    kind: str,
    refinement: Refinement,
) -> None:
    extractor = make_extractor(passes=1)
    image = read_picture(real_layout / "JPEGImages/a.jpg")
    objects = Objects(extractor, kind, 6, refinement)
    tokens, labels = objects.find(image, apart=True)
    assert labels.shape == (56, 70) == tokens.image_shape
    assert 0 < (labels != 0).mean() < 1
    found = objects(image)
    assert found
    inside = np.argwhere(labels != 0)
    assert min(box.top for box in found) >= inside[:, 0].min()
    assert max(box.right for box in found) <= inside[:, 1].max() + 1
    for one in Regions(extractor, kind, 6, refinement)(image):
        assert (labels != 0)[tuple(one.pixels.T)].all()
        assert np.linalg.norm(one.descriptor) == pytest.approx(1, abs=1e-5)


def test_regions_are_connected_and_of_more_than_200_pixels(
    make_extractor: Callable[..., FeatureExtractor], rng: np.random.Generator
) -> None:
    masks = [rectangle(*corners, (56, 70)) for corners in ((0, 0, 10, 20), (20, 0, 23, 67))]
    image = rng.integers(0, 255, (56, 70)).astype(np.uint8)

    class Known(Regions):
        def find(self, image: np.ndarray, *, apart: bool = False) -> tuple[Tokens, np.ndarray]:
            return self.extractor.extract(image), (masks[0] | masks[1]).astype(int)

    found = Known(make_extractor(passes=1))
    (one,) = found(image)
    np.testing.assert_array_equal(one.pixels, np.argwhere(masks[1]))
    expected = descriptor(found.extractor.extract(image), masks[1])
    np.testing.assert_array_equal(unpacked(one.packed()), expected)


def test_the_foreground_is_that_of_the_core(
    make_extractor: Callable[..., FeatureExtractor], real_layout: Path
) -> None:
    extractor, image = make_extractor(passes=1), read_picture(real_layout / "JPEGImages/a.jpg")
    tokens = extractor.extract(image)
    clusters = Clusters.fit([tokens], 6)
    attention = attention_maps(extractor.facets(image, "attention")).together
    expected = {
        "attention": attended_foreground(clusters.assign(tokens), attention),
        "component": component_foreground(tokens, image),
    }
    for kind, mask in expected.items():
        np.testing.assert_array_equal(Foreground(extractor, kind, 6)(image), mask)
        refined = Foreground(extractor, kind, 6, Refinement(guided=3))(image)
        assert 0.8 < (refined == mask).mean() < 1


@pytest.mark.parametrize("command", ["voc-boxes", "voc-clusters"])
def test_the_commands_score_and_go_on(
    real_layout: Path,
    tmp_path: Path,
    tiny_weights: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    out = tmp_path / "out.json"
    options = ["-o", str(out), "--weights", str(tiny_weights), "--passes", "1", "--clusters", "6"]
    assert main(["evaluate", command, str(real_layout), *options]) == 0
    printed = capsys.readouterr()
    figure = "CorLoc" if command == "voc-boxes" else "pixel accuracy"
    assert figure in printed.out
    assert ("theirs (HR-Dv2" in printed.out) == (command == "voc-boxes")
    document = json.loads(out.read_text())
    assert document["settings"]["features"]["weights_sha256"]
    assert document["settings"]["features"]["filters"] is False
    first = out.read_bytes()
    assert main(["evaluate", command, str(real_layout), *options]) == 0
    assert "is there already" in capsys.readouterr().err
    assert main(["evaluate", command, str(real_layout), *options, "--overwrite"]) == 0
    assert out.read_bytes() == first
    capsys.readouterr()
    assert main(["evaluate", command, str(real_layout), *options, "--method", "component"]) == 2
    assert "method attention, now component" in capsys.readouterr().err
