"""State of one exploration: what features show of a viewer's images, without a window.

An exploration keeps its images, settings and features in a session of its own, without strokes. A
window asks it for a job, runs it wherever it likes (see :class:`Exploring`), and shows what it
returns. What was fitted on the way is kept, so that the next click does not wait for it again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ._job import Extracting, Made, Progress, Spot, Wanted
from ._session import Session
from ._subject import Subject
from .core.base import default_class
from .core.errors import HRDv2Error, ImageError, altered
from .core.explore import (
    AttentionMaps,
    Box,
    Clusters,
    PrincipalComponents,
    Similarity,
    attended_foreground,
    attention_maps,
    boxes,
    component_foreground,
    descriptor,
    fused_clusters,
    salient_clusters,
    spread_indices,
    strokes_of,
)
from .core.extraction import FeatureExtractor
from .core.normalise import stretch
from .core.planes import Index
from .core.refine import Refinement
from .core.tokens import Tokens

_T = TypeVar("_T")
Kind = Literal["tokens", "q", "k", "v"]
Foreground = Literal["attention", "component"]
Labels = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]
Steps = Generator[Any, None, _T]

# Frames of a stack that its basis is found from.
_FRAMES = 8
# Fits that are kept; those of similarity hold a map at full size.
_KEPT = 16
_WHAT = {
    "tokens": "Features",
    "attention": "Attention",
    "q": "Queries",
    "k": "Keys",
    "v": "Values",
}


class ClusterOptions(BaseModel):
    """How pixels are clustered.

    Examples
    --------
    >>> ClusterOptions(n_classes=3).n_clusters
    80
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_classes: int | None = Field(
        4,
        ge=1,
        le=1000,
        description="Number of classes that clusters are merged to; without, those are merged "
        "that are nearer than most of the foreground is to the background.",
    )
    n_clusters: int = Field(80, ge=1, le=1000, description="Number of clusters before merging.")
    samples: int = Field(
        50_000,
        ge=100,
        le=10_000_000,
        description="Pixels that the clusters are found from, at random (a count).",
    )
    within: Foreground | None = Field(
        None, description="The foreground that alone is clustered; by default everything is."
    )
    is_fused: bool = Field(
        False,
        description="Whether colour and position count beside features. Clusters are the classes "
        "then, there is no merging.",
    )


class Features(NamedTuple):
    """What the backbone says of a plane.

    Attributes
    ----------
    spot
        The plane.
    key
        Identity of its content; what the features are, the tokens' settings tell.
    tokens
        Of all passes, without filters.
    """

    spot: Spot
    key: str
    tokens: Tokens


class Coloured(NamedTuple):
    """Principal components of a plane as colours.

    Attributes
    ----------
    spot
        The plane.
    colours
        (h, w, 3) of uint8.
    components
        What they come from, for further planes and images.
    """

    spot: Spot
    colours: npt.NDArray[np.uint8]
    components: PrincipalComponents


class Boxed(NamedTuple):
    """A box and the class that most of its pixels, but for the background, are of."""

    box: Box
    label: int


class Fits:
    """What was fitted last, for several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """What is kept under a key, made if it is not there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                kept: _T = self._kept[key]
                return kept
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made


