"""What the benchmarks of accuracy share: tasks, what is compared on them, and scores."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from _data import samples
from skimage import io

from napari_hrdv2 import FeatureExtractor, PixelClassifier, Tokens, TreesClassifier
from napari_hrdv2._evaluate.scores import mean_iou
from napari_hrdv2._evaluate.scribbles import Sample, parted
from napari_hrdv2.core.cache import TokenStore, digest_of
from napari_hrdv2.core.classifier import BasePixelClassifier
from napari_hrdv2.core.simulate import simulate_strokes
from napari_hrdv2.core.trees import BLOCK
from napari_hrdv2.core.upsample import rows_at

#: Images of a transfer task that are painted on; the others are segmented.
TRAINING_IMAGES = 3
_STORE_BYTES = 20 * 10**9

Labels = npt.NDArray[np.integer]
Image = npt.NDArray[np.uint8]


def accuracy(truth: Labels, found: Labels) -> float:
    """Share of the pixels whose truth is known that are right."""
    known = truth > 0
    return float((truth[known] == found[known]).mean())


class Trial(NamedTuple):
    """One training, and what is segmented with it.

    Attributes
    ----------
    training
        Images with strokes, 0 where not painted.
    tests
        Images with labels, 0 where unknown.
    score
        What compares labels (known, found).
    """

    training: Sequence[tuple[Image, Labels]]
    tests: Sequence[tuple[Image, Labels]]
    score: Callable[[Labels, Labels], float] = mean_iou


def own_strokes(sample: Sample, fraction: float, seed: int) -> Trial:
    """An image segmented from simulated strokes on itself."""
    strokes = simulate_strokes(sample.truth, fraction, seed)
    return Trial([(sample.image, strokes)], [(sample.image, sample.truth)])


def transfer(
    found: Sequence[Sample], fraction: float, seed: int, training: int = TRAINING_IMAGES
) -> Trial:
    """Simulated strokes on some images, drawn by the seed; all the others segmented."""
    train, rest = parted(len(found), training, seed)
    return Trial(
        [(found[i].image, simulate_strokes(found[i].truth, fraction, seed)) for i in train],
        [(found[i].image, found[i].truth) for i in rest],
    )


def drawn(data: Path) -> Trial:
    """``strokes/micrograph`` with a person's strokes."""
    sample = samples(data, "strokes")[0]
    strokes = io.imread(data / "strokes" / f"{sample.name}_strokes.png")
    return Trial([(sample.image, strokes)], [(sample.image, sample.truth)])


def cells(data: Path) -> list[Trial]:
    """``tcell``, one of the images with all classes left out after the other.

    Nothing but a person's strokes is known of them: those left out are scored on theirs.
    """
    folder = data / "tcell"
    images = tifffile.imread(folder / "stack.tif")
    strokes = tifffile.imread(folder / "stack_strokes.tif")
    count = len(np.unique(strokes[strokes > 0]))
    pairs = [
        (image, one)
        for image, one in zip(images, strokes, strict=True)
        if len(np.unique(one[one > 0])) == count
    ]
    return [
        Trial([p for j, p in enumerate(pairs) if j != i], [pairs[i]], accuracy)
        for i in range(len(pairs))
    ]


class Bank:
    """Tokens of images, each extracted once.

    Attributes
    ----------
    seconds
        Of every extraction that did not look at what is kept.
    """

    def __init__(self, extractor: FeatureExtractor, store: TokenStore | None = None) -> None:
        self.extractor = extractor
        self.seconds: list[float] = []
        self._store = store
        self._known: dict[str, Tokens] = {}

    def __call__(self, image: Image) -> Tokens:
        """Tokens of an image."""
        digest = digest_of(image)
        if digest not in self._known:
            self._known[digest] = self.extractor.extract(image, store=self._store)
        return self._known[digest]

    def extract_anew(self, image: Image) -> None:
        """Extract an image, taking the time."""
        start = time.perf_counter()
        self._known[digest_of(image)] = self.extractor.extract(image)
        self.seconds.append(time.perf_counter() - start)


