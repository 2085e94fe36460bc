"""Classifiers of pixels made of decision trees: not linear, so no projection of tokens helps.

They look at the features of pixel after pixel. The whole map of these would take gigabytes, so
they are made for a block of pixels at a time, and forgotten.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self
from zipfile import BadZipFile, ZipFile

import joblib
import numpy as np
import numpy.typing as npt
import sklearn
from pydantic import ValidationError
from threadpoolctl import threadpool_limits

from .base import HEADER_KEY, BasePixelClassifier, Header, read_header
from .errors import ModelError, ModelWarning, go_on, never
from .files import replacing
from .strokes import Training, fitting
from .tokens import Tokens
from .upsample import rows_at

Method = Literal["forest", "boosting"]

#: Pixels whose features are in memory at once: 100 MB of 384 channels, and as much for their work.
BLOCK = 65_536
# Those that go through all trees together: their features stay in a processor's cache.
_CHUNK = 1024
_TREES = {"forest": 100, "boosting": 50}
# What skops does not know to be harmless, and the models consist of. It is harmless once it is
# checked: see _check_nodes.
_TRUSTED = (
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)
_ESTIMATORS = {"forest": "RandomForestClassifier", "boosting": "HistGradientBoostingClassifier"}
_HEADER_FILE = f"{HEADER_KEY}.json"


class _TreesHeader(Header):
    """As every model's, and which scikit-learn wrote the trees."""

    scikit_learn: str


