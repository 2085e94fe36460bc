"""CUB-200-2011 and DUTS-TE: foreground, and what images of one class have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from napari_hrdv2._cli import main
from napari_hrdv2._evaluate import DataSetError, Evaluation
from napari_hrdv2._evaluate.foreground import CubCosegment, CubForeground, DutsForeground
from napari_hrdv2._evaluate.masks import Cub, Duts, read_mask
from napari_hrdv2._evaluate.methods import CommonForeground, Foreground
from napari_hrdv2.core.errors import HRDv2Error
from napari_hrdv2.core.explore import attention_maps, cosegment
from napari_hrdv2.core.extraction import FeatureExtractor

from .helpers import (
    Stub,
    StubOfMany,
    check_resumes,
    finish,
    rectangle,
    save_image,
    save_levels,
    save_noise,
    write_list,
)

# In the order of images.txt: two classes, the third image is for training.
NAMES = ["001.Crow/c1", "001.Crow/c2", "001.Crow/c3", "002.Tern/t1", "002.Tern/t2"]
TRUTH = rectangle(0, 0, 10, 10)
# Of what was found in each: its intersection with the truth by its union with it.
FOUND = {
    0: rectangle(0, 0, 10, 10),
    40: rectangle(0, 0, 10, 20),
    80: rectangle(0, 0, 5, 10),
    120: rectangle(10, 10, 20, 20),
    160: rectangle(5, 0, 15, 10),
}
IOUS = [1.0, 100 / 200, 50 / 100, 0.0, 50 / 150]


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    root = tmp_path / "CUB_200_2011"
    write_list(root / "images.txt", *(f"{k} {one}.jpg" for k, one in enumerate(NAMES, 1)))
    write_list(root / "train_test_split.txt", "1 0", "2 0", "3 1", "4 0", "5 0")
    for k, name in enumerate(NAMES):
        save_image(root / f"images/{name}.jpg", 40 * k)
        # Three of five annotators, and two of five elsewhere.
        levels = np.where(TRUTH, 153, 102 * rectangle(0, 0, 20, 30))
        save_levels(root / f"segmentations/{name}.png", levels)
    return root


def cub_foreground(cub: Path, **options: object) -> CubForeground:
    return CubForeground(Cub(cub, **options), Stub(FOUND))


def test_foreground_of_cub_by_hand(cub: Path, tmp_path: Path) -> None:
    evaluation = cub_foreground(cub)
    _, document = finish(evaluation, tmp_path / "out.json")
    assert [row["item"] for row in document["rows"]] == [*NAMES[:2], *NAMES[3:]]
    assert [row["iou"] for row in document["rows"]] == [*IOUS[:2], *IOUS[3:]]
    assert document["summary"] == {"mean IoU": (1 + 1 / 2 + 0 + 1 / 3) / 4}
    assert document["authors"]["figures"] == {"mean IoU": 0.785}
    assert document["settings"]["split"] == "test"


def test_splits_and_limit_of_cub(cub: Path) -> None:
    assert cub_foreground(cub, split="train").items == [NAMES[2]]
    assert cub_foreground(cub.parent, split="all").items == NAMES
    assert CubForeground(Cub(cub), Stub(FOUND), limit=3).items == [*NAMES[:2], NAMES[3]]
    with pytest.raises(DataSetError, match="test, train or all, not 'val'"):
        cub_foreground(cub, split="val").items  # noqa: B018


def test_masks_of_cub_may_lie_beside_it(cub: Path, tmp_path: Path) -> None:
    (cub / "segmentations").rename(tmp_path / "segmentations")
    _, document = finish(cub_foreground(cub), tmp_path / "out.json")
    assert document["summary"] == {"mean IoU": (1 + 1 / 2 + 0 + 1 / 3) / 4}


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("", "there is no folder .*CUB_200_2011"),
        ("images.txt", "CUB_200_2011 lacks images.txt"),
        ("train_test_split.txt", "CUB_200_2011 lacks train_test_split.txt"),
        ("images", "CUB_200_2011 lacks images:"),
        ("segmentations", r"segmentations is missing: .* segmentations.tgz"),
        (f"images/{NAMES[1]}.jpg", r"of 8 files .* 1 are missing: \S*c2.jpg;"),
        (f"segmentations/{NAMES[4]}.png", r"of 8 files .* 1 are missing: \S*t2.png;"),
    ],
)
def test_what_cub_lacks_is_told_by_name(cub: Path, tmp_path: Path, lost: str, told: str) -> None:
    (cub / lost).rename(tmp_path / "lost")
    with pytest.raises(DataSetError, match=told):
        finish(cub_foreground(cub), tmp_path / "out.json")


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        ("train_test_split.txt", ["1 0", "2 0"], "train_test_split.txt does not fit"),
        ("train_test_split.txt", [f"{k} 2" for k in range(1, 6)], "does not fit"),
        ("train_test_split.txt", [f"{k} 1" for k in range(1, 6)], "no images of the split 'test'"),
        ("images.txt", ["1"], "images.txt has a line that it cannot have: '1'"),
        ("images.txt", ["1 a.jpg", "1 b.jpg"], "cannot have: '1 b.jpg'"),
        ("images.txt", [], "images.txt is empty"),
    ],
)
def test_broken_lists_of_cub_are_told_by_name(
    cub: Path, name: str, lines: list[str], told: str
) -> None:
    write_list(cub / name, *lines)
    with pytest.raises(DataSetError, match=told):
        cub_foreground(cub).items  # noqa: B018


def test_broken_images_and_masks_are_left_out_by_name(cub: Path, tmp_path: Path) -> None:
    image, mask = cub / f"images/{NAMES[0]}.jpg", cub / f"segmentations/{NAMES[1]}.png"
    image.write_bytes(image.read_bytes()[:100])
    save_levels(mask, np.zeros((30, 20)))
    _, document = finish(cub_foreground(cub), tmp_path / "out.json")
    assert [one["item"] for one in document["skipped"]] == NAMES[:2]
    assert "c1.jpg cannot be read" in document["skipped"][0]["why"]
    assert "c2.png is (30, 20), its image (20, 30)" in document["skipped"][1]["why"]
    assert document["summary"] == {"mean IoU": (0 + 1 / 3) / 2}


def test_missing_files_may_be_left_out(cub: Path, tmp_path: Path) -> None:
    (cub / f"images/{NAMES[0]}.jpg").unlink()
    (cub / f"segmentations/{NAMES[1]}.png").unlink()
    _, document = finish(cub_foreground(cub), tmp_path / "out.json", skip_missing=True)
    assert [one["item"] for one in document["skipped"]] == NAMES[:2]
    assert "c1.jpg" in document["skipped"][0]["why"]
    assert "c2.png is missing" in document["skipped"][1]["why"]


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "LA"])
def test_masks_of_several_modes(tmp_path: Path, mode: str) -> None:
    levels = np.where(TRUTH, 128, 127)
    if mode == "1":
        levels = 255 * TRUTH
    Image.fromarray(levels.astype(np.uint8)).convert(mode).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", (20, 30)), TRUTH)


@pytest.fixture
def duts(tmp_path: Path) -> Path:
    root = tmp_path / "DUTS-TE"
    for k in range(5):
        save_image(root / f"DUTS-TE-Image/im{k}.jpg", 40 * k)
        save_levels(root / f"DUTS-TE-Mask/im{k}.png", 255 * TRUTH)
    (root / "DUTS-TE-Image/._im0.jpg").write_bytes(b"of a Mac")
    return root


def test_foreground_of_duts_by_hand(duts: Path, tmp_path: Path) -> None:
    _, document = finish(DutsForeground(Duts(duts), Stub(FOUND)), tmp_path / "out.json")
    assert [row["iou"] for row in document["rows"]] == IOUS
    assert document["summary"]["mean IoU"] == pytest.approx(sum(IOUS) / 5)
    assert document["authors"]["figures"] == {"mean IoU": 0.654}


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("", "there is no folder .*DUTS-TE"),
        ("DUTS-TE-Image", "DUTS-TE lacks DUTS-TE-Image"),
        ("DUTS-TE-Mask", "DUTS-TE lacks DUTS-TE-Mask"),
        ("DUTS-TE-Image/im3.jpg", r"missing: \S*DUTS-TE-Image.im3.jpg;"),
        ("DUTS-TE-Mask/im3.png", r"missing: \S*DUTS-TE-Mask.im3.png;"),
    ],
)
def test_what_duts_lacks_is_told_by_name(duts: Path, tmp_path: Path, lost: str, told: str) -> None:
    (duts / lost).rename(tmp_path / "lost")
    with pytest.raises(DataSetError, match=told):
        finish(DutsForeground(Duts(duts), Stub(FOUND)), tmp_path / "out.json")


def test_an_empty_duts(tmp_path: Path) -> None:
    for name in ("Image", "Mask"):
        (tmp_path / f"DUTS-TE/DUTS-TE-{name}").mkdir(parents=True)
    with pytest.raises(DataSetError, match="no images in"):
        Duts(tmp_path).names  # noqa: B018


def cub_cosegment(cub: Path, size: int = 2) -> CubCosegment:
    return CubCosegment(Cub(cub, "all"), StubOfMany(FOUND), size)


def test_groups_are_of_one_class_and_even(cub: Path) -> None:
    def sizes(size: int) -> list[tuple[str, int]]:
        evaluation = cub_cosegment(cub, size)
        return [(one, len(evaluation.files(one)) // 2) for one in evaluation.items]

    assert sizes(2) == [("001.Crow/1", 2), ("001.Crow/2", 1), ("002.Tern/1", 2)]
    assert sizes(3) == [("001.Crow/1", 3), ("002.Tern/1", 2)]
    assert sizes(100) == [("001.Crow/1", 3), ("002.Tern/1", 2)]
    with pytest.raises(HRDv2Error, match="two images at least, not 1"):
        sizes(1)


def test_cosegmentation_by_hand(cub: Path, tmp_path: Path) -> None:
    _, document = finish(cub_cosegment(cub, 3), tmp_path / "out.json")
    assert document["rows"] == [
        {"item": "001.Crow/1", "images": NAMES[:3], "iou": IOUS[:3]},
        {"item": "002.Tern/1", "images": NAMES[3:], "iou": IOUS[3:]},
    ]
    assert document["summary"] == {"mean IoU": pytest.approx(sum(IOUS) / 5), "images": 5}
    assert document["authors"] is None


def test_a_group_with_a_broken_image_is_left_out(cub: Path, tmp_path: Path) -> None:
    image = cub / f"images/{NAMES[0]}.jpg"
    image.write_bytes(image.read_bytes()[:100])
    _, document = finish(cub_cosegment(cub, 3), tmp_path / "out.json")
    assert [one["item"] for one in document["skipped"]] == ["001.Crow/1"]
    assert "c1.jpg" in document["skipped"][0]["why"]
    assert document["summary"] == {"mean IoU": (0 + 1 / 3) / 2, "images": 2}


@pytest.mark.parametrize("kind", ["cub-foreground", "duts-foreground", "cub-cosegment"])
def test_each_resumes(cub: Path, duts: Path, tmp_path: Path, kind: str) -> None:
    makers: dict[str, tuple[Callable[[], Evaluation], int]] = {
        "cub-foreground": (lambda: cub_foreground(cub), 4),
        "duts-foreground": (lambda: DutsForeground(Duts(duts), Stub(FOUND)), 5),
        "cub-cosegment": (lambda: cub_cosegment(cub), 3),
    }
    make, count = makers[kind]
    check_resumes(make, tmp_path / "out", count)


# --- with a backbone


@pytest.fixture
def real_layouts(tmp_path: Path) -> Path:
    """Both data sets, of a few images with something in them."""
    mask = 255 * rectangle(0, 0, 56, 35, (56, 70))
    for k in range(4):
        save_noise(tmp_path / f"CUB_200_2011/images/001.Crow/{k}.jpg", k)
        save_levels(tmp_path / f"CUB_200_2011/segmentations/001.Crow/{k}.png", mask)
    for k in range(2):
        save_noise(tmp_path / f"DUTS-TE/DUTS-TE-Image/{k}.jpg", k)
        save_levels(tmp_path / f"DUTS-TE/DUTS-TE-Mask/{k}.png", mask)
    lines = [f"{k} 001.Crow/{k}.jpg" for k in range(4)]
    write_list(tmp_path / "CUB_200_2011/images.txt", *lines)
    write_list(tmp_path / "CUB_200_2011/train_test_split.txt", *(f"{k} 0" for k in range(4)))
    return tmp_path


def test_a_foreground_of_another_kind(make_extractor: Callable[..., FeatureExtractor]) -> None:
    with pytest.raises(HRDv2Error, match="attention or component, not 'entropy'"):
        Foreground(make_extractor(), "entropy")


def test_common_foreground_is_of_each_image(
    make_extractor: Callable[..., FeatureExtractor],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = [rng.integers(0, 255, shape).astype(np.uint8) for shape in ((42, 56), (56, 28, 3))]
    extractor = make_extractor(passes=1)
    common = CommonForeground(extractor, 5, 1.0)
    masks = common(images)
    assert [(one.shape, one.dtype) for one in masks] == [((42, 56), bool), ((56, 28), bool)]
    tokens = [extractor.extract(one) for one in images]
    attention = [attention_maps(extractor.facets(one, "attention")).together for one in images]
    for mask, expected in zip(masks, cosegment(tokens, attention, 5, votes=1.0).masks, strict=True):
        np.testing.assert_array_equal(mask, expected)
    given = Mock()
    monkeypatch.setattr("napari_hrdv2._evaluate.methods.cosegment", given)
    common(images)
    assert given.call_args.args[2:] == (5,)
    assert given.call_args.kwargs == {"votes": 1.0}
    assert (common.settings["clusters"], common.settings["votes"]) == (5, 1.0)
    assert Foreground(extractor, "attention", 7).settings["clusters"] == 7
    assert "clusters" not in Foreground(extractor, "component", 7).settings


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("cub-foreground", ["--guided", "4", "--min-size", "9"]),
        ("duts-foreground", ["--method", "component"]),
        ("cub-cosegment", ["--group", "2", "--votes", "0.4"]),
    ],
)
def test_the_commands_score(
    real_layouts: Path,
    tiny_weights: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    options: list[str],
) -> None:
    out = real_layouts / "out.json"
    folder = real_layouts / ("CUB_200_2011" if command.startswith("cub") else "DUTS-TE")
    options = [*options, "--weights", str(tiny_weights), "--passes", "1", "--clusters", "6"]
    if command != "cub-cosegment":
        options += ["--limit", "2"]
    assert main(["evaluate", command, str(folder), "-o", str(out), *options]) == 0
    document = json.loads(out.read_text())
    assert len(document["rows"]) == 2
    assert 0 < document["summary"]["mean IoU"] < 1
    printed = capsys.readouterr().out
    assert f"{document['summary']['mean IoU']:.3f}" in printed
    assert ("theirs (HR-Dv2" in printed) == (command != "cub-cosegment")


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the program said on stderr, in its own name."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("napari-hrdv2: ")]


@pytest.mark.parametrize(
    "command",
    ["voc-boxes", "voc-clusters", "cub-foreground", "duts-foreground", "cub-cosegment"],
)
def test_a_missing_data_set_is_one_line_before_weights_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    options = ["-o", str(tmp_path / "out.json"), "--weights", str(tmp_path / "none.pth")]
    assert main(["evaluate", command, str(tmp_path / "nowhere"), *options]) == 2
    (line,) = told(capsys)
    assert "there is no folder" in line
    assert "nowhere" in line


def test_what_is_left_out_is_told_and_exits_with_2(
    real_layouts: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = real_layouts / "DUTS-TE", real_layouts / "out.json"
    (root / "DUTS-TE-Image/1.jpg").write_bytes(b"broken")
    options = ["-o", str(out), "--weights", str(tiny_weights), "--passes", "1", "--clusters", "6"]
    assert main(["evaluate", "duts-foreground", str(root), *options]) == 2
    printed = capsys.readouterr()
    assert "1 is left out: " in printed.err
    assert "1.jpg cannot be read" in " ".join(printed.err.split())
    assert "mean IoU" in printed.out
    assert len(json.loads(out.read_text())["rows"]) == 1
