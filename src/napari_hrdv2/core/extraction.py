"""From an image to its tokens, pass by pass."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from . import devices
from .cache import TokenStore, digest_of, pass_key
from .errors import Cancelled, DeviceError, HRDv2Error, WeightsError, plain
from .filters import filter_grids
from .normalise import stretch
from .settings import Settings
from .tokens import Grid, Tokens
from .transforms import Lattice, Share, Transform, token_count
from .vit import VisionTransformer
from .weights import Progress, Weights, find, load_vit

Precision = Literal["auto", "float32"]

# Of ImageNet, with which all these backbones were trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


NO_ROOM = (
    "the memory does not suffice for one pass over this image: crop it, shrink it, or use a larger "
    "stride or a smaller model"
)


class DeviceWarning(UserWarning):
    """The work goes on somewhere else than where it was asked to."""


@lru_cache(maxsize=1)
def _backbone(weights: Weights, device: torch.device, dtype: torch.dtype) -> VisionTransformer:
    """The last backbone used stays loaded: every window and command needs one at a time."""
    return load_vit(weights).to(device, dtype)


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
                patch=self._vit.patch,
            )
        except ValidationError as error:
            raise plain(error) from None

    @property
    def _vit(self) -> VisionTransformer:
        return _backbone(self.weights, self._device, self._dtype)

    @property
    def device(self) -> torch.device:
        """Where the backbone runs now: the CPU, once the chosen device proved too small."""
        return self._device

    def extract(self, image: npt.ArrayLike, *, store: TokenStore | None = None) -> Tokens:
        """All passes of one image.

        Parameters
        ----------
        image
            (h, w) or (h, w, 3 or 4), any real dtype; see :func:`.normalise.stretch`.
        store
            Where passes are looked for first, and kept; see :meth:`passes`.

        Raises
        ------
        ImageError
            If the image cannot be used.
        DeviceError
            If not even one pass fits into the memory.
        """
        *_, tokens = self.passes(image, store=store)
        return tokens

    def passes(
        self,
        image: npt.ArrayLike,
        *,
        store: TokenStore | None = None,
        digest: str | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Tokens]:
        """Yield the tokens made so far after every pass; close the generator to cancel.

        What is yielded is complete in itself and shares memory with what follows. On a GPU
        the tokens stay there while they fit.

        Parameters
        ----------
        image
            (h, w) or (h, w, 3 or 4), any real dtype.
        store
            Passes that it holds are not computed, and those computed are kept in it. It holds
            half precision: ``precision="float32"`` leaves it alone.
        digest
            The image's, where it is known already.
        is_cancelled
            Asked now and then, many times during a pass.

        Raises
        ------
        ImageError, DeviceError
            As :meth:`extract`.
        Cancelled
            Once ``is_cancelled`` says so.
        """
        image = np.asarray(image)
        settings = self.settings
        transforms = settings.transforms()
        keys: tuple[str, ...] = ()
        if store is not None and self._store == torch.float16:
            digest = digest or digest_of(image)
            passes = zip(transforms, settings.position_moves(), strict=True)
            keys = tuple(pass_key(digest, settings, *one) for one in passes)
        job = _Passes(self, image, transforms, is_cancelled)
        while job.done < len(transforms):
            if is_cancelled():
                raise Cancelled
            known = store.load(keys[job.done]) if store is not None and keys else None
            if known is not None and job.take(known):
                yield job.tokens()
                continue
            for _ in job.compute():
                if store is not None and keys:
                    store.save(keys[job.done - 1], job.last)
                yield job.tokens()

    def _forward(
        self, images: torch.Tensor, moves: Sequence[Share], on_block: Callable[[], None]
    ) -> torch.Tensor:
        """Finite tokens (batch, ny, nx, C) of grey or RGB images in [0, 1]."""
        images = images.to(self._device)
        mean, std = (torch.tensor(v, device=self._device).view(3, 1, 1) for v in (_MEAN, _STD))
        images = (images - mean) / std
        blocks = math.ceil(self.settings.depth * self._vit.depth)

        def tokens_in(dtype: torch.dtype) -> torch.Tensor:
            found: torch.Tensor = self._vit(
                images.to(dtype), self.settings.stride, on_block, blocks, moves
            )
            return found.to(self._store)

        tokens = tokens_in(self._dtype)
        if self._dtype != torch.float32 and not tokens.isfinite().all():
            # Weights that overflow half precision once do so again.
            self._dtype = torch.float32
            tokens = tokens_in(self._dtype)
        if not tokens.isfinite().all():
            raise WeightsError(f"the weights {self.weights.path} give tokens that are not finite")
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
        return devices.batch_size(self._device, tokens, self._vit.dim, self._dtype)


class _Passes:
    """The passes over one image, as far as they are done."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        image: npt.NDArray[Any],
        transforms: tuple[Transform, ...],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self.done = 0
        self._extractor, self._image, self._transforms = extractor, image, transforms
        self._is_cancelled = is_cancelled
        self._settings = settings = extractor.settings
        assert settings.patch is not None
        assert settings.stride is not None
        # What is wrong with an image of other dimensions, stretching it says.
        self._shape = (image.shape[0], image.shape[1]) if image.ndim > 1 else (1, 1)
        patch, stride = settings.patch, settings.stride
        height, width = (max(1, round(settings.scale * n)) for n in self._shape)
        self._seen = (height, width)
        self._grid = [token_count(n, patch, stride) for n in self._seen]
        self._window = tuple(patch + (n - 1) * stride for n in self._grid)
        self._lattices = tuple(self._lattice(t) for t in transforms)
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
        return Tokens(done, self._lattices[: self.done], self._shape, self._settings, filters)

    def take(self, found: torch.Tensor) -> bool:
        """Take the next pass over; False if it is none of this image."""
        if self._data is None:
            shape = (len(self._transforms), *self._grid, found.shape[-1])
            extractor = self._extractor
            self._data = devices.room_for(shape, extractor._store, extractor.device)
        if found.shape != self._data.shape[1:]:
            return False
        self._data[self.done] = found
        self.done += 1
        return True

    def _lattice(self, transform: Transform) -> tuple[Lattice, Lattice]:
        """Where the tokens of a pass lie in the image, through which enlarging it looks."""
        settings = self._settings
        assert settings.patch is not None
        assert settings.stride is not None
        seen = transform.lattice(self._seen, settings.patch, settings.stride, settings.boundary)
        y, x = (
            one.scaled(n / size) for one, n, size in zip(seen, self._shape, self._seen, strict=True)
        )
        return y, x

    def _on_step(self) -> None:
        if self._is_cancelled():
            raise Cancelled

    @cached_property
    def _pixels(self) -> torch.Tensor:
        stretched = torch.from_numpy(stretch(self._image, self._settings.percentiles))
        return stretched.permute(2, 0, 1).to(self._extractor.device)

    @cached_property
    def _filters(self) -> tuple[Grid, ...]:
        """Channels of filters, where the tokens are; made anew faster than the disk reads them."""
        if not self._settings.filters:
            return ()
        assert self._data is not None
        pixels = self._pixels
        try:
            grids = filter_grids(pixels, self._on_step)
        except (RuntimeError, MemoryError) as error:
            if not (devices.is_out_of_memory(error) or isinstance(error, NotImplementedError)):
                raise
            if pixels.device.type == "cpu":
                raise DeviceError(NO_ROOM) from None
            devices.release(pixels.device)
            grids = filter_grids(pixels.cpu(), self._on_step)
        return tuple(replace(grid, data=grid.data.to(self._data.device)) for grid in grids)

    def _looked_at(self) -> torch.Tensor:
        """The image (channels, height, width) that the backbone sees, enlarged or shrunk."""
        if self._seen == self._shape:
            return self._pixels
        resized = F.interpolate(
            self._pixels[None], self._seen, mode="bicubic", align_corners=False, antialias=True
        )
        return resized[0].clamp(0, 1)

    def compute(self) -> Iterator[None]:
        """Compute the next passes that go together, yielding after each."""
        extractor = self._extractor
        tokens = self._grid[0] * self._grid[1]
        self._batch = self._batch or devices.batch_size(
            extractor.device, tokens, extractor._vit.dim, extractor._dtype
        )
        # The first pass goes alone: somebody waits for it.
        end = self.done + (self._batch if self.done else 1)
        turned = attrgetter("transposes")
        _, alike = next(groupby(self._transforms[self.done : end], key=turned))
        group = list(alike)
        window = (self._window[0], self._window[1])
        size = window[::-1] if group[0].transposes else window
        boundary = self._settings.boundary
        try:
            seen = self._looked_at()
            images = torch.stack([t.read(seen, boundary, size) for t in group])
            moves = self._settings.position_moves()[self.done :][: len(group)]
            found = extractor._forward(images, moves, self._on_step)
        except (RuntimeError, MemoryError) as error:
            if devices.is_out_of_memory(error):
                self._batch = extractor._make_room(len(group), tokens)
            elif extractor.device.type == "mps" and isinstance(error, NotImplementedError):
                self._batch = extractor._go_on_with_the_cpu("cannot run this model", tokens)
            else:
                raise
            if extractor.device != self._pixels.device:
                del self._pixels
            return
        for transform, one in zip(group, found, strict=True):
            self.take(transform.undo_tokens(one))
            yield


def make_settings(settings: Settings | None = None, **changes: Any) -> Settings:
    """Settings with some fields changed, checked.

    Raises
    ------
    HRDv2Error
        If a field does not exist or its value is out of range; the message names it.
    """
    try:
        return Settings.model_validate((settings or Settings()).model_dump() | changes)
    except ValidationError as error:
        raise plain(error) from None
