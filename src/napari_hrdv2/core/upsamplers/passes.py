"""Upsamplers that are the operator itself: interpolated tokens of one or several passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy.typing as npt

from ..errors import HRDv2Error
from ..extraction import make_settings
from ..settings import Settings
from ..tokens import Tokens
from ..upsample import Kernel, projected_maps, rows_at
from .base import Floats, Pixels, TokenFeatures


@dataclass(frozen=True)
class InterpolatedPasses:
    """Tokens of one or several passes, interpolated and averaged, see :class:`.Operator`.

    Attributes
    ----------
    name
        What it is called.
    kernel
        Interpolation between the tokens' centres.
    passes
        Shifted copies of the image that the backbone looks at (a count).
    stride
        Distance of the tokens of a pass in pixels, or half of the patch, or all of it.

    Examples
    --------
    >>> InterpolatedPasses("shifts", passes=4).passes
    4
    """

    name: str
    kernel: Kernel = "bilinear"
    passes: int = 1
    stride: int | Literal["half", "patch"] = "patch"

    def settings(self, base: Settings) -> Settings:
        """As :meth:`.Upsampler.settings`."""
        if base.patch is None:
            raise HRDv2Error("an upsampler wants settings that are resolved")
        known = {"half": max(1, base.patch // 2), "patch": base.patch}
        stride = known[self.stride] if isinstance(self.stride, str) else self.stride
        changes = {"passes": self.passes, "stride": stride, "kernel": self.kernel}
        return make_settings(base, scale=1.0, zooms=(1.0,), **changes)

    def upsample(self, image: npt.ArrayLike, tokens: Tokens) -> InterpolatedFeatures:
        """As :meth:`.Upsampler.upsample`; the image is not looked at."""
        return InterpolatedFeatures(tokens)


@dataclass(frozen=True, eq=False)
class InterpolatedFeatures(TokenFeatures):
    """Features as the operator gives them."""

    @property
    def channels(self) -> int:
        return self.tokens.channels

    def rows(self, pixels: Pixels) -> Floats:
        return rows_at(self.tokens, pixels)

    def maps(self, weight: Floats, bias: Floats | float = 0.0) -> Floats:
        return projected_maps(self.tokens, weight, bias)
