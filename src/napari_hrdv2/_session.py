"""State of one annotation session: what a window shows and works on, without a window.

Data flow one way. A window asks for a job, runs it wherever it likes (it is a generator that
touches nothing but its own inputs), and hands back what it found, which tells everybody by
signals. Two may run side by side: a :class:`Look` finds features of an image, place by place and
pass by pass (:meth:`Session.saw`), a :class:`Segmenting` job trains on the strokes of all images
and segments what somebody looks at, from the features there are (:meth:`Session.accept`). When
both have ended a :class:`Sweep` segments the other planes and tiles (:meth:`Session.swept`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from psygnal import Signal

from ._job import (
    Found,
    Learnt,
    Look,
    Made,
    Part,
    Result,
    Sample,
    Segmenting,
    Sight,
    Skipped,
    Spot,
    Sweep,
    Swept,
    Tuned,
    Tuning,
    Wanted,
    check_painted,
    has_classes,
)
from ._subject import Place, Stamp, Subject
from .core.base import MAX_LABEL, BasePixelClassifier, Colour, PixelClass, default_class
from .core.cache import TokenMemory, TokenStore, default_folder
from .core.classifier import PixelClassifier
from .core.errors import ImageError, ModelError, StrokesError
from .core.extraction import make_settings
from .core.methods import METHODS, SUFFIXES, find_method, load_classifier
from .core.planes import Index, Region
from .core.refine import Refinement, make_refinement
from .core.settings import MAX_MAPPED, Settings
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
    subjects_changed
        Images came or went, or are learnt from or not.

    Examples
    --------
    >>> session = Session()
    >>> session.add_class("pore").label
    3
    >>> session.watch(Subject(planes, strokes))  # doctest: +SKIP
    >>> look = session.look(session.subject.at(()))  # doctest: +SKIP
    """

    classes_changed = Signal()
    current_changed = Signal(int)
    settings_changed = Signal()
    refinement_changed = Signal()
    method_changed = Signal()
    model_changed = Signal()
    subjects_changed = Signal()

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
        self._subject: Subject | None = None
        self._subjects: list[Subject] = []
        # Of what is looked at, and of painted places until their pixels are gathered.
        self._sights: dict[Spot, Sight] = {}
        self._digests: dict[Spot, str] = {}
        self._samples: dict[Spot, Sample] = {}
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

    def remove_class(self, label: int) -> None:
        """Remove a class that is painted on none of the session's images.

        Raises
        ------
        StrokesError
            If the class is painted, or the last one.
        """
        name = self._classes[label].name
        if len(self._classes) == 1:
            raise StrokesError(f"'{name}' is the last class: add another before removing it.")
        drawn = (one for subject in self._subjects for one in subject.drawn.values())
        if any((one == label).any() for one in drawn):
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
            for subject in self._subjects:
                subject.cut(wanted.settings)
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

    @property
    def subject(self) -> Subject | None:
        """The image that is worked on."""
        return self._subject

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """All images of the session."""
        return tuple(self._subjects)

    def watch(self, subject: Subject | None) -> None:
        """Work on an image from now on; it stays one of the session's."""
        if subject is self._subject:
            return
        self.drop()
        self._subject = subject
        if subject is None:
            return
        is_new = subject not in self._subjects
        if is_new:
            self._subjects.append(subject)
        self._want(self._wanted._replace(settings=self._of_its_channels(self.settings)))
        subject.cut(self.settings)
        if is_new:
            self.subjects_changed.emit()

    def _of_its_channels(self, settings: Settings) -> Settings:
        """Settings for the channels of the image worked on."""
        subject = self._subject
        if subject is None or subject.fits(settings):
            return settings
        channels, count = subject.planes.channels, subject.planes.channel_count
        changes: dict[str, Any] = {"channels": channels, "channel_count": count}
        if len(channels or ()) > MAX_MAPPED:
            changes["colours"] = "each"
        return make_settings(settings, **changes)

    def forget(self, subject: Subject) -> None:
        """Have an image no more."""
        if subject in self._subjects:
            self._subjects.remove(subject)
            for known in (self._sights, self._digests, self._samples):
                for spot in [one for one in known if one.subject is subject]:
                    known.pop(spot)
            if subject is self._subject:
                self.watch(None)
            self.subjects_changed.emit()

    def train_on(self, subject: Subject, is_training: bool) -> None:
        """Learn from an image's strokes, or not."""
        if subject.is_training != is_training:
            subject.is_training = is_training
            self.subjects_changed.emit()

    def _painted(self) -> list[Spot]:
        """The places that are painted and learnt from, whichever image is worked on."""
        return [
            Spot(one, place)
            for one in self._subjects
            if one.is_training and one.fits(self.settings)
            for place in one.drawn
        ]

    def _wanted_now(self) -> Wanted:
        """What features are needed: the classifier at hand knows its own ones only."""
        if self._classifier is None or not self._can_apply or self._painted():
            return self._wanted
        return self._wanted._replace(settings=self._classifier.settings_)

    @property
    def _can_apply(self) -> bool:
        """Whether there is a classifier, and of the channels of the image worked on."""
        classifier, subject = self._classifier, self._subject
        return classifier is not None and (subject is None or subject.fits(classifier.settings_))

    def _settings_now(self) -> Settings | None:
        """The settings, resolved, of the features needed; None before anything was made."""
        made = self._made
        if made is None:
            return None
        # Wherever they are made they are the same.
        wanted = self._wanted_now()._replace(device=made.wanted.device)
        return made.extractor.settings if made.fulfils(wanted) else None

    def _tokens(self, spot: Spot) -> Tokens | None:
        """Features at hand, as far as they are made."""
        settings = self._settings_now()
        if settings is None:
            return None
        sight = self._sights.get(spot)
        if sight is not None and sight.tokens.settings == settings:
            return sight.tokens
        digest = self._digests.get(spot)
        return None if digest is None else self.memory.get(digest, settings)

    def tokens_at(self, place: Place) -> Tokens | None:
        """The features at hand of a place, as far as they are made, None if there are none."""
        return None if self._subject is None else self._tokens(Spot(self._subject, place))

    @property
    def tokens_of_all(self) -> Tokens | None:
        """Those of the image worked on where it is one place, None if there are none."""
        subject = self._subject
        if subject is None or subject.planes.count * len(subject.tiles) > 1:
            return None
        (place,) = subject.everywhere((0,) * len(subject.planes.stack_shape))
        return self.tokens_at(place)

    @property
    def has_features(self) -> bool:
        """Whether features of the image worked on are at hand."""
        return any(spot.subject is self._subject for spot in self._sights)

    @property
    def is_painted(self) -> bool:
        """Whether there are strokes to learn from, on any image of these channels."""
        return bool(self._painted())

    def _lacking(self, places: Iterable[Place]) -> tuple[list[Spot], list[Spot]]:
        """Of some places, and of those painted, the ones whose features are needed and not there.

        Of what nobody looks at, the features of painted pixels suffice.
        """
        assert self._subject is not None
        seen = [Spot(self._subject, place) for place in places]
        painted = [
            spot
            for spot in sorted(self._painted(), key=lambda one: one.subject is not self._subject)
            if spot not in seen
            and not _is_complete(self._tokens(spot))
            and self._known(spot, None) is None
        ]
        return [spot for spot in seen if not _is_complete(self._tokens(spot))], painted

    def has_all(self, places: Iterable[Place]) -> bool:
        """Whether the features of some places and of what is painted are at hand."""
        return self._subject is None or not any(self._lacking(places))

    def renew(self) -> None:
        """Look at the image worked on anew: somebody may have changed its pixels in place."""
        if self._subject is not None:
            self._subject.forget_levels()
        for known in (self._sights, self._digests, self._samples):
            for spot in [one for one in known if one.subject is self._subject]:
                known.pop(spot)

    def look(self, seen: Sequence[Place], *, download: bool = True) -> Look | None:
        """Job that finds the features that are needed; those of earlier looks are dropped.

        Parameters
        ----------
        seen
            The places of the image worked on that somebody looks at.
        download
            Whether weights that are not on this machine are downloaded.

        Returns
        -------
        Look or None
            None where all features are at hand.
        """
        assert self._subject is not None
        lacking, needed = self._lacking(seen)
        view = {Spot(self._subject, place) for place in seen}
        painted = self._painted()
        for spot in [one for one in self._sights if one not in view]:
            is_gathered = self._known(spot, None) is not None
            if spot not in painted or (is_gathered and _is_complete(self._sights[spot].tokens)):
                del self._sights[spot]
        if not lacking and not needed:
            return None
        self._looks += 1
        return Look(
            seen=tuple(lacking), others=tuple(needed), **self._extracting(download, self._looks)
        )

    def _extracting(self, download: bool, generation: int) -> dict[str, Any]:
        return {
            "generation": generation,
            "wanted": self._wanted_now(),
            "made": self._made,
            "memory": self.memory,
            "store": self.store,
            "download": download,
        }

    def saw(self, sight: Sight) -> bool:
        """Take over what a look found.

        Returns
        -------
        bool
            False, and nothing changed, if another look was asked for meanwhile.
        """
        if sight.generation != self._looks:
            return False
        self._made = sight.made
        self._sights[sight.spot], self._digests[sight.spot] = sight, sight.digest
        if sight.tokens.is_complete:
            self.memory.put(sight.digest, sight.tokens)
        return True

    def check(self) -> None:
        """Refuse what cannot be segmented, before anything is computed.

        Raises
        ------
        ImageError
            If the classifier at hand, which is to be applied, is of other channels.
        StrokesError
            If the strokes do not fit, or neither they nor a classifier tell the classes.
        """
        assert self._subject is not None
        self._subject.check_strokes()
        painted = self._painted()
        if painted or self._classifier is None:
            check_painted([spot.subject.drawn[spot.place] for spot in painted], self.classes)
        elif not self._can_apply:
            raise ImageError(
                f"The model is of {_channels(self._classifier.settings_.channels)}, the image has "
                f"{_channels(self._subject.planes.channels)}: choose those under Channels."
            )

    def _known(self, spot: Spot, tokens: Tokens | None) -> Sample | None:
        """Painted pixels of a place that are gathered already, from no fewer passes."""
        sample, settings = self._samples.get(spot), self._settings_now()
        if sample is None or sample.strokes is not spot.subject.drawn.get(spot.place):
            return None
        digest = self._digests.get(spot, sample.digest)
        least = sample.settings.passes if tokens is None else tokens.passes
        is_same = (sample.digest, sample.settings) == (digest, settings)
        return sample if is_same and sample.passes >= least else None

    def _sample(self, spot: Spot) -> Sample | None:
        """What is to be learnt from a place, None where its features are not at hand."""
        tokens = self._tokens(spot)
        known = self._known(spot, tokens)
        if known is not None or tokens is None:
            return known
        strokes = spot.subject.drawn[spot.place]
        return Sample(spot, self._digests[spot], strokes, tokens.settings, tokens.passes, tokens)

    def prepare(self, seen: Sequence[Place], region: Region | None = None) -> Segmenting | None:
        """Job that segments what somebody looks at, from features at hand.

        Where strokes are painted the job trains on them, unless the classifier at hand was
        trained on just these, else it applies the classifier at hand. Results of earlier jobs
        are dropped.

        Parameters
        ----------
        seen
            Places of the image worked on.
        region
            Rows and columns that are segmented first, of a place that is a plane.

        Returns
        -------
        Segmenting or None
            None where nothing is new, or no features are at hand.
        """
        assert self._subject is not None
        painted = self._painted()
        samples = tuple(one for spot in painted if (one := self._sample(spot)) is not None)
        if len(samples) < len(painted) and not has_classes(one.strokes for one in samples):
            # Classes whose features are still to come are painted all the same.
            return None
        is_learnt = self._learnt is not None and self._learnt.is_of(samples, self._method)
        targets = []
        for place in seen:
            tokens = self.tokens_at(place)
            if tokens is None or not (self.is_quick or tokens.is_complete):
                continue
            if (samples and not is_learnt) or not self._is_done(place, tokens.passes):
                targets.append((Spot(self._subject, place), tokens))
        if not targets or not (samples or self._can_apply):
            return None
        self._generation += 1
        return Segmenting(
            generation=self._generation,
            samples=samples,
            targets=tuple(targets),
            classes=self.classes,
            classifier=self._classifier,
            method=self._method,
            choice=self._choice,
            rows=self._rows,
            region=region,
            learnt=self._learnt if is_learnt else None,
            refinement=self._refinement,
        )

    def _is_done(self, place: Place, passes: int) -> bool:
        """Whether a place is segmented as it would be now."""
        stamp = None if self._subject is None else self._subject.done.get(place)
        return (
            stamp is not None
            and stamp.classifier is self._classifier
            and stamp.passes >= passes
            and stamp.refinement == self._refinement
        )

    def undone(self, index: Index) -> list[Place]:
        """Places of the image worked on that are not segmented as they would be now.

        Those of the planes nearest to one come first.
        """
        if self._subject is None or self._classifier is None or not self._can_apply:
            return []
        passes = self._classifier.settings_.passes
        everywhere = self._subject.everywhere(index)
        return [place for place in everywhere if not self._is_done(place, passes)]

    def sweep(self, places: Sequence[Place], *, download: bool = True) -> Sweep:
        """Job that segments places nobody looks at with the classifier at hand."""
        assert self._subject is not None
        assert self._classifier is not None
        options = self._extracting(download, self._looks)
        settings = self._classifier.settings_
        return Sweep(
            spots=tuple(Spot(self._subject, place) for place in places),
            classifier=self._classifier,
            refinement=self._refinement,
            classes=self.classes,
            **options | {"wanted": options["wanted"]._replace(settings=settings)},
        )

    def swept(self, swept: Swept) -> bool:
        """Take over what a sweep found; False if it is of another classifier than that at hand."""
        self._digests[swept.found.spot] = swept.digest
        if swept.classifier is not self._classifier or swept.refinement != self._refinement:
            return False
        self._stamp(swept.found, swept.refinement)
        return True

    def skip(self, skipped: Skipped) -> None:
        """Leave a place as it is, which cannot be segmented by the classifier at hand."""
        subject, place = skipped.spot
        passes = skipped.classifier.settings_.passes
        subject.done[place] = Stamp(skipped.classifier, passes, skipped.refinement)

    def _stamp(self, found: Found, refinement: Refinement) -> None:
        assert self._classifier is not None
        subject, place = found.spot
        subject.done[place] = Stamp(self._classifier, found.passes, refinement)

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
        if result.learnt is not None:
            self._samples |= {one.spot: one for one in result.learnt.samples}
        # Painted labels that no class had; names given while the job ran stay.
        painted = result.classifier.pixel_classes_
        self._put(c for c in painted if c.label not in self._classes)
        is_new = result.classifier is not self._classifier
        self._classifier = result.classifier
        for found in result.found:
            self._stamp(found, result.refinement)
        if is_new:
            self.model_changed.emit()
        return True

    def tune(self) -> Tuning | None:
        """Job that chooses what to fit with for what was learnt last, if it was not yet."""
        learnt = self._learnt
        if learnt is None or not self.is_quick or not learnt.is_complete:
            return None
        if self._tuned is not None and self._tuned.is_of(*learnt):
            return None
        return Tuning(learnt)

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
                settings=self._of_its_channels(classifier.settings_),
                weights=self.weights if own else None,
            )
        )
        # The model is what was asked for; strokes on this image train anew, those on others do
        # where somebody wants that.
        for subject in self._subjects:
            if subject is not self._subject:
                self.train_on(subject, False)
        self._replace(classifier.pixel_classes_)
        self.use_method(classifier.method)
        self.model_changed.emit()


def _is_complete(tokens: Tokens | None) -> bool:
    return tokens is not None and tokens.is_complete


def _channels(channels: tuple[int, ...] | None) -> str:
    if channels is None:
        return "grey levels or RGB"
    return f"{len(channels)} channels ({', '.join(map(str, channels))})"
