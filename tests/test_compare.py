"""Upsamplers side by side: the command, and what it holds them against."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
import torch
from PIL import Image

from napari_hrdv2._cli import main
from napari_hrdv2._compare import Case, Task, compare_upsamplers
from napari_hrdv2._compare.probe import held_out
from napari_hrdv2._compare.upsamplers import affine, part_of
from napari_hrdv2.core.errors import HRDv2Error, StrokesError
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.strokes import Training
from napari_hrdv2.core.upsamplers import InterpolatedPasses, JBUStack, make_upsampler

SHAPE = (56, 84)


def learned(folder: Path, channels: int = 128) -> list[str]:
    """Learned upsamplers of both kinds."""
    torch.manual_seed(0)
    torch.save(JBUStack(channels).state_dict(), folder / "stack.ckpt")
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> upsampler (float[1,3,H,W] image, '
        "float[1,C,h,w] features) => (float[1,C,Y,X] out) { out = Abs(features) }"
    )
    onnx.save(model, folder / "program.onnx")
    return ["-u", f"featup:{folder / 'stack.ckpt'}", "-u", f"onnx:{folder / 'program.onnx'}"]


def run(folder: Path, weights: Path, *options: object) -> int:
    arguments = ["compare", "upsamplers", folder / "a.png", "-o", folder / "out"]
    arguments += ["--weights", weights, "--reference-passes", 2, *options]
    return main([*map(str, arguments)])


def found(folder: Path) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((folder / "out" / "upsamplers.json").read_text())
    return whole


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed as the error: the only line of the program's."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert sum(line.startswith("napari-hrdv2: ") for line in lines) == 1
    return lines[-1]


def test_every_upsampler_is_compared(
    halves: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
):
    chosen = ["-u", "nearest", "-u", "strided", "-u", "guided", *learned(halves)]
    assert run(halves, tiny_weights, *chosen, "--strokes", halves / "strokes.tif") == 0
    whole = found(halves)
    names = ["reference", "nearest", "strided", "guided", "stack", "program"]
    assert [one["name"] for one in whole["upsamplers"]] == names
    assert whole["image"] == "a.png"
    assert whole["shape"] == list(SHAPE)
    assert whole["probe"] == "strokes, tested on strokes held out"
    assert whole["settings"]["filters"] is whole["settings"]["move_positions"] is False
    assert whole["components"] == 64
    assert 0.5 < whole["variance"] <= 1
    assert [(one["passes"], one["stride"]) for one in whole["upsamplers"]] == [
        (2, 7),
        (1, 14),
        (1, 7),
        *[(1, 14)] * 3,
    ]
    for one in whole["upsamplers"]:
        assert one["channels"] == 128
        assert one["seconds_tokens"] > 0
        assert one["seconds_maps"] > 0
        assert one["peak_bytes"] is None or 0 < one["peak_bytes"] < 10**9
        # Halves so different are told apart by anything.
        assert one["mean_iou"] == one["accuracy"] == 1
    errors = {one["name"]: one["error"] for one in whole["upsamplers"]}
    assert errors["reference"] == 0
    assert 0 < errors["strided"] < errors["nearest"] < 1
    table = capsys.readouterr().out
    assert all(name in table for name in (*names, "error", "IoU", "acc."))
    with Image.open(halves / "out" / "upsamplers.png") as picture:
        assert picture.mode == "P"
        size = picture.size
    # An image, a reference and five upsamplers beside each other; three rows.
    assert size[0] == 7 * (224 + 8) + 8
    # Two lines of text, 56 x 84 twice, and a part of 11 x 16.
    assert size[1] == 2 * 18 + 149 + 154 + 149 + 4 * 8


def test_the_reference_itself_has_no_error(
    halves: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
):
    options = ["--reference-passes", 1, "-u", "strided", "--truth", halves / "truth.tif"]
    assert run(halves, tiny_weights, *options) == 0
    whole = found(halves)
    assert whole["upsamplers"][1]["error"] < 0.02
    assert whole["probe"].startswith("strokes simulated on 0.5% of each class, 3 times")
    assert all(one["accuracy"] > 0.9 for one in whole["upsamplers"])
    assert all(one["mean_iou"] < one["accuracy"] for one in whole["upsamplers"])


def test_without_labels_there_is_no_probe(
    halves: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(halves, tiny_weights, "-u", "bilinear", "--depth", "1") == 0
    whole = found(halves)
    assert whole["settings"]["depth"] == 1
    assert whole["probe"] is None
    assert all(one["mean_iou"] is one["accuracy"] is None for one in whole["upsamplers"])
    assert "IoU" not in capsys.readouterr().out


def test_what_cannot_be_compared_is_told_in_one_line(
    halves: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
):
    def told(match: str, *options: object) -> None:
        assert run(halves, tiny_weights, *options) == 2
        assert match in one_line(capsys)
        assert not (halves / "out").exists()

    blank = np.zeros(SHAPE, np.uint8)
    tifffile.imwrite(halves / "none.tif", blank)
    blank[5, 5:9], blank[5, 60:64] = 1, 2
    tifffile.imwrite(halves / "once.tif", blank)
    tifffile.imwrite(halves / "small.tif", blank[1:])
    told("there is no upsampler 'cubic'", "-u", "cubic")
    told("must not exceed the patch size", "-u", "strided:15")
    told("two upsamplers are called nearest", "-u", "nearest", "-u", "nearest")
    told("there is no file", "--strokes", halves / "missing.tif")
    told("they must be the same", "--strokes", halves / "small.tif")
    told("wants at least two classes", "--truth", halves / "none.tif")
    told("at least two strokes of two classes", "--strokes", halves / "once.tif")
    told("give only 49 different", "--reference-passes", "50")
    # What is found where nobody sees it comes through.
    told("for tokens of 7 channels", *learned(halves, 7)[:2])
    (halves / "out").touch()
    assert run(halves, tiny_weights) == 2
    assert "is a file: name a folder" in one_line(capsys)


def test_stacks_and_channels_are_refused(
    halves: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
):
    tifffile.imwrite(halves / "stack.tif", np.zeros((2, *SHAPE), np.uint8))
    for axes in ("ZYX", "CYX"):
        arguments = ["compare", "upsamplers", halves / "stack.tif", "--axes", axes, "-o", halves]
        assert main([*map(str, arguments), "--weights", str(tiny_weights)]) == 2
        assert "holds several planes or channels" in one_line(capsys)


class _Dies(InterpolatedPasses):
    """One whose process is killed, as for want of memory."""

    def upsample(self, image: object, tokens: object) -> Any:
        os._exit(9)


def test_a_process_that_ends_is_told(
    make_extractor: Any, rng: np.random.Generator, tiny_weights: Path
):
    image = rng.uniform(size=(30, 30))
    with pytest.raises(HRDv2Error, match="the process of greedy ended"):
        compare_upsamplers(Case("a", image), [_Dies("greedy")], make_extractor(), 1)


def test_a_map_that_is_there_is_found(rng: np.random.Generator):
    rows = rng.normal(3, 2, (500, 6)).astype(np.float32)
    rows[:, 5] = 7
    weight = rng.normal(size=(4, 6)).astype(np.float32)
    wanted = rows @ weight.T + np.arange(4, dtype=np.float32)
    coef, intercept = affine(rows, wanted)
    np.testing.assert_allclose(rows @ coef.T + intercept, wanted, atol=0.02 * wanted.std())


def test_strokes_held_out_are_not_learnt_from(rng: np.random.Generator):
    # Each stroke says nothing but what itself is: a probe that saw it would know.
    strokes = np.repeat(np.arange(8), 20)
    features = np.eye(8, dtype=np.float32)[strokes]
    labels = 1 + strokes % 2
    training = Training(features, labels, features, 8, lambda: strokes)
    settings = Settings(model="none", weights_sha256="0" * 64, patch=14, stride=14)
    truth, said = held_out(training, settings)
    assert sorted(truth) == sorted(labels)
    assert (truth == said).mean() <= 0.5
    features = np.eye(2, dtype=np.float32)[strokes % 2]
    truth, said = held_out(Training(features, labels, features, 2, lambda: strokes), settings)
    np.testing.assert_array_equal(truth, said)


def test_tasks_from_what_is_known():
    truth = np.repeat([1, 2], 50)[:, None].repeat(100, axis=1)
    strokes = np.zeros((100, 100), int)
    strokes[5, 5:20], strokes[60, 5:20] = 1, 2
    assert Task.of(None, None) is None
    both = Task.of(strokes, truth)
    assert both is not None
    assert both.description == "strokes, tested on the truth"
    assert both.shown is truth
    simulated = Task.of(None, truth)
    assert simulated is not None
    assert [int((one > 0).sum()) for one in simulated.drawings] == [50] * 3
    strokes[10, 5:20], strokes[70, 5:20] = 1, 2
    alone = Task.of(strokes, None)
    assert alone is not None
    assert alone.shown is strokes
    with pytest.raises(StrokesError):
        Task.of(np.minimum(strokes, 1), truth)


def test_the_part_enlarged_has_the_edges(rng: np.random.Generator):
    colours = np.zeros((100, 50, 3), np.float32)
    colours[60:66, 40:46] = rng.uniform(size=(6, 6, 3))
    y, x = part_of(colours)
    assert (y.stop - y.start, x.stop - x.start) == (20, 10)
    assert y.start <= 60
    assert y.stop >= 66
    assert x.start <= 40
    assert x.stop >= 46
    assert part_of(np.zeros((3, 2, 3), np.float32)) == (slice(0, 1), slice(0, 1))


def test_the_extractor_is_not_asked_for_passes(make_extractor: Any):
    base: FeatureExtractor = make_extractor(passes=9, stride=3, kernel="nearest")
    assert make_upsampler("bilinear").settings(base.settings).stride == 14
