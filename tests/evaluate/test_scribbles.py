"""Strokes on images of known colours, in folders that the tests write."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_hrdv2._evaluate import run
from napari_hrdv2._evaluate.layout import DataSetError
from napari_hrdv2._evaluate.scribbles import Scribbles, find_files, parted
from napari_hrdv2.core.simulate import simulate_strokes

from .pixels import PixelExtractor

# Of every label; one feature of pixels each tells it from the others.
COLOURS = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)


def stripes(*labels, side=40):
    return np.repeat(labels, side // len(labels))[:, None].repeat(side, 1).astype(np.uint8)


def write(folder, name, truth, image=None, strokes=None):
    folder.mkdir(exist_ok=True)
    image = COLOURS[truth] if image is None else image
    Image.fromarray(image).save(folder / f"{name}.png")
    tifffile.imwrite(folder / f"{name}_truth.tif", truth)
    if strokes is not None:
        Image.fromarray(strokes).save(folder / f"{name}_strokes.png")


@pytest.fixture
def folder(tmp_path):
    for name, labels in {"a": (1, 2, 3, 1), "b": (3, 1, 2, 2), "c": (2, 1, 3, 1)}.items():
        write(tmp_path / "data", name, stripes(*labels))
    return tmp_path / "data"


def make(folder, **changes):
    return Scribbles(data=folder, extractor=PixelExtractor(), **changes)


def finished(evaluation, output):
    events = list(run(evaluation, output))
    return events, json.loads(output.read_text())


def test_each_image_from_its_own_strokes(folder, tmp_path):
    evaluation = make(folder, fractions=(0.1, 0.2), seeds=2)
    _, document = finished(evaluation, tmp_path / "out.json")
    assert [row["item"] for row in document["rows"][:4]] == [
        "a, 10 %, seed 0",
        "a, 10 %, seed 1",
        "a, 20 %, seed 0",
        "a, 20 %, seed 1",
    ]
    assert len(document["rows"]) == 12
    assert document["summary"]["mean IoU, 10 %"] == 1
    assert document["summary"]["IoU 3, 20 %"] == 1
    truth = stripes(1, 2, 3, 1)
    assert document["rows"][2]["painted"] == (simulate_strokes(truth, 0.2, 0) > 0).sum()
    # However often an image is segmented, it is looked at once.
    assert evaluation.extractor.seen == 3


def test_mean_iou_of_planted_mistakes(folder, tmp_path):
    # Half of what looks like class 3 is class 1, and the strokes of a person do not tell.
    truth = stripes(1, 2, 3, 1)
    image = COLOURS[truth]
    planted = truth.copy()
    planted[20:30, 20:] = 1
    planted[:2] = 0
    strokes = np.zeros_like(truth)
    for row, label in ((5, 1), (15, 2), (25, 3)):
        strokes[row, 2:18] = label
    write(folder, "a", planted, image, strokes)
    _, document = finished(make(folder, limit=1), tmp_path / "out.json")
    (row,) = document["rows"]
    assert (row["item"], row["strokes"], row["painted"]) == ("a, drawn, seed 0", "drawn", 48)
    # Class 1: 8 + 10 rows of 40 right, 200 missed; class 2: all 400; class 3: 200 of 400 found.
    assert row["iou"] == {"1": pytest.approx(720 / 920), "2": 1.0, "3": 0.5}
    assert row["mean_iou"] == pytest.approx((720 / 920 + 1 + 0.5) / 3)
    assert row["accuracy"] == pytest.approx(1320 / 1520)
    assert document["summary"]["mean IoU, drawn"] == row["mean_iou"]


def test_trained_on_some_the_others_segmented(folder, tmp_path):
    evaluation = make(folder, fractions=(0.03,), seeds=3, training=2)
    _, document = finished(evaluation, tmp_path / "out.json")
    assert len(document["rows"]) == 3
    for row in document["rows"]:
        train, rest = parted(3, 2, row["seed"])
        assert row["trained_on"] == ["abc"[k] for k in sorted(train)]
        assert [row["image"]] == ["abc"[k] for k in rest]
        assert row["mean_iou"] == 1
    assert {row["image"] for row in document["rows"]} != {"a"}


def test_strokes_of_a_person_are_taken_unless_told_otherwise(folder, tmp_path):
    truth = stripes(3, 1, 2, 2)
    write(folder, "b", truth, strokes=np.where(np.eye(40), truth, 0).astype(np.uint8))
    _, document = finished(make(folder, seeds=2), tmp_path / "out.json")
    ways = {row["item"]: row["strokes"] for row in document["rows"]}
    assert list(ways) == [
        *("a, 0.5 %, seed 0", "a, 0.5 %, seed 1", "b, drawn, seed 0"),
        *("c, 0.5 %, seed 0", "c, 0.5 %, seed 1"),
    ]
    assert next(row for row in document["rows"] if row["image"] == "b")["painted"] == 40
    assert set(document["summary"]) >= {"mean IoU, drawn", "mean IoU, 0.5 %"}
    _, document = finished(make(folder, simulate=True), tmp_path / "simulated.json")
    assert {row["strokes"] for row in document["rows"]} == {0.005}


@pytest.mark.parametrize("training", [0, 1])
@pytest.mark.parametrize("after", [1, 3, 5])
def test_goes_on_to_the_same_file(folder, tmp_path, make_extractor, training, after):
    rng = np.random.default_rng(0)
    for path in folder.glob("?.png"):
        noisy = np.asarray(Image.open(path)) + rng.integers(0, 50, (40, 40, 3))
        Image.fromarray(noisy.astype(np.uint8)).save(path)

    def evaluation():
        extractor = make_extractor(passes=2, filters=True, precision="auto")
        options = {"fractions": (0.05,), "seeds": 2, "training": training}
        return Scribbles(data=folder, extractor=extractor, **options)

    finished(evaluation(), tmp_path / "straight.json")
    steps = run(evaluation(), tmp_path / "out.json")
    # With one image to train on, an image is in the middle of a trial.
    for _ in range(min(after, len(evaluation().items) - 1)):
        next(steps)
    steps.close()
    events, document = finished(evaluation(), tmp_path / "out.json")
    assert events[0].kind == "kept"
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "straight.json").read_bytes()
    assert 0.3 < document["summary"]["mean IoU, 5 %"] < 1
    if not training:
        # Other strokes, other mistakes.
        first, second = document["rows"][:2]
        assert (first["image"], first["seed"]) == (second["image"], second["seed"] - 1)
        assert first["iou"] != second["iou"]


def test_what_is_missing_is_told_by_name(folder, tmp_path):
    with pytest.raises(DataSetError, match="is no folder"):
        find_files(tmp_path / "nowhere")
    (folder / "b.png").rename(folder / "b.jpg")
    (folder / "b.jpg").with_suffix(".png").write_bytes(b"")
    with pytest.raises(DataSetError, match=r"2 files b\.\*"):
        finished(make(folder), tmp_path / "out.json")
    (folder / "b.jpg").unlink()
    (folder / "b.png").unlink()
    with pytest.raises(DataSetError, match=r"0 files b\.\*"):
        finished(make(folder), tmp_path / "out.json")
    for path in folder.glob("*_truth.tif"):
        path.unlink()
    with pytest.raises(DataSetError, match="holds no truths"):
        finished(make(folder), tmp_path / "out.json")


def test_too_few_images_to_train_on_some(folder, tmp_path):
    with pytest.raises(DataSetError, match="of 3 images, 3 to train on leave none"):
        finished(make(folder, training=3), tmp_path / "out.json")


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        (np.ones((40, 40), np.uint8), "fewer than two classes"),
        (np.ones((40, 39), np.uint8), "the truth of .*b_truth.tif have shape"),
        (np.full((40, 40), 0.5, np.float32), "truth must be whole numbers"),
        (np.array([[-1, 2]] * 800).reshape(40, 40), "holds the label -1"),
    ],
)
def test_truths_that_cannot_be_used_are_told_and_left_out(folder, tmp_path, truth, words):
    tifffile.imwrite(folder / "b_truth.tif", truth)
    _, document = finished(make(folder), tmp_path / "out.json")
    (skipped,) = document["skipped"]
    assert skipped["item"] == "b, 0.5 %, seed 0"
    assert re.search(words, skipped["why"])
    assert len(document["rows"]) == 2


def test_an_image_that_is_broken_is_told_and_left_out(folder, tmp_path):
    (folder / "c.png").write_bytes(b"no image")
    _, document = finished(make(folder), tmp_path / "out.json")
    (skipped,) = document["skipped"]
    assert "c.png" in skipped["why"]


def test_strokes_of_one_class_are_told(folder, tmp_path):
    truth = stripes(3, 1, 2, 2)
    write(folder, "b", truth, strokes=np.where(truth == 2, truth, 0).astype(np.uint8))
    _, document = finished(make(folder), tmp_path / "out.json")
    (skipped,) = document["skipped"]
    assert "strokes on b: only class 2 is painted" in skipped["why"]
