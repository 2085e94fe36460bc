"""Paint a few strokes on a micrograph, get the whole image segmented.

Features of a frozen vision transformer at pixel resolution (HR-Dv2, arXiv 2410.19836), kept
as tokens and an operator instead of a map, with a linear classifier on the painted pixels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._retrieval import FolderIndex as FolderIndex
    from ._retrieval import Indexing as Indexing
    from .core.apply import segment_lazy as segment_lazy
    from .core.base import PixelClass as PixelClass
    from .core.classifier import PixelClassifier as PixelClassifier
    from .core.errors import HRDv2Error as HRDv2Error
    from .core.extraction import FeatureExtractor as FeatureExtractor
    from .core.methods import load_classifier as load_classifier
    from .core.objects import ObjectSettings as ObjectSettings
    from .core.objects import find_objects as find_objects
    from .core.objects import measure_classes as measure_classes
    from .core.objects import measure_objects as measure_objects
    from .core.refine import Refinement as Refinement
    from .core.segment import segment as segment
    from .core.settings import Settings as Settings
    from .core.tokens import Tokens as Tokens
    from .core.trees import TreesClassifier as TreesClassifier

__version__ = "0.1.0"

# Torch takes seconds to import; it is when the first of these is used.
_HOMES = {
    "FeatureExtractor": "core.extraction",
    "FolderIndex": "_retrieval",
    "HRDv2Error": "core.errors",
    "Indexing": "_retrieval",
    "ObjectSettings": "core.objects",
    "PixelClass": "core.base",
    "PixelClassifier": "core.classifier",
    "Refinement": "core.refine",
    "Settings": "core.settings",
    "Tokens": "core.tokens",
    "TreesClassifier": "core.trees",
    "find_objects": "core.objects",
    "load_classifier": "core.methods",
    "measure_classes": "core.objects",
    "measure_objects": "core.objects",
    "segment": "core.segment",
    "segment_lazy": "core.apply",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
