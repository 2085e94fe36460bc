"""Upsamplers, or backbones, side by side on one image."""

from .backbones import BY_DEFAULT, Candidate, backbones_picture, compare_backbones
from .probe import Task
from .reading import read_sample
from .upsamplers import compare_upsamplers, upsamplers_picture

__all__ = [
    "BY_DEFAULT",
    "Candidate",
    "Task",
    "backbones_picture",
    "compare_backbones",
    "compare_upsamplers",
    "read_sample",
    "upsamplers_picture",
]
