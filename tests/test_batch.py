"""Many files: what is written, what is kept, what fails, and what is killed."""

from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from napari_hrdv2 import _batch
from napari_hrdv2._batch import Batch, Event, Report, find_inputs
from napari_hrdv2._cli import main
from napari_hrdv2._io import open_image, read_classes
from napari_hrdv2.core import tiles
from napari_hrdv2.core.base import PixelClass
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import HRDv2Error, ImageError
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.files import PREFIX
from napari_hrdv2.core.methods import load_classifier

CLASSES = [
    PixelClass(label=1, name="dark", colour=(0, 0, 1, 1)),
    PixelClass(label=2, name="bright", colour=(1, 0, 0, 1)),
]
ABOUT = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}


def pixels(seed: int, shape: tuple[int, int] = (60, 70)) -> np.ndarray:
    """Dark at the left, bright at the right."""
    image = np.random.default_rng(seed).normal(60, 8, shape)
    image[:, shape[1] // 2 :] += 120
    return image.clip(0, 255).astype(np.uint8)


def write(path: Path, image: np.ndarray, axes: str = "YX") -> Path:
    about = ABOUT | {"axes": axes}
    tifffile.imwrite(path, image, ome=True, photometric="minisblack", metadata=about)
    return path


@pytest.fixture
def model(tmp_path: Path, tiny_weights: Path) -> Path:
    extractor = FeatureExtractor(weights=tiny_weights, device="cpu", passes=1, window=56)
    strokes = np.zeros((60, 70), np.uint8)
    strokes[10:50, 5:9], strokes[10:50, 60:64] = 1, 2
    path = tmp_path / "model.safetensors"
    PixelClassifier().fit(extractor.extract(pixels(0)), strokes, CLASSES).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of four images: one plane, a stack of two, OME-Zarr, and a note."""
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.tif", pixels(1))
    write(folder / "b.tif", np.stack([pixels(2), pixels(3)]), "ZYX")
    zarr.create_array(folder / "c.zarr", data=pixels(4), chunks=(20, 20))
    (folder / "notes.txt").write_text("none of them")
    return folder


@pytest.fixture
def make(model: Path, images: Path, tiny_weights: Path, tmp_path: Path) -> Any:
    def make(*inputs: Any, **options: Any) -> Batch:
        options = {"device": "cpu", "weights": str(tiny_weights)} | options
        return Batch(model, inputs or [images], tmp_path / "out", **options)

    return make


def run(batch: Batch) -> tuple[list[Event], Report]:
    events = []

    def all_of() -> Generator[Event, None, Report]:
        return (yield from batch.run())

    steps = all_of()
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


def expected(model: Path, weights: Path, image: np.ndarray) -> np.ndarray:
    classifier = load_classifier(model)
    extractor = FeatureExtractor(classifier.settings_, weights=weights, device="cpu")
    return classifier.predict(extractor.extract(image))


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{PREFIX}*"))


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_a_folder_is_segmented(
    make: Any, images: Path, model: Path, tiny_weights: Path, tmp_path: Path, kind: str
) -> None:
    events, report = run(make(format=kind, probabilities=True, csv=tmp_path / "table.csv"))
    names = ["a.tif", "b.tif", "c.zarr"]
    assert [path.name for path in report.written] == names
    assert not report.failed
    assert [one.path.name for one in events if one.kind == "written"] == names
    done = [one.done for one in events]
    assert done == sorted(done)
    assert events[-1].done == pytest.approx(events[-1].total) == 3
    out = tmp_path / "out"
    written = {f"{n}{e}.{kind}" for n in "abc" for e in ("", "_probabilities")}
    assert {path.name for path in out.iterdir()} == written
    stack = open_image(out / f"b.{kind}")
    assert stack.planes.axes == "ZYX"
    assert stack.pixel_size == {"Y": 0.25, "X": 0.5}
    assert list(read_classes(out / f"b.{kind}")) == CLASSES
    for k in range(2):
        labels = expected(model, tiny_weights, pixels(2 + k))
        np.testing.assert_array_equal(stack.planes.read((k,)), labels)
    likely = open_image(out / f"a_probabilities.{kind}").planes.read()
    assert likely.shape == (60, 70, 2)
    labels = open_image(out / f"a.{kind}").planes.read()
    np.testing.assert_array_equal(likely.argmax(-1) + 1, labels)
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(Path(r["image"]).name, r["planes"], r["class"]) for r in rows] == [
        (name, planes, one.name)
        for name, planes in zip(names, "121", strict=True)
        for one in CLASSES
    ]
    assert int(rows[0]["area_px"]) == (labels == 1).sum()
    assert float(rows[0]["area"]) == pytest.approx((labels == 1).sum() * 0.125)
    assert float(rows[2]["area_fraction"]) + float(rows[3]["area_fraction"]) == pytest.approx(1)
    assert (rows[0]["objects"], rows[0]["unit"], rows[4]["unit"]) == ("1", "micrometer", "")


def test_what_is_there_is_kept_as_long_as_nothing_changed(
    make: Any, images: Path, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    run(make(csv=table))
    first = table.read_bytes()
    result = tmp_path / "out" / "a.tif"

    def outcomes(**options: Any) -> str:
        events, report = run(make(**options))
        assert len(report.written) + len(report.kept) == 3
        return "".join(one.kind[0] for one in events if one.kind != "tile")

    before = result.stat().st_mtime_ns
    table.unlink()
    assert outcomes(csv=table) == "kkk"
    assert table.read_bytes() == first
    assert result.stat().st_mtime_ns == before
    write(images / "a.tif", pixels(9))
    assert outcomes() == "wkk"
    assert outcomes(overwrite=True) == "www"
    assert outcomes(probabilities=True) == "www"
    assert outcomes() == "kkk"
    result.write_bytes(b"something else")
    assert outcomes() == "wkk"
    classifier = load_classifier(model)
    classifier.intercept_ = classifier.intercept_ + 1
    classifier.save(model)
    assert outcomes() == "www"


def test_failures_cost_their_own_file(make: Any, images: Path) -> None:
    (images / "a.tif").write_bytes(b"no picture")
    write(images / "d.tif", np.stack([pixels(5)] * 2), "CYX")
    chunk = images / "c.zarr" / "c" / "1" / "1"
    chunk.write_bytes(b"not what zstd writes")
    events, report = run(make(images, images / "gone.tif"))
    assert [path.name for path in report.written] == ["b.tif"]
    assert {path.name for path in report.failed} == {"a.tif", "c.zarr", "d.tif", "gone.tif"}
    said = {one.path.name: one.text for one in events if one.kind == "failed"}
    assert "cannot be read" in said["a.tif"]
    assert "c.zarr" in said["c.zarr"]
    assert "d.tif: the image has 2 channels, a grey or RGB image is needed" in said["d.tif"]
    assert "there is no file" in said["gone.tif"]
    assert all("\n" not in text for text in said.values())
    assert not leftovers(images.parent)


def test_a_full_disk_ends_the_batch_and_keeps_what_is_finished(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiff = tifffile.imwrite

    def full(path: Path, *args: Any, **options: Any) -> Any:
        if Path(path).name == "b.tif":
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_tiff(path, *args, **options)

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(OSError, match=r"the disk is full: 1 files are written, not .*b\.tif"):
        run(make())
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"a.tif", "c.tif"}
    assert (tmp_path / "out" / "a.tif").is_file()


def test_cancelling_leaves_nothing_half_written(make: Any, tmp_path: Path) -> None:
    batch = make(format="zarr")
    steps = batch.run()
    next(steps)
    batch.cancel()
    with pytest.raises(_batch.Cancelled):
        list(steps)
    assert not leftovers(tmp_path)
    closed = make(format="zarr", overwrite=True).run()
    next(closed)
    closed.close()
    assert not leftovers(tmp_path)


def test_inputs(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (images / "more").mkdir()
    write(images / "more" / "a.tif", pixels(6))
    monkeypatch.chdir(tmp_path)

    def names(*inputs: str, **options: Any) -> list[str]:
        found = find_inputs(inputs, **options)
        return [f"{one.folder.as_posix()}/{one.path.name}" for one in found]

    assert names("in") == ["./a.tif", "./b.tif", "./c.zarr"]
    assert names("in", recursive=True) == ["./a.tif", "./b.tif", "./c.zarr", "more/a.tif"]
    assert names("in", recursive=True, leave=images / "more") == names("in")
    assert names("in/*.tif", "in/c.zarr") == ["./a.tif", "./b.tif", "./c.zarr"]
    assert names("in/**/a.tif") == ["./a.tif", "./a.tif"]
    for given, says in {"in/*.png": "no image matches", "empty": "holds no image"}.items():
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ImageError, match=says):
            find_inputs([given])


def test_names_that_cannot_be(make: Any, images: Path, model: Path, tmp_path: Path) -> None:
    for options, says in (
        ({"format": "png"}, "the format is tif or zarr"),
        ({"csv": model}, "is one of the inputs"),
        ({"csv": images / "a.tif"}, "is one of the inputs"),
    ):
        with pytest.raises(HRDv2Error, match=says):
            run(make(**options))
    with pytest.raises(ImageError, match="several images would be written"):
        run(make(images / "a.tif", images))
    batch = Batch(model, [images / "a.tif"], images)
    with pytest.raises(ImageError, match="would overwrite"):
        run(batch)


def test_channels_are_picked(tmp_path: Path, tiny_weights: Path) -> None:
    """The second of two channels tells; a model of three is for none of two."""
    two = np.stack([pixels(1)[:, ::-1], pixels(2), pixels(3)])
    strokes = np.zeros((60, 70), np.uint8)
    strokes[10:50, 5:9], strokes[10:50, 60:64] = 1, 2
    tifffile.imwrite(tmp_path / "strokes.tif", strokes)
    image, model = write(tmp_path / "two.ome.tif", two[:2], "CYX"), tmp_path / "m.safetensors"
    pair = ["--image", image, "--strokes", tmp_path / "strokes.tif"]
    options = ["--weights", tiny_weights, "--passes", 1]

    def command(*arguments: Any) -> int:
        return main([*map(str, arguments)])

    assert command("train", *pair, "-o", model, "--channels", "1", *options) == 0
    settings = load_classifier(model).settings_
    assert (settings.channels, settings.channel_count) == ((1,), 2)
    assert command("apply", model, image, "-o", tmp_path / "out", *options[:2]) == 0
    labels = tifffile.imread(tmp_path / "out" / "two.ome.tif")
    segment = ["segment", image, tmp_path / "strokes.tif", "-o", tmp_path / "direct.tif"]
    assert command(*segment, "--channels", "1", *options) == 0
    np.testing.assert_array_equal(labels, tifffile.imread(tmp_path / "direct.tif"))
    assert (labels[:, :20] == 1).mean() > 0.95
    assert command(*segment, "--colours", "mapped", *options) == 0
    wrong = write(tmp_path / "three.ome.tif", two, "CYX")
    assert command("apply", model, wrong, "-o", tmp_path / "out", *options[:2]) == 2
    for bad in (["--channels", "2"], ["--channels", "x"], ["--colours", "loud"]):
        assert command(*segment, *bad, *options) == 2


def test_large_planes_are_trained_on_and_segmented_tile_by_tile(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, strokes = write(tmp_path / "a.tif", pixels(0)), np.zeros((60, 70), np.uint8)
    strokes[10:20, 5:9], strokes[10:20, 60:64] = 1, 2
    tifffile.imwrite(tmp_path / "strokes.tif", strokes)
    extracted: list[Any] = []
    extract = FeatureExtractor.passes

    def passes(self: Any, piece: Any, **options: Any) -> Any:
        extracted.append(piece)
        return extract(self, piece, **options)

    monkeypatch.setattr(FeatureExtractor, "passes", passes)
    settings = ["--weights", str(tiny_weights), "--passes", "1", "--scale", "3"]
    pair = [str(image), str(tmp_path / "strokes.tif")]

    def segment(name: str) -> np.ndarray:
        extracted.clear()
        assert main(["segment", *pair, "-o", str(tmp_path / name), *settings]) == 0
        return tifffile.imread(tmp_path / name)

    monkeypatch.setattr(tiles, "_MARGIN", 28)
    monkeypatch.setattr(FeatureExtractor, "__init__", _small_windows(FeatureExtractor.__init__))
    whole = segment("whole.tif")
    assert len(extracted) == 1
    monkeypatch.setattr(tiles, "_TOGETHER", 1)
    monkeypatch.setattr(tiles, "_SIDE", 1)
    tiled = segment("tiled.tif")
    assert len(extracted) == 6
    # The strokes' tiles tell the classifier of less than the whole plane does.
    for labels in (whole, tiled):
        assert (labels[:, :20] == 1).mean() > 0.9
        assert (labels[:, 50:] == 2).mean() > 0.9
    model = str(tmp_path / "m.safetensors")
    extracted.clear()
    given = ["--image", pair[0], "--strokes", pair[1]]
    assert main(["train", *given, "-o", model, *settings]) == 0
    assert len(extracted) == 2
    assert main(["apply", model, pair[0], "-o", str(tmp_path / "out"), *settings[:2]]) == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), tiled)


def _small_windows(init: Any) -> Any:
    def with_windows(self: Any, settings: Any = None, **options: Any) -> None:
        if settings is None:
            options["window"] = 84
        init(self, settings, **options)

    return with_windows


def test_a_killed_command_goes_on(
    model: Path, tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "many", tmp_path / "out"
    folder.mkdir()
    for k in range(12):
        write(folder / f"{k:02}.tif", np.stack([pixels(k, (200, 220))] * 3), "ZYX")
    arguments = ["apply", model, folder, "-o", out, "--weights", tiny_weights, "--device", "cpu"]
    arguments = [str(one) for one in (*arguments, "--csv", tmp_path / "t.csv", "--format", "zarr")]
    code = f"import sys; from napari_hrdv2._cli import main; sys.exit(main({arguments!r}))"
    chance = np.random.default_rng(0)
    done: dict[str, int] = {}
    for kill in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wanted, end = len(done) + 2, time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            if len(list(out.glob("*.zarr"))) >= wanted:
                time.sleep(chance.uniform(0, 0.1))
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        process.wait()
        finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*.zarr")}
        assert len(finished) >= wanted, kill
        # What was finished before was not touched, and what has its name is whole.
        assert done.items() <= finished.items()
        done = finished
        for name in done:
            planes = open_image(out / name).planes
            assert all((planes.read(index) > 0).all() for index in planes.indices())
    assert len(done) < 12
    capsys.readouterr()
    assert main(arguments) == 0
    assert f"wrote 12 of 12 label images to {out}, {len(done)} of them earlier" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not leftovers(tmp_path)
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + 12 * 2


def test_a_wrong_scheduler_is_told_soon(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["apply", str(model), str(images), "-o", str(tmp_path / "out")]
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        start = time.monotonic()
        assert main([*arguments, "--scheduler", address]) == 2
        assert time.monotonic() - start < 15
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"napari-hrdv2: there is no dask scheduler at {address}")
    assert not (tmp_path / "out").exists()


def test_a_cluster_of_which_a_worker_dies(
    model: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client, LocalCluster

    folder = tmp_path / "many"
    folder.mkdir()
    for k in range(16):
        write(folder / f"{k:02}.tif", pixels(k, (150, 170)))
    write(folder / "large.tif", np.stack([pixels(99, (300, 300)), pixels(98, (300, 300))]), "ZYX")
    (folder / "broken.tif").write_bytes(b"no picture")
    monkeypatch.setattr(tiles, "_TOGETHER", 20)
    options: dict[str, Any] = {"device": "cpu", "weights": str(tiny_weights)}
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        address = cluster.scheduler_address
        batch = Batch(model, [folder], tmp_path / "far", scheduler=address, **options)
        with Client(address, set_as_default=False) as client:
            pids = client.run(os.getpid)
        killed = False
        steps, report = batch.run(), None
        while report is None:
            try:
                event = next(steps)
            except StopIteration as end:
                report = end.value
                break
            if event.done > 5 and not killed:
                os.kill(next(iter(pids.values())), signal.SIGKILL)
                killed = True
    assert killed
    assert len(report.written) == 17
    assert [path.name for path in report.failed] == ["broken.tif"]
    run(Batch(model, [folder], tmp_path / "here", **options))
    for path in (tmp_path / "here").iterdir():
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / "far" / path.name), tifffile.imread(path)
        )
