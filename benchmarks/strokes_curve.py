"""How many strokes it takes: mean IoU against the share of the pixels that is painted.

From 0.05 % to 2 % of every class's pixels painted by simulated strokes, of the same features:
tokens alone, filters alone, both with the balance chosen over the strokes (the default), and
scikit-learn's random forest on the filters, as in ``accuracy.py``. Tasks, by ``--only``:

- ``superalloy``: painted on 3 images, others segmented, for every seed.
- ``oxide``: images from strokes on themselves, for every seed.
- ``coins``, ``textures``: two of the images that come with scikit-image, likewise.

``--images`` says how many of each folder are segmented at most. Nothing is promised here but what
is printed; ``--picture`` draws it. Without the benchmark data the program says so and ends with
code 0.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from _data import bundled, folder, samples
from _score import (
    DEFAULT,
    FILTERS,
    FOREST,
    TOKENS,
    TRAINING_IMAGES,
    VARIANTS,
    Bank,
    Trial,
    add_options,
    compare,
    own_strokes,
    store_of,
    transfer,
)
from PIL import Image, ImageDraw
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from napari_hrdv2 import FeatureExtractor, HRDv2Error

FRACTIONS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02)
_COLOURS = {DEFAULT: "#0072b2", TOKENS: "#e69f00", FILTERS: "#009e73", FOREST: "#999999"}
_PANEL, _MARGIN, _HEAD = (300, 200), 40, 24

Curves = dict[str, npt.NDArray[np.float64]]
Maker = Callable[[float, int], list[Trial]]


def superalloy(data: Path, images: int) -> Maker:
    """Painted on some images, others segmented."""
    found = samples(data, "superalloy")
    return lambda fraction, seed: [transfer(found[: TRAINING_IMAGES + images], fraction, seed)]


def oxide(data: Path, images: int) -> Maker:
    """Each image by itself."""
    found = samples(data, "oxide")[:images]
    return lambda fraction, seed: [own_strokes(one, fraction, seed) for one in found]


def of_scikit_image(name: str) -> Maker:
    """One image by itself."""
    (found,) = (one for one in bundled() if one.name == name)
    return lambda fraction, seed: [own_strokes(found, fraction, seed)]


TASKS: dict[str, Callable[[Path, int], Maker]] = {
    "superalloy": superalloy,
    "oxide": oxide,
    "coins": lambda data, images: of_scikit_image("coins"),
    "textures": lambda data, images: of_scikit_image("textures"),
}


def table(curves: dict[str, Curves]) -> Table:
    """The scores to print."""
    out = Table(title="mean IoU by share painted", box=SIMPLE_HEAD, pad_edge=False)
    out.add_column("data", no_wrap=True)
    out.add_column("of", no_wrap=True)
    for fraction in FRACTIONS:
        out.add_column(f"{100 * fraction:g} %", justify="right", no_wrap=True)
    for task, by_variant in curves.items():
        for name, curve in by_variant.items():
            end = name == list(by_variant)[-1]
            out.add_row(task, name.split()[0], *(f"{v:.3f}" for v in curve), end_section=end)
    return out


def picture(curves: dict[str, Curves]) -> Image.Image:
    """A panel for each task, two a row: mean IoU over the share painted, on a logarithmic axis."""
    (w, h), columns = _PANEL, 2
    wide, high = w + 2 * _MARGIN, h + _HEAD + _MARGIN
    sheet = Image.new("RGB", (2 * wide, -(-len(curves) // columns) * high + _HEAD), "white")
    draw = ImageDraw.Draw(sheet)
    across = np.log(FRACTIONS)
    across = (across - across[0]) / (across[-1] - across[0])
    for k, (task, by_variant) in enumerate(curves.items()):
        left, top = k % columns * wide + _MARGIN, k // columns * high + _HEAD
        draw.text((left, top - 16), task, fill="black")
        for level in (0, 0.2, 0.4, 0.6, 0.8, 1):
            y = top + h * (1 - level)
            draw.line([(left, y), (left + w, y)], fill="#dddddd")
            draw.text((left - 24, y - 6), f"{level:.1f}", fill="black")
        for fraction, x in zip(FRACTIONS, across, strict=True):
            draw.text((left + w * x - 12, top + h + 6), f"{100 * fraction:g} %", fill="black")
        for name, curve in by_variant.items():
            points = [(left + w * x, top + h * (1 - y)) for x, y in zip(across, curve, strict=True)]
            draw.line(points, fill=_COLOURS[name], width=3 if name == DEFAULT else 2)
            for x, y in points:
                draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=_COLOURS[name])
    x = _MARGIN
    for name, colour in _COLOURS.items():
        y = sheet.height - _HEAD
        draw.rectangle([x, y + 4, x + 14, y + 8], fill=colour)
        draw.text((x + 20, y), name, fill="black")
        x += 150
    return sheet


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--seeds", type=int, default=3, help="repetitions (default: 3)")
    parser.add_argument(
        "--images", type=int, default=7, help="segmented of a folder at most (default: 7)"
    )
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="tasks")
    parser.add_argument("--picture", type=Path, help="file for a picture of the curves")
    options = parser.parse_args()
    if options.seeds < 1 or options.images < 1:
        parser.error("at least one seed and one image are needed")
    data = folder()
    console = Console()
    warnings.simplefilter("once")
    curves: dict[str, Curves] = {}
    try:
        extractor = FeatureExtractor(
            model=options.model, weights=options.weights, device=options.device
        )
        with Progress(console=Console(stderr=True)) as bar:
            for task in options.only:
                bank, trials_of = (
                    Bank(extractor, store_of(options)),
                    TASKS[task](data, options.images),
                )
                means: dict[str, list[float]] = {name: [] for name in VARIANTS}
                done = bar.add_task(task, total=len(FRACTIONS))
                for fraction in FRACTIONS:
                    trials = [t for seed in range(options.seeds) for t in trials_of(fraction, seed)]
                    *_, scores = compare(trials, bank)
                    for name, one in scores.items():
                        means[name].append(one.mean)
                    bar.advance(done)
                curves[task] = {name: np.array(one) for name, one in means.items()}
    except HRDv2Error as error:
        print(error, file=sys.stderr)
        return 2
    console.print(f"{extractor.weights.name} on {extractor.device}")
    console.print(table(curves))
    if options.picture:
        picture(curves).quantize(64).save(options.picture, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
