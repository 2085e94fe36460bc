"""Ways to bring a backbone's tokens to full resolution, to be set side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import HRDv2Error
from .base import PixelFeatures, Upsampler
from .featup import FeatUp, JBUStack
from .guided import JointBilateral
from .passes import InterpolatedPasses
from .program import Program

__all__ = [
    "UPSAMPLERS",
    "FeatUp",
    "InterpolatedPasses",
    "JBUStack",
    "JointBilateral",
    "Kind",
    "PixelFeatures",
    "Program",
    "Upsampler",
    "make_upsampler",
]


class Kind(NamedTuple):
    """A kind of upsampler.

    Attributes
    ----------
    make
        Makes one from what stands after the colon, if anything.
    wants_file
        Whether that is a file, without which there is none.
    """

    make: Callable[[str | None], Upsampler]
    wants_file: bool = False


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise HRDv2Error(f"after the colon stands a number from 1, not {text!r}")
    return int(text)


def _plain(text: str | None, upsampler: Upsampler) -> Upsampler:
    if text is not None:
        raise HRDv2Error(f"{upsampler.name} takes nothing after a colon, got {text!r}")
    return upsampler


def _strided(text: str | None) -> Upsampler:
    if text is None:
        return InterpolatedPasses("strided", stride="half")
    return InterpolatedPasses(f"strided:{text}", stride=_number(text))


def _shifts(text: str | None) -> Upsampler:
    if text is None:
        return InterpolatedPasses("shifts", passes=4)
    return InterpolatedPasses(f"shifts:{text}", passes=_number(text))


#: The kinds of upsamplers by name.
UPSAMPLERS: Mapping[str, Kind] = {
    "nearest": Kind(lambda text: _plain(text, InterpolatedPasses("nearest", "nearest"))),
    "bilinear": Kind(lambda text: _plain(text, InterpolatedPasses("bilinear"))),
    "strided": Kind(_strided),
    "shifts": Kind(_shifts),
    "guided": Kind(lambda text: _plain(text, JointBilateral())),
    "featup": Kind(lambda text: FeatUp.load(Path(text or "")), wants_file=True),
    "onnx": Kind(lambda text: Program(Path(text or "")), wants_file=True),
}


def make_upsampler(text: str) -> Upsampler:
    """An upsampler from its name, and what stands after a colon.

    Parameters
    ----------
    text
        A name in :data:`UPSAMPLERS`; ``"strided:PX"``, ``"shifts:N"``, ``"featup:FILE"`` or
        ``"onnx:FILE"``.

    Raises
    ------
    HRDv2Error
        If there is no such kind, or what stands after the colon does not suit it.
    WeightsError
        If a file cannot be used.

    Examples
    --------
    >>> make_upsampler("shifts:16").name
    'shifts:16'
    """
    name, colon, rest = text.partition(":")
    kind = UPSAMPLERS.get(name)
    if kind is None:
        raise HRDv2Error(f"there is no upsampler {text!r}: choose of {', '.join(UPSAMPLERS)}")
    if kind.wants_file and not rest:
        raise HRDv2Error(f"the upsampler {name} wants a file: {name}:FILE")
    return kind.make(rest if colon else None)
