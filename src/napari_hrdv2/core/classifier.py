"""A linear classifier of pixels, trained on strokes and applied to tokens."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise
from sklearn.linear_model import RidgeClassifier

from .base import HEADER_KEY, BasePixelClassifier, Header, read_header
from .errors import ModelError, never
from .files import replacing
from .logistic import Start, fit_logistic
from .strokes import Training
from .tokens import Tokens
from .tuning import DEFAULT, Choice, choose
from .upsample import predicted, projected_maps


class _LinearHeader(Header):
    choice: Choice


class PixelClassifier(BasePixelClassifier):
    """Linear classifier on the features of pixels, in scikit-learn's conventions.

    It standardises the features of all images together, fits with strong L2 regularisation and
    folds both into one weight matrix, so that prediction is a matrix product on the tokens
    followed by their operator.

    Parameters
    ----------
    method
        ``"logistic"`` (multinomial, probabilities are calibrated to the strokes) or
        ``"ridge"`` (least squares on one-against-all targets, solved in one step).
    C
        Inverse strength of the L2 regularisation, as scikit-learn's: smaller is stronger.
        The ridge penalty is its inverse.
    emphasis
        Factor of the tokens' standardised features, above 0: the hundreds of them would outvote
        the dozens of the filters. Where it or ``C`` is None, it is chosen by cross-validation
        over the strokes, see :func:`.choose`.
    balance
        How far classes are balanced, from 0, where every painted pixel counts the same, to 1,
        where every class does: a pixel of a class of ``n`` counts ``n ** -balance``. People
        paint more of what there is more of; between the two segments best.
    max_pixels
        Painted pixels used per class at most, evenly spread over them; neighbouring pixels
        tell next to nothing new.
    max_iter
        Iterations of the logistic fit at most.
    tol
        Share of its objective that the logistic fit may leave on the table.

    Attributes
    ----------
    classes_ : ndarray of int, (K,)
        Labels, ascending.
    coef_ : ndarray of float32, (K, C)
        Weights on the features as they are, the standardisation folded in.
    intercept_ : ndarray of float32, (K,)
    choice_ : Choice
        The regularisation and the emphasis it was fitted with.
    settings_ : Settings
        The resolved settings of the tokens it was fitted on.
    pixel_classes_ : tuple of PixelClass
        The classes with names and colours, in the order of ``classes_``.

    Examples
    --------
    >>> classifier = PixelClassifier().fit(tokens, strokes)  # doctest: +SKIP
    >>> labels = classifier.predict(tokens)  # doctest: +SKIP
    """

    suffix = ".safetensors"
    methods = ("logistic", "ridge")
    coef_: npt.NDArray[np.float32]
    intercept_: npt.NDArray[np.float32]
    choice_: Choice

    def __init__(
        self,
        method: str = "logistic",
        *,
        C: float | None = None,  # noqa: N803, scikit-learn's name
        emphasis: float | None = None,
        balance: float = 0.5,
        max_pixels: int = 20_000,
        max_iter: int = 1000,
        tol: float = 2e-5,
    ) -> None:
        self.method = method
        self.C = C
        self.emphasis = emphasis
        self.balance = balance
        self.max_pixels = max_pixels
        self.max_iter = max_iter
        self.tol = tol

    def _fit_rows(
        self, training: Training, start: Self | None, is_cancelled: Callable[[], bool]
    ) -> None:
        choice = DEFAULT
        if None in (self.C, self.emphasis):
            # What fitted the strokes before the last one fits them with it.
            choice = start.choice_ if start else choose(training, self._fitted, is_cancelled)
        choice = Choice(self.C or choice.C, self.emphasis or choice.emphasis)
        first = None if start is None else (start.coef_, start.intercept_)
        coef, intercept = self._fitted(training, choice, first)
        self.choice_ = choice
        self.intercept_ = intercept.astype(np.float32)
        # In C order, which safetensors takes for granted.
        self.coef_ = np.ascontiguousarray(coef, np.float32)

    def _fitted(self, training: Training, choice: Choice, start: Start | None = None) -> Start:
        """Weights (K, C) and biases (K,) on the features as they are."""
        index, shares = self._shares(training.labels)
        scaling = training.scaling(choice.emphasis)
        if self.method == "logistic":
            return fit_logistic(
                training.features,
                index,
                shares[index],
                C=choice.C,
                scaling=scaling,
                start=start,
                tol=self.tol,
                max_iter=self.max_iter,
            )
        weights = dict(enumerate(shares.tolist()))
        estimator = RidgeClassifier(alpha=1 / choice.C, class_weight=weights)
        estimator.fit((training.features - scaling.mean) / scaling.scale, index)
        # Of two classes, ridge has a vector.
        coef, intercept = np.atleast_2d(estimator.coef_), estimator.intercept_
        if len(coef) == 1:
            # Two classes have one score; half to either side gives the same probabilities.
            coef, intercept = np.concatenate([-coef, coef]) / 2, np.array([-1, 1]) * intercept / 2
        coef = coef / scaling.scale
        return coef, intercept - coef @ scaling.mean

    def decision_function(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Class scores (logits) of every pixel.

        Returns
        -------
        ndarray of float32
            (h, w, K), in the order of ``classes_``.

        Raises
        ------
        SettingsMismatchError
            If the tokens were made with other settings than those it was fitted on.
        """
        self._accept(tokens)
        return projected_maps(tokens, self.coef_, self.intercept_)

    def predict(
        self, tokens: Tokens, is_cancelled: Callable[[], bool] = never
    ) -> npt.NDArray[np.uint16]:
        """Label of every pixel, as :meth:`BasePixelClassifier.predict`; nobody is asked."""
        self._accept(tokens)
        best = predicted(tokens, self.coef_, self.intercept_)
        labels: npt.NDArray[np.uint16] = self.classes_.astype(np.uint16)[best]
        return labels

    def predict_proba(
        self, tokens: Tokens, is_cancelled: Callable[[], bool] = never
    ) -> npt.NDArray[np.float32]:
        """Probabilities, as :meth:`BasePixelClassifier.predict_proba`: the scores' softmax."""
        return softmax(self.decision_function(tokens))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as safetensors with a JSON header, all at once or not at all.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        header = _LinearHeader(**self._describe(), choice=self.choice_)
        arrays = {"coef": self.coef_, "intercept": self.intercept_}
        with replacing(path) as whole:
            # Not save_file, whose files only their owner may read.
            whole.write_bytes(serialise(arrays, {HEADER_KEY: header.model_dump_json()}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a model that :meth:`save` wrote. Nothing in the file is executed.

        Raises
        ------
        ModelError
            If the file is missing, damaged, no such model, or of a later version.
        """
        if not Path(path).is_file():
            raise ModelError(f"there is no model {path}")
        try:
            with safe_open(path, framework="numpy") as file:
                text = (file.metadata() or {}).get(HEADER_KEY)
                if text is None:
                    raise ModelError(f"{path} is no model of napari-hrdv2")
                header = read_header(_LinearHeader, text, path)
                coef, intercept = file.get_tensor("coef"), file.get_tensor("intercept")
            model = cls._described(header)
        except ModelError:
            raise
        except (SafetensorError, OSError, ValidationError, ValueError, TypeError, AttributeError):
            raise ModelError(f"{path} is damaged or no model of napari-hrdv2") from None
        k = len(header.classes)
        if coef.ndim != 2 or len(coef) != k or intercept.shape != (k,) or k < 2:
            raise ModelError(f"{path} is damaged: its weights do not fit its {k} classes")
        if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
            raise ModelError(f"{path} is damaged: its weights are not finite")
        model.coef_, model.intercept_, model.choice_ = coef, intercept, header.choice
        model.n_features_in_ = coef.shape[1]
        return model


def softmax(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax over the last axis, in place: probabilities of scores (..., K)."""
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return scores
