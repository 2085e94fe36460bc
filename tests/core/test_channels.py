"""Channels: each as an image of its own, or mapped to colours; models and the store tell them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_hrdv2.core.cache import TokenStore
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import HRDv2Error, ImageError, SettingsMismatchError
from napari_hrdv2.core.extraction import FeatureExtractor, make_settings
from napari_hrdv2.core.methods import load_classifier
from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.upsample import dense_map

SHAPE = (43, 57)
MANY = {"passes": 4, "flips": True, "rotations": True}


def image_of(channels: int, seed: int = 0) -> np.ndarray:
    """Channels of which none looks like another, each on a scale of its own."""
    rng = np.random.default_rng(seed)
    image = rng.random((*SHAPE, channels)) * np.linspace(0.1, 1, SHAPE[1])[:, None]
    image[20:, :, 0] += 0.5
    return image * 10.0 ** np.arange(channels) + np.arange(channels)


def spanning(channels: int) -> np.ndarray:
    """Channels that all go from 0 to 1: together they are stretched as each is by itself."""
    image = np.random.default_rng(0).random((*SHAPE, channels))
    image -= image.min((0, 1))
    return image / image.max((0, 1))


# --- each


@pytest.mark.parametrize("window", [512, 30])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_tokens_of_each_channel_are_those_of_a_grey_image(make_extractor, count, window):
    image = image_of(count)
    extractor = make_extractor(channels=tuple(range(count)), window=window, **MANY)
    tokens = extractor.extract(image)
    grey = make_extractor(window=window, **MANY)
    alone = [grey.extract(image[..., k]) for k in range(count)]
    assert tokens.channels == count * 128
    assert all(one.lattices == tokens.lattices for one in alone)
    torch.testing.assert_close(
        tokens.data, torch.cat([one.data for one in alone], -1), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        dense_map(tokens), np.concatenate([dense_map(one) for one in alone], -1), atol=1e-3
    )


@pytest.mark.parametrize("colours", ["each", "mapped"])
def test_each_channel_is_filtered_like_a_grey_image(make_extractor, colours):
    image = image_of(3)
    extractor = make_extractor(channels=(4, 0, 2), passes=1, filters=True, colours=colours)
    filters = extractor.extract(image).filters
    for k in range(3):
        alone = make_extractor(passes=1, filters=True).extract(image[..., k]).filters
        assert len(alone) == len(filters)
        for one, all_of_them in zip(alone, filters, strict=True):
            # Channels go round within every kind of filter.
            assert torch.equal(all_of_them.data[..., k::3], one.data)
            assert all_of_them.lattices == one.lattices


# --- mapped


def test_three_channels_are_mapped_to_red_green_and_blue(make_extractor):
    image = spanning(3)
    how = {"percentiles": (0, 100), **MANY}
    found = make_extractor(channels=(0, 1, 2), colours="mapped", **how).extract(image)
    expected = make_extractor(**how).extract(image)
    assert found.channels == 128
    torch.testing.assert_close(found.data, expected.data, rtol=1e-4, atol=1e-4)


def test_two_channels_are_mapped_to_magenta_and_green(make_extractor):
    image = spanning(2)
    how = {"percentiles": (0, 100), "scale": 1.3, **MANY}
    found = make_extractor(channels=(0, 1), colours="mapped", **how).extract(image)
    expected = make_extractor(**how).extract(image[..., [0, 1, 0]])
    torch.testing.assert_close(found.data, expected.data, rtol=1e-4, atol=1e-4)


def test_one_channel_is_mapped_to_grey(make_extractor):
    image = image_of(1)
    found = make_extractor(channels=(3,), colours="mapped", **MANY).extract(image)
    torch.testing.assert_close(found.data, make_extractor(**MANY).extract(image[..., 0]).data)


def test_channels_are_stretched_apart(make_extractor):
    """Unlike colours: a channel's scale makes no difference."""
    for colours in ("each", "mapped"):
        extractor = make_extractor(channels=(0, 1), colours=colours, passes=1)
        torch.testing.assert_close(
            extractor.extract(image_of(2)).data,
            extractor.extract(image_of(2) * (1, 1000) + (7, 0)).data,
            rtol=1e-3,
            atol=1e-3,
        )


# --- what does not fit


@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 1), (*SHAPE, 3), (*SHAPE, 2, 1), (7,), ()])
@pytest.mark.parametrize("colours", ["each", "mapped"])
def test_other_channels_than_the_settings_have_are_an_error(make_extractor, shape, colours):
    extractor = make_extractor(channels=(0, 3), colours=colours)
    with pytest.raises(ImageError, match=r"\(h, w, 2\) is needed, of the channels 0, 3") as caught:
        extractor.extract(np.ones(shape))
    assert "\n" not in str(caught.value)


def test_channels_are_no_colours(make_extractor):
    with pytest.raises(ImageError, match="grey image"):
        make_extractor().extract(image_of(2))


