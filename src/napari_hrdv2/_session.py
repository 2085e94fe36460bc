"""State of one annotation session: what a window shows and works on, without a window.

Data flow one way. A window asks for a job, runs it wherever it likes (it is a generator that
touches nothing but its own inputs), and hands back what it found, which tells everybody by
signals. There are two kinds, which may run side by side: a :class:`Look` finds an image's
features pass by pass (:meth:`Session.saw`), a :class:`Segmenting` job trains on strokes and
segments, from the features there are (:meth:`Session.accept`).
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from ._job import (
    NOTHING_PAINTED,
    Learnt,
    Look,
    Made,
    Part,
    Result,
    Segmenting,
    Sight,
    Tuned,
    Tuning,
    Wanted,
    check_painted,
)
from .core.base import MAX_LABEL, BasePixelClassifier, Colour, PixelClass, default_class
from .core.cache import TokenMemory, TokenStore, default_folder
from .core.classifier import PixelClassifier
from .core.errors import ModelError, StrokesError
from .core.extraction import make_settings
from .core.methods import METHODS, SUFFIXES, find_method, load_classifier
from .core.refine import Refinement, make_refinement
from .core.settings import Settings
from .core.strokes import StrokeRows
from .core.tokens import Tokens
from .core.tuning import DEFAULT

_GIGABYTE = 10**9
# Settings that only the weights tell; they go when other weights are chosen.
_OF_THE_WEIGHTS = ("model", "weights_sha256", "patch")


class Session:
    """State of one annotation session: classes, settings, features at hand, classifier.

    Signals are emitted in the thread that changes the session, which must be one thread.

    Attributes
    ----------
    memory, store
        Where features are kept, in memory and on disk.
    classes_changed
        Classes were added, removed, renamed or recoloured.
    current_changed
        Another class is painted with; with its label.
    settings_changed
        Settings, device or weights are others.
    refinement_changed
        Segmentations are refined in another way.
    method_changed
        Another kind of classifier learns from strokes.
    model_changed
        A classifier was trained or loaded.

    Examples
    --------
    >>> session = Session()
    >>> session.add_class("pore").label
    3
    >>> look = session.look(image)  # doctest: +SKIP
    """

    classes_changed = Signal()
    current_changed = Signal(int)
    settings_changed = Signal()
    refinement_changed = Signal()
    method_changed = Signal()
    model_changed = Signal()

    def __init__(self) -> None:
        self._classes = {label: default_class(label) for label in (1, 2)}
        self._current = 1
        self._untouched = True
        self._wanted = Wanted(Settings(), "auto", None)
        self._refinement = Refinement()
        self._method = "logistic"
        # What linear classifiers are fitted with, and for what it was chosen.
        self._choice = DEFAULT
        self._tuned: Learnt | None = None
        self._classifier: BasePixelClassifier | None = None
        self.memory = TokenMemory(2 * _GIGABYTE)
        self.store = TokenStore(default_folder(), 10 * _GIGABYTE)
        self._made: Made | None = None
        self._image: Any = None
        self._sight: Sight | None = None
        self._rows = StrokeRows()
        # What the classifier at hand was trained on, where it was trained here.
        self._learnt: Learnt | None = None
        self._looks = self._generation = 0

    # Classes -------------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[PixelClass, ...]:
        """The classes by ascending label."""
        return tuple(self._classes[label] for label in sorted(self._classes))

    @property
    def current(self) -> int:
        """Label of the class that is painted with."""
        return self._current

    def pick(self, label: int) -> None:
        """Paint with a class from now on; a label that is no class changes nothing."""
        if label in self._classes and label != self._current:
            self._current = label
            self.current_changed.emit(label)

    def add_class(self, name: str | None = None) -> PixelClass:
        """Add a class under the lowest free label, and pick it.

        Raises
        ------
        StrokesError
            If there is no label left.
        """
        label = next((k for k in range(1, MAX_LABEL + 1) if k not in self._classes), None)
        if label is None:
            raise StrokesError(f"There are {MAX_LABEL} classes already, and no room for more.")
        added = default_class(label)
        if name is not None:
            added = added.model_copy(update={"name": name})
        self._put([added])
        self.pick(label)
        return added

    def rename(self, label: int, name: str) -> None:
        """Name a class; an empty name leaves the old one."""
        name = name.strip()
        if name:
            self._put([self._classes[label].model_copy(update={"name": name})])

    def recolour(self, label: int, colour: Colour) -> None:
        """Give a class another colour (red, green, blue, alpha in [0, 1])."""
        checked = PixelClass(label=label, name=self._classes[label].name, colour=colour)
        self._put([checked])

    def remove_class(self, label: int, strokes: npt.ArrayLike | None = None) -> None:
        """Remove a class that is not painted.

        Parameters
        ----------
        label
            Of the class.
        strokes
            What is painted.

        Raises
        ------
        StrokesError
            If the class is painted, or the last one.
        """
        name = self._classes[label].name
        if len(self._classes) == 1:
            raise StrokesError(f"'{name}' is the last class: add another before removing it.")
        if strokes is not None and (np.asarray(strokes) == label).any():
            raise StrokesError(f"'{name}' is painted: erase its strokes before removing it.")
        del self._classes[label]
        self._untouched = False
        # A listener that looks at the current class finds one that exists.
        gone = self._current == label
        if gone:
            self._current = self.classes[0].label
        self.classes_changed.emit()
        if gone:
            self.current_changed.emit(self._current)

    def adopt(self, classes: Iterable[PixelClass]) -> None:
        """Take classes over, for instance from a layer.

        They replace the classes of a new session altogether. Later they join them; where
        labels agree, a class that somebody named or coloured here stays.
        """
        classes = tuple(classes)
        if not classes:
            return
        if self._untouched:
            self._replace(classes)
        else:
            ours = self._classes
            self._put(c for c in classes if ours.get(c.label) in (None, default_class(c.label)))

    def _put(self, classes: Iterable[PixelClass]) -> None:
        new = self._classes | {c.label: c for c in classes}
        if new != self._classes:
            self._classes = new
            self._untouched = False
            self.classes_changed.emit()

    def _replace(self, classes: Iterable[PixelClass]) -> None:
        self._classes = {c.label: c for c in classes}
        self._untouched = False
        gone = self._current not in self._classes
        if gone:
            self._current = min(self._classes)
        self.classes_changed.emit()
        if gone:
            self.current_changed.emit(self._current)

    # Settings ------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """What features are computed; a loaded model brings its own."""
        return self._wanted.settings

    @property
    def device(self) -> str:
        """Where features are computed."""
        return self._wanted.device

    @property
    def weights(self) -> str | None:
        """A checkpoint of the user's own, or None for a model of the registry."""
        return self._wanted.weights

    def configure(self, *, device: str | None = None, **changes: Any) -> None:
        """Change settings.

        Parameters
        ----------
        device
            Where features are computed from now on.
        **changes
            Fields of :class:`Settings`.

        Raises
        ------
        HRDv2Error
            If a value is out of range; nothing is changed then.
        """
        settings = self.settings
        if changes.get("model", settings.model) != settings.model:
            changes = {"weights_sha256": None, "patch": None} | changes
            if settings.stride == settings.patch:
                changes = {"stride": None} | changes
        self._want(
            self._wanted._replace(
                settings=make_settings(settings, **changes), device=device or self.device
            )
        )

    def use_weights(self, path: str | PathLike[str] | None) -> None:
        """Use a checkpoint of the user's own, or None for a model of the registry."""
        weights = None if path is None else str(path)
        if weights == self.weights:
            return
        settings = self.settings
        keep = settings.stride if settings.stride != settings.patch else None
        changes: dict[str, Any] = dict.fromkeys(_OF_THE_WEIGHTS) | {"model": "auto", "stride": keep}
        self._want(
            self._wanted._replace(settings=make_settings(settings, **changes), weights=weights)
        )

    def _want(self, wanted: Wanted) -> None:
        if wanted != self._wanted:
            self._wanted = wanted
            self.settings_changed.emit()

    @property
    def refinement(self) -> Refinement:
        """What is done to segmentations after they are made."""
        return self._refinement

    def refine(self, **changes: Any) -> None:
        """Change what is done to segmentations after they are made.

        Parameters
        ----------
        **changes
            Fields of :class:`.Refinement`.

        Raises
        ------
        HRDv2Error
            If a value is out of range, or a package is missing; nothing is changed then.
        """
        refinement = make_refinement(self._refinement, **changes)
        if refinement != self._refinement:
            self._refinement = refinement
            self.refinement_changed.emit()

    @property
    def method(self) -> str:
        """Which classifier learns from strokes, one of :data:`.METHODS`."""
        return self._method

    @property
    def is_quick(self) -> bool:
        """Whether the method is quick enough for segmentations to follow the strokes."""
        return METHODS[self._method].is_live

    def use_method(self, method: str) -> None:
        """Learn from strokes with another classifier; what jobs made so far may find is dropped.

        Raises
        ------
        HRDv2Error
            If there is no such method; nothing is changed then.
        """
        find_method(method)
        if method != self._method:
            self._method = method
            self._generation += 1
            self.method_changed.emit()

    @property
    def weights_in_use(self) -> str | None:
        """Name of the weights that made the last features, None before there are any."""
        return None if self._made is None else self._made.extractor.weights.name

    # Work ----------------------------------------------------------------------------------

    @property
    def classifier(self) -> BasePixelClassifier | None:
        """The classifier trained or loaded last."""
        return self._classifier

    def look(
        self, image: Any, strokes: npt.NDArray[Any] | None = None, *, download: bool = True
    ) -> Look:
        """Job that finds an image's features; those of earlier looks are dropped from now on.

        Parameters
        ----------
        image
            (h, w) or (h, w, 3 or 4): an array, or what :func:`numpy.asarray` makes one of.
        strokes
            What is painted on it; without, the classifier at hand says which features it needs.
        download
            Whether weights that are not on this machine are downloaded.
        """
        self._looks += 1
        if image is not self._image:
            self._image, self._sight, self._learnt, self._tuned = image, None, None, None
            self._generation += 1
        wanted, applied = self._wanted, self._applied(strokes)
        if applied is not None:
            wanted = wanted._replace(settings=applied.settings_)
        return Look(
            generation=self._looks,
            image=image,
            wanted=wanted,
            made=self._made,
            memory=self.memory,
            store=self.store,
            download=download,
        )

    def saw(self, sight: Sight) -> bool:
        """Take over what a look found.

        Returns
        -------
        bool
            False, and nothing changed, if another look was asked for meanwhile.
        """
        if sight.generation != self._looks:
            return False
        self._made, self._sight = sight.made, sight
        if sight.tokens.is_complete:
            self.memory.put(sight.digest, sight.tokens)
        return True

    @property
    def has_features(self) -> bool:
        """Whether features of an image are at hand."""
        return self._sight is not None

    def tokens_for(self, image: Any, strokes: npt.NDArray[Any] | None) -> Tokens | None:
        """The features at hand of an image, as far as they are made, None if there are none."""
        sight = self._sight
        if sight is None or image is not self._image:
            return None
        applied = self._applied(strokes)
        if applied is None:
            fits = sight.made.wanted == self._wanted
        else:
            # Made for it with other weights, it says itself what is wrong.
            fits = applied.settings_ in (sight.tokens.settings, sight.made.wanted.settings)
        return sight.tokens if fits else None

    def _applied(self, strokes: npt.NDArray[Any] | None) -> BasePixelClassifier | None:
        """The classifier at hand where nothing is painted: it knows only its own features."""
        is_painted = strokes is not None and bool(np.any(strokes))
        return None if is_painted else self._classifier

    def check(self, image: Any, strokes: npt.NDArray[Any] | None) -> None:
        """Refuse what cannot be segmented, before anything is computed.

        Raises
        ------
        StrokesError
            If the strokes do not fit, or neither they nor a classifier tell the classes.
        """
        height, width = image.shape[:2]
        if check_painted(strokes, (height, width), self.classes) is None and not self._classifier:
            raise StrokesError(NOTHING_PAINTED)

    def prepare(
        self,
        tokens: Tokens,
        strokes: npt.NDArray[Any] | None = None,
        region: tuple[slice, slice] | None = None,
    ) -> Segmenting:
        """Job that segments an image from features at hand; earlier ones' results are dropped.

        Where strokes are painted the job trains on them, unless the classifier at hand was
        trained on just these, else it applies the classifier at hand. The result is refined
        after the pixels of the image looked at last.

        Parameters
        ----------
        tokens
            Of the image, see :meth:`tokens_for`.
        strokes
            (h, w) of labels, 0 where not painted. They must not be changed from now on.
        region
            Rows and columns that are segmented first.
        """
        self._generation += 1
        learnt = self._learnt
        return Segmenting(
            generation=self._generation,
            tokens=tokens,
            strokes=strokes,
            classes=self.classes,
            classifier=self._classifier,
            method=self._method,
            choice=self._choice,
            rows=self._rows,
            region=region,
            is_learnt=learnt is not None
            and strokes is not None
            and learnt.is_of(tokens, strokes, self._method),
            image=self._image,
            refinement=self._refinement,
        )

    def drop(self) -> None:
        """Have no use for what jobs made so far may still find."""
        self._looks += 1
        self._generation += 1

    def is_current(self, found: Part | Result) -> bool:
        """Whether no later job was prepared, and nothing dropped."""
        return found.generation == self._generation

    def accept(self, result: Result) -> bool:
        """Take over what a job found.

        Returns
        -------
        bool
            False, and nothing changed, if the result is of an earlier generation.
        """
        if not self.is_current(result):
            return False
        self._learnt = result.learnt
        # Painted labels that no class had; names given while the job ran stay.
        painted = result.classifier.pixel_classes_
        self._put(c for c in painted if c.label not in self._classes)
        if result.classifier is not self._classifier:
            self._classifier = result.classifier
            self.model_changed.emit()
        return True

    def tune(self) -> Tuning | None:
        """Job that chooses what to fit with for what was learnt last, if it was not yet."""
        learnt = self._learnt
        if learnt is None or not self.is_quick or not learnt.tokens.is_complete:
            return None
        if self._tuned is not None and self._tuned.is_of(*learnt):
            return None
        return Tuning(learnt, self._rows)

    def accept_choice(self, tuned: Tuned) -> bool:
        """Take over what a tuning job chose; whether there is anything to learn anew from that.

        What was chosen for anything else than what was learnt last is dropped.
        """
        if self._learnt is None or not tuned.learnt.is_of(*self._learnt):
            return False
        self._tuned = tuned.learnt
        if tuned.choice == self._choice:
            return False
        self._choice, self._learnt = tuned.choice, None
        return True

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the classifier with the classes' present names and colours.

        Parameters
        ----------
        path
            Of the file; gets the ending of its kind where it has none, or another kind's.

        Returns
        -------
        Path
            Of the file written.

        Raises
        ------
        ModelError
            If there is no classifier yet, or the file cannot be written.
        """
        if self._classifier is None:
            raise ModelError("There is no model to save yet: paint strokes first.")
        path = Path(path)
        stem = path.stem if path.suffix in SUFFIXES else path.name
        path = path.with_name(stem + self._classifier.suffix)
        self._classifier.pixel_classes_ = tuple(
            self._classes.get(c.label, c) for c in self._classifier.pixel_classes_
        )
        try:
            self._classifier.save(path)
        except OSError as error:
            raise ModelError(f"{path} cannot be written: {error.strerror or error}") from None
        return path

    def load(self, path: str | PathLike[str]) -> None:
        """Read a classifier; its classes, settings and method become the session's.

        Raises
        ------
        ModelError
            If it cannot be read; nothing is changed then.
        """
        classifier = load_classifier(path)
        self.drop()
        self._classifier, self._learnt = classifier, None
        if isinstance(classifier, PixelClassifier):
            self._choice = classifier.choice_
        own = classifier.settings_.model.startswith("custom:")
        self._want(
            self._wanted._replace(
                settings=classifier.settings_, weights=self.weights if own else None
            )
        )
        self._replace(classifier.pixel_classes_)
        self.use_method(classifier.method)
        self.model_changed.emit()
