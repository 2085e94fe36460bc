"""From an image to its tokens, pass by pass."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import groupby, product
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from . import devices
from .backbone import Backbone, FacetBackbone, Normalisation
from .cache import TokenStore, pass_key
from .errors import (
    Cancelled,
    DeviceError,
    HRDv2Error,
    ImageError,
    WeightsError,
    altered,
    never,
    plain,
)
from .filters import filter_grids
from .normalise import stretch
from .settings import Settings
from .tiles import Piece, whole
from .tokens import Grid, Tokens
from .transforms import Matrix, Share, Transform, join, read_all
from .upsample import Rows
from .vit import FacetKind
from .weights import Progress, Weights, find, load_backbone
from .windows import Windows, kept_of

Precision = Literal["auto", "float32"]
# Along each axis, which of a zoom's windows.
_At = tuple[int, int]
# A pass through a window.
_Job = tuple[int, _At]

NO_ROOM = (
    "the memory does not suffice for one pass over this image: crop it, shrink it, or use a larger "
    "stride or a smaller model"
)


class DeviceWarning(UserWarning):
    """The work goes on somewhere else than where it was asked to."""


@lru_cache(maxsize=1)
def _backbone(weights: Weights, device: torch.device, dtype: torch.dtype) -> Backbone:
    """The last backbone used stays loaded: every window and command needs one at a time."""
    return load_backbone(weights).to(device, dtype)


def _with_facets(backbone: Backbone) -> FacetBackbone:
    """A backbone, if its attention can be looked into."""
    if not isinstance(backbone, FacetBackbone):
        raise HRDv2Error(
            "the attention, queries, keys and values of backbones named timm:NAME cannot be had: "
            "choose another model"
        )
    return backbone


@lru_cache
def _on_device(
    normalisation: Normalisation, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and summand (3, 1, 1) that do it; kept, as a GPU waits for what it is sent."""
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in normalisation)
    return (1 / std).to(device), (-mean / std).to(device)


