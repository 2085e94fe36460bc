"""Painted pixels with their features: what classifiers learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from skimage.measure import label as connected

from .logistic import Scaling
from .tokens import Tokens
from .upsample import rows_at

# Pixels along an axis at which an image's features are looked at, painted or not.
_ANYWHERE = 32
# Of these, how many are looked at together.
_TOGETHER = 128
# Factor of filters that tell of edges. People keep strokes of one class away from edges, and run
# those of the other along them: such filters then give all edges to the other.
_EDGES = 0.4


class StrokeRows:
    """Features of the painted pixels, kept while their tokens are: a new stroke adds rows only.

    Examples
    --------
    >>> rows = StrokeRows()
    >>> model = PixelClassifier().fit(tokens, strokes, rows=rows)  # doctest: +SKIP
    >>> model = PixelClassifier().fit(tokens, more, rows=rows, start=model)  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[
            Tokens, tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]
        ] = WeakKeyDictionary()
        self._anywhere: WeakKeyDictionary[Tokens, npt.NDArray[np.float32]] = WeakKeyDictionary()

    def at(self, tokens: Tokens, index: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Features at some pixels of an image; those asked for last need no computing.

        Parameters
        ----------
        tokens
            Of the image.
        index
            (n,) flat indices of the pixels, ascending.

        Returns
        -------
        ndarray of float32
            (n, C).
        """
        known, old = self._known.get(tokens, (index[:0], None))
        if old is None or len(known) == 0:
            is_new = np.ones(len(index), bool)
            features = np.empty((len(index), tokens.channels), np.float32)
        else:
            place = np.minimum(np.searchsorted(known, index), len(known) - 1)
            is_new = known[place] != index
            # All at once, those of new pixels for the moment wrong: half the copying.
            features = old[place]
        new = np.stack(np.unravel_index(index[is_new], tokens.image_shape), axis=1)
        if len(new):
            features[is_new] = rows_at(tokens, new)
        self._known[tokens] = (index, features)
        return features

    def anywhere(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Features of pixels spread evenly over an image, painted or not.

        Returns
        -------
        ndarray of float32
            (m, C), m about a thousand.
        """
        if tokens not in self._anywhere:
            y, x = (
                np.linspace(0, n - 1, min(n, _ANYWHERE)).astype(np.intp) for n in tokens.image_shape
            )
            pixels = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
            # Pixels far apart share no tokens: of all at once these would fill the memory.
            pieces = np.array_split(pixels, -(-len(pixels) // _TOGETHER))
            self._anywhere[tokens] = np.concatenate([rows_at(tokens, one) for one in pieces])
        return self._anywhere[tokens]


@dataclass(frozen=True, eq=False)
class Training:
    """What a classifier learns from: painted pixels of one or several images.

    Attributes
    ----------
    features
        (n, C) of float32.
    labels
        (n,) of integers from 1.
    anywhere
        (m, C) of float32, features of pixels spread evenly over the images.
    own
        How many of the C features are the tokens'; filters' follow.
    number
        Finds :attr:`strokes`, which few ask for.
    factors
        (C - own,) of float: what the filters' standardised features are multiplied by.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.integer]
    anywhere: npt.NDArray[np.float32]
    own: int
    number: Callable[[], npt.NDArray[np.integer]]
    factors: npt.NDArray[np.floating] = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(
        cls,
        tokens: Tokens,
        strokes: npt.NDArray[np.integer],
        rows: StrokeRows,
        max_pixels: int,
    ) -> Training:
        """Gather the painted pixels of an image.

        Parameters
        ----------
        tokens
            Of the image.
        strokes
            (h, w) of labels, 0 where not painted.
        rows
            Where their features are found and kept.
        max_pixels
            Pixels of a class at most, evenly spread over them.
        """
        index = np.flatnonzero(strokes)
        labels = strokes.ravel()[index]
        kept = thinned(labels, max_pixels)
        if kept is not None:
            index, labels = index[kept], labels[kept]

        def number() -> npt.NDArray[np.integer]:
            found: npt.NDArray[np.integer] = connected(strokes).ravel()[index]
            return found

        edges = [np.array(grid.edges or [False] * grid.channels) for grid in tokens.filters]
        factors = np.where(np.concatenate([np.empty(0, bool), *edges]), _EDGES, 1.0)
        own = tokens.data.shape[-1]
        return cls(rows.at(tokens, index), labels, rows.anywhere(tokens), own, number, factors)

    @classmethod
    def join(cls, parts: Sequence[Training], max_pixels: int) -> Training:
        """The painted pixels of several images together, at most so many of a class."""
        if len(parts) == 1:
            return parts[0]

        def number() -> npt.NDArray[np.integer]:
            strokes, count = [], 0
            for part in parts:
                strokes.append(part.strokes + count)
                count += int(part.strokes.max(initial=0))
            return np.concatenate(strokes)

        whole = cls(
            _together([part.features for part in parts]),
            np.concatenate([part.labels for part in parts]),
            _together([part.anywhere for part in parts]),
            parts[0].own,
            number,
            max((part.factors for part in parts), key=len),
        )
        kept = thinned(whole.labels, max_pixels)
        return whole if kept is None else whole[kept]

    def __getitem__(self, pixels: npt.NDArray[np.intp]) -> Training:
        """Some of the painted pixels only."""
        return Training(
            self.features[pixels],
            self.labels[pixels],
            self.anywhere,
            self.own,
            lambda: self.strokes[pixels],
            self.factors,
        )

    @cached_property
    def strokes(self) -> npt.NDArray[np.integer]:
        """(n,) of integers: pixels of one connected piece of paint have one number."""
        return self.number()

    @cached_property
    def _scaling(self) -> Scaling:
        return Scaling.of(self.features, self.anywhere)

    def scaling(self, emphasis: float) -> Scaling:
        """What standardises the features, the tokens' times a factor."""
        mean, scale = self._scaling
        factors = np.concatenate([np.full(self.own, emphasis), self.factors])
        return Scaling(mean, scale / factors)


def fitting(rows: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    """Rows of so many features: colours of grey images are nought, those unheard of left out."""
    return np.pad(rows[:, :width], ((0, 0), (0, max(0, width - rows.shape[1]))))


def _together(rows: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Rows of all images below one another, as wide as the widest."""
    if len(rows) == 1:
        return rows[0]
    width = max(one.shape[1] for one in rows)
    return np.concatenate([fitting(one, width) for one in rows])


def thinned(labels: npt.NDArray[np.integer], most: int) -> npt.NDArray[np.intp] | None:
    """Places, ascending, of so many of each label at most; None where these are all."""
    counts = np.bincount(labels)
    steps = np.maximum(1, -(-counts // most))
    if (steps == 1).all():
        return None
    return np.sort(
        np.concatenate([np.flatnonzero(labels == k)[:: steps[k]] for k in np.flatnonzero(counts)])
    )
