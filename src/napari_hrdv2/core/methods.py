"""The classifiers there are to choose from, and reading whichever was saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from .base import BasePixelClassifier
from .classifier import PixelClassifier
from .errors import HRDv2Error
from .trees import TreesClassifier
from .tuning import Choice

_ZIP = b"PK\x03\x04"


class MethodInfo(NamedTuple):
    """A way to learn from strokes.

    Attributes
    ----------
    kind
        The classifier that learns so.
    title
        What it is called.
    description
        When to choose it.
    is_live
        Whether it is quick enough to follow the strokes.
    """

    kind: type[BasePixelClassifier]
    title: str
    description: str
    is_live: bool


METHODS = {
    "logistic": MethodInfo(
        PixelClassifier, "Logistic regression", "linear: the default, follows the strokes", True
    ),
    "ridge": MethodInfo(
        PixelClassifier, "Ridge regression", "linear, in one step: follows the strokes", True
    ),
    "forest": MethodInfo(
        TreesClassifier, "Random forest", "not linear: takes seconds, when asked for", False
    ),
    "boosting": MethodInfo(
        TreesClassifier, "Gradient boosting", "not linear: takes seconds, when asked for", False
    ),
}
#: What the names of saved models end with.
SUFFIXES = tuple(dict.fromkeys(info.kind.suffix for info in METHODS.values()))


def find_method(name: str) -> MethodInfo:
    """The method of that name.

    Raises
    ------
    HRDv2Error
        If there is none.
    """
    if name not in METHODS:
        raise HRDv2Error(f"there is no classifier {name!r}: choose one of {', '.join(METHODS)}")
    return METHODS[name]


def make_classifier(method: str, choice: Choice | None = None) -> BasePixelClassifier:
    """A classifier, not fitted, with the defaults of its method.

    Parameters
    ----------
    method
        One of :data:`METHODS`.
    choice
        What a linear one is fitted with; by default it chooses itself, which takes seconds.

    Raises
    ------
    HRDv2Error
        If there is no such method.
    """
    kind = find_method(method).kind
    if choice is not None and issubclass(kind, PixelClassifier):
        return kind(method, **choice._asdict())
    return kind(method)


def load_classifier(path: str | os.PathLike[str]) -> BasePixelClassifier:
    """Read a saved classifier, whichever it is; the content says that, not the name.

    Raises
    ------
    ModelError
        If it cannot be read, see :meth:`.PixelClassifier.load` and :meth:`.TreesClassifier.load`.
    """
    try:
        with Path(path).open("rb") as file:
            is_archive = file.read(len(_ZIP)) == _ZIP
    except OSError:
        is_archive = False  # what is wrong with it is told by who tries to read it
    kind = TreesClassifier if is_archive else PixelClassifier
    return kind.load(path)
