"""Tokens kept between sessions: one file for every pass over every image.

The file's name is a hash of all that its tokens hang on, so there is no index that could be
damaged or locked: files appear whole, by a rename, and the checksum in each tells one that a
crash, or a power cut before the disk had written it, left damaged; such a pass is computed again.
(diskcache was considered: it has an SQLite index, which network folders of clusters lock up, it
unpickles by default, and it has had no release since 2023.)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .files import PREFIX, replacing
from .settings import Settings
from .tokens import Tokens
from .transforms import Share, Transform
from .weights import cache_folder

# Goes up when the same settings would give other tokens.
_VERSION = 3
_SUFFIX = ".safetensors"
_ENTRY = re.compile(rf"[0-9a-f]{{64}}{re.escape(_SUFFIX)}")
# Folders of writers that were killed; no write takes an hour.
_STALE_S = 3600.0
# Of the budget that is written between two looks at what others wrote.
_BETWEEN_LOOKS = 1 / 16
# Settings that say which passes there are, what is done with them, or what things are called.
_NOT_OF_A_PASS = frozenset(
    {
        "model",
        "passes",
        "zooms",
        "shifts",
        "distances",
        "flips",
        "rotations",
        "move_positions",
        "kernel",
        "filters",
        "channels",
        "channel_count",
        "colours",
        "facet",
    }
)


class CacheWarning(UserWarning):
    """The cache of features cannot be used; the work goes on without."""


def default_folder() -> Path:
    """The user's folder of tokens, beside the weights."""
    return cache_folder().with_name("tokens")


def digest_of(image: npt.NDArray[Any]) -> str:
    """Identity of an image's content: hash of its shape, dtype and pixels, in hex."""
    digest = hashlib.sha256(f"{image.shape} {image.dtype.str}".encode())
    digest.update(np.ascontiguousarray(image).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def pass_key(
    digest: str, settings: Settings, transform: Transform, move: Share, zoom: float
) -> str:
    """Identity of the tokens of one pass, in hex.

    Parameters
    ----------
    digest
        Of the image, see :func:`digest_of`.
    settings
        Resolved settings. Which other passes they foresee does not matter.
    transform, move, zoom
        Of the pass.
    """
    parts = [
        _VERSION,
        digest,
        settings.model_dump(mode="json", exclude=set(_NOT_OF_A_PASS)),
        # Which channels an image has does not matter, but that they are no colours: an RGB image
        # of the same pixels has other tokens.
        settings.has_channels and settings.colours,
        transform.matrix,
        transform.shift,
        move,
    ]
    # Tokens themselves, and those seen as the scale says, keep the names that they have had.
    if settings.facet is not None:
        parts.append(settings.facet)
    if zoom != 1:
        parts.append(zoom)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Entry(NamedTuple):
    used: float
    bytes: int
    path: Path


class TokenStore:
    """Tokens on disk, within a budget; several processes may share a folder.

    Parameters
    ----------
    folder
        Where the files lie; made when the first is written.
    budget
        Bytes that they may take; beyond, those not used for longest go. 0 switches it off.

    Examples
    --------
    >>> store = TokenStore("/tmp/tokens", 10**9)
    >>> store.load("0" * 64) is None
    True
    """

    def __init__(self, folder: str | os.PathLike[str], budget: int) -> None:
        self.folder = Path(folder)
        self.budget = budget
        self._allowance = 0
        self._has_warned = False

    def load(self, key: str) -> torch.Tensor | None:
        """Tokens of a pass, or None where they are not there.

        Warns with a :class:`CacheWarning`, and removes the file, where it is damaged.

        Returns
        -------
        torch.Tensor of float16, or None
            (ny, nx, C), on the CPU.
        """
        if self.budget <= 0:
            return None
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        tokens = _decode(key, content)
        if tokens is None:
            with suppress(OSError):
                path.unlink()
            warnings.warn(
                f"a file of cached features was damaged ({path.name}): it was removed, and these "
                "features are computed again",
                CacheWarning,
                stacklevel=2,
            )
            return None
        with suppress(OSError):
            os.utime(path)
        return tokens

    def save(self, key: str, tokens: torch.Tensor) -> None:
        """Keep the tokens of a pass.

        Warns once with a :class:`CacheWarning` where the folder cannot be written.

        Parameters
        ----------
        key
            See :func:`pass_key`.
        tokens
            (ny, nx, C) of float16.
        """
        content = _encode(key, tokens.contiguous().cpu())
        if len(content) > self.budget:
            return
        try:
            if len(content) > self._allowance:
                self._make_room(len(content))
            with replacing(self._path(key)) as whole:
                whole.write_bytes(content)
            self._allowance -= len(content)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"features cannot be kept in {self.folder} ({error.strerror or error}): make "
                    "room there, or choose another folder in the preferences",
                    CacheWarning,
                    stacklevel=2,
                )

    def clear(self) -> None:
        """Remove all entries."""
        for entry in self._entries():
            with suppress(OSError):
                entry.path.unlink()
        self._allowance = 0

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(entry.bytes for entry in self._entries())

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _entries(self) -> list[_Entry]:
        found = []
        try:
            with os.scandir(self.folder) as listed:
                for one in listed:
                    # A model that somebody saved here is none of ours.
                    if _ENTRY.fullmatch(one.name):
                        # Another process may remove it this moment.
                        with suppress(OSError):
                            status = one.stat()
                            found.append(_Entry(status.st_mtime, status.st_size, Path(one.path)))
        except OSError:
            return []
        return found

    def _make_room(self, needed: int) -> None:
        """Remove what was not used for longest until there is room, and some to spare."""
        self._sweep()
        wanted = max(needed, int(self.budget * _BETWEEN_LOOKS))
        entries = sorted(self._entries())
        excess = sum(entry.bytes for entry in entries) + wanted - self.budget
        for entry in entries:
            if excess <= 0:
                break
            with suppress(OSError):
                entry.path.unlink()
                excess -= entry.bytes
        self._allowance = wanted

    def _sweep(self) -> None:
        """Remove what killed writers left."""
        for folder in self.folder.glob(f"{PREFIX}*"):
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > _STALE_S:
                    shutil.rmtree(folder)


