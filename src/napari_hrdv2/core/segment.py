"""The main job in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .extraction import FeatureExtractor
from .methods import make_classifier
from .refine import Refinement


def segment(
    image: npt.ArrayLike,
    strokes: npt.ArrayLike,
    *,
    extractor: FeatureExtractor | None = None,
    refinement: Refinement | None = None,
    classifier: str = "logistic",
    **settings: Any,
) -> npt.NDArray[np.uint16]:
    """Segment an image after the strokes painted on it.

    Parameters
    ----------
    image
        (h, w) grey or (h, w, 3 or 4) RGB(A), any real dtype.
    strokes
        (h, w) of integers: 0 where not painted, else the class's label from 1.
    extractor
        One at hand; by default one is made.
    refinement
        What is done to the segmentation after it is made; by default nothing.
    classifier
        ``"logistic"``, ``"ridge"``, ``"forest"`` or ``"boosting"``, see :data:`.METHODS`.
    **settings
        Arguments of :class:`FeatureExtractor`: ``model``, ``passes``, ``device``, ...

    Returns
    -------
    ndarray of uint16
        (h, w), labels of the classes painted.

    Raises
    ------
    HRDv2Error
        If image, strokes, classifier, settings or weights cannot be used; the subclass says
        which.

    Examples
    --------
    >>> labels = segment(image, strokes, passes=4)  # doctest: +SKIP
    """
    model = make_classifier(classifier)
    extractor = extractor or FeatureExtractor(**settings)
    tokens = extractor.extract(image)
    model.fit(tokens, strokes)
    return (refinement or Refinement()).predict(model, tokens, image).labels
