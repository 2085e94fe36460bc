"""How strongly to regularise tokens and filters, chosen by cross-validation over strokes.

Held out are whole strokes, never pixels, whose neighbours would tell everything about them. But
people draw strokes where things are clear, so that few of them say little about the rest: what is
good on most images is left only where another choice is better by more than half the standard error
of the difference (after Breiman et al., Classification and Regression Trees, 1984, chapter 3, whose
whole standard error left too much where it was).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from .errors import Cancelled, never
from .logistic import Start
from .strokes import Training


class Choice(NamedTuple):
    """What a linear classifier is fitted with.

    Attributes
    ----------
    C
        Inverse strength of the L2 regularisation.
    emphasis
        Factor of the tokens' standardised features; of the filters' it is 1.
    """

    C: float
    emphasis: float


DEFAULT = Choice(0.03, 0.3)
# The tokens are penalised alike, the filters ten times more, or less, than by default.
CHOICES = (DEFAULT, Choice(0.003, 1.0), Choice(0.3, 0.1))
_FOLDS = 4
# Of more painted pixels the time to choose would grow, not what they say.
_PIXELS = 2000
# Standard deviation of the scores whose loss is compared, and the standard errors to be beaten.
_SPREAD, _ERRORS = 3.0, 0.5

Fitted = Callable[[Training, Choice], Start]


def choose(training: Training, fitted: Fitted, is_cancelled: Callable[[], bool] = never) -> Choice:
    """Choose by cross-validation over strokes.

    Parameters
    ----------
    training
        Painted pixels.
    fitted
        Fits weights (K, C) and biases (K,) to some of them.
    is_cancelled
        Asked before every fit, from any thread.

    Returns
    -------
    Choice
        The default where no class has two strokes, or the strokes say nothing clearly.

    Raises
    ------
    Cancelled
        Once ``is_cancelled`` says so.
    """
    some = training[np.arange(0, len(training.labels), -(-len(training.labels) // _PIXELS))]
    folds = stroke_folds(some)
    if folds.max() < 1 or some.own in (0, some.features.shape[1]):
        return DEFAULT
    pixels = [np.flatnonzero(folds == fold) for fold in range(folds.max() + 1)]
    held = np.concatenate(pixels)
    classes, truth = np.unique(some.labels, return_inverse=True)
    _, first, stroke = np.unique(some.strokes[held], return_index=True, return_inverse=True)
    weights = 1 / np.bincount(truth[held[first]])[truth[held[first]]]
    weights /= weights.sum()
    # C weighs the sum over the pixels, of which there are fewer here.
    share = len(training.labels) / len(some.labels)
    losses = []
    for choice in CHOICES:
        scores = np.empty((len(held), len(classes)))
        start = 0
        for test in pixels:
            if is_cancelled():
                raise Cancelled
            rest = np.setdiff1d(np.arange(len(folds)), test)
            coef, intercept = fitted(some[rest], choice._replace(C=share * choice.C))
            scores[start : start + len(test)] = some.features[test] @ coef.T + intercept
            start += len(test)
        loss = _loss(scores, truth[held])
        losses.append(np.bincount(stroke, loss) / np.bincount(stroke))
    gains = losses[0] - np.array(losses)
    means = gains @ weights
    errors = np.sqrt(((gains - means[:, None]) ** 2) @ weights**2)
    clear = means > _ERRORS * errors
    return CHOICES[int(np.argmax(np.where(clear, means, 0)))]


def stroke_folds(training: Training) -> npt.NDArray[np.intp]:
    """In which fold (n,) each pixel's stroke is held out, -1 for the only strokes of their classes.

    The strokes of a class are dealt out in turns, the long ones first.
    """
    folds = np.full(len(training.labels), -1)
    turn = 0
    for label in np.unique(training.labels):
        strokes, sizes = np.unique(training.strokes[training.labels == label], return_counts=True)
        if len(strokes) > 1:
            for stroke in strokes[np.argsort(-sizes, kind="stable")]:
                folds[training.strokes == stroke] = turn % _FOLDS
                turn += 1
    return folds


def _loss(scores: npt.NDArray[np.float64], truth: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Log loss (n,) of scores (n, K), all choices' on the same scale.

    Weaker regularisation makes larger scores, and of clear strokes a smaller loss: that says
    nothing of the rest of the image.
    """
    scores = scores - scores.mean(1, keepdims=True)
    scores *= _SPREAD / max(float(scores.std()), 1e-12)
    loss: npt.NDArray[np.float64] = -log_softmax(scores, axis=1)[np.arange(len(truth)), truth]
    return loss
