"""Upsamplers, or backbones, side by side on one image."""

from .backbones import BY_DEFAULT, Candidate, backbones_picture, compare_backbones
from .probe import Task
from .reading import Case
from .upsamplers import compare_upsamplers, upsamplers_picture

__all__ = [
    "BY_DEFAULT",
    "Candidate",
    "Case",
    "Task",
    "backbones_picture",
    "compare_backbones",
    "compare_upsamplers",
    "upsamplers_picture",
]