class TokenMemory:
    """Tokens in memory, within a budget, so that going back to an image costs nothing.

    Several threads may use one.

    Parameters
    ----------
    budget
        Bytes that they may take; beyond, those not used for longest go. The last one stays.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._kept: OrderedDict[tuple[str, Settings], Tokens] = OrderedDict()
        self._lock = Lock()

    def get(self, digest: str, settings: Settings) -> Tokens | None:
        """Tokens of an image with these settings, all passes; None where they are not there."""
        with self._lock:
            tokens = self._kept.get((digest, settings))
            if tokens is not None:
                self._kept.move_to_end((digest, settings))
            return tokens

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def put(self, digest: str, tokens: Tokens) -> None:
        """Keep all passes of an image."""
        with self._lock:
            self._kept[digest, tokens.settings] = tokens
            self._kept.move_to_end((digest, tokens.settings))
            while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > self.budget:
                self._kept.popitem(last=False)


def _checksum(key: str, tokens: torch.Tensor) -> torch.Tensor:
    digest = hashlib.sha256(f"{key} {tuple(tokens.shape)}".encode())
    digest.update(tokens.numpy().reshape(-1).view(np.uint8).data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _encode(key: str, tokens: torch.Tensor) -> bytes:
    return save({"tokens": tokens, "checksum": _checksum(key, tokens)})


def _decode(key: str, content: bytes) -> torch.Tensor | None:
    """The tokens in a file's content, None where it is damaged or another's."""
    try:
        arrays = load(content)
        tokens = arrays["tokens"]
        if tokens.dtype != torch.float16 or tokens.ndim != 3:
            return None
        intact = torch.equal(arrays["checksum"], _checksum(key, tokens))
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError):
        return None
    return tokens if intact else None
