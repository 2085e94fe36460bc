"""What may be done to a segmentation after it is made; all of it is off unless asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import ndimage as ndi
from skimage.filters import rank
from skimage.measure import label
from skimage.morphology import disk

from .base import BasePixelClassifier, PixelClass
from .errors import ImageError, RefinementWarning, altered, go_on, never
from .normalise import stretch
from .tokens import Tokens

_Planes = npt.NDArray[np.floating]

# Krähenbühl and Koltun's model (2011): neighbours within some pixels agree, and so do pixels of
# like colour (of 255 grey levels) farther away. Half the weight and reach usual for photographs,
# which make whole classes of micrographs vanish.
_SMOOTH_PX, _SMOOTH_WEIGHT = 3, 3
_LIKE_PX, _LIKE_LEVELS, _LIKE_WEIGHT = 30, 13, 5
_CRF_STEPS = 5


class Refined(NamedTuple):
    """A refined segmentation.

    Attributes
    ----------
    labels
        (h, w) of uint16.
    vanished
        Classes that the segmentation had before it was refined, and has no more.
    """

    labels: npt.NDArray[np.uint16]
    vanished: tuple[PixelClass, ...]


class Refinement(BaseModel):
    """What is done to a segmentation, in this order; by default nothing.

    The image that it is done with is stretched first, its 1st and 99th percentile to black and
    white, so that the numbers mean the same for images of every depth.

    Examples
    --------
    >>> Refinement().is_off
    True
    >>> Refinement(guided=8, min_size=50).min_size
    50
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    guided: int = Field(
        0,
        ge=0,
        le=200,
        description="Radius of the guided filter on the probabilities (pixels; 0: none): borders "
        "within it snap to edges of the image.",
    )
    guided_eps: float = Field(
        1e-4,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Variance of the image in the filter's window, black being 0 and white 1, "
        "above which it is an edge to snap to.",
    )
    crf: bool = Field(
        False,
        description="Whether a fully connected CRF goes over the probabilities: strong, slow, and "
        "apt to lose small things. Needs the package pydensecrf2.",
    )
    majority: int = Field(
        0,
        ge=0,
        le=100,
        description="Radius of the disk of which every pixel takes the most frequent class "
        "(pixels; 0: none): borders become smooth.",
    )
    min_size: int = Field(
        0,
        ge=0,
        description="Connected regions of a class of fewer pixels go to the class of the nearest "
        "region that stays (a count; 0: none).",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.crf and not has_crf():
            raise ValueError(
                "the CRF needs the package pydensecrf2: pip install 'napari-hrdv2[crf]'"
            )
        return self

    @property
    def is_off(self) -> bool:
        """Whether nothing is done."""
        return not (self.guided or self.crf or self.majority or self.min_size)

    def predict(
        self,
        classifier: BasePixelClassifier,
        tokens: Tokens,
        image: npt.ArrayLike,
        classes: Sequence[PixelClass] = (),
        is_cancelled: Callable[[], bool] = never,
    ) -> Refined:
        """Segment an image and refine that; the classifier's own result where this is off.

        Parameters
        ----------
        classifier
            A fitted one.
        tokens
            Of the image.
        image, is_cancelled
            As for :meth:`apply`.
        classes
            Classes named since the classifier was fitted, which has names too.

        Raises
        ------
        SettingsMismatchError
            If the tokens were made with other settings than the classifier's.
        Cancelled, ImageError
            As :meth:`apply`, and if somebody gave up while the classifier was at work.
        """
        if self.is_off:
            return Refined(classifier.predict(tokens, is_cancelled), ())
        probabilities = classifier.predict_proba(tokens, is_cancelled)
        known = {one.label: one for one in (*classifier.pixel_classes_, *classes)}
        named = [known[k] for k in classifier.classes_.tolist()]
        apart = tokens.settings.has_channels
        return self.apply(probabilities, image, named, is_cancelled, apart=apart)

    def apply(
        self,
        probabilities: npt.NDArray[np.float32],
        image: npt.ArrayLike,
        classes: Sequence[PixelClass],
        is_cancelled: Callable[[], bool] = never,
        *,
        apart: bool = False,
    ) -> Refined:
        """Refine the segmentation that probabilities give.

        Warns with a :class:`RefinementWarning` that names them if classes vanish.

        Parameters
        ----------
        probabilities
            (h, w, K) of float32, summing to 1 over the classes.
        image
            (h, w) or (h, w, 3 or 4), any real dtype: what they are of.
        classes
            The K classes, in their order.
        is_cancelled
            Asked now and then whether to give up; from any thread.
        apart
            Whether the image has channels, (h, w, n), rather than colours.

        Raises
        ------
        Cancelled
            If so.
        ImageError
            If the image is of another size, or cannot be used.
        """
        refined = self.refine(probabilities, image, classes, is_cancelled, apart=apart)
        if refined.vanished:
            warnings.warn(gone(refined.vanished), RefinementWarning, stacklevel=2)
        return refined

    def refine(
        self,
        probabilities: npt.NDArray[np.float32],
        image: npt.ArrayLike,
        classes: Sequence[PixelClass],
        is_cancelled: Callable[[], bool] = never,
        *,
        apart: bool = False,
    ) -> Refined:
        """As :meth:`apply`, of a part of an image: a class that vanishes may be in another part.

        Nothing is told of classes that vanish.

        Raises
        ------
        Cancelled
            If so.
        ImageError
            If the image is of another size, or cannot be used.
        """
        planes: _Planes = np.ascontiguousarray(np.moveaxis(probabilities, -1, 0))
        before = index = planes.argmax(0).astype(np.uint16)
        if self.guided or self.crf:
            guide = stretch(image, apart=apart)
            if guide.shape[:2] != index.shape:
                raise ImageError(
                    f"the image is {guide.shape[:2]}, the segmentation to refine {index.shape}"
                )
            if self.guided:
                planes = guided_filter(planes, guide, self.guided, self.guided_eps)
            go_on(is_cancelled)
            if self.crf:
                planes = _dense_crf(planes, guide, is_cancelled)
            index = planes.argmax(0).astype(np.uint16)
        go_on(is_cancelled)
        if self.majority:
            index = rank.majority(index, disk(self.majority))
        go_on(is_cancelled)
        if self.min_size:
            index = without_specks(index, self.min_size)
        vanished = tuple(classes[k] for k in np.setdiff1d(before, index))
        labels = np.array([one.label for one in classes], np.uint16)
        return Refined(labels[index], vanished)


def gone(vanished: Sequence[PixelClass]) -> str:
    """A sentence that tells which classes the refinement made vanish."""
    names = ", ".join(f"'{one.name}'" for one in vanished)
    return f"Nothing is left of {names} after refining: refine less."


def make_refinement(refinement: Refinement | None = None, **changes: Any) -> Refinement:
    """Refinement with some fields changed, checked.

    Raises
    ------
    HRDv2Error
        If a field does not exist or its value is out of range; the message names it. Also if
        the CRF is asked for and its package is missing.
    """
    return altered(refinement or Refinement(), **changes)


def has_crf() -> bool:
    """Whether the package that the CRF needs is installed."""
    return find_spec("pydensecrf") is not None


def guided_filter(
    planes: npt.NDArray[np.floating], guide: npt.NDArray[np.floating], radius: int, eps: float
) -> npt.NDArray[np.floating]:
    """Guided filter: in every window the output is a linear function of the guide.

    He, Sun and Tang, 'Guided image filtering' (TPAMI 2013), with all colours of the guide, as
    phases that differ in hue alone have edges too. In a window w of mean m and covariance S of
    the guide I, and of mean p' of the input p,

        a = (S + eps)^-1 (mean of I p - m p'),    b = p' - a m,

    and a pixel's output is (mean of a) I + (mean of b) over all windows that it lies in. All
    means are running ones, so that a pixel costs the same whatever the radius.

    Parameters
    ----------
    planes
        (K, h, w) of floats that sum to 1 over K; so does the output.
    guide
        (h, w, C), in [0, 1].
    radius
        Of the windows of 2 radius + 1 pixels squared, from 1; beyond its edges the image is
        mirrored.
    eps
        Variance of the guide below which a window is flat.

    Returns
    -------
    ndarray
        (K, h, w), of the planes' dtype.
    """

    def mean(plane: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        found: npt.NDArray[np.floating] = ndi.uniform_filter(plane, 2 * radius + 1)
        return found

    colours = list(np.moveaxis(guide, -1, 0))
    n = len(colours)
    means = [mean(one) for one in colours]
    # Upper triangle; elimination of a positive definite matrix needs no pivots.
    matrix = {
        (i, j): mean(colours[i] * colours[j]) - means[i] * means[j] + (eps if i == j else 0)
        for i in range(n)
        for j in range(i, n)
    }
    factors = {}
    for i in range(n):
        for j in range(i + 1, n):
            factors[i, j] = matrix[i, j] / matrix[i, i]
            for k in range(j, n):
                matrix[j, k] = matrix[j, k] - factors[i, j] * matrix[i, k]
    filtered = np.empty_like(planes)
    # They sum to 1 before and after: the last is what is left.
    for plane, out in zip(planes[:-1], filtered[:-1], strict=True):
        offset = mean(plane)
        a = [mean(one * plane) - m * offset for one, m in zip(colours, means, strict=True)]
        for (i, j), factor in factors.items():
            a[j] -= factor * a[i]
        for i in reversed(range(n)):
            a[i] /= matrix[i, i]
            for j in range(i + 1, n):
                a[i] -= factors[i, j] * a[j]
            offset -= a[i] * means[i]
        out[:] = mean(offset)
        for one, slope in zip(colours, a, strict=True):
            out += mean(slope) * one
    filtered[-1] = 1 - filtered[:-1].sum(0)
    return filtered


def without_specks(index: npt.NDArray[np.uint16], min_size: int) -> npt.NDArray[np.uint16]:
    """Give every small region the class of the nearest pixel of a larger one.

    That is the class around it, where its probabilities may name one that is not there, and so
    leave a speck again.

    Parameters
    ----------
    index
        (h, w) of classes.
    min_size
        Pixels that a region needs to stay. Pixels that touch at a corner are connected, so that
        thin slanting lines are no specks.

    Returns
    -------
    ndarray of uint16
        (h, w); ``index`` itself where all regions stay, or none would.
    """
    regions = label(index, background=-1, connectivity=2)
    is_small = (np.bincount(regions.ravel()) < min_size)[regions]
    if not is_small.any():
        return index
    if is_small.all():
        warnings.warn(
            f"No region has {min_size} pixels: none was removed.", RefinementWarning, stacklevel=3
        )
        return index
    nearest = ndi.distance_transform_edt(is_small, return_distances=False, return_indices=True)
    found: npt.NDArray[np.uint16] = index[tuple(nearest)]
    return found


def _dense_crf(planes: _Planes, guide: _Planes, is_cancelled: Callable[[], bool]) -> _Planes:
    """Probabilities (K, h, w) after mean-field steps of a fully connected CRF."""
    from pydensecrf.densecrf import DenseCRF2D

    count, height, width = planes.shape
    if guide.shape[-1] not in (1, 3):
        guide = guide.mean(-1, keepdims=True)
    levels = np.rint(255 * np.broadcast_to(guide, (height, width, 3))).astype(np.uint8)
    unary = -np.log(np.clip(planes.reshape(count, -1), 1e-5, 1))
    crf = DenseCRF2D(width, height, count)
    crf.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    crf.addPairwiseGaussian(sxy=_SMOOTH_PX, compat=_SMOOTH_WEIGHT)
    crf.addPairwiseBilateral(sxy=_LIKE_PX, srgb=_LIKE_LEVELS, rgbim=levels, compat=_LIKE_WEIGHT)
    # It holds Python's lock while it works: step by step, so that a window lives meanwhile.
    state = crf.startInference()
    for _ in range(_CRF_STEPS):
        go_on(is_cancelled)
        crf.stepInference(*state)
    found: _Planes = np.asarray(state[0]).reshape(planes.shape)
    return found
