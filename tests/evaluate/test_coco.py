"""The probe on a COCO-Stuff of a few images whose classes are their colours."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from napari_hrdv2._evaluate import run
from napari_hrdv2._evaluate.coco import (
    CLASSES,
    COARSE_OF_FINE,
    COARSE_OF_TRAIN_ID,
    CocoProbe,
)
from napari_hrdv2._evaluate.layout import DataSetError
from napari_hrdv2.core.errors import HRDv2Error, ImageWarning

from .pixels import PixelExtractor

SIDE = 32
# Ids of person, cat, sky-other and water-other in the PNGs, and a colour for each.
PERSON, CAT, SKY, WATER = 0, 16, 156, 178
COLOURS = {PERSON: (250, 5, 5), CAT: (5, 250, 5), SKY: (5, 5, 250), WATER: (250, 250, 5)}
UNLABELLED = 255


def written(root, split, name, ids, truth=None, suffix=""):
    """An image of the colours of the ids, and its annotation."""
    ids = np.kron(ids, np.ones((16, 16), int))
    truth = ids if truth is None else np.kron(truth, np.ones((16, 16), int))
    pixels = np.zeros((*ids.shape, 3), np.uint8)
    for one, colour in COLOURS.items():
        pixels[ids == one] = colour
    for kind, array, file in (
        ("images", pixels, f"{name}.jpg"),
        ("annotations", truth.astype(np.uint8), f"{name}{suffix}.png"),
    ):
        path = root / kind / split / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, quality=95, subsampling=0)


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "cocostuff"
    layouts = (
        [[PERSON, CAT], [SKY, WATER]],
        [[WATER, SKY], [CAT, PERSON]],
        [[PERSON, PERSON], [SKY, CAT]],
        [[CAT, WATER], [WATER, SKY]],
        [[SKY, PERSON], [WATER, CAT]],
    )
    for k, ids in enumerate(layouts):
        written(root, "train2017", f"{k:012}", np.array(ids))
    written(root, "val2017", "000000000100", np.array([[PERSON, SKY], [CAT, WATER]]))
    written(root, "val2017", "000000000200", np.array([[WATER, SKY], [SKY, CAT]]))
    return root


def make(data, **changes):
    options = {"side": SIDE, "epochs": 3, "chunk": 2, "learning_rate": 0.05}
    return CocoProbe(data=data, extractor=PixelExtractor(), **options | changes)


def finished(evaluation, output, **options):
    events = list(run(evaluation, output, **options))
    return events, json.loads(output.read_text())


def test_ids_as_in_the_hierarchy():
    assert len(CLASSES) == 27
    names = {
        0: "person-things",  # person
        2: "vehicle-things",  # car
        16: "animal-things",  # cat
        66: "furniture-things",  # dining table
        91: "textile-stuff",  # banner
        105: "sky-stuff",  # clouds
        123: "plant-stuff",  # grass
        156: "sky-stuff",  # sky-other
        178: "water-stuff",  # waterdrops
        181: "solid-stuff",  # wood
    }
    for fine, name in names.items():
        assert CLASSES[COARSE_OF_FINE[fine]] == name
    assert (COARSE_OF_FINE[:182] >= 0).all()
    assert (COARSE_OF_FINE[182:] == -1).all()
    # Train ids leave out the 11 things that were never annotated, such as 11, a street sign.
    assert COARSE_OF_TRAIN_ID[10] == COARSE_OF_FINE[10]
    assert COARSE_OF_TRAIN_ID[11] == COARSE_OF_FINE[12]
    assert CLASSES[COARSE_OF_TRAIN_ID[79]] == "indoor-things"  # toothbrush, the last thing
    assert CLASSES[COARSE_OF_TRAIN_ID[80]] == "textile-stuff"  # banner, the first stuff
    assert CLASSES[COARSE_OF_TRAIN_ID[170]] == "solid-stuff"
    assert (COARSE_OF_TRAIN_ID[171:] == -1).all()


def test_colours_are_learnt_without_a_mistake(data, tmp_path):
    _, document = finished(make(data, epochs=12), tmp_path / "out.json")
    summary = document["summary"]
    assert summary["pixel accuracy"] == 1
    assert summary["mean IoU"] == 1
    assert (summary["images learnt from"], summary["images scored"]) == (5, 2)
    assert [name for name, iou in summary.items() if name.startswith("IoU ") and iou] == [
        "IoU animal-things",
        "IoU person-things",
        "IoU sky-stuff",
        "IoU water-stuff",
    ]
    losses = [row["loss"] for row in document["rows"] if "loss" in row]
    assert losses[-1] < 0.1 * losses[0]
    assert document["authors"]["figures"] == {"pixel accuracy": 0.651, "mean IoU": 0.406}


def test_mean_iou_of_planted_mistakes(data, tmp_path):
    # What looks like a cat is said to be a person in one quarter, and one is not labelled.
    written(
        data,
        "val2017",
        "000000000100",
        np.array([[PERSON, SKY], [CAT, WATER]]),
        np.array([[PERSON, UNLABELLED], [PERSON, WATER]]),
    )
    _, document = finished(make(data, epochs=12), tmp_path / "out.json")
    summary = document["summary"]
    # 7 quarters are known, 6 right. Person: 1 of 2; cat: 1 of 2; sky: 2 of 2; water: 2 of 2.
    assert summary["pixel accuracy"] == pytest.approx(6 / 7)
    assert summary["IoU person-things"] == summary["IoU animal-things"] == 0.5
    assert summary["IoU sky-stuff"] == summary["IoU water-stuff"] == 1
    assert summary["mean IoU"] == 0.75
    first = next(row for row in document["rows"] if row["item"] == "000000000100")
    assert (first["accuracy"], first["pixels"]) == (pytest.approx(2 / 3), 3 * 16 * 16)


def test_train_ids_are_the_same(data, tmp_path):
    _, document = finished(make(data), tmp_path / "out.json")
    train_ids = {0: 0, 16: 15, 156: 145, 178: 167}
    for file in data.glob("annotations/*/*.png"):
        ids = np.array(Image.open(file))
        for fine, other in train_ids.items():
            ids[ids == fine] = other
        file.unlink()
        Image.fromarray(ids).save(file.with_name(f"{file.stem}_labelTrainIds.png"))
    _, other = finished(make(data), tmp_path / "other.json")
    assert other["rows"] == document["rows"]
    assert other["summary"] == document["summary"]


@pytest.mark.parametrize("after", [1, 2, 4, 7, 10])
def test_goes_on_to_the_same_file(data, tmp_path, after):
    straight, output = tmp_path / "straight.json", tmp_path / "out.json"
    finished(make(data), straight)
    steps = run(make(data), output)
    for _ in range(after):
        next(steps)
    steps.close()
    again = make(data)
    events, _ = finished(again, output)
    assert [one.kind for one in events[:after]] == ["kept"] * after
    assert output.read_bytes() == straight.read_bytes()
    # 9 items of the training: 15 images learnt from, then 2 to score.
    assert again.extractor.seen == sum((2, 2, 1) * 3 + (1, 1)) - sum(
        ((2, 2, 1) * 3 + (1, 1))[:after]
    )
    assert not output.with_suffix(".partial").exists()


def test_a_state_that_is_lost_is_made_again(data, tmp_path):
    straight, output = tmp_path / "straight.json", tmp_path / "out.json"
    finished(make(data), straight)
    steps = run(make(data), output)
    for _ in range(5):
        next(steps)
    steps.close()
    states = sorted(output.with_suffix(".partial").glob("*.safetensors"))
    assert [one.name for one in states] == ["probe-4.safetensors", "probe-5.safetensors"]
    states[1].write_bytes(b"torn")
    events, _ = finished(make(data), output)
    assert [one.kind for one in events[:6]] == ["kept"] * 4 + ["measured"] * 2
    assert output.read_bytes() == straight.read_bytes()


def test_a_probe_that_was_interrupted_within_an_item_begins_it_again(data, tmp_path, monkeypatch):
    straight, output = tmp_path / "straight.json", tmp_path / "out.json"
    finished(make(data, chunk=4), straight)
    evaluation = make(data, chunk=4)
    extract, calls = evaluation.extractor.extract, []

    def failing(image, **options):
        calls.append(1)
        if len(calls) == 8:
            raise HRDv2Error("the device is gone")
        return extract(image, **options)

    monkeypatch.setattr(evaluation.extractor, "extract", failing)
    with pytest.raises(HRDv2Error, match="gone"):
        finished(evaluation, output)
    finished(evaluation, output)
    assert output.read_bytes() == straight.read_bytes()


def test_images_are_resized_and_cropped_as_torchvision_does():
    evaluation = make(None, side=10)
    ramp = np.arange(48, dtype=np.uint8)[:, None].repeat(30, 1)
    cropped = np.array(evaluation._cropped(Image.fromarray(ramp), Image.Resampling.NEAREST))
    # 30 x 48 becomes 10 x 16, of which rows 3 to 12 are kept: centres of three rows each.
    assert cropped[:, 0].tolist() == [3 * (3 + k) + 1 for k in range(10)]


def test_photographs_are_seen_as_they_are_and_labels_are_not_blended(data):
    sky = np.full((40, 60, 3), 90, np.uint8)
    Image.fromarray(sky).save(data / "images" / "val2017" / "000000000100.jpg", quality=100)
    ids = np.full((40, 60), SKY, np.uint8)
    ids[::2] = PERSON
    Image.fromarray(ids).save(data / "annotations" / "val2017" / "000000000100.png")
    piece, classes = make(data)._read("val2017", "000000000100")
    assert piece.levels.tolist() == [[0, 255]]
    assert piece.pixels.shape == (SIDE, SIDE, 3)
    assert (piece.pixels == 90).all()
    assert set(np.unique(classes)) == {COARSE_OF_FINE[SKY], COARSE_OF_FINE[PERSON]}


def test_every_epoch_goes_over_the_same_images_in_another_order(data):
    evaluation = make(data, train_images=4, chunk=4)
    orders = list(evaluation._training.values())
    assert len(orders) == 3
    assert len({tuple(sorted(one)) for one in orders}) == 1
    assert len({tuple(one) for one in orders}) > 1
    # Steps of two images are not cut in pieces.
    assert [len(one) for one in make(data, chunk=3, epochs=1)._training.values()] == [2, 2, 1]


def test_lists_say_what_is_used(data, tmp_path):
    for split, names in (
        ("train2017", "000000000001\n000000000004\n"),
        ("val2017", "000000000200"),
    ):
        path = data / "curated" / split / "Coco164kFull_Stuff_Coarse_7.txt"
        path.parent.mkdir(parents=True)
        path.write_text(names)
    evaluation = make(data, curated="Coco164kFull_Stuff_Coarse_7", epochs=1)
    _, document = finished(evaluation, tmp_path / "out.json")
    assert [row["item"] for row in document["rows"]] == ["epoch 1, images 1 to 2", "000000000200"]
    assert document["summary"]["images learnt from"] == 2
    with pytest.raises(DataSetError, match=r"train2017/Few\.txt is missing"):
        finished(make(data, curated="Few"), tmp_path / "few.json")


def test_images_learnt_from_are_drawn_by_the_seed(data):
    drawn = [
        {name for part in make(data, train_images=2, seed=seed)._training.values() for name in part}
        for seed in range(8)
    ]
    assert {len(one) for one in drawn} == {2}
    assert len({tuple(sorted(one)) for one in drawn}) > 1


def test_what_is_missing_is_told_by_name(data, tmp_path):
    (data / "annotations" / "train2017" / "000000000003.png").unlink()
    with pytest.raises(DataSetError, match=r"annotations/train2017/000000000003\.png"):
        finished(make(data), tmp_path / "out.json")
    (data / "images" / "val2017" / "000000000100.jpg").rename(tmp_path / "a.jpg")
    (data / "images" / "val2017" / "000000000200.jpg").unlink()
    with pytest.raises(DataSetError, match=r"images/val2017 holds no images"):
        finished(make(data), tmp_path / "out.json")
    (data / "annotations").rename(tmp_path / "moved")
    with pytest.raises(DataSetError, match="lacks annotations/train2017, annotations/val2017"):
        finished(make(data), tmp_path / "out.json")


def test_broken_files_are_left_out_and_told(data, tmp_path):
    (data / "images" / "train2017" / "000000000002.jpg").write_bytes(b"no image")
    (data / "annotations" / "val2017" / "000000000100.png").write_bytes(b"no image")
    with pytest.warns(ImageWarning, match=r"000000000002\.jpg.*not learnt from") as told:
        events, document = finished(make(data), tmp_path / "out.json")
    assert len(told) == 1
    assert [one.item for one in events if one.kind == "skipped"] == ["000000000100"]
    assert "annotations/val2017/000000000100.png" in document["skipped"][0]["why"]
    assert document["summary"]["images learnt from"] == 4
    assert document["summary"]["images left out"] == 1
    left_out = [name for row in document["rows"] for name in row.get("left_out", ())]
    assert left_out == ["000000000002"] * 3


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((32, 32), 182, np.uint8), "the id 182, which no class has"),
        (np.zeros((32, 31), np.uint8), r"is \(31, 32\), its image \(32, 32\)"),
        (np.zeros((32, 32, 3), np.uint8), "no ids of 8 bits"),
    ],
)
def test_annotations_that_do_not_fit_are_told(data, tmp_path, array, words):
    Image.fromarray(array).save(data / "annotations" / "val2017" / "000000000200.png")
    _, document = finished(make(data, epochs=1), tmp_path / "out.json")
    (skipped,) = document["skipped"]
    assert skipped["item"] == "000000000200"
    assert re.search(words, skipped["why"])


@pytest.mark.filterwarnings("ignore::napari_hrdv2.core.errors.ImageWarning")
def test_nothing_to_learn_from_ends_it(data, tmp_path):
    for file in (data / "images" / "train2017").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(HRDv2Error, match="none of the first 2 images"):
        finished(make(data), tmp_path / "out.json")


def test_with_a_backbone(data, tmp_path, make_extractor):
    evaluation = CocoProbe(
        data=data, extractor=make_extractor(passes=2), side=28, epochs=2, chunk=4
    )
    _, document = finished(evaluation, tmp_path / "out.json")
    assert 0 < document["summary"]["pixel accuracy"] <= 1
    assert document["settings"]["passes"] == 2
