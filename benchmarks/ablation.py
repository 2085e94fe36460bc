"""What every hyper-parameter is worth: one changed at a time from the default.

Passes, zooms, transforms, stride, scale, depth of the backbone, interpolation, percentiles,
filters and classifier; for each value the mean IoU on every data set, and seconds per image:
of its extraction, of the fit (a model's, choice of the balance included) and of its segmentation.
"gain" is the mean over the data sets, against the default's.

Data are, from the benchmark folder, ``strokes`` (its person's strokes), ``superalloy`` (0.25 %
painted on 3 images, others segmented) and ``oxide`` (0.5 % painted on each); or, with
``--folder``, your own: images NAME.* (png, tif, jpg) beside truths NAME_truth.* (label images of
the same size, 0 where unknown). There every image is segmented from simulated strokes on
``--painted`` of itself, or, with ``--training N``, from strokes on N of the images, drawn by the
seed, and the others are segmented.

Extraction is timed on the first image of the first data set; of the others, passes that two values
share are computed once and kept, in ``--store`` if given. ``--quick`` takes the middle 512 x 512
pixels of a few images, and one seed: ten minutes on two CPU cores, where all data take an hour or
more. ``--only`` limits the parameters.

Ends with code 2 and one line where the folder cannot be used; without the benchmark data, or a
folder, the program says so and ends with code 0.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from _data import folder, samples
from _score import (
    TRAINING_IMAGES,
    Bank,
    Scores,
    Trial,
    Variant,
    add_options,
    drawn,
    own_strokes,
    store_of,
    transfer,
)
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from napari_hrdv2 import FeatureExtractor, HRDv2Error
from napari_hrdv2._evaluate import DataSetError
from napari_hrdv2._evaluate.scribbles import Sample, find_files
from napari_hrdv2.core.cache import TokenStore
from napari_hrdv2.core.methods import METHODS, make_classifier

_QUICK_SIDE, _QUICK_ALLOYS, _QUICK_OXIDES = 512, 5, 1

Data = dict[str, list[Trial]]


class Value(NamedTuple):
    """One value of a hyper-parameter."""

    title: str
    settings: dict[str, Any]
    classifier: str = "logistic"


def factors(patch: int) -> dict[str, list[Value]]:
    """Hyper-parameters and the values that are compared with the default's."""
    return {
        "passes": [Value(str(n), {"passes": n}) for n in (1, 2, 8, 16)],
        "zooms": [
            Value("1 x 4", {"zooms": (1.0,), "passes": 4}),
            Value("1 0.5 2 x 2", {"zooms": (1.0, 0.5, 2.0), "passes": 6}),
            Value("1 1.5 x 2", {"zooms": (1.0, 1.5)}),
            Value("1 0.25 x 2", {"zooms": (1.0, 0.25)}),
        ],
        "transforms": [
            Value("flips", {"flips": True}),
            Value("rotations", {"rotations": True}),
            Value("moore", {"shifts": "moore"}),
            Value("moore x 9", {"shifts": "moore", "passes": 9}),
            Value("unmoved", {"move_positions": False}),
        ],
        "stride": [Value(f"{patch // 2}", {"stride": patch // 2})],
        "scale": [Value(f"{s:g}", {"scale": s}) for s in (0.5, 0.75, 1.5, 2.0)],
        "depth": [Value(f"{d:g}", {"depth": d}) for d in (0.25, 0.5, 1.0)],
        "kernel": [Value("nearest", {"kernel": "nearest"})],
        "percentiles": [
            Value(f"{a:g}-{b:g}", {"percentiles": (a, b)}) for a, b in ((0, 100), (5, 95))
        ],
        "filters": [Value("none", {"filters": False})],
        "classifier": [Value(name, {}, name) for name in METHODS if name != "logistic"],
    }


def of_folder(found: list[Sample], painted: float, training: int, seeds: int) -> Data:
    """What is done with a user's images."""
    if training >= len(found):
        raise DataSetError(f"of {len(found)} images, {training} to train on leave none to segment")
    if training:
        trials = [transfer(found, painted, seed, training) for seed in range(seeds)]
    else:
        trials = [own_strokes(one, painted, seed) for seed in range(seeds) for one in found]
    return {"yours": trials}


def of_benchmark(data: Path, quick: bool, seeds: int) -> Data:
    """What is done with the benchmark data."""
    alloys, oxides = samples(data, "superalloy"), samples(data, "oxide")
    if quick:
        alloys = alloys[:_QUICK_ALLOYS]
        oxides = [_middle(one) for one in oxides[-_QUICK_OXIDES:]]
    return {
        "strokes": [drawn(data)],
        "alloy": [transfer(alloys, 0.0025, s, TRAINING_IMAGES) for s in range(seeds)],
        "oxide": [own_strokes(one, 0.005, s) for s in range(seeds) for one in oxides],
    }


def _middle(sample: Sample) -> Sample:
    """The middle of an image."""
    h, w = (max(0, (n - _QUICK_SIDE) // 2) for n in sample.truth.shape)
    part = np.s_[h : h + _QUICK_SIDE, w : w + _QUICK_SIDE]
    return Sample(sample.name, sample.image[part].copy(), sample.truth[part].copy())


class Result(NamedTuple):
    """What one value gave."""

    factor: str
    title: str
    scores: dict[str, Scores]
    extract_s: float

    @property
    def mean(self) -> float:
        """Over the data sets."""
        return float(np.mean([one.mean for one in self.scores.values()]))


def measure(
    make: Callable[..., FeatureExtractor],
    data: Data,
    values: dict[str, list[Value]],
    store: TokenStore | None,
) -> Iterator[Result]:
    """The default, then every value."""
    first = next(iter(data.values()))[0].training[0][0]
    default = Bank(make(), store)
    default.extract_anew(first)
    plan = [("default", Value("", {}))]
    plan += [(factor, value) for factor, listed in values.items() for value in listed]
    for factor, value in plan:
        bank = default
        if value.settings:
            bank = Bank(make(**value.settings), store)
            bank.extract_anew(first)
        variant = Variant(lambda tokens: tokens, partial(make_classifier, value.classifier))
        scores = {name: Scores() for name in data}
        for name, trials in data.items():
            for trial in trials:
                scores[name].add(trial, bank, variant)
        yield Result(factor, value.title, scores, bank.seconds[0])


def table(results: list[Result]) -> Table:
    """The scores to print."""
    title = "mean IoU; gain of their mean; seconds per image, of the fit per model"
    out = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    out.add_column("changed", no_wrap=True)
    columns = [*results[0].scores, "gain", "extract", "fit", "label"]
    for column in columns:
        out.add_column(column, justify="right", no_wrap=True)
    for k, one in enumerate(results):
        fits = [s for scores in one.scores.values() for s in scores.fit_s]
        predictions = [s for scores in one.scores.values() for s in scores.predict_s]
        out.add_row(
            f"{one.factor} {one.title}".strip(),
            *(f"{scores.mean:.3f}" for scores in one.scores.values()),
            f"{one.mean - results[0].mean:+.3f}" if k else "",
            f"{one.extract_s:.2f}",
            f"{np.mean(fits):.2f}",
            f"{np.mean(predictions):.3f}",
            end_section=k + 1 == len(results) or results[k + 1].factor != one.factor,
        )
    return out


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(factors(2))
    add_options(parser)
    parser.add_argument("--folder", type=Path, help="your own images NAME.* and NAME_truth.*")
    parser.add_argument(
        "--painted", type=float, default=0.005, help="share painted of yours (default: 0.005)"
    )
    parser.add_argument(
        "--training", type=int, default=0, help="of your images, to train on (default: each itself)"
    )
    parser.add_argument("--seeds", type=int, help="repetitions (default: 3, quick: 1)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="parameters")
    parser.add_argument("--quick", action="store_true", help="few images, one seed")
    options = parser.parse_args()
    seeds = options.seeds or (1 if options.quick else 3)
    if seeds < 1 or options.training < 0:
        parser.error("at least one seed, and no negative number of images, are needed")
    # A file is wide enough for all columns.
    console = Console(width=None if sys.stdout.isatty() else 100)
    warnings.simplefilter("once")
    results = []
    try:
        if options.folder:
            found = [one.read() for one in find_files(options.folder).values()]
            if options.quick:
                found = [_middle(one) for one in found[: max(3, options.training + 1)]]
            data = of_folder(found, options.painted, options.training, seeds)
        else:
            data = of_benchmark(folder(), options.quick, seeds)
        make = partial(
            FeatureExtractor, model=options.model, weights=options.weights, device=options.device
        )
        default = make()
        assert default.settings.patch is not None
        values = {k: v for k, v in factors(default.settings.patch).items() if k in options.only}
        with TemporaryDirectory() as kept, Progress(console=Console(stderr=True)) as bar:
            store = store_of(options, kept)
            done = bar.add_task("values", total=1 + sum(map(len, values.values())))
            for result in measure(make, data, values, store):
                results.append(result)
                bar.advance(done)
    except HRDv2Error as error:
        print(error, file=sys.stderr)
        return 2
    console.print(f"{default.weights.name} on {default.device}")
    console.print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
