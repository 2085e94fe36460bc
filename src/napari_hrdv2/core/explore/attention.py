"""Where the class token looks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..tokens import Tokens
from ..upsample import projected_maps
from .common import Floats


class AttentionMaps(NamedTuple):
    """The class token's attention to every pixel, in units of even attention.

    Attributes
    ----------
    heads
        (h, w, heads) of float32, from 0: of every head.
    together
        (h, w) of float32: their sum.
    """

    heads: Floats
    together: Floats


def attention_maps(attention: Tokens) -> AttentionMaps:
    """Bring attention to full size.

    Parameters
    ----------
    attention
        What :meth:`.FeatureExtractor.facets` gives of kind ``"attention"``.
    """
    heads = projected_maps(attention, np.eye(attention.data.shape[-1], dtype=np.float32))
    return AttentionMaps(heads, heads.sum(-1))