class TreesClassifier(BasePixelClassifier):
    """Random forest or gradient boosting on the features of pixels.

    Fitting and prediction take seconds where :class:`.PixelClassifier` takes a fraction of one,
    for they are not linear; results are the same every time.

    Parameters
    ----------
    method
        ``"forest"`` (scikit-learn's random forest) or ``"boosting"`` (its gradient boosting on
        histograms).
    trees
        How many; boosting has as many for every class. By default 100, and 50 for boosting.
    min_leaf
        Painted pixels that a leaf holds at least.
    balance
        How far classes are balanced, from 0 to 1, as :class:`.PixelClassifier`'s.
    max_pixels
        Painted pixels used per class at most, evenly spread over them.

    Attributes
    ----------
    estimator_
        scikit-learn's estimator; its classes are indices of ``classes_``.
    classes_ : ndarray of int, (K,)
        Labels, ascending.
    settings_ : Settings
        The resolved settings of the tokens it was fitted on.
    pixel_classes_ : tuple of PixelClass
        The classes with names and colours, in the order of ``classes_``.

    Examples
    --------
    >>> classifier = TreesClassifier("boosting").fit(tokens, strokes)  # doctest: +SKIP
    >>> labels = classifier.predict(tokens)  # doctest: +SKIP
    """

    suffix = ".skops"
    methods = ("forest", "boosting")
    estimator_: Any

    def __init__(
        self,
        method: Method = "forest",
        *,
        trees: int | None = None,
        min_leaf: int = 5,
        balance: float = 0.5,
        max_pixels: int = 5000,
    ) -> None:
        self.method = method
        self.trees = trees
        self.min_leaf = min_leaf
        self.balance = balance
        self.max_pixels = max_pixels

    def _fit_rows(
        self, training: Training, start: Self | None, is_cancelled: Callable[[], bool]
    ) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

        index, shares = self._shares(training.labels)
        trees = self.trees or _TREES[self.method]
        if self.method == "forest":
            estimator = RandomForestClassifier(
                trees, min_samples_leaf=self.min_leaf, random_state=0, n_jobs=-1
            )
        else:
            # Small trees of few features each, for strokes are few. Finding a border of bins takes
            # longer than growing a tree. And held-out pixels lie beside those trained on: they
            # would never tell when to stop.
            estimator = HistGradientBoostingClassifier(
                max_iter=trees,
                max_leaf_nodes=8,
                min_samples_leaf=self.min_leaf,
                max_features=0.1,
                max_bins=32,
                early_stopping=False,
                random_state=0,
            )
        # OpenMP's threads of boosting wait for each other more than they work: nine times slower
        # was measured where others use the machine too.
        with threadpool_limits(1, "openmp"):
            estimator.fit(training.features, index, sample_weight=shares[index])
        self.estimator_ = estimator

    def predict(
        self, tokens: Tokens, is_cancelled: Callable[[], bool] = never
    ) -> npt.NDArray[np.uint16]:
        """Label of every pixel, as :meth:`BasePixelClassifier.predict`, block by block."""
        self._accept(tokens)
        labels = self.classes_.astype(np.uint16)
        found = [labels[block.argmax(1)] for block in self._blocks(tokens, is_cancelled)]
        return np.concatenate(found).reshape(tokens.image_shape)

    def predict_proba(
        self, tokens: Tokens, is_cancelled: Callable[[], bool] = never
    ) -> npt.NDArray[np.float32]:
        """Share of the trees' votes, as :meth:`BasePixelClassifier.predict_proba`, by blocks."""
        self._accept(tokens)
        found = list(self._blocks(tokens, is_cancelled))
        return np.concatenate(found).reshape(*tokens.image_shape, -1)

    def _blocks(
        self, tokens: Tokens, is_cancelled: Callable[[], bool]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Probabilities (n, K) of block after block of the image's pixels."""
        height, width = tokens.image_shape
        vote = self._vote if self.method == "forest" else self.estimator_.predict_proba
        with ThreadPoolExecutor(joblib.cpu_count(), initializer=_alone) as pool:
            for first in range(0, height * width, BLOCK):
                go_on(is_cancelled)
                index = np.arange(first, min(first + BLOCK, height * width))
                x = rows_at(tokens, np.stack(np.divmod(index, width), axis=1))
                x = fitting(x, self.n_features_in_)
                # scikit-learn checks its input with filters of warnings of its own, which are
                # the whole process's; threads would leave each other's behind.
                with warnings.catch_warnings():
                    parts = (x[i : i + _CHUNK] for i in range(0, len(x), _CHUNK))
                    found = list(pool.map(vote, parts))
                yield np.concatenate(found, dtype=np.float32)

    def _vote(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The forest's probabilities (n, K), the same every time and in any thread.

        The forest's own method adds up its trees in whatever order its threads end, and warns
        now and then where several threads call it.
        """
        trees = self.estimator_.estimators_
        found: npt.NDArray[np.float64] = sum(tree.tree_.predict(x) for tree in trees) / len(trees)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as skops with a JSON header in the same archive, at once or not at all.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        header = _TreesHeader(**self._describe(), scikit_learn=sklearn.__version__)
        # It takes seconds to import.
        import skops.io

        with replacing(path) as whole:
            skops.io.dump(self.estimator_, whole)
            with ZipFile(whole, "a") as archive:
                archive.writestr(_HEADER_FILE, header.model_dump_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a model that :meth:`save` wrote. Nothing in the file is executed.

        Warns with a :class:`.ModelWarning` if another version of scikit-learn wrote it.

        Raises
        ------
        ModelError
            If the file is missing, damaged, no such model, of a later version, holds types
            that such a model does not consist of, or cannot be used by this scikit-learn.
        """
        if not Path(path).is_file():
            raise ModelError(f"there is no model {path}")
        damaged = f"{path} is damaged or no model of napari-hrdv2"
        try:
            with ZipFile(path) as archive:
                header = read_header(_TreesHeader, archive.read(_HEADER_FILE), path)
            model = cls._described(header)
        except ModelError:
            raise
        except (
            BadZipFile,
            KeyError,
            OSError,
            ValidationError,
            ValueError,
            TypeError,
            AttributeError,
            NotImplementedError,  # a way of compressing that Python does not know
        ):
            raise ModelError(damaged) from None
        if header.scikit_learn != sklearn.__version__:
            damaged = (
                f"{path} was made with scikit-learn {header.scikit_learn} and cannot be used with "
                f"{sklearn.__version__}, or is damaged: install that version, or train anew"
            )
        model.estimator_ = model._load_estimator(path, damaged)
        model.n_features_in_ = model.estimator_.n_features_in_
        if _minor(header.scikit_learn) != _minor(sklearn.__version__):
            warnings.warn(
                f"{path} was made with scikit-learn {header.scikit_learn}, this is "
                f"{sklearn.__version__}: its results may differ, train anew if in doubt",
                ModelWarning,
                stacklevel=2,
            )
        return model

    def _load_estimator(self, path: str | os.PathLike[str], damaged: str) -> Any:
        import skops.io
        from skops.io.exceptions import UntrustedTypesFoundException

        try:
            untrusted = set(skops.io.get_untrusted_types(file=path)) - set(_TRUSTED)
            if untrusted:
                names = ", ".join(sorted(untrusted))
                raise ModelError(f"{path} holds types that are not trusted ({names}): not loaded")
            with warnings.catch_warnings():
                # Another version's are told of in words of our own.
                warnings.simplefilter("ignore")
                estimator = skops.io.load(path, trusted=list(_TRUSTED))
            if type(estimator).__name__ != _ESTIMATORS[self.method]:
                raise TypeError(f"a {type(estimator).__name__} for {self.method}")
            _check_nodes(estimator)
            # What another version lacks shows where it is used.
            found = estimator.predict_proba(np.zeros((1, estimator.n_features_in_), np.float32))
        except UntrustedTypesFoundException as error:
            raise ModelError(f"{path} holds types that are not trusted: {error}") from None
        except ModelError:
            raise
        except Exception:  # a damaged archive may raise anything in skops and in scikit-learn
            raise ModelError(damaged) from None
        if found.shape != (1, len(self.classes_)) or len(self.classes_) < 2:
            raise ModelError(f"{path} is damaged: its trees do not fit its classes")
        return estimator


def _alone() -> None:
    """Have this thread, and no other, start no further ones."""
    threadpool_limits(1, "openmp")


def _check_nodes(estimator: Any) -> None:
    """Refuse trees that lead outside of themselves or in circles: scikit-learn follows blindly.

    Raises
    ------
    ValueError
        If a node's children do not come after it and exist, or its feature does not exist.
    """
    if hasattr(estimator, "estimators_"):
        trees = [one.tree_ for one in estimator.estimators_]
        columns = [
            (t.children_left, t.children_right, t.feature, t.children_left < 0) for t in trees
        ]
    else:
        nodes = [one.nodes for stage in estimator._predictors for one in stage]
        if any(n["is_categorical"].any() for n in nodes):
            raise ValueError("features of pixels are no categories")
        columns = [(n["left"], n["right"], n["feature_idx"], n["is_leaf"] != 0) for n in nodes]
    for left, right, feature, is_leaf in columns:
        place = np.arange(len(left))
        for children in (left, right):
            child = children.astype(np.int64)
            if not (is_leaf | ((child > place) & (child < len(place)))).all():
                raise ValueError("a node's child is nowhere")
        is_feature = (feature >= 0) & (feature < estimator.n_features_in_)
        if not len(place) or not (is_leaf | is_feature).all():
            raise ValueError("a node asks for a feature that is nowhere")


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
