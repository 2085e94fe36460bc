"""What large images and many files take: memory, time, seams, and a cluster.

``scale``: micrographs of 2048, 4096, 8192 and 16384 pixels squared, one of ``oxide`` mirrored over
and over and written to OME-Zarr piece by piece, are segmented with one pass, from OME-Zarr to
OME-Zarr, by the code behind ``napari-hrdv2 apply``, each in a fresh process. Memory is the peak of
that process's resident memory with nothing subtracted (``VmHWM``; there are no other processes).
Beside the time stands what it goes to: backbone, filters and prediction one after the other,
reading and writing in threads of their own at the same time.

``seams``: an image of 2048 x 2048 is segmented in tiles and as a whole; the labels that differ are
counted near the tiles' borders and elsewhere. For information, the agreement with a model whose
transformer looks at the whole image at once (``window=0``).

``cluster``: 200 small images in this process, and in two others of which one is killed.

``--check`` ends with code 1 where the memory reaches 3 GB, the time for a pixel between 2048 and
8192 differs by more than 15 %, less than 99.5 % of the labels agree, more than 1.5 times as many
differ within 16 px of a border as elsewhere, or a cluster's labels are others.
Without the benchmark data, or on a system other than Linux, the program says so and ends with
code 0.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _data import folder, samples
from rich.console import Console
from rich.table import Table

from napari_hrdv2._evaluate.scribbles import Sample
from napari_hrdv2.core.memory import resident

SIDES = (2048, 4096, 8192, 16384)
_LINEAR_UP_TO = 8192
_LIMIT_GB, _SLOPE, _AGREEMENT, _SEAM_PX, _SEAM_RATIO = 3.0, 1.15, 0.995, 16, 1.5
FRACTION, STRIP = 0.005, 512
IMAGES, SMALL = 200, 256


def mirrored(base: npt.NDArray[Any], start: int, stop: int, width: int) -> npt.NDArray[Any]:
    """Rows of an image mirrored over and over."""

    def index(at: npt.NDArray[np.intp], n: int) -> npt.NDArray[np.intp]:
        return np.minimum(at % (2 * n), 2 * n - 1 - at % (2 * n))

    rows, columns = index(np.arange(start, stop), len(base)), index(np.arange(width), base.shape[1])
    return base[rows[:, None], columns]


def write_image(path: Path, base: npt.NDArray[Any], side: int) -> None:
    """Write such an image as OME-Zarr."""
    from napari_hrdv2._io import open_results

    about = {"pixel_size": {"Y": 0.5, "X": 0.5}, "unit": "micrometer"}
    with open_results(path, "YX", (side, side), base.dtype, **about) as results:
        for start in range(0, side, STRIP):
            rows = slice(start, min(start + STRIP, side))
            results.write((), (rows, slice(0, side)), mirrored(base, start, rows.stop, side))


def trained(sample: Sample, options: argparse.Namespace, **settings: Any) -> Any:
    """A classifier of one pass, and its extractor."""
    from napari_hrdv2 import FeatureExtractor, PixelClassifier
    from napari_hrdv2.core.simulate import simulate_strokes

    extractor = FeatureExtractor(
        model=options.model, weights=options.weights, device="cpu", passes=1, **settings
    )
    tokens = extractor.extract(sample.image)
    return PixelClassifier().fit(tokens, simulate_strokes(sample.truth, FRACTION)), extractor


def measure(work: Path, options: argparse.Namespace) -> None:
    """Segment in this process; print seconds, bytes at the peak, and the seconds of its parts."""
    from napari_hrdv2 import _batch
    from napari_hrdv2._io import Results
    from napari_hrdv2.core import extraction
    from napari_hrdv2.core.classifier import PixelClassifier

    spent: dict[str, float] = {}

    def timed(home: Any, name: str, what: str) -> None:
        work_of: Callable[..., Any] = getattr(home, name)

        def timing(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return work_of(*args, **kwargs)
            finally:
                spent[what] = spent.get(what, 0) + time.perf_counter() - start

        setattr(home, name, timing)

    timed(extraction.FeatureExtractor, "_forward", "backbone")
    timed(extraction, "filter_grids", "filters")
    timed(PixelClassifier, "predict", "prediction")
    timed(_batch, "piece_of", "reading, meanwhile")
    timed(Results, "write", "writing, meanwhile")

    def run(image: Path, out: str) -> None:
        model, weights = work / "model.safetensors", options.weights
        about: dict[str, Any] = {"device": "cpu", "weights": weights, "overwrite": True}
        batch = _batch.Batch(model, [image], work / out, "zarr", **about)
        events = list(batch.run())
        assert events[-1].kind == "written", events[-1].text

    # The weights are loaded, and all code is.
    run(work / "tiny.zarr", "warm")
    spent.clear()
    start = time.perf_counter()
    run(work / f"{options.measure}.zarr", "out")
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": resident("VmHWM"), "spent": spent}))


def scale(work: Path, sample: Sample, options: argparse.Namespace) -> list[str]:
    """Memory and time of images of growing size."""
    model, _ = trained(sample, options)
    model.save(work / "model.safetensors")
    write_image(work / "tiny.zarr", sample.image, 64)
    table = Table(title="one image, 1 pass, from OME-Zarr to OME-Zarr")
    for name in ("pixels", "s", "Mpx/s", "µs/px", "peak GB", "what the time goes to"):
        table.add_column(name, justify="left" if name.startswith("what") else "right")
    missed, per_pixel = [], []
    sides = [side for side in SIDES if side <= options.side] or [options.side]
    for side in sides:
        with Console(stderr=True).status(f"{side} x {side}"):
            write_image(work / f"{side}.zarr", sample.image, side)
            command = [sys.executable, __file__, *sys.argv[1:]]
            command += ["--measure", str(side), "--work", str(work)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        seconds, peak = found["seconds"], found["peak"] / 1e9
        shares = ", ".join(f"{k} {v / seconds:.0%}" for k, v in found["spent"].items())
        row = f"{side}²", f"{seconds:.1f}", f"{side**2 / seconds / 1e6:.2f}"
        table.add_row(*row, f"{seconds / side**2 * 1e6:.3f}", f"{peak:.2f}", shares)
        if side <= _LINEAR_UP_TO:
            per_pixel.append(seconds / side**2)
        if peak >= _LIMIT_GB:
            missed.append(f"the peak of {peak:.2f} GB at {side}² is not below {_LIMIT_GB} GB")
    Console().print(table)
    if max(per_pixel) > _SLOPE * min(per_pixel):
        missed.append(f"the time for a pixel grows to {max(per_pixel) / min(per_pixel):.2f} times")
    return missed


def seams(sample: Sample, options: argparse.Namespace) -> list[str]:
    """Labels that differ between tiles and the whole."""
    from napari_hrdv2.core import tiles
    from napari_hrdv2.core.apply import parts_of, segment_piece
    from napari_hrdv2.core.planes import Planes
    from napari_hrdv2.core.tiles import piece_of

    side = min(options.side, SIDES[0])
    model, extractor = trained(sample, options)
    planes = Planes(mirrored(sample.image, 0, side, side), "YX")
    tiled, near = np.zeros((side, side), np.uint16), np.zeros((side, side), bool)
    together, tiles._TOGETHER = tiles._TOGETHER, 1
    for part in parts_of(planes, extractor.settings):
        piece = piece_of(planes, *part)
        tiled[part.tile.core] = segment_piece(model, extractor.extract(piece), piece).labels
        for axis, one in enumerate(part.tile.core):
            if one.start:
                seam = slice(one.start - _SEAM_PX, one.start + _SEAM_PX)
                near[(seam, slice(None)) if axis == 0 else (slice(None), seam)] = True
    tiles._TOGETHER = together
    whole = model.predict(extractor.extract(planes.read()))
    at_once, looking = trained(sample, options, window=0)
    agreement_at_once = (whole == at_once.predict(looking.extract(planes.read()))).mean()
    differs = tiled != whole
    at_seams, elsewhere = differs[near].mean(), differs[~near].mean()
    table = Table(title=f"{side} x {side} in tiles and as a whole")
    table.add_column("what")
    table.add_column("%", justify="right")
    for name, value in (
        ("labels that agree", 1 - differs.mean()),
        (f"differ within {_SEAM_PX} px of a tile's border", at_seams),
        ("differ elsewhere", elsewhere),
        ("for information: agree with a transformer that looks at all at once", agreement_at_once),
    ):
        table.add_row(name, f"{100 * value:.3f}")
    Console().print(table)
    missed = []
    if 1 - differs.mean() < _AGREEMENT:
        missed.append(f"{differs.mean():.2%} of the labels differ in tiles")
    if at_seams > _SEAM_RATIO * elsewhere:
        missed.append(f"{at_seams:.2%} differ at seams, {elsewhere:.2%} elsewhere")
    return missed


def cluster(work: Path, sample: Sample, options: argparse.Namespace) -> list[str]:
    """Many small images, here and in two other processes of which one dies."""
    import psutil
    import tifffile

    from napari_hrdv2._batch import Batch

    model, _ = trained(sample, options)
    model.save(work / "model.safetensors")
    images = work / "small"
    images.mkdir()
    rng = np.random.default_rng(0)
    for k in range(IMAGES):
        y, x = (int(rng.integers(n - SMALL)) for n in sample.image.shape)
        tifffile.imwrite(images / f"{k:03}.tif", sample.image[y : y + SMALL, x : x + SMALL])
    table = Table(title=f"{IMAGES} images of {SMALL} x {SMALL}, 1 pass")
    table.add_column("where")
    table.add_column("s", justify="right")
    about: dict[str, Any] = {"device": "cpu", "weights": options.weights}
    places = {"here": 0, "two workers, one killed": 2}
    for name, workers in places.items():
        start, killed = time.perf_counter(), workers == 0
        for event in Batch(
            work / "model.safetensors", [images], work / name, workers=workers, **about
        ).run():
            if not killed and event.done > IMAGES / 2:
                children = psutil.Process().children(recursive=True)
                largest = max(children, key=lambda one: one.memory_info().rss)
                os.kill(largest.pid, signal.SIGKILL)
                killed = True
        table.add_row(name, f"{time.perf_counter() - start:.1f}")
    Console().print(table)
    first, second = (
        [tifffile.imread(one) for one in sorted((work / name).glob("*.tif"))] for name in places
    )
    if len(first) != IMAGES or len(second) != IMAGES:
        return [f"{len(first)} and {len(second)} of {IMAGES} images are segmented"]
    wrong = sum(not np.array_equal(*pair) for pair in zip(first, second, strict=True))
    print(f"{wrong} of {IMAGES} label images differ")
    return [f"{wrong} label images of the cluster differ"] if wrong else []


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="auto", help="backbone (default: auto)")
    parser.add_argument("--weights", help="its checkpoint, instead of a download")
    parser.add_argument(
        "--side", type=int, default=SIDES[-1], help="pixels of the largest (default: 16384)"
    )
    parser.add_argument("--only", choices=("scale", "seams", "cluster"), help="one part of it")
    parser.add_argument("--check", action="store_true", help="code 1 where a promise is missed")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.measure:
        measure(options.work, options)
        return 0
    sample = samples(folder(), "oxide")[0]
    if not Path("/proc/self/status").exists():
        print("skipped: the peak of resident memory is read from /proc, which only Linux has")
        return 0
    missed = []
    with tempfile.TemporaryDirectory(prefix="napari-hrdv2-scale-") as name:
        if options.only in (None, "scale"):
            missed += scale(Path(name), sample, options)
        if options.only in (None, "seams"):
            missed += seams(sample, options)
        if options.only in (None, "cluster"):
            missed += cluster(Path(name), sample, options)
    for one in missed:
        print(f"missed: {one}")
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
