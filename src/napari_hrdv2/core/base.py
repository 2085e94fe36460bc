"""What all classifiers of pixels share: classes, painted labels, and the base of all of them."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from .errors import ModelError, SettingsMismatchError, StrokesError, never
from .settings import Settings
from .strokes import StrokeRows, Training
from .tokens import Tokens

Colour = tuple[float, float, float, float]

FORMAT_VERSION = 3
# napari's labels layers hold no larger ones in their smallest comfortable dtype.
MAX_LABEL = np.iinfo(np.uint16).max
HEADER_KEY = "napari-hrdv2"


class PixelClass(BaseModel):
    """One class that people paint.

    Examples
    --------
    >>> PixelClass(label=1, name="cell").name
    'cell'
    """

    model_config = ConfigDict(frozen=True)

    label: int = Field(ge=1, le=MAX_LABEL, description="Value of its pixels, from 1.")
    name: str = Field(description="What it is.")
    colour: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        description="Red, green, blue, alpha, each in [0, 1].", min_length=4, max_length=4
    )


# Okabe and Ito's colours, which colour-blind people can tell apart, yellow and blue first.
_PALETTE = ("#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#999999")


def default_class(label: int) -> PixelClass:
    """The class that a label is before anyone named it."""
    code = _PALETTE[(label - 1) % len(_PALETTE)]
    colour = tuple(int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return PixelClass(label=label, name=f"class {label}", colour=(*colour, 1.0))


class Header(BaseModel):
    """What a saved model says of itself beside its arrays."""

    model_config = ConfigDict(extra="ignore")

    version: int
    settings: Settings
    classes: tuple[PixelClass, ...]
    params: dict[str, Any]


_H = TypeVar("_H", bound=Header)


def read_header(kind: type[_H], text: str | bytes, path: str | os.PathLike[str]) -> _H:
    """What a saved model says of itself.

    Parameters
    ----------
    kind
        Of header.
    text
        Its JSON.
    path
        Of the file, to tell of it.

    Raises
    ------
    ModelError
        If it was written in another version of the format.
    ValueError, AttributeError
        If it is no header.
    """
    version = json.loads(text).get("version")
    if version != FORMAT_VERSION:
        is_later = isinstance(version, int) and version > FORMAT_VERSION
        raise ModelError(
            f"{path} has format {version}, this napari-hrdv2 reads {FORMAT_VERSION}: "
            + ("update napari-hrdv2" if is_later else "train it anew")
        )
    return kind.model_validate_json(text)


def check_strokes(strokes: npt.ArrayLike, shape: tuple[int, int]) -> npt.NDArray[np.integer]:
    """Strokes as an array of labels that fits the image.

    Parameters
    ----------
    strokes
        (h, w) of integers (or bool): 0 where nothing is painted, else the class's label.
    shape
        (h, w) of the image in pixels.

    Raises
    ------
    StrokesError
        If they are of another shape, no integers, or negative or above :data:`MAX_LABEL`.
    """
    array = np.asarray(strokes)
    if array.dtype.kind not in "bui":
        raise StrokesError(f"strokes must be whole numbers, 0 where not painted; got {array.dtype}")
    if array.shape != shape:
        raise StrokesError(
            f"the strokes have shape {array.shape}, the image {shape}: they must be the same"
        )
    if array.size and (array.min() < 0 or array.max() > MAX_LABEL):
        bad = array.min() if array.min() < 0 else array.max()
        raise StrokesError(
            f"the strokes hold the label {bad}: labels go from 1 to {MAX_LABEL}, 0 is not painted"
        )
    return array.astype(np.uint16, copy=False)


class BasePixelClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """What all classifiers of pixels share, whatever they learn from the rows of features.

    Parameters that all of them have are ``method``, ``balance`` and ``max_pixels``, see
    :class:`PixelClassifier`.

    Attributes
    ----------
    suffix
        What the names of its files end with.
    classes_ : ndarray of int, (K,)
        Labels, ascending.
    settings_ : Settings
        The resolved settings of the tokens it was fitted on.
    pixel_classes_ : tuple of PixelClass
        The classes with names and colours, in the order of ``classes_``.

    Examples
    --------
    >>> isinstance(PixelClassifier(), BasePixelClassifier)
    True
    """

    suffix: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]
    method: str
    balance: float
    max_pixels: int
    classes_: npt.NDArray[np.integer]
    pixel_classes_: tuple[PixelClass, ...]
    settings_: Settings
    n_features_in_: int

    def fit(
        self,
        tokens: Tokens | Sequence[Tokens],
        strokes: npt.ArrayLike | Sequence[npt.ArrayLike],
        classes: Mapping[int, PixelClass] | Sequence[PixelClass] = (),
        *,
        start: BasePixelClassifier | None = None,
        rows: StrokeRows | None = None,
        is_cancelled: Callable[[], bool] = never,
    ) -> Self:
        """Fit to the painted pixels of one or several images.

        Parameters
        ----------
        tokens
            Of each image, all made with the same settings.
        strokes
            For each image (h, w) of integers, 0 where not painted, else the class's label.
        classes
            Names and colours of the classes; those not given get default ones.
        start
            A classifier of the same method, classes and features from whose weights to start: after
            one more stroke that takes a fraction of the time and leads to the same result. One
            that does not fit is ignored, and so is every one where there are no weights.
        rows
            Features of the pixels painted before; those painted now take their place.
        is_cancelled
            Asked now and then while it is chosen what to fit with, from any thread.

        Raises
        ------
        Cancelled
            Once ``is_cancelled`` says so.
        StrokesError
            If strokes do not fit their image, or fewer than two classes are painted.
        SettingsMismatchError
            If the images' tokens were made with different settings.
        """
        images = [tokens] if isinstance(tokens, Tokens) else list(tokens)
        drawings: list[Any] = [strokes] if isinstance(tokens, Tokens) else list(strokes)  # type: ignore[arg-type]
        if len(images) != len(drawings):
            raise StrokesError(f"there are {len(images)} images but {len(drawings)} strokes")
        if not images:
            raise StrokesError("there is no image to train on")
        if self.method not in self.methods:
            raise ModelError(
                f"the method must be {' or '.join(map(repr, self.methods))}, not {self.method!r}"
            )
        for other in images[1:]:
            refuse_differences(images[0].settings, other.settings, "those of the first image")
        painted = [
            check_strokes(one, t.image_shape) for t, one in zip(images, drawings, strict=True)
        ]
        rows = rows or StrokeRows()
        parts = [
            Training.of(t, one, rows, self.max_pixels)
            for t, one in zip(images, painted, strict=True)
        ]
        return self.learn(parts, images[0].settings, classes, start, is_cancelled)

    def learn(
        self,
        parts: Sequence[Training],
        settings: Settings,
        classes: Mapping[int, PixelClass] | Sequence[PixelClass] = (),
        start: BasePixelClassifier | None = None,
        is_cancelled: Callable[[], bool] = never,
    ) -> Self:
        """Fit to painted pixels whose features are gathered already.

        Parameters
        ----------
        parts
            Of one or several images.
        settings
            Those of the tokens that the features come from.
        classes, start, is_cancelled
            As for :meth:`fit`.

        Raises
        ------
        StrokesError
            If fewer than two classes are painted.
        Cancelled
            As :meth:`fit`.
        """
        training = Training.join(parts, self.max_pixels)
        labels = np.unique(training.labels).astype(int)
        if len(labels) == 0:
            raise StrokesError("nothing is painted: paint at least a stroke of each of two classes")
        if len(labels) == 1:
            raise StrokesError(
                f"only class {labels[0]} is painted: paint at least a stroke of one more"
            )
        if not isinstance(start, type(self)) or (
            start.method != self.method
            or getattr(start, "settings_", None) != settings
            or not np.array_equal(start.classes_, labels)
            or start.n_features_in_ != training.features.shape[1]
        ):
            start = None
        self._fit_rows(training, start, is_cancelled)
        self.classes_ = labels
        self.n_features_in_ = training.features.shape[1]
        known = dict(classes) if isinstance(classes, Mapping) else {c.label: c for c in classes}
        self.pixel_classes_ = tuple(known.get(k) or default_class(k) for k in labels.tolist())
        self.settings_ = settings
        return self

    @abstractmethod
    def _fit_rows(
        self, training: Training, start: Self | None, is_cancelled: Callable[[], bool]
    ) -> None:
        """Learn from painted pixels, by choice from where another one ended."""

    @abstractmethod
    def predict(
        self, tokens: Tokens, is_cancelled: Callable[[], bool] = never
    ) -> npt.NDArray[np.uint16]:
        """Label of every pixel.

        Parameters
        ----------
        tokens
            Of the image.
        is_cancelled
            Asked now and then whether to give up, where it takes long; from any thread.

        Returns
        -------
        ndarray of uint16
            (h, w).

        Raises
        ------
        SettingsMismatchError
            If the tokens were made with other settings than those it was fitted on.
        Cancelled
            If somebody gave up.
        """

    @abstractmethod
    def predict_proba(
        self, tokens: Tokens, is_cancelled: Callable[[], bool] = never
    ) -> npt.NDArray[np.float32]:
        """Probability of every class at every pixel.

        Parameters
        ----------
        tokens, is_cancelled
            As for :meth:`predict`.

        Returns
        -------
        ndarray of float32
            (h, w, K), in [0, 1], summing to 1 over the classes.

        Raises
        ------
        SettingsMismatchError, Cancelled
            As :meth:`predict`.
        """

    def labels_of(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
        """Label with the highest score or probability (h, w, K) at every pixel, (h, w)."""
        labels: npt.NDArray[np.uint16] = self.classes_.astype(np.uint16)[scores.argmax(-1)]
        return labels

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file, all at once or not at all.

        Raises
        ------
        OSError
            If the file cannot be written.
        """

    def _shares(
        self, y: npt.NDArray[np.integer]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.floating]]:
        """Classes of labels (n,) as indices (n,), and what a pixel of each class counts (K,)."""
        _, index, counts = np.unique(y, return_inverse=True, return_counts=True)
        shares = counts ** -float(self.balance)
        # As scikit-learn's own balance, so that C means the same: of mean 1 over the pixels.
        return index, shares * counts.sum() / (counts * shares).sum()

    def _accept(self, tokens: Tokens) -> None:
        """Refuse tokens of other settings than its own; raises SettingsMismatchError."""
        check_is_fitted(self)
        refuse_differences(self.settings_, tokens.settings, "the model's")

    def _describe(self) -> dict[str, Any]:
        """Fields of the header that a saved model has beside its arrays."""
        check_is_fitted(self)
        return {
            "version": FORMAT_VERSION,
            "settings": self.settings_,
            "classes": self.pixel_classes_,
            "params": self.get_params(),
        }

    @classmethod
    def _described(cls, header: Header) -> Self:
        """A classifier after a header, without what it learnt."""
        model = cls(**header.params)
        model.classes_ = np.array([c.label for c in header.classes])
        model.pixel_classes_ = header.classes
        model.settings_ = header.settings
        return model


def refuse_differences(ours: Settings, theirs: Settings, whose: str) -> None:
    """Raise a SettingsMismatchError that lists how tokens' settings differ from ``whose``."""
    differences = ours.differences(theirs)
    if differences:
        listed = ", ".join(f"{name} {a!r} against {b!r}" for name, (a, b) in differences.items())
        raise SettingsMismatchError(
            f"the tokens were made with other settings than {whose}: {listed}"
        )