def tokens_alone(tokens: Tokens) -> Tokens:
    """Without the filters."""
    return replace(tokens, filters=())


def filters_alone(tokens: Tokens) -> Tokens:
    """The filters in the place of the tokens."""
    first, *others = tokens.filters
    return replace(tokens, data=first.data, lattices=first.lattices, filters=tuple(others))


class Variant(NamedTuple):
    """What is learnt from, by what, and on every how many-th row and column it is scored."""

    features: Callable[[Tokens], Tokens]
    classifier: Callable[[], BasePixelClassifier]
    every: int = 1


DEFAULT, TOKENS, FILTERS, FOREST = "default", "tokens alone", "filters alone", "forest on filters"
#: Of tokens and filters with the choice over strokes; of one family, with a regularisation that is
#: good for it alone, by the linear classifier; scikit-learn's own random forest on the filters,
#: of 5,000 pixels per class at most; it takes seconds per image, and is scored on a quarter of it.
VARIANTS = {
    DEFAULT: Variant(lambda tokens: tokens, PixelClassifier),
    TOKENS: Variant(tokens_alone, partial(PixelClassifier, C=0.01, emphasis=1.0)),
    FILTERS: Variant(filters_alone, partial(PixelClassifier, C=0.03, emphasis=1.0)),
    FOREST: Variant(
        filters_alone,
        partial(TreesClassifier, "forest", min_leaf=1, balance=0.0, max_pixels=5000),
        every=2,
    ),
}


@dataclass
class Scores:
    """What one variant gave on one task.

    Attributes
    ----------
    means
        For each trial, the mean over its segmented images.
    fit_s, predict_s
        Seconds of every training and of every segmentation.
    """

    means: list[float] = field(default_factory=list)
    fit_s: list[float] = field(default_factory=list)
    predict_s: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Over all trials."""
        return float(np.mean(self.means))

    def add(self, trial: Trial, bank: Bank, variant: Variant) -> None:
        """Train, segment, and keep what came of it."""
        found = [variant.features(bank(image)) for image, _ in trial.training]
        start = time.perf_counter()
        model = variant.classifier().fit(found, [strokes for _, strokes in trial.training])
        self.fit_s.append(time.perf_counter() - start)
        scores = []
        for image, truth in trial.tests:
            tokens = variant.features(bank(image))
            start = time.perf_counter()
            labels = _labels_at(model, tokens, variant.every)
            self.predict_s.append(time.perf_counter() - start)
            scores.append(trial.score(truth[:: variant.every, :: variant.every], labels))
        self.means.append(float(np.mean(scores)))


def _labels_at(model: BasePixelClassifier, tokens: Tokens, every: int) -> Labels:
    """Labels of every how many-th row and column."""
    if every == 1 or not isinstance(model, TreesClassifier):
        return model.predict(tokens)[::every, ::every]
    height, width = tokens.image_shape
    pixels = np.mgrid[:height:every, :width:every]
    model.estimator_.set_params(n_jobs=-1)
    found = [
        model.estimator_.predict(rows_at(tokens, part))
        for part in np.array_split(pixels.reshape(2, -1).T, max(1, pixels[0].size // BLOCK))
    ]
    return model.classes_[np.concatenate(found)].reshape(pixels.shape[1:])


def compare(
    trials: Sequence[Trial], bank: Bank, variants: Sequence[str] = tuple(VARIANTS)
) -> Iterator[dict[str, Scores]]:
    """Scores of all variants so far, after every trial."""
    scores = {name: Scores() for name in variants}
    for trial in trials:
        for name, one in scores.items():
            one.add(trial, bank, VARIANTS[name])
        yield scores


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that these benchmarks share."""
    parser.add_argument("--model", default="auto", help="backbone (default: auto)")
    parser.add_argument("--weights", help="its checkpoint, instead of a download")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument(
        "--store", type=Path, help="folder to keep features in, so that the next run starts at once"
    )


def store_of(options: argparse.Namespace, otherwise: str | None = None) -> TokenStore | None:
    """Where features are kept between runs, if anywhere."""
    folder = options.store or otherwise
    return TokenStore(folder, _STORE_BYTES) if folder else None
