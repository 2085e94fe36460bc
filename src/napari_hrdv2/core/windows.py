"""What passes see along an axis, window by window, and which of their tokens are kept.

Passes of all zooms keep tokens at the same places: where those lie that see the image as the scale
says. Tokens of another zoom are interpolated there, so that passes can be averaged whatever they
see.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .settings import Settings
from .tiles import Cut, zoomed_cuts
from .transforms import Lattice, Transform, cropped, token_count
from .upsample import Rows, interpolation


class Windows:
    """What passes of one zoom see along one axis.

    Parameters
    ----------
    along
        The axis's windows in pixels, as far as any pass looks.
    axis
        0 for y, 1 for x.
    transforms
        Of all passes, also those of other zooms.
    settings
        Resolved.
    zoom
        How many times larger than the scale says the image is seen.
    parts
        :attr:`parts` of zoom 1, where it is another.

    Attributes
    ----------
    cuts
        The windows in pixels.
    seen, padded
        Length of each as the backbone sees it, and filled up to whole patches.
    kept
        For each pass and window, where tokens go, and which of the window's they are or how they
        are interpolated between the window's.
    parts
        For each of the axis's windows and each pass, where the tokens that are kept lie, in pixels
        from the first core's beginning.
    """

    def __init__(
        self,
        along: tuple[Cut, ...],
        axis: int,
        transforms: tuple[Transform, ...],
        settings: Settings,
        zoom: float = 1.0,
        parts: list[list[Lattice]] | None = None,
    ) -> None:
        assert settings.patch is not None
        assert settings.stride is not None
        patch, stride = settings.patch, settings.stride
        groups = zoomed_cuts(along, settings, zoom)
        self.cuts = [cut for group in groups for cut in group]
        self._begin = along[0].core.start
        lengths = [one.window.stop - one.window.start for one in self.cuts]
        self.seen = [max(1, round(settings.scale * zoom * n)) for n in lengths]
        self.padded = [patch + (token_count(n, patch, stride) - 1) * stride for n in self.seen]
        self.kept: list[list[tuple[slice, slice | Rows]]] = [[] for _ in transforms]
        # For each window and pass, where its tokens lie, from the window's beginning.
        own = [
            [
                t.axis_lattice(axis, seen, patch, stride, settings.boundary).scaled(length / seen)
                for t in transforms
            ]
            for length, seen in zip(lengths, self.seen, strict=True)
        ]
        if parts is None:
            self.parts = [self._crop(*one) for one in zip(self.cuts, own, strict=True)]
            return
        self.parts, rest = parts, iter(own)
        for group, targets in zip(groups, parts, strict=True):
            self._interpolate(group, [next(rest) for _ in group], targets)

    def _first(self, k: int) -> int:
        """Where the next tokens of a pass go."""
        return self.kept[k][-1][0].stop if self.kept[k] else 0

    def _crop(self, cut: Cut, lattices: list[Lattice]) -> list[Lattice]:
        """Keep what the core of a window hangs on; where that lies."""
        length = cut.window.stop - cut.window.start
        core = cut.moved(cut.window.start).core
        if core == slice(0, length):
            kept, inner = [slice(0, one.size) for one in lattices], lattices
        else:
            taken, cropped_ = cropped(lattices, length, core)
            kept = [one for (one,) in taken]
            inner = [one for one in cropped_ if isinstance(one, Lattice)]
        for k, part in enumerate(kept):
            first = self._first(k)
            self.kept[k].append((slice(first, first + part.stop - part.start), part))
        return [one.moved(self._begin - cut.core.start) for one in inner]

    def _interpolate(
        self, cuts: tuple[Cut, ...], own: list[list[Lattice]], targets: list[Lattice]
    ) -> None:
        """Interpolate, for each pass, where its tokens are kept, each in the window it lies in."""
        n = cuts[-1].window.stop - cuts[0].window.start
        borders = [one.core.stop - self._begin for one in cuts[:-1]]
        for k, target in enumerate(targets):
            places = target.origin + target.stride * np.arange(target.size)
            for cut, lattices, part in zip(
                cuts, own, np.split(places, np.searchsorted(places, borders)), strict=True
            ):
                first = self._first(k)
                lattice = lattices[k].moved(self._begin - cut.window.start)
                # Where tokens lie closer than these, one place alone would pass some over.
                sides = [
                    interpolation(part + side * target.stride / 4, n, lattice, "bilinear")
                    for side in (-1, 1)
                ]
                both = Rows.beside(sides, 0)
                rows = Rows(both.index, both.weight / 2)
                self.kept[k].append((slice(first, first + len(part)), rows))


def kept_of(tokens: torch.Tensor, parts: Sequence[slice | Rows]) -> torch.Tensor:
    """Of tokens (passes, ny, nx, C) some, or what lies between them."""
    for axis, part in enumerate(parts, start=1):
        if isinstance(part, slice):
            tokens = tokens.narrow(axis, part.start, part.stop - part.start)
        else:
            matrix = part.dense(tokens.shape[axis]).to(tokens.device)
            tokens = torch.tensordot(matrix, tokens.float(), ([1], [axis])).movedim(0, axis)
    return tokens