BAD = {
    "none": ({"channels": ()}, "channels"),
    "a channel twice": ({"channels": (1, 1)}, "channels must differ, got 1, 1"),
    "from the end": ({"channels": (-1,)}, "channels"),
    "beyond the last": ({"channels": (0, 2), "channel_count": 2}, "from 0 on, none is 2"),
    "a count of one": ({"channels": (0,), "channel_count": 1}, "channel_count"),
    "too many colours": ({"channels": (0, 1, 2, 3), "colours": "mapped"}, "three channels at most"),
    "unknown colours": ({"colours": "mixed"}, "colours"),
    "a window of less than nothing": ({"window": -1}, "window"),
}


@pytest.mark.parametrize("kind", BAD)
def test_settings_that_cannot_be_are_one_line_errors(kind):
    changes, words = BAD[kind]
    with pytest.raises(HRDv2Error, match=words) as caught:
        make_settings(**changes)
    assert "\n" not in str(caught.value)


def test_settings_of_channels_survive_a_file():
    settings = Settings(channels=(2, 0), channel_count=3, colours="mapped", window=0)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert hash(settings)
    assert settings.has_channels
    assert not Settings().has_channels


# --- the store


@pytest.mark.parametrize("colours", ["each", "mapped"])
def test_the_store_tells_channels_from_colours(make_extractor, tmp_path, colours):
    """Three channels and an RGB image may hold the same pixels."""
    store = TokenStore(tmp_path / "tokens", 10**8)
    image = image_of(3)
    how = {"passes": 2, "precision": "auto"}
    rgb = make_extractor(colours=colours, **how).extract(image, store=store)
    extractor = make_extractor(channels=(0, 1, 2), colours=colours, **how)
    found = extractor.extract(image, store=store)
    assert torch.equal(found.data, extractor.extract(image).data)
    assert found.channels == (384 if colours == "each" else 128)
    assert torch.equal(make_extractor(**how).extract(image, store=store).data, rgb.data)


def test_the_same_pixels_of_other_channels_are_not_looked_at_again(
    make_extractor, tmp_path, monkeypatch
):
    store = TokenStore(tmp_path / "tokens", 10**8)
    how = {"passes": 2, "precision": "auto"}
    expected = make_extractor(channels=(0, 1), **how).extract(image_of(2), store=store)
    monkeypatch.setattr(FeatureExtractor, "_forward", None)
    again = make_extractor(channels=(5, 3), channel_count=6, **how)
    assert torch.equal(again.extract(image_of(2), store=store).data, expected.data)


def test_a_kept_pass_does_not_hide_that_channels_do_not_fit(make_extractor, tmp_path):
    store = TokenStore(tmp_path / "tokens", 10**8)
    how = {"precision": "auto", "colours": "mapped"}
    make_extractor(channels=(0, 1), **how).extract(image_of(2), store=store)
    with pytest.raises(ImageError, match=r"\(h, w, 3\) is needed"):
        make_extractor(channels=(0, 1, 2), **how).extract(image_of(2), store=store)


# --- models


def strokes_of() -> np.ndarray:
    strokes = np.zeros(SHAPE, np.uint8)
    strokes[3:15, 10:40], strokes[25:40, 10:40] = 1, 2
    return strokes


@pytest.fixture(scope="module")
def of_two(make_extractor):
    """An extractor of two channels, and a model trained on two such images."""
    extractor = make_extractor(channels=(0, 1), channel_count=2, passes=2, filters=True)
    images = [extractor.extract(image_of(2, seed)) for seed in (0, 1)]
    return extractor, PixelClassifier().fit(images, [strokes_of()] * 2)


def test_a_model_of_two_channels_segments_another_image(of_two, tmp_path):
    extractor, model = of_two
    model.save(tmp_path / "model.safetensors")
    again = load_classifier(tmp_path / "model.safetensors")
    assert again.settings_ == extractor.settings
    assert (again.settings_.channels, again.settings_.channel_count) == ((0, 1), 2)
    tokens = extractor.extract(image_of(2, 2))
    labels = model.predict(tokens)
    np.testing.assert_array_equal(again.predict(tokens), labels)
    truth = np.where(np.arange(SHAPE[0]) < 20, 1, 2)[:, None]
    assert (labels == truth)[:, 15:].mean() > 0.9
    dense = dense_map(tokens) @ model.coef_.T + model.intercept_
    np.testing.assert_allclose(model.decision_function(tokens), dense, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": None, "channel_count": None}, r"channels \(0, 1\) against None"),
        ({"channels": (1, 0)}, r"channels \(0, 1\) against \(1, 0\)"),
        ({"channel_count": 3}, "channel_count 2 against 3"),
        ({"colours": "mapped"}, "colours 'each' against 'mapped'"),
    ],
)
def test_a_model_of_channels_refuses_others(of_two, make_extractor, changes, words):
    extractor, model = of_two
    other = make_extractor(settings=extractor.settings, filters=True, **changes)
    image = image_of(2)[..., 0] if changes.get("channels", ()) is None else image_of(2)
    tokens = other.extract(image)
    with pytest.raises(SettingsMismatchError, match=words):
        model.predict(tokens)
    grey = PixelClassifier().fit(tokens, strokes_of())
    with pytest.raises(SettingsMismatchError, match="the model's"):
        grey.predict(extractor.extract(image_of(2)))