class Alike:
    """Cosine similarity in a plane; quick from the second time on, in any thread.

    Attributes
    ----------
    features
        Of the plane.
    """

    def __init__(self, features: Features) -> None:
        self.features = features
        self._similarity = Similarity(features.tokens)

    def to_pixel(self, pixel: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Similarity (h, w), in [-1, 1], to a pixel (y, x)."""
        return self.to(descriptor(self.features.tokens, pixel))

    def to(self, wanted: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Similarity (h, w), in [-1, 1], to a descriptor (C,), perhaps of another image."""
        return self._similarity.to(wanted)


@dataclass(frozen=True, eq=False)
class Exploring(Extracting, Generic[_T]):
    """Get features of planes and do something with them; :meth:`Exploration.job` makes it.

    Attributes
    ----------
    task
        Called with the job: a generator that gets features by :meth:`features` and returns
        what it finds. It may yield :class:`.Progress`, and what is to be shown on the way.
    """

    task: Callable[[Exploring[_T]], Steps[_T]]
    keep: Callable[[Made], object]
    _found: list[Made] = field(default_factory=list)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Steps[_T]:
        """Do the work, in any thread; close the generator to cancel.

        Raises
        ------
        HRDv2Error
            If image, settings or weights cannot be used, and as the task does.
        Cancelled
            If it was cancelled within a pass.
        """
        return (yield from self.task(self))

    def features(self, spot: Spot, kind: Kind | Literal["attention"] = "tokens") -> Steps[Features]:
        """Features of a plane, from memory, disk or the backbone.

        Raises
        ------
        HRDv2Error
            If image, settings or weights cannot be used.
        Cancelled
            If the job was cancelled within a pass.
        """
        yield Progress(0, 0, "Reading the image")
        extractor = yield from self.extractor(kind)
        piece = spot.subject.piece(spot.place, extractor.settings)
        tokens = self.memory.get(piece.digest, extractor.settings)
        if tokens is None:
            passes = extractor.settings.passes
            yield Progress(0, passes, f"{_WHAT[kind]}, pass 1 of {passes}")
            found = extractor.passes(piece, store=self.store, is_cancelled=self._cancelled.is_set)
            for tokens in found:
                now = min(tokens.passes + 1, passes)
                yield Progress(tokens.passes, passes, f"{_WHAT[kind]}, pass {now} of {passes}")
        assert tokens is not None
        self.memory.put(piece.digest, tokens)
        return Features(spot, piece.digest, tokens)

    def extractor(self, kind: Kind | Literal["attention"] = "tokens") -> Steps[FeatureExtractor]:
        """What extracts features of this kind; raises HRDv2Error as :meth:`features`."""
        if not self._found:
            made = yield from self._make()
            # Only where nothing may be downloaded is there none.
            assert made is not None
            self._found.append(made)
            self.keep(made)
        extractor = self._found[0].extractor
        return extractor if kind == "tokens" else extractor.of_facet(kind)

    def features_of(
        self, spots: Sequence[Spot], kind: Kind | Literal["attention"] = "tokens"
    ) -> Steps[tuple[Features, ...]]:
        """Features of several planes, see :meth:`features`."""
        found = []
        for spot in spots:
            found.append((yield from self.features(spot, kind)))
        return tuple(found)


class Exploration:
    """What a window explores, and what was fitted on the way.

    Its methods that return a job check what they can before.

    Attributes
    ----------
    session
        Images, settings, refinement and features; hand-made filters are off.
    kind
        Which features are explored: tokens, or the last block's queries, keys or values.

    Examples
    --------
    >>> exploration = Exploration()
    >>> subject = Subject(Planes(image, "YX"))  # doctest: +SKIP
    >>> exploration.session.watch(subject)  # doctest: +SKIP
    >>> job = exploration.components(exploration.spot(subject, ()))  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self.session = Session()
        self.session.configure(filters=False)
        self.kind: Kind = "tokens"
        self._fits = Fits()
        self._made: Made | None = None

    @property
    def weights_in_use(self) -> str | None:
        """Name of the weights that made the last features, None before there are any."""
        return None if self._made is None else self._made.extractor.weights.name

    # Places and features -----------------------------------------------------------------------

    def spot(self, subject: Subject, index: Index) -> Spot:
        """A plane of an image, of the session's or another.

        Raises
        ------
        ImageError
            If it is too large, or its channels are others than those explored.
        """
        settings = self.session.settings
        subject.cut(settings)
        if len(subject.tiles) > 1:
            height, width = subject.planes.shape
            raise ImageError(
                f"a plane of {height} x {width} pixels is too large to explore as a whole (about "
                "2300 x 2300 is the most): crop it, or choose a coarser Level where it has several"
            )
        if not subject.fits(settings):
            raise ImageError(
                "the images have different channels: choose the same ones in all of them"
            )
        (place,) = subject.at(index)
        return Spot(subject, place)

    def job(self, task: Callable[[Exploring[_T]], Steps[_T]], **changes: object) -> Exploring[_T]:
        """A job of one's own, see :attr:`Exploring.task`, by choice with some settings changed."""
        session = self.session
        return Exploring(
            generation=0,
            wanted=Wanted(altered(session.settings, **changes), session.device, session.weights),
            made=self._made,
            memory=session.memory,
            store=session.store,
            download=True,
            task=task,
            keep=self._keep,
        )

    def _keep(self, made: Made) -> None:
        self._made = made

    def tokens_of(self, spot: Spot) -> Exploring[Features]:
        """Job that gets the features of a plane."""
        kind = self.kind
        return self.job(lambda source: source.features(spot, kind))

    def tokens_for(self, spots: Sequence[Spot]) -> Exploring[tuple[Features, ...]]:
        """Job that gets the features of several planes, made alike."""
        kind = self.kind
        return self.job(lambda source: source.features_of(spots, kind))

    # What features show ------------------------------------------------------------------------

    def components(
        self, spot: Spot, *, basis: PrincipalComponents | None = None
    ) -> Exploring[Coloured]:
        """Job that colours a plane by its principal components.

        Parameters
        ----------
        spot
            The plane.
        basis
            Components found earlier, if of the same features, so that colours mean the same.
        """
        kind = self.kind

        def task(source: Exploring[Coloured]) -> Steps[Coloured]:
            features = yield from source.features(spot, kind)
            return self._coloured(features, basis or self._basis([features]))

        return self.job(task)

    def components_of_stack(
        self, subject: Subject, *, basis: PrincipalComponents | None = None
    ) -> Exploring[PrincipalComponents]:
        """Job that colours all planes of an image alike.

        It yields :class:`Coloured` for every plane. Without a basis one is found from planes
        sampled evenly.

        Raises
        ------
        ImageError
            As :meth:`spot`.
        """
        spots = [self.spot(subject, index) for index in subject.planes.indices()]
        return self.components_of(spots, basis=basis)

    def components_of(
        self,
        spots: Sequence[Spot],
        *,
        basis: PrincipalComponents | None = None,
        sampled: int = _FRAMES,
    ) -> Exploring[PrincipalComponents]:
        """Job that colours several planes alike, perhaps of several images.

        It yields :class:`Coloured` for every plane. Without a basis one is found from so many
        of them, sampled evenly.
        """
        kind = self.kind

        def task(source: Exploring[PrincipalComponents]) -> Steps[PrincipalComponents]:
            count = len(spots)
            found = basis
            if found is None:
                chosen = [spots[k] for k in spread_indices(count, sampled)]
                found = self._basis((yield from source.features_of(chosen, kind)))
            for k, spot in enumerate(spots):
                features = yield from source.features(spot, kind)
                yield self._coloured(features, found)
                yield Progress(k + 1, count, f"Plane {k + 1} of {count}")
            return found

        return self.job(task)

    def _basis(self, features: Sequence[Features]) -> PrincipalComponents:
        tokens = [one.tokens for one in features]
        key = ("components", *((one.key, one.tokens.settings) for one in features))
        return self._fits.get(key, partial(PrincipalComponents.fit, tokens))

    @staticmethod
    def _coloured(features: Features, basis: PrincipalComponents) -> Coloured:
        colours = basis.rgb(features.tokens)
        colours *= 255
        return Coloured(features.spot, colours.round().astype(np.uint8), basis)

    def attention(self, spot: Spot) -> Exploring[AttentionMaps]:
        """Job that finds where the class token looks in a plane."""

        def task(source: Exploring[AttentionMaps]) -> Steps[AttentionMaps]:
            return attention_maps((yield from source.features(spot, "attention")).tokens)

        return self.job(task)

    def similarity(self, spot: Spot) -> Exploring[Alike]:
        """Job that makes similarities in a plane quick to get."""
        kind = self.kind

        def task(source: Exploring[Alike]) -> Steps[Alike]:
            features = yield from source.features(spot, kind)
            alike = self._alike(features)
            yield Progress(0, 0, "Measuring features")
            alike.to_pixel((0, 0))
            return alike

        return self.job(task)

    def similar(
        self, spot: Spot, where: tuple[int, int] | npt.ArrayLike, others: Sequence[Spot] = ()
    ) -> Exploring[tuple[tuple[Spot, npt.NDArray[np.float32]], ...]]:
        """Job that finds what is like a pixel or a region, in its plane and in others.

        Parameters
        ----------
        spot
            The plane.
        where
            (y, x) of the pixel, or the region, see :func:`.descriptor`.
        others
            Further planes.
        """
        kind = self.kind

        def task(source: Exploring[Any]) -> Steps[Any]:
            features = yield from source.features_of([spot, *others], kind)
            wanted = descriptor(features[0].tokens, where)
            return tuple((one.spot, self._alike(one).to(wanted)) for one in features)

        return self.job(task)

    def _alike(self, features: Features) -> Alike:
        key = ("alike", features.key, features.tokens.settings)
        return self._fits.get(key, partial(Alike, features))

    def foreground(self, spot: Spot, how: Foreground) -> Exploring[Mask]:
        """Job that finds the foreground (h, w) of a plane.

        Parameters
        ----------
        spot
            The plane.
        how
            By what the class token attends to, or by the first principal component.

        Raises
        ------
        HRDv2Error
            If there is no such way.
        """
        if how not in get_args(Foreground):
            raise HRDv2Error(f"foreground is found by {' or '.join(get_args(Foreground))}")
        kind = self.kind

        def task(source: Exploring[Mask]) -> Steps[Mask]:
            features = yield from source.features(spot, kind)
            return (yield from self._foreground(source, features, how))

        return self.job(task)

    def _foreground(
        self, source: Exploring[Any], features: Features, how: Foreground
    ) -> Steps[Mask]:
        key = ("foreground", how, features.key, features.tokens.settings)
        if how == "component":
            yield Progress(0, 0, "Finding the foreground")
            image = self._looked_at(features.spot)
            return self._fits.get(key, partial(component_foreground, features.tokens, image))
        attention = (yield from source.features(features.spot, "attention")).tokens
        yield Progress(0, 0, "Finding the foreground")
        clusters = self._clusters(features, ClusterOptions())

        def make() -> Mask:
            assigned = clusters.assign(features.tokens)
            return attended_foreground(assigned, attention_maps(attention).together)

        return self._fits.get(key, make)

    def clusters(self, spot: Spot, options: ClusterOptions) -> Exploring[Labels]:
        """Job that finds classes (h, w) in a plane, from 1; 0 is background.

        They are refined as the session says.
        """
        kind, refinement = self.kind, self.session.refinement

        def task(source: Exploring[Labels]) -> Steps[Labels]:
            features = yield from source.features(spot, kind)
            mask = None
            if options.within is not None:
                mask = yield from self._foreground(source, features, options.within)
            yield Progress(0, 0, "Clustering pixels")
            image = self._looked_at(spot)
            if options.is_fused:
                labels = fused_clusters(
                    features.tokens,
                    image,
                    options.n_clusters if options.n_classes is None else options.n_classes,
                    samples=options.samples,
                )
                planes = partial(_one_hot, labels)
            else:
                classes = yield from self._classes(source, features, options, mask)
                labels = classes.segment(features.tokens)
                planes = partial(classes.probabilities, features.tokens)
            if not refinement.is_off:
                yield Progress(0, 0, "Refining")
                labels = _refined(planes(), image, refinement, source)
            return labels if mask is None else np.where(mask, labels, 0).astype(labels.dtype)

        return self.job(task)

    def _classes(
        self,
        source: Exploring[Any],
        features: Features,
        options: ClusterOptions,
        mask: Mask | None,
    ) -> Steps[Clusters]:
        if options.n_classes is not None:
            clusters = self._clusters(features, options, mask)
            return clusters.merged(n_classes=options.n_classes)
        attention = (yield from source.features(features.spot, "attention")).tokens
        yield Progress(0, 0, "Clustering pixels")
        clusters = self._clusters(features, options)
        assigned = clusters.assign(features.tokens)
        together = attention_maps(attention).together
        salient = salient_clusters(assigned, together, len(clusters.centroids))
        return clusters.merged(cutoff=clusters.cutoff(salient))

    def _clusters(
        self, features: Features, options: ClusterOptions, mask: Mask | None = None
    ) -> Clusters:
        key = (
            "clusters",
            features.key,
            features.tokens.settings,
            options.n_clusters,
            options.samples,
            None if mask is None else options.within,
        )
        make = partial(
            Clusters.fit,
            [features.tokens],
            options.n_clusters,
            masks=None if mask is None else [mask],
            samples=options.samples,
        )
        return self._fits.get(key, make)

    def strokes(self, labels: Labels, width: float) -> Exploring[Labels]:
        """Job that paints strokes of a brush so wide into a plane's labels, to start from.

        See :func:`.strokes_of`.
        """

        def task(source: Exploring[Labels]) -> Steps[Labels]:
            yield Progress(0, 0, "Painting strokes")
            return strokes_of(labels, width=width)

        return self.job(task)

    def _looked_at(self, spot: Spot) -> npt.NDArray[Any]:
        """A plane as a picture (h, w) or (h, w, 3 or 4), whichever channels it has."""
        pixels = spot.subject.pixels(spot.place)
        if spot.subject.planes.channels is None:
            return pixels
        grey: npt.NDArray[Any] = stretch(pixels, apart=True).mean(-1)
        return grey


def make_options(options: ClusterOptions | None = None, **changes: Any) -> ClusterOptions:
    """Options with some fields changed, checked.

    Raises
    ------
    HRDv2Error
        If a field does not exist or its value is out of range; the message names it.
    """
    return altered(options or ClusterOptions(), **changes)


def boxed(labels: Labels) -> tuple[Boxed, ...]:
    """Boxes of what is not background, see :func:`.boxes`, each with its class.

    Parameters
    ----------
    labels
        (h, w), 0 is background.
    """
    found = []
    for box in boxes(labels):
        there = labels[box.top : box.bottom, box.left : box.right].ravel()
        values, counts = np.unique(there[there != 0], return_counts=True)
        found.append(Boxed(box, int(values[counts.argmax()])))
    return tuple(found)


def _one_hot(labels: Labels) -> npt.NDArray[np.float32]:
    return np.eye(int(labels.max()), dtype=np.float32)[labels.astype(np.intp) - 1]


def _refined(
    probabilities: npt.NDArray[np.float32],
    image: npt.NDArray[Any],
    refinement: Refinement,
    job: Exploring[Any],
) -> npt.NDArray[np.uint16]:
    classes = [default_class(k + 1) for k in range(probabilities.shape[-1])]
    return refinement.apply(probabilities, image, classes, lambda: job.is_cancelled).labels
