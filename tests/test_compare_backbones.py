"""Backbones side by side: the command, and what it measures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from napari_hrdv2._cli import main
from napari_hrdv2._compare import BY_DEFAULT, Candidate
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import WeightsError
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.timm_backbone import PREFIX
from napari_hrdv2.core.weights import REGISTRY

from .core.states import random_state

SHAPE = (56, 84)


@pytest.fixture
def files(halves: Path) -> Path:
    """The image and what is known of it, and a backbone of patch 8."""
    torch.save(random_state(dim=64, depth=3, patch=8, scale=False), halves / "small.pth")
    return halves


def run(folder: Path, models: str, *options: object) -> int:
    arguments = ["compare", "backbones", folder / "a.png", "-o", folder / "out"]
    arguments += ["--models", models, "--passes", 2, "--device", "cpu", *options]
    return main([*map(str, arguments)])


def found(folder: Path) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((folder / "out" / "backbones.json").read_text())
    return whole


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed as errors and warnings."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("napari-hrdv2: ")]


def test_backbones_are_compared_and_those_out_of_reach_left_out(
    files: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    models = f"mine={tiny_weights}, {files / 'small.pth'},timm:samvit_base_patch16.sa1b,dinov9"
    assert run(files, models, "--strokes", files / "strokes.tif") == 0
    whole = found(files)
    assert (whole["image"], whole["shape"]) == ("a.png", list(SHAPE))
    assert whole["probe"] == "strokes, tested on strokes held out"
    assert "napari-hrdv2[timm]" in whole["missing"]["timm:samvit_base_patch16.sa1b"]
    assert "no model 'dinov9'" in whole["missing"]["dinov9"]
    first, second = whole["backbones"]
    assert [first["name"], second["name"]] == ["mine", "small"]
    shapes = [(b["settings"]["patch"], b["channels"], b["blocks"]) for b in (first, second)]
    assert shapes == [(14, 128, 2), (8, 64, 3)]
    for one, state in (
        (first, torch.load(tiny_weights)),
        (second, torch.load(files / "small.pth")),
    ):
        state.pop("mask_token")
        assert one["parameters"] == sum(value.numel() for value in state.values())
        assert one["has_attention"]
        assert one["seconds"] > 0
        assert one["peak_bytes"] is None or 0 <= one["peak_bytes"] < 10**9
        # Halves so different are told apart by anything.
        assert one["mean_iou"] == one["accuracy"] == 1
        assert one["settings"]["passes"] == 2
        assert one["settings"]["filters"] is one["settings"]["move_positions"] is False
    output = capsys.readouterr()
    assert all(name in output.out for name in ("mine", "small", "peak", "acc."))
    lines = [line for line in output.err.splitlines() if line.startswith("napari-hrdv2: ")]
    assert [line.split(" ")[1] for line in lines] == ["timm:samvit_base_patch16.sa1b", "dinov9"]
    with Image.open(files / "out" / "backbones.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    # What is told, components, attention and probe beside each other; the image and two backbones.
    assert pixels.shape == (8 + 18 + 3 * (149 + 8), 8 + 4 * 232, 3)
    # The probe's labels: its two colours, each in its half.
    row = 8 + 157 + 18 + 75
    left, right = (pixels[row, 8 + 3 * 232 + x].astype(int) for x in (40, 180))
    assert np.abs(left - right).max() > 50


def test_settings_hold_for_all_backbones(files: Path, tiny_weights: Path) -> None:
    models = f"mine={tiny_weights}"
    assert run(files, models, "--stride", 7, "--depth", 1, "--scale", 2) == 0
    (one,) = found(files)["backbones"]
    expected = FeatureExtractor(
        weights=tiny_weights,
        passes=2,
        stride=7,
        depth=1.0,
        scale=2.0,
        zooms=(1.0,),
        filters=False,
        move_positions=False,
    )
    assert one["settings"] == json.loads(expected.settings.model_dump_json())
    assert found(files)["probe"] is one["mean_iou"] is one["accuracy"] is None
    assert found(files)["missing"] == {}
    with Image.open(files / "out" / "backbones.png") as picture:
        assert picture.width == 8 + 3 * 232


def test_stride_that_only_some_patches_hold(files: Path, tiny_weights: Path) -> None:
    assert run(files, f"mine={tiny_weights},{files / 'small.pth'}", "--stride", 14) == 0
    whole = found(files)
    assert [one["name"] for one in whole["backbones"]] == ["mine"]
    assert "must not exceed the patch size, 8 px" in whole["missing"]["small"]


def test_truth_is_what_a_probe_is_tested_on(files: Path, tiny_weights: Path) -> None:
    truth = tifffile.imread(files / "truth.tif")
    truth[:, :6] = 2  # of the dark half a part that strokes call 1
    tifffile.imwrite(files / "truth.tif", truth)
    given = ["--strokes", files / "strokes.tif", "--truth", files / "truth.tif"]
    assert run(files, f"mine={tiny_weights}", *given) == 0
    (one,) = found(files)["backbones"]
    extractor = FeatureExtractor(
        weights=tiny_weights, device="cpu", passes=2, filters=False, move_positions=False
    )
    strokes = tifffile.imread(files / "strokes.tif")
    tokens = extractor.extract(np.asarray(Image.open(files / "a.png")))
    labels = PixelClassifier().fit(tokens, strokes).predict(tokens)[strokes == 0]
    truth = truth[strokes == 0]
    ious = [
        ((truth == k) & (labels == k)).sum() / ((truth == k) | (labels == k)).sum() for k in (1, 2)
    ]
    assert one["accuracy"] == pytest.approx((truth == labels).mean())
    assert one["mean_iou"] == pytest.approx(np.mean(ious))
    assert 0.7 < one["mean_iou"] < one["accuracy"] < 0.95


def test_if_none_can_be_had_that_is_an_error(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files, "dinov9,dinov10") == 2
    lines = told(capsys)
    assert len(lines) == 3
    assert "none of the backbones can be had; dinov9: there is no model 'dinov9'" in lines[-1]
    assert not (files / "out").exists()


def test_what_cannot_be_compared_is_told_in_one_line(
    files: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(match: str, models: str, *options: object) -> None:
        assert run(files, models, *options) == 2
        (line,) = told(capsys)
        assert match in line
        assert not (files / "out").exists()

    own = f"mine={tiny_weights}"
    refused("two backbones are called mine", f"{own},{own}")
    refused("names no backbone", f"{own},")
    refused("names no backbone", "dino_vits16=")
    refused("has no device 'cuda:99'", own, "--device", "cuda:99")
    refused("passes", own, "--passes", 0)
    (files / "a.png").unlink()
    refused("there is no file", own)


def test_a_stack_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite(files / "stack.tif", np.zeros((9, 20, 30), np.uint8))
    assert main(["compare", "backbones", str(files / "stack.tif"), "-o", str(files / "out")]) == 2
    (line,) = told(capsys)
    assert "several planes or channels" in line


def test_an_output_that_is_a_file_is_refused(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "out").write_text("")
    assert run(files, "dinov9") == 2
    assert "is a file" in told(capsys)[0]


def test_a_file_that_is_no_backbone_is_left_out(files: Path, tiny_weights: Path) -> None:
    (files / "text.pth").write_text("no checkpoint")
    assert run(files, f"{files / 'text.pth'},mine={tiny_weights}") == 0
    assert "cannot be read as a checkpoint" in found(files)["missing"]["text"]


def test_how_backbones_are_named(tmp_path: Path) -> None:
    of = Candidate.of
    assert of(" dino_vits16 ") == ("dino_vits16", "dino_vits16", None)
    assert of("dino_vits16", tmp_path) == ("dino_vits16", "dino_vits16", tmp_path)
    assert of("timm:sam.sa1b", tmp_path) == ("timm:sam.sa1b", "timm:sam.sa1b", None)
    assert of("timm:sam.sa1b=b.pth", tmp_path) == ("timm:sam.sa1b", "timm:sam.sa1b", Path("b.pth"))
    assert of("mine=b.pth") == ("mine", "mine", Path("b.pth"))
    assert of("folder/b.safetensors", tmp_path) == ("b", "auto", Path("folder/b.safetensors"))
    for wrong in ("", "=b.pth", "mine="):
        with pytest.raises(WeightsError, match="NAME=FILE is wanted"):
            of(wrong)


def test_by_default_there_is_one_of_each_kind() -> None:
    own = [name for name in BY_DEFAULT if not name.startswith(PREFIX)]
    assert set(own) <= set(REGISTRY)
    kinds = {name.split("_vit")[0] for name in own}
    assert kinds == {"dino", "dinov2", "deit", "augreg"}
    assert any(name.endswith("_reg") for name in own)
    assert [one for one in BY_DEFAULT if "samvit" in one]
    assert [one for one in BY_DEFAULT if "dinov3" in one]
