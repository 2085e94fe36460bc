"""Segmentation from strokes, scored on any folder of images and truths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._io import is_image, open_image, open_strokes
from ..core.base import BasePixelClassifier
from ..core.cache import TokenStore
from ..core.errors import StrokesError
from ..core.methods import make_classifier
from ..core.planes import Planes
from ..core.simulate import simulate_strokes
from ..core.tokens import Tokens
from .features import Extractor
from .layout import DataSetError
from .running import Evaluation, Row
from .scores import of_labels

_TRUTH, _STROKES = "_truth", "_strokes"
_STORE_BYTES = 20 * 10**9
# What strokes are of that a person drew, in the place of a fraction.
DRAWN = "drawn"

Labels = npt.NDArray[np.integer]


class Sample(NamedTuple):
    """An image whose truth is known.

    Attributes
    ----------
    name
        File name without its ending.
    image
        (h, w) grey or (h, w, 3) RGB.
    truth
        (h, w) of labels, 0 where unknown.
    strokes
        (h, w) of labels that a person painted, 0 where not; None without any.
    """

    name: str
    image: npt.NDArray[Any]
    truth: Labels
    strokes: Labels | None = None


class Files(NamedTuple):
    """The files of a :class:`Sample`.

    Attributes
    ----------
    image, truth
        NAME.* and NAME_truth.*.
    strokes
        NAME_strokes.*, where it is there.
    """

    image: Path
    truth: Path
    strokes: Path | None

    def read(self) -> Sample:
        """Read them.

        Raises
        ------
        DataSetError, ImageError
            If one of them is missing or broken, they do not fit, or there are not two classes.
        """
        planes = open_image(self.image).planes
        if planes.count != 1:
            raise DataSetError(f"{self.image} holds {planes.count} planes: one is needed")
        image = planes.read(next(planes.indices()))
        truth = _labels(self.truth, planes, "truth")
        if len(np.unique(truth[truth > 0])) < 2:
            raise DataSetError(f"{self.truth} holds fewer than two classes (labels from 1)")
        strokes = None if self.strokes is None else _labels(self.strokes, planes, "strokes")
        return Sample(self.image.stem, image, truth, strokes)


def _labels(path: Path, planes: Planes, what: str) -> Labels:
    try:
        opened = open_strokes(path, planes, what)
    except StrokesError as error:
        raise DataSetError(str(error)) from error
    labels = opened.read(next(opened.indices()))
    if labels.min(initial=0) < 0:
        raise DataSetError(f"{path} holds the label {labels.min()}: labels go from 1")
    found: Labels = labels.astype(np.int64)
    return found


def find_files(folder: Path) -> dict[str, Files]:
    """Images NAME.* beside truths NAME_truth.*, and NAME_strokes.* where there are any, by name.

    Raises
    ------
    DataSetError
        If the folder is none, holds no truths, or not one image for each.
    """
    if not folder.is_dir():
        raise DataSetError(f"{folder} is no folder")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if is_image(path):
            by_stem.setdefault(path.stem, []).append(path)
    names = [one.removesuffix(_TRUTH) for one in by_stem if one.endswith(_TRUTH)]
    if not names:
        raise DataSetError(f"{folder} holds no truths: images NAME.* need labels NAME_truth.*")

    def only(stem: str) -> Path:
        paths = by_stem.get(stem, [])
        if len(paths) != 1:
            raise DataSetError(f"{folder} holds {len(paths)} files {stem}.*, and needs one of them")
        return paths[0]

    return {
        name: Files(
            only(name),
            only(name + _TRUTH),
            only(name + _STROKES) if name + _STROKES in by_stem else None,
        )
        for name in sorted(names)
    }


def parted(count: int, training: int, seed: int) -> tuple[list[int], list[int]]:
    """Which of ``count`` images are trained on, drawn by the seed, and all the others."""
    order = np.random.default_rng(seed).permutation(count).tolist()
    return order[:training], order[training:]


class _Trial(NamedTuple):
    """What images are segmented after: those painted, the share of them, and how it is drawn."""

    training: tuple[str, ...]
    fraction: float | None
    seed: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Scribbles(Evaluation):
    """Images segmented from strokes on themselves, or on some of the others.

    Attributes
    ----------
    data
        The folder.
    extractor
        What makes tokens.
    classifier
        One of :data:`.METHODS`.
    fractions
        Shares of every class's pixels that are painted by simulated strokes.
    seeds
        How many times strokes are drawn, and images to train on.
    training
        How many images are trained on, to segment the others. 0: each image from its own strokes.
    simulate
        Whether strokes are simulated even where a person's are there.
    limit
        How many of the images there are, the first ones; by default all.
    """

    name = "scribbles"
    scores = "mean IoU of segmentations from strokes"
    columns = ("painted", "accuracy", "mean_iou")
    data: Path
    extractor: Extractor
    classifier: str = "logistic"
    fractions: tuple[float, ...] = (0.005,)
    seeds: int = 1
    training: int = 0
    simulate: bool = False
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the strokes, and of features."""
        own = ("classifier", "fractions", "seeds", "training", "simulate")
        return {
            **{name: getattr(self, name) for name in own},
            **self.extractor.settings.model_dump(mode="json"),
        }

    @cached_property
    def _files(self) -> dict[str, Files]:
        found = dict(list(find_files(self.data).items())[: self.limit])
        if self.training >= len(found):
            raise DataSetError(
                f"of {len(found)} images, {self.training} to train on leave none to segment"
            )
        return found

    @cached_property
    def _plan(self) -> dict[str, tuple[str, _Trial]]:
        """Of every item the image to segment, and what after."""
        found = {}
        names = list(self._files)
        if self.training:
            ways = self._ways(names)
            for fraction, seed in product(ways, range(self.seeds)):
                train, rest = parted(len(names), self.training, seed)
                trial = _Trial(tuple(names[k] for k in sorted(train)), fraction, seed)
                for name in (names[k] for k in sorted(rest)):
                    found[f"{name}, {told(fraction)}, seed {seed}"] = (name, trial)
            return found
        for name in names:
            for fraction in self._ways([name]):
                # A person's strokes are the same however often.
                for seed in range(1 if fraction is None else self.seeds):
                    item = f"{name}, {told(fraction)}, seed {seed}"
                    found[item] = (name, _Trial((name,), fraction, seed))
        return found

    def _ways(self, names: Sequence[str]) -> tuple[float | None, ...]:
        """Fractions that are painted; None where a person painted all of these images."""
        drawn = all(self._files[name].strokes for name in names)
        return (None,) if drawn and not self.simulate else self.fractions

    @property
    def items(self) -> Sequence[str]:
        """Every image, as often as it is segmented."""
        return list(self._plan)

    def files(self, item: str) -> Sequence[Path]:
        """Those of the image; and of those painted."""
        name, trial = self._plan[item]
        every = [self._files[one] for one in dict.fromkeys((*trial.training, name))]
        return [path for files in every for path in files if path is not None]

    def begin(self, folder: Path, done: Sequence[str]) -> Sequence[str]:
        """Keep tokens in the folder, where each image is needed many times."""
        if self.training:
            self._known["store"] = TokenStore(folder / "tokens", _STORE_BYTES)
        return done

    def measure(self, item: str) -> Row:
        """Segment an image after its trial."""
        name, trial = self._plan[item]
        model, painted = self._model(trial)
        sample, tokens = self._seen(name)
        labels, scores = of_labels(sample.truth, model.predict(tokens))
        by_label = zip(labels.tolist(), scores.ious, strict=True)
        return {
            "image": name,
            "trained_on": list(trial.training),
            "strokes": DRAWN if trial.fraction is None else trial.fraction,
            "seed": trial.seed,
            "painted": painted,
            "accuracy": scores.accuracy,
            "mean_iou": scores.mean_iou,
            "iou": {str(label): value for label, value in by_label},
        }

    def _model(self, trial: _Trial) -> tuple[BasePixelClassifier, int]:
        """The classifier of a trial, and how many pixels were painted; the last is kept."""
        if self._known.get("trial") != trial:
            seen = [self._seen(name) for name in trial.training]
            strokes = [self._painted(sample, trial) for sample, _ in seen]
            try:
                model = make_classifier(self.classifier).fit(
                    [tokens for _, tokens in seen], strokes
                )
            except StrokesError as error:
                raise DataSetError(f"strokes on {', '.join(trial.training)}: {error}") from error
            count = sum(int((one > 0).sum()) for one in strokes)
            self._known.update(trial=trial, model=(model, count))
        found: tuple[BasePixelClassifier, int] = self._known["model"]
        return found

    def _painted(self, sample: Sample, trial: _Trial) -> Labels:
        if sample.strokes is not None and not self.simulate:
            return sample.strokes
        assert trial.fraction is not None
        return simulate_strokes(sample.truth, trial.fraction, trial.seed)

    def _seen(self, name: str) -> tuple[Sample, Tokens]:
        """An image and its tokens; the last is kept."""
        if self._known.get("name") != name:
            sample = self._files[name].read()
            tokens = self.extractor.extract(sample.image, store=self._known.get("store"))
            self._known.update(name=name, seen=(sample, tokens))
        found: tuple[Sample, Tokens] = self._known["seen"]
        return found

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """By what was painted: mean over the images and seeds, the least, and of every class."""
        found: dict[str, Any] = {}
        for way in dict.fromkeys(row["strokes"] for row in rows):
            own = [row for row in rows if row["strokes"] == way]
            what = told(None if way == DRAWN else way)
            means = [row["mean_iou"] for row in own]
            found[f"mean IoU, {what}"] = float(np.mean(means))
            found[f"least, {what}"] = min(means)
            for label in sorted({int(one) for row in own for one in row["iou"]}):
                values = [row["iou"][str(label)] for row in own if str(label) in row["iou"]]
                found[f"IoU {label}, {what}"] = float(np.mean(values))
        return found


def told(fraction: float | None) -> str:
    """What is painted, for people."""
    return DRAWN if fraction is None else f"{100 * fraction:g} %"
