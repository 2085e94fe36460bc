"""From images to tokens: pass by pass, short of memory, with settings that cannot be."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from napari_hrdv2.core import devices
from napari_hrdv2.core.backbone import IMAGENET
from napari_hrdv2.core.errors import DeviceError, HRDv2Error, ImageError, WeightsError
from napari_hrdv2.core.extraction import DeviceWarning, FeatureExtractor, make_settings
from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.upsample import dense_map

from .states import random_state


@pytest.fixture
def image(rng):
    return rng.random((40, 53))


MANY = {"passes": 9, "flips": True, "rotations": True, "stride": 7}


# --- pass by pass


def test_passes_grow_one_by_one_to_the_whole(make_extractor, image):
    extractor = make_extractor(**MANY)
    whole = extractor.extract(image)
    seen = list(extractor.passes(image))
    assert [t.passes for t in seen] == list(range(1, 10))
    assert [t.is_complete for t in seen] == [False] * 8 + [True]
    for t in seen:
        assert t.data.shape == (t.passes, 5, 7, 128)
        assert t.image_shape == (40, 53)
        assert t.settings == extractor.settings
        assert t.channels == 128
        torch.testing.assert_close(t.data, whole.data[: t.passes])
        assert t.lattices == whole.lattices[: t.passes]
        assert np.isfinite(dense_map(t)).all()


def test_first_pass_is_there_before_the_second_is_computed(make_extractor, image, monkeypatch):
    extractor, batches = counting(make_extractor(**MANY), monkeypatch)
    passes = extractor.passes(image)
    next(passes)
    assert batches == [1]


def test_closing_the_generator_cancels(make_extractor, image, monkeypatch):
    extractor, batches = counting(make_extractor(**MANY), monkeypatch)
    passes = extractor.passes(image)
    first = next(passes)
    passes.close()
    assert batches == [1]
    assert np.isfinite(dense_map(first)).all()
    assert extractor.extract(image).is_complete


def test_extracting_twice_gives_the_same(make_extractor, image):
    extractor = make_extractor(passes=2)
    torch.testing.assert_close(
        extractor.extract(image).data, extractor.extract(image).data, rtol=0, atol=0
    )


def test_tokens_of_one_pass_do_not_hang_on_the_others(make_extractor, image):
    few, many = make_extractor(passes=2), make_extractor(passes=8)
    torch.testing.assert_close(
        few.extract(image).data, many.extract(image).data[:2], rtol=1e-4, atol=1e-4
    )


def test_grey_is_colour_of_equal_channels(make_extractor, image):
    extractor = make_extractor(passes=2)
    colour = np.repeat(image[..., None], 3, -1)
    # Of three times as many values, the percentiles differ a little.
    torch.testing.assert_close(
        extractor.extract(image).data, extractor.extract(colour).data, rtol=0, atol=5e-3
    )


def test_bias_and_gain_of_the_image_make_no_difference(make_extractor, image):
    extractor = make_extractor(passes=2)
    torch.testing.assert_close(
        extractor.extract(image).data,
        extractor.extract(1000 * image + 77).data,
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (13, 5), (14, 14), (15, 14), (3, 3, 3)])
@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
def test_tiny_images(make_extractor, shape, boundary):
    extractor = make_extractor(**MANY | {"boundary": boundary})
    tokens = extractor.extract(np.random.default_rng(0).random(shape))
    dense = dense_map(tokens)
    assert dense.shape == (*shape[:2], 128)
    assert np.isfinite(dense).all()


@pytest.mark.parametrize(
    "bad", [np.ones((4, 4), complex), np.full((4, 4), np.nan), np.zeros((0, 4)), np.zeros(4)]
)
def test_what_is_no_image_is_an_error_at_the_first_pass(make_extractor, bad):
    with pytest.raises(ImageError):
        next(make_extractor().passes(bad))


# --- short of memory


def counting(extractor: FeatureExtractor, monkeypatch, most: int = 99, error=None):
    """The extractor, and the sizes of its batches; those above ``most`` fail."""
    error = error or torch.OutOfMemoryError("out of memory")
    forward, batches = extractor._forward, []

    def limited(images, *how):
        batches.append(len(images))
        if len(images) > most:
            raise error
        return forward(images, *how)

    monkeypatch.setattr(extractor, "_forward", limited)
    return extractor, batches


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: f"{type(e).__name__} {e}"[:30])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_batches_are_halved_when_memory_runs_out(make_extractor, image, monkeypatch, most, error):
    monkeypatch.setattr(devices, "batch_size", lambda *args: 8)
    options = {"passes": 9, "stride": 7}
    expected = make_extractor(**options).extract(image)
    extractor, batches = counting(make_extractor(**options), monkeypatch, most, error)
    tokens = extractor.extract(image)
    torch.testing.assert_close(tokens.data, expected.data, rtol=1e-4, atol=1e-4)
    assert batches[:3] == [1, 8, 4]
    assert max(batches[4:]) <= most
    # Each pass was computed once only.
    assert sum(b for b in batches if b <= most) == 9


def test_batches_hold_images_of_one_orientation(make_extractor, image, monkeypatch):
    monkeypatch.setattr(devices, "batch_size", lambda *args: 8)
    extractor, batches = counting(make_extractor(**MANY), monkeypatch)
    assert extractor.extract(image).is_complete
    assert sum(batches) == 9


def test_not_one_pass_fits_into_the_memory(make_extractor, image, monkeypatch):
    extractor, _ = counting(make_extractor(passes=4), monkeypatch, 0)
    with pytest.raises(DeviceError, match="memory does not suffice") as caught:
        extractor.extract(image)
    assert "\n" not in str(caught.value)


def test_a_device_too_small_for_one_pass_hands_over_to_the_cpu(make_extractor, image, monkeypatch):
    """Played with the device 'meta', which no tensor is ever sent to."""
    expected = make_extractor(passes=3).extract(image)
    extractor = make_extractor(passes=3)
    forward, tried = extractor._forward, []
    extractor._device = torch.device("meta")
    monkeypatch.setattr(devices, "batch_size", lambda *args: 4)

    def only_cpu(images, *how):
        tried.append((extractor.device.type, len(images)))
        if extractor.device.type == "meta":
            raise torch.OutOfMemoryError
        return forward(images, *how)

    monkeypatch.setattr(extractor, "_forward", only_cpu)
    with pytest.warns(DeviceWarning, match="going on with the CPU"):
        tokens = extractor.extract(image)
    torch.testing.assert_close(tokens.data, expected.data, rtol=1e-4, atol=1e-4)
    assert tried[:2] == [("meta", 1), ("cpu", 1)]
    assert extractor.device == torch.device("cpu")


def test_other_errors_are_not_taken_for_a_lack_of_memory(make_extractor, image, monkeypatch):
    extractor, batches = counting(
        make_extractor(), monkeypatch, 0, RuntimeError("shapes do not match")
    )
    with pytest.raises(RuntimeError, match="shapes do not match"):
        extractor.extract(image)
    assert batches == [1]


# --- precision


def overflowing(extractor: FeatureExtractor, monkeypatch, *, always: bool) -> list[torch.dtype]:
    """Give the extractor a backbone that overflows in half precision, or always."""
    used = []
    plain = type(extractor)._vit.fget(extractor)

    def run(images, stride, on_block=None, blocks=None, moves=()):
        used.append(images.dtype)
        out = plain(images.float(), stride, on_block, blocks, moves)
        bad = always or images.dtype == torch.float16
        return torch.where(torch.arange(out.shape[-1]) == 3, torch.inf, out) if bad else out

    parts = {"__call__": staticmethod(run), "patch": 14, "dim": 128, "depth": 2}
    parts["normalisation"] = IMAGENET
    fake = type("Fake", (), parts)()
    monkeypatch.setattr(FeatureExtractor, "_vit", fake)
    extractor._dtype = torch.float16
    return used


def test_overflow_in_half_precision_is_done_again_in_single(make_extractor, image, monkeypatch):
    expected = make_extractor(passes=3).extract(image)
    extractor = make_extractor(passes=3)
    used = overflowing(extractor, monkeypatch, always=False)
    tokens = extractor.extract(image)
    torch.testing.assert_close(tokens.data, expected.data, rtol=0.01, atol=0.01)
    assert used[:2] == [torch.float16, torch.float32]
    assert torch.float16 not in used[1:]


def test_tokens_that_are_finite_in_no_precision_are_an_error(make_extractor, image, monkeypatch):
    extractor = make_extractor(passes=1)
    overflowing(extractor, monkeypatch, always=True)
    with pytest.raises(WeightsError, match="not finite"):
        extractor.extract(image)


def test_weights_that_are_not_finite_are_an_error(make_extractor, image, tmp_path):
    state = random_state()
    state["blocks.1.mlp.fc1.weight"][3, 3] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match="not finite"):
        make_extractor(weights=tmp_path / "nan.pth").extract(image)


def test_tokens_are_kept_in_half_precision_by_default(make_extractor, image):
    assert make_extractor(precision="auto").extract(image).data.dtype == torch.float16
    assert make_extractor().extract(image).data.dtype == torch.float32


# --- devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there(make_extractor, device):
    with pytest.raises(DeviceError, match=f"no device '{device}'") as caught:
        make_extractor(device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["quantum", "", "meta", "cpu:x"])
def test_what_is_no_device(make_extractor, device):
    with pytest.raises(DeviceError) as caught:
        make_extractor(device=device)
    assert "\n" not in str(caught.value)


def test_auto_takes_the_fastest_there_is(monkeypatch):
    for cuda, mps, expected in ((1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=cuda: bool(found))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda found=mps: bool(found))
        assert devices.choose_device() == torch.device(expected)


def test_half_precision_only_where_it_is_fast(monkeypatch):
    assert devices.fast_dtype(torch.device("cpu")) == torch.float32
    assert devices.fast_dtype(torch.device("mps")) == torch.float16
    for capability, dtype in (((6, 1), torch.float32), ((8, 0), torch.float16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert devices.fast_dtype(torch.device("cuda")) == dtype


def test_batches_are_sized_by_free_memory(monkeypatch):
    sizes = []
    for free in (10**6, 10**9, 10**10):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, f=free: (f, 10**11))
        sizes.append(devices.batch_size(torch.device("cuda"), 1369, 384, torch.float16))
    assert sizes[0] == 1
    assert 1 < sizes[1] < sizes[2]
    assert devices.batch_size(torch.device("cpu"), 10**6, 384, torch.float32) == 1


# --- settings


BAD_SETTINGS = {
    "unknown field": ({"zoom": 2}, "zoom"),
    "no passes": ({"passes": 0}, "passes"),
    "a fraction of a pass": ({"passes": 1.5}, "passes"),
    "a word for a number": ({"passes": "many"}, "passes"),
    "more passes than shifts": ({"shifts": "moore", "passes": 10}, "only 9 different"),
    "more passes than pixels": ({"stride": 2, "passes": 5}, "only 4 different"),
    "stride beyond the patch": ({"stride": 15}, "stride"),
    "stride of nothing": ({"stride": 0}, "stride"),
    "distance of nothing": ({"distances": (0,)}, "distances"),
    "unknown shifts": ({"shifts": "knight"}, "shifts"),
    "unknown boundary": ({"boundary": "zero"}, "boundary"),
    "unknown kernel": ({"kernel": "cubic"}, "kernel"),
    "percentiles that descend": ({"percentiles": (60, 40)}, "ascend"),
    "percentiles beyond all": ({"percentiles": (0, 101)}, "percentiles"),
}


@pytest.mark.parametrize("kind", BAD_SETTINGS)
def test_settings_that_cannot_be_are_one_line_errors(make_extractor, kind):
    changes, words = BAD_SETTINGS[kind]
    with pytest.raises(HRDv2Error, match=words) as caught:
        make_extractor(**changes)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_settings_are_resolved_by_the_weights(make_extractor, tiny_weights):
    settings = make_extractor(passes=2).settings
    assert settings.is_resolved
    assert not Settings().is_resolved
    assert (settings.patch, settings.stride, settings.passes) == (14, 14, 2)
    assert settings.model.startswith("custom:")
    assert hash(settings) == hash(make_extractor(passes=2).settings)


def test_given_settings_are_changed_by_keywords(make_extractor):
    settings = make_settings(Settings(passes=2, flips=True), passes=3)
    assert (settings.passes, settings.flips) == (3, True)
    again = make_extractor(settings=settings, stride=7).settings
    assert (again.passes, again.flips, again.stride) == (3, True, 7)


def test_resolved_settings_make_the_same_extractor_again(make_extractor):
    first = make_extractor(passes=2, stride=7).settings
    assert make_extractor(settings=first).settings == first


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().passes = 3


# --- without a window


_BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
import importlib, pkgutil
import napari_hrdv2, napari_hrdv2.core
for module in pkgutil.walk_packages(napari_hrdv2.core.__path__, "napari_hrdv2.core."):
    importlib.import_module(module.name)
for name in napari_hrdv2.__all__:
    getattr(napari_hrdv2, name)
"""


def test_core_imports_with_qt_and_napari_blocked():
    names = {"napari", "qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "superqt", "magicgui"}
    code = _BLOCKED.format(names=names | {"vispy", "onnx", "psygnal"})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_light():
    code = "import sys, napari_hrdv2; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_extraction_warns_of_nothing(make_extractor, image):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_extractor(passes=2).extract(image)