class FeatureExtractor:
    """Computes the tokens of images.

    Parameters
    ----------
    settings
        What to compute; by default :class:`Settings`' defaults.
    device
        ``"auto"`` (CUDA, else MPS, else the CPU) or a device of torch.
    precision
        ``"auto"`` computes in half precision where the device is fast at it and keeps
        tokens in float16; ``"float32"`` does both in float32.
    weights
        A checkpoint, or a folder with the model's official file, instead of a download.
    progress
        Called with (bytes done, bytes in all) while weights are downloaded.
    download
        Whether to download weights that are not on this machine.
    **changes
        Fields of :class:`Settings` that differ from ``settings``: ``model``, ``passes``,
        ``stride``, ...

    Attributes
    ----------
    settings
        The settings, resolved: the model's name and hash, patch size and stride filled in.
    weights
        The verified weights in use.

    Raises
    ------
    HRDv2Error
        If settings, weights or device cannot be used; the subclass says which.

    Examples
    --------
    >>> extractor = FeatureExtractor(passes=4)  # doctest: +SKIP
    >>> tokens = extractor.extract(image)  # doctest: +SKIP
    """

    settings: Settings
    weights: Weights

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        weights: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
        download: bool = True,
        **changes: Any,
    ) -> None:
        settings = make_settings(settings, **changes)
        if precision not in get_args(Precision):
            raise HRDv2Error(f"the precision must be 'auto' or 'float32', not {precision!r}")
        self._device = devices.choose_device(device)
        self._dtype = devices.fast_dtype(self._device) if precision == "auto" else torch.float32
        self._store = torch.float16 if precision == "auto" else torch.float32
        self.weights = find(settings.model, weights, progress, download=download)
        try:
            self.settings = settings.resolve(
                model=self.weights.name,
                weights_sha256=self.weights.sha256,
                patch=self.backbone.patch,
                moves_positions=self.backbone.moves_positions,
            )
        except ValidationError as error:
            raise plain(error) from None
        if settings.facet is not None:
            self._check_block(settings.facet[1])

    @property
    def backbone(self) -> Backbone:
        """What makes the tokens, on its device."""
        return _backbone(self.weights, self._device, self._dtype)

    @property
    def device(self) -> torch.device:
        """Where the backbone runs now: the CPU, once the chosen device proved too small."""
        return self._device

    def extract(
        self,
        image: npt.ArrayLike | Piece,
        *,
        store: TokenStore | None = None,
        is_cancelled: Callable[[], bool] = never,
    ) -> Tokens:
        """All passes of one image.

        Parameters
        ----------
        image, store, is_cancelled
            As for :meth:`passes`.

        Raises
        ------
        ImageError
            If the image cannot be used.
        DeviceError
            If not even one pass fits into the memory.
        Cancelled
            Once ``is_cancelled`` says so.
        """
        *_, job = self._jobs(image, store, is_cancelled)
        return job.tokens()

    def passes(
        self,
        image: npt.ArrayLike | Piece,
        *,
        store: TokenStore | None = None,
        is_cancelled: Callable[[], bool] = never,
    ) -> Iterator[Tokens]:
        """Yield the tokens made so far after every pass; close the generator to cancel.

        What is yielded is complete in itself and shares memory with what follows. On a GPU
        the tokens stay there while they fit.

        Parameters
        ----------
        image
            (h, w) or (h, w, 3 or 4), any real dtype, see :func:`.normalise.stretch`; (h, w, n)
            where the settings are of n channels; or a part of one.
        store
            Passes that it holds are not computed, and those computed are kept in it. It holds
            half precision: ``precision="float32"`` leaves it alone.
        is_cancelled
            Asked now and then, many times during a pass.

        Raises
        ------
        ImageError, DeviceError
            As :meth:`extract`.
        Cancelled
            Once ``is_cancelled`` says so.
        """
        for job in self._jobs(image, store, is_cancelled):
            yield job.tokens()

    def _jobs(
        self,
        image: npt.ArrayLike | Piece,
        store: TokenStore | None,
        is_cancelled: Callable[[], bool],
    ) -> Iterator[_Passes]:
        """The same job after every pass."""
        piece = image if isinstance(image, Piece) else Piece(np.asarray(image))
        settings = self.settings
        transforms = settings.transforms()
        keys: tuple[str, ...] = ()
        if store is not None and self._store == torch.float16:
            moves, zooms = settings.position_moves(), settings.pass_zooms()
            passes = zip(transforms, moves, zooms, strict=True)
            keys = tuple(pass_key(piece.digest, settings, *one) for one in passes)
        job = _Passes(self, piece, transforms, is_cancelled)
        while job.done < len(transforms):
            if is_cancelled():
                raise Cancelled
            known = store.load(keys[job.done]) if store is not None and keys else None
            if known is not None and job.take(known):
                yield job
                continue
            for _ in job.compute():
                if store is not None and keys:
                    store.save(keys[job.done - 1], job.last)
                yield job

    def facets(
        self,
        image: npt.ArrayLike | Piece,
        kind: FacetKind,
        block: int = -1,
        *,
        store: TokenStore | None = None,
        is_cancelled: Callable[[], bool] = never,
    ) -> Tokens:
        """What one block computes on the way to its attention, as tokens.

        Of all passes, through the same windows as the tokens themselves, so that they are brought
        to full size alike; 'Deep ViT Features as Dense Visual Descriptors' (arXiv 2112.05814)
        found keys to describe parts of things better than tokens do.

        Parameters
        ----------
        image, store, is_cancelled
            As for :meth:`passes`.
        kind
            ``"q"``, ``"k"`` or ``"v"``: queries, keys or values, all heads' channels one after
            the other; ``"attention"``: the class token's, of every head, in units of what
            each token gets where all get the same.
        block
            Index of the block, from the end where negative; the settings' depth is not asked.

        Returns
        -------
        Tokens
            Without filters. Their settings tell the facet, so that what was made of tokens, or of
            another facet, refuses them.

        Raises
        ------
        HRDv2Error
            If there is no such kind or block, or the backbone shows none.
        ImageError, DeviceError, Cancelled
            As :meth:`passes`.
        """
        return self.of_facet(kind, block).extract(image, store=store, is_cancelled=is_cancelled)

    def of_facet(self, kind: FacetKind, block: int = -1) -> FeatureExtractor:
        """An extractor like this one, of the same weights, whose tokens are :meth:`facets`.

        Raises
        ------
        HRDv2Error
            If there is no such kind or block, or the backbone shows none.
        """
        _with_facets(self.backbone)
        if kind not in get_args(FacetKind):
            raise HRDv2Error(f"a facet is one of {', '.join(get_args(FacetKind))}, not {kind!r}")
        self._check_block(block)
        facet = (kind, block % self.backbone.depth)
        other = copy.copy(self)
        # Of the depth nothing depends: whatever it is, the facets are the same.
        other.settings = altered(self.settings, facet=facet, depth=1.0, filters=False)
        return other

    def _check_block(self, block: int) -> None:
        depth = self.backbone.depth
        if not -depth <= block < depth:
            raise HRDv2Error(f"the backbone has {depth} blocks, from 0 to {depth - 1}, not {block}")

    def _forward(
        self,
        images: torch.Tensor,
        moves: Sequence[Share],
        on_block: Callable[[], None],
        meanwhile: Callable[[], object],
    ) -> torch.Tensor:
        """Finite tokens (batch, ny, nx, C) of images (batch, channels, height, width) in [0, 1].

        What goes on ``meanwhile`` is begun before a GPU is waited for.
        """
        images = images.to(self._device)
        count, channels = images.shape[:2]
        apart = self.settings.has_channels and self.settings.colours == "each"
        if apart:
            images = images.flatten(0, 1)[:, None]
            moves = [one for one in moves for _ in range(channels)]
        scale, shift = _on_device(self.backbone.normalisation, self._device)
        images = torch.addcmul(shift, images, scale)
        blocks = math.ceil(self.settings.depth * self.backbone.depth)

        def tokens_in(dtype: torch.dtype) -> torch.Tensor:
            vit, stride, seen = self.backbone, self.settings.stride, images.to(dtype)
            if self.settings.facet is None:
                found = vit(seen, stride, on_block, blocks, moves)
            else:
                kind, block = self.settings.facet
                facets = _with_facets(vit).facets(seen, block, stride, on_block, moves)
                found = facets.tokens(kind)
            return found.to(self._store)

        tokens = tokens_in(self._dtype)
        # Of finite tokens alone the sum is finite, and a GPU sums in one step.
        total = tokens.sum(dtype=torch.float32)
        meanwhile()
        is_finite = math.isfinite(total)
        if self._dtype != torch.float32 and not is_finite:
            # Weights that overflow half precision once do so again.
            self._dtype = torch.float32
            tokens = tokens_in(self._dtype)
            is_finite = math.isfinite(tokens.sum(dtype=torch.float32))
        if not is_finite:
            raise WeightsError(f"the weights {self.weights.path} give tokens that are not finite")
        if apart:
            tokens = tokens.view(count, channels, *tokens.shape[1:])
            tokens = tokens.permute(0, 2, 3, 1, 4).flatten(3)
        return tokens

    def _make_room(self, images: int, tokens: int) -> int:
        """After running out of memory with so many images at once: how many to try next."""
        devices.release(self._device)
        if images > 1:
            return images // 2
        if self._device.type == "cpu":
            raise DeviceError(NO_ROOM)
        return self._go_on_with_the_cpu("has too little memory for this image", tokens)

    def _go_on_with_the_cpu(self, why: str, tokens: int) -> int:
        """Leave a device that cannot do the work; how many images to try next."""
        warnings.warn(
            f"{self._device} {why}: going on with the CPU",
            DeviceWarning,
            stacklevel=2,
        )
        self._device, self._dtype = torch.device("cpu"), torch.float32
        return devices.batch_size(self._device, tokens, self.backbone.dim, self._dtype)


