"""The linear probe: what it learns on an image, and how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.measure import label as connected
from sklearn.metrics import accuracy_score, jaccard_score

from ..core.classifier import PixelClassifier
from ..core.errors import StrokesError
from ..core.settings import Settings
from ..core.simulate import simulate_strokes
from ..core.strokes import Training
from ..core.tuning import stroke_folds

Labels = npt.NDArray[np.integer]
#: True labels (n,) of some pixels, and those that a probe found.
Pair = tuple[Labels, Labels]

#: Painted pixels of a class that a probe learns from.
PAINTED = 2000
# The share that is painted where only the truth is known, and how many times.
_FRACTION, _SEEDS = 0.005, 3
# About what tokens are regularised with by default, but fixed: figures are to stay comparable.
_C = 0.0027


@dataclass(frozen=True, eq=False)
class Task:
    """What a linear probe learns, and what it is tested on.

    Attributes
    ----------
    drawings
        Of each training (h, w) of labels, 0 where not painted.
    truth
        (h, w) of labels, 0 where unknown; without one, strokes are held out.
    """

    drawings: tuple[Labels, ...]
    truth: Labels | None

    @classmethod
    def of(cls, strokes: Labels | None, truth: Labels | None) -> Task | None:
        """From what is known of an image, if anything is.

        Raises
        ------
        StrokesError
            If that does not suffice for a probe.
        """
        for what in (strokes, truth):
            if what is not None and len(np.unique(what[what > 0])) < 2:
                raise StrokesError("a linear probe wants at least two classes")
        if strokes is not None:
            if truth is None and not _has_pairs(strokes):
                raise StrokesError(
                    "a linear probe is tested on strokes held out: paint at least two strokes of "
                    "two classes, or give the truth"
                )
            return cls((strokes,), truth)
        if truth is None:
            return None
        drawn = tuple(simulate_strokes(truth, _FRACTION, seed) for seed in range(_SEEDS))
        return cls(drawn, truth)

    @property
    def description(self) -> str:
        """What a probe is trained and tested on, for people."""
        if self.truth is None:
            return "strokes, tested on strokes held out"
        if len(self.drawings) == 1:
            return "strokes, tested on the truth"
        return (
            f"strokes simulated on {_FRACTION:.1%} of each class, {len(self.drawings)} times, "
            "tested on the rest of the truth"
        )

    def tested(self, drawing: Labels, found: Labels) -> Pair:
        """Pixels whose truth is known and not painted: what they are, and what was found."""
        assert self.truth is not None
        tested = (self.truth > 0) & (drawing == 0)
        return self.truth[tested], found[tested]

    @property
    def shown(self) -> Labels:
        """Labels to draw."""
        return self.drawings[0] if self.truth is None else self.truth


def _has_pairs(strokes: Labels) -> bool:
    """Whether two classes at least have two strokes."""
    pieces = connected(strokes)
    labels = [strokes[pieces == k][0] for k in range(1, pieces.max() + 1)]
    return bool((np.bincount(labels) > 1).sum() > 1)


def probe(training: Training, settings: Settings) -> PixelClassifier:
    """A probe that learnt from painted pixels."""
    return PixelClassifier(C=_C, emphasis=1.0).learn([training], settings)


def held_out(training: Training, settings: Settings) -> Pair:
    """Labels of strokes, and what probes that did not see these say."""
    folds = stroke_folds(training)
    truth, found = [], []
    for fold in range(folds.max() + 1):
        learnt = probe(training[np.flatnonzero(folds != fold)], settings)
        held = folds == fold
        truth.append(training.labels[held])
        scores = training.features[held] @ learnt.coef_.T + learnt.intercept_
        found.append(learnt.labels_of(scores))
    return np.concatenate(truth), np.concatenate(found)


def agreement(pairs: Sequence[Pair]) -> dict[str, float]:
    """Mean IoU and accuracy, the mean of several probes."""
    ious = [
        jaccard_score(truth, found, labels=np.unique(truth), average="macro")
        for truth, found in pairs
    ]
    accuracies = [accuracy_score(*pair) for pair in pairs]
    return {"mean_iou": float(np.mean(ious)), "accuracy": float(np.mean(accuracies))}
