"""From an image to its tokens, pass by pass."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal, get_args

import numpy.typing as npt
import torch
from pydantic import ValidationError

from . import devices
from .errors import DeviceError, HRDv2Error, WeightsError
from .normalise import stretch
from .settings import Settings
from .tokens import Tokens
from .transforms import token_count
from .vit import VisionTransformer
from .weights import Progress, Weights, find, load_vit

Precision = Literal["auto", "float32"]

# Of ImageNet, with which all these backbones were trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
        **changes: Any,
    ) -> None:
        settings = make_settings(settings, **changes)
        if precision not in get_args(Precision):
            raise HRDv2Error(f"the precision must be 'auto' or 'float32', not {precision!r}")
        self._device = devices.choose_device(device)
        self._dtype = devices.fast_dtype(self._device) if precision == "auto" else torch.float32
        self._store = torch.float16 if precision == "auto" else torch.float32
        self.weights = find(settings.model, weights, progress)
        try:
            self.settings = settings.resolve(
                model=self.weights.name,
                weights_sha256=self.weights.sha256,
                patch=self._vit.patch,
            )
        except ValidationError as error:
            raise _plain(error) from None

    @property
    def _vit(self) -> VisionTransformer:
        return _backbone(self.weights, self._device, self._dtype)

    @property
    def device(self) -> torch.device:
        """Where the backbone runs now: the CPU, once the chosen device proved too small."""
        return self._device

    def extract(self, image: npt.ArrayLike) -> Tokens:
        """All passes of one image.

        Parameters
        ----------
        image
            (h, w) or (h, w, 3 or 4), any real dtype; see :func:`.normalise.stretch`.

        Raises
        ------
        ImageError
            If the image cannot be used.
        DeviceError
            If not even one pass fits into the memory.
        """
        *_, tokens = self.passes(image)
        return tokens

    def passes(self, image: npt.ArrayLike) -> Iterator[Tokens]:
        """Yield the tokens made so far after every pass; close the generator to cancel.

        What is yielded is complete in itself and shares memory with what follows.

        Parameters
        ----------
        image
            (h, w) or (h, w, 3 or 4), any real dtype.

        Raises
        ------
        ImageError, DeviceError
            As :meth:`extract`.
        """
        settings, vit = self.settings, self._vit
        pixels = torch.from_numpy(stretch(image, settings.percentiles)).permute(2, 0, 1)
        shape = (pixels.shape[1], pixels.shape[2])
        assert settings.stride is not None
        patch, stride = vit.patch, settings.stride
        grid = [token_count(n, patch, stride) for n in shape]
        window = tuple(patch + (n - 1) * stride for n in grid)
        transforms = settings.transforms()
        lattices = tuple(t.lattice(shape, patch, stride, settings.boundary) for t in transforms)
        data = torch.empty((len(transforms), *grid, vit.dim), dtype=self._store)
        batch = devices.batch_size(self._device, grid[0] * grid[1], vit.dim, self._dtype)
        done = 0
        while done < len(transforms):
            turned = transforms[done].transposes
            # The first pass goes alone: somebody waits for it.
            end = done + 1 if done == 0 else min(done + batch, len(transforms))
            _, alike = next(groupby(transforms[done:end], key=attrgetter("transposes")))
            group = list(alike)
            size = (window[1], window[0]) if turned else (window[0], window[1])
            try:
                images = torch.stack([t.read(pixels, settings.boundary, size) for t in group])
                found = self._forward(images, stride)
            except (RuntimeError, MemoryError) as error:
                if not devices.is_out_of_memory(error):
                    raise
                batch = self._make_room(len(group), grid[0] * grid[1])
                continue
            for transform, tokens in zip(group, found, strict=True):
                data[done] = transform.undo_tokens(tokens)
                done += 1
                yield Tokens(data[:done], lattices[:done], shape, settings)

    def _forward(self, images: torch.Tensor, stride: int) -> torch.Tensor:
        """Finite tokens (batch, ny, nx, C) on the CPU, of grey or RGB images in [0, 1]."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (_MEAN, _STD))
        images = (images - mean) / std
        tokens: torch.Tensor = self._vit(images.to(self._device, self._dtype), stride)
        tokens = tokens.to("cpu", self._store)
        if self._dtype != torch.float32 and not tokens.isfinite().all():
            # Weights that overflow half precision once do so again.
            self._dtype = torch.float32
            tokens = self._vit(images.to(self._device), stride).to("cpu", self._store)
        if not tokens.isfinite().all():
            raise WeightsError(f"the weights {self.weights.path} give tokens that are not finite")
        return tokens

    def _make_room(self, images: int, tokens: int) -> int:
        """After running out of memory with so many images at once: how many to try next."""
        devices.release(self._device)
        if images > 1:
            return images // 2
        if self._device.type == "cpu":
            raise DeviceError(
                "the memory does not suffice for one pass over this image: crop it, shrink it, "
                "or use a larger stride or a smaller model"
            )
        warnings.warn(
            f"{self._device} has too little memory for this image: going on with the CPU",
            DeviceWarning,
            stacklevel=2,
        )
        self._device, self._dtype = torch.device("cpu"), torch.float32
        return devices.batch_size(self._device, tokens, self._vit.dim, self._dtype)


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
        raise _plain(error) from None


def _plain(error: ValidationError) -> HRDv2Error:
    """The first thing that pydantic found wrong, as one line."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    return HRDv2Error(f"{field}: {what} (got {first['input']!r})" if field else what)