class _Passes:
    """The passes over one image, as far as they are done."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        piece: Piece,
        transforms: tuple[Transform, ...],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self.done = 0
        self._extractor, self._piece, self._transforms = extractor, piece, transforms
        self._is_cancelled = is_cancelled
        self._settings = settings = extractor.settings
        shape = np.shape(piece.pixels)
        # What is wrong with an image of other dimensions, stretching it says.
        plane = (shape[0], shape[1]) if len(shape) > 1 and 0 not in shape else (1, 1)
        chosen = settings.channels or ()
        if settings.has_channels and shape[2:] != (len(chosen),):
            raise ImageError(
                f"the image has shape {shape}: (h, w, {len(chosen)}) is needed, of the channels "
                f"{', '.join(map(str, chosen))}"
            )
        apart = len(chosen) if settings.colours == "each" else 1
        vit = extractor.backbone
        is_attention = settings.facet is not None and settings.facet[0] == "attention"
        own = _with_facets(vit).heads if is_attention else vit.dim
        self._channels = own * max(1, apart)
        self._tile = whole(plane, settings) if piece.tile is None else piece.tile.inner()
        self._zooms = settings.pass_zooms()
        plain = [
            Windows(along, axis, transforms, settings) for axis, along in enumerate(self._tile)
        ]
        ends = [[one.core.stop - along[0].core.start for one in along] for along in self._tile]
        y, x = (
            [join(one, end) for one in zip(*windows.parts, strict=True)]
            for windows, end in zip(plain, ends, strict=True)
        )
        self._lattices = tuple(zip(y, x, strict=True))
        self._windows = {
            zoom: plain
            if zoom == 1
            else [
                Windows(along, axis, transforms, settings, zoom, plain[axis].parts)
                for axis, along in enumerate(self._tile)
            ]
            for zoom in set(self._zooms)
        }
        self._data: torch.Tensor | None = None
        self._batch = 0

    @property
    def last(self) -> torch.Tensor:
        """Tokens of the last pass done."""
        assert self._data is not None
        return self._data[self.done - 1]

    def tokens(self) -> Tokens:
        """What is done."""
        assert self._data is not None
        done, filters = self._data[: self.done], self._filters
        shape = self._tile.shape
        return Tokens(done, self._lattices[: self.done], shape, self._settings, filters)

    def _room(self) -> torch.Tensor:
        if self._data is None:
            ny, nx = (one.size for one in self._lattices[0])
            extractor = self._extractor
            shape = (len(self._transforms), ny, nx, self._channels)
            self._data = devices.room_for(shape, extractor._store, extractor.device)
        return self._data

    def take(self, found: torch.Tensor) -> bool:
        """Take the next pass over; False if it is none of this image."""
        data = self._room()
        if found.shape != data.shape[1:]:
            return False
        data[self.done] = found
        self.done += 1
        return True

    def _on_step(self) -> None:
        if self._is_cancelled():
            raise Cancelled

    @cached_property
    def _pixels(self) -> torch.Tensor:
        settings, pixels = self._settings, self._piece.pixels
        apart = settings.has_channels
        stretched = stretch(pixels, settings.percentiles, levels=self._piece.levels, apart=apart)
        return torch.from_numpy(stretched).permute(2, 0, 1).to(self._extractor.device)

    @cached_property
    def _filters(self) -> tuple[Grid, ...]:
        """Channels of filters, where the tokens are; made anew faster than the disk reads them."""
        if not self._settings.filters:
            return ()
        assert self._data is not None
        pixels, apart = self._pixels, self._settings.has_channels
        try:
            grids = filter_grids(pixels, self._on_step, apart=apart)
        except (RuntimeError, MemoryError) as error:
            if not (devices.is_out_of_memory(error) or isinstance(error, NotImplementedError)):
                raise
            if pixels.device.type == "cpu":
                raise DeviceError(NO_ROOM) from None
            devices.release(pixels.device)
            grids = filter_grids(pixels.cpu(), self._on_step, apart=apart)
        grids = tuple(replace(grid, data=grid.data.to(self._data.device)) for grid in grids)
        core = self._tile.core
        if self._tile.shape == (pixels.shape[-2], pixels.shape[-1]):
            return grids
        return tuple(grid.crop(core) for grid in grids)

    def _looked_at(self, zoom: float, at: _At) -> torch.Tensor:
        """What the backbone sees through a window: (channels, height, width)."""
        axes = self._windows[zoom]
        y, x = (one.cuts[k].window for one, k in zip(axes, at, strict=True))
        seen = self._pixels[:, y, x]
        if self._settings.colours == "mapped" and self._settings.has_channels:
            seen = _mapped(seen)
        size = [one.seen[k] for one, k in zip(axes, at, strict=True)]
        if size == list(seen.shape[-2:]):
            return seen
        resized = F.interpolate(
            seen[None], size, mode="bicubic", align_corners=False, antialias=True
        )
        return resized[0].clamp(0, 1)

    def _window_size(self, job: _Job) -> tuple[int, int]:
        """(height, width) of what the backbone gets to see in a pass through a window."""
        k, at = job
        axes = self._windows[self._zooms[k]]
        height, width = (one.padded[n] for one, n in zip(axes, at, strict=True))
        return (width, height) if self._transforms[k].transposes else (height, width)

    def _jobs_of(self, k: int) -> list[_Job]:
        rows, columns = self._windows[self._zooms[k]]
        return [(k, at) for at in product(range(len(rows.cuts)), range(len(columns.cuts)))]

    def compute(self) -> Iterator[None]:
        """Compute the next passes that go together, yielding after each."""
        extractor, settings, passes = self._extractor, self._settings, len(self._transforms)
        largest = max(math.prod(max(one.padded) for one in axes) for axes in self._windows.values())
        seen = len(settings.channels or ()) if settings.colours == "each" else 1
        tokens = largest // (settings.stride or 1) ** 2 * max(1, seen)
        self._batch = self._batch or devices.batch_size(
            extractor.device, tokens, extractor.backbone.dim, extractor._dtype
        )
        jobs = self._jobs_of(self.done)
        last = self.done + 1
        # The first pass goes alone: somebody waits for it.
        while 1 < last < passes and len(jobs) + len(more := self._jobs_of(last)) <= self._batch:
            jobs += more
            last += 1
        # Only images of one size go through the backbone together.
        jobs.sort(key=self._window_size)
        while jobs:
            _, alike = next(groupby(jobs, key=self._window_size))
            group = list(alike)[: self._batch]
            try:
                self._look(group)
            except (RuntimeError, MemoryError) as error:
                if devices.is_out_of_memory(error):
                    self._batch = extractor._make_room(len(group), tokens)
                elif extractor.device.type == "mps" and isinstance(error, NotImplementedError):
                    self._batch = extractor._go_on_with_the_cpu("cannot run this model", tokens)
                else:
                    raise
                if extractor.device != self._pixels.device:
                    del self._pixels
                continue
            del jobs[: len(group)]
        while self.done < last:
            self.done += 1
            yield

    def _look(self, group: Sequence[_Job]) -> None:
        """Look through windows, each in a pass, and keep what their middles hang on."""
        settings, seen = self._settings, dict[_Job, torch.Tensor]()
        for zoom, at in {(self._zooms[k], at): None for k, at in group}:
            passes = [k for k, other in group if (self._zooms[k], other) == (zoom, at)]
            transforms = [self._transforms[k] for k in passes]
            y, x = (one.padded[n] for one, n in zip(self._windows[zoom], at, strict=True))
            read = read_all(transforms, self._looked_at(zoom, at), settings.boundary, (y, x))
            seen |= {(k, at): one for k, one in zip(passes, read, strict=True)}
        moves = settings.position_moves()
        found = self._extractor._forward(
            torch.stack([seen[job] for job in group]),
            [moves[k] for k, _ in group],
            self._on_step,
            # Before the first pass is there, somebody waits for it.
            lambda: self._filters if self.done else None,
        )
        data, end = self._room(), 0
        # Passes that come one after the other and are kept alike go together.
        places = [(k - at, *self._place(k, window)) for at, (k, window) in enumerate(group)]
        for (offset, _, into, part), alike in groupby(places):
            start, end = end, end + sum(1 for _ in alike)
            tokens = self._transforms[start + offset].undo_tokens(found[start:end])
            data[start + offset : end + offset, *into] = kept_of(tokens, part)

    def _place(self, k: int, at: _At) -> tuple[Matrix, tuple[slice, ...], tuple[slice | Rows, ...]]:
        """How tokens of a window lie in a pass, where they go, and what is kept of them."""
        axes = self._windows[self._zooms[k]]
        kept = [axis.kept[k][n] for axis, n in zip(axes, at, strict=True)]
        into, part = zip(*kept, strict=True)
        return self._transforms[k].matrix, into, part


def _mapped(channels: torch.Tensor) -> torch.Tensor:
    """Up to three channels (n, h, w) as colours; two as magenta and green, which add to grey."""
    if len(channels) == 2:
        return channels[[0, 1, 0]]
    return channels


def make_settings(settings: Settings | None = None, **changes: Any) -> Settings:
    """Settings with some fields changed, checked.

    Raises
    ------
    HRDv2Error
        If a field does not exist or its value is out of range; the message names it.
    """
    return altered(settings or Settings(), **changes)
