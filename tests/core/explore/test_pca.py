from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from napari_hrdv2.core.errors import HRDv2Error, SettingsMismatchError
from napari_hrdv2.core.explore import PrincipalComponents, pca, spread_indices
from napari_hrdv2.core.explore.common import sampled_tokens
from napari_hrdv2.core.upsample import dense_map

from .helpers import planted


@pytest.fixture
def images(make_extractor, rng):
    extractor = make_extractor(window=56, passes=3, rotations=True, filters=True)
    return [extractor.extract(rng.random(shape)) for shape in ((90, 130), (60, 45))]


def vectors_of(images, normalised):
    flat = [one.data.flatten(0, 2).numpy().astype(float) for one in images]
    if normalised:
        flat = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in flat]
    return np.concatenate(flat)


@pytest.mark.parametrize("normalised", [False, True])
def test_maps_are_those_of_scikit_learn_on_the_dense_map(images, normalised):
    found = PrincipalComponents.fit(images, 4, normalised=normalised)
    naive = PCA(4, svd_solver="full").fit(vectors_of(images, normalised))
    np.testing.assert_allclose(np.abs(found.components @ naive.components_.T), np.eye(4), atol=1e-3)
    signs = np.sign((found.components * naive.components_).sum(1))
    for tokens in images:
        plain = replace(tokens, filters=())
        if normalised:
            data = tokens.data / tokens.data.norm(dim=-1, keepdim=True)
            plain = replace(plain, data=data)
        dense = dense_map(plain)
        expected = naive.transform(dense.reshape(-1, dense.shape[-1])) * signs
        expected = expected.reshape(*tokens.image_shape, 4)
        np.testing.assert_allclose(found.maps(tokens), expected, atol=1e-3)


def test_colours_share_the_percentiles_of_all_images(images):
    found = PrincipalComponents.fit(images, percentiles=(5, 90))
    values = (vectors_of(images, False) - found.mean) @ found.components.T
    low, high = np.percentile(values, (5, 90), axis=0)
    for tokens in images:
        expected = np.clip((found.maps(tokens) - low) / (high - low), 0, 1)
        colours = found.rgb(tokens)
        assert colours.dtype == np.float32
        np.testing.assert_allclose(colours, expected, atol=1e-4)


def test_a_further_image_has_the_colours_of_the_same_image_before(images):
    found = PrincipalComponents.fit(images)
    again = replace(images[1], data=images[1].data.clone())
    np.testing.assert_array_equal(found.rgb(again), found.rgb(images[1]))


def test_lengths_do_not_matter_to_normalised_components(images, rng):
    before = PrincipalComponents.fit(images, normalised=True)
    scales = [1 + rng.random((*one.data.shape[:3], 1)).astype(np.float32) for one in images]
    longer = [
        replace(t, data=t.data * torch.from_numpy(s)) for t, s in zip(images, scales, strict=True)
    ]
    after = PrincipalComponents.fit(longer, normalised=True)
    np.testing.assert_allclose(after.rgb(longer[0]), before.rgb(images[0]), atol=1e-3)
    plain = PrincipalComponents.fit(longer).rgb(longer[0])
    assert np.abs(plain - PrincipalComponents.fit(images).rgb(images[0])).max() > 0.05


def test_of_many_tokens_a_sample_of_every_image_is_taken(monkeypatch):
    halves = np.repeat([[0] * 10, [1] * 10], 10, axis=0)
    images = [planted(halves), planted(halves * 0 + 2)]
    every = PrincipalComponents.fit(images, 2)
    monkeypatch.setattr(pca, "_TOKENS", 200)
    few = PrincipalComponents.fit(images, 2)
    assert not np.array_equal(few.mean, every.mean)
    np.testing.assert_allclose(np.abs(few.components @ every.components.T), np.eye(2), atol=0.2)


def test_constant_tokens_have_a_colour(images):
    same = replace(images[0], data=images[0].data * 0 + 1)
    colours = PrincipalComponents.fit([same]).rgb(same)
    assert np.isfinite(colours).all()
    assert np.ptp(colours) == 0


def test_what_cannot_be_is_said(images):
    with pytest.raises(HRDv2Error, match="no image"):
        PrincipalComponents.fit([])
    for count in (0, 129):
        with pytest.raises(HRDv2Error, match="there are 1 to 128"):
            PrincipalComponents.fit(images, count)
    with pytest.raises(HRDv2Error, match="3 components, there are 2"):
        PrincipalComponents.fit(images, 2).rgb(images[0])
    other = replace(images[0], settings=images[0].settings.model_copy(update={"scale": 2.0}))
    with pytest.raises(SettingsMismatchError, match="scale"):
        PrincipalComponents.fit([images[0], other])
    with pytest.raises(SettingsMismatchError, match="scale"):
        PrincipalComponents.fit(images).rgb(other)


# --- series


def series(count=12):
    """Frames of a band that moves over two grounds, which get longer features as time goes on."""
    for k in range(count):
        labels = np.repeat([[0] * 10, [1] * 10], 5, axis=0)
        labels[:, k % 10] = 2
        tokens = planted(labels, seed=k)
        yield replace(tokens, data=tokens.data * (1 + 0.05 * k))


def test_a_series_has_the_components_of_all_frames_at_once():
    found, all_at_once = PrincipalComponents.fit(series(), 2), PrincipalComponents.fit([*series()])
    naive = PCA(2, svd_solver="full").fit(vectors_of(series(), False))
    for one in (found, all_at_once):
        np.testing.assert_allclose(one.mean, naive.mean_, atol=1e-5)
        np.testing.assert_allclose(
            np.abs(one.components[:2] @ naive.components_.T), np.eye(2), atol=1e-4
        )


def test_of_a_series_no_more_than_a_frame_and_a_sample_is_there(monkeypatch):
    monkeypatch.setattr(pca, "_TOKENS", 300)
    alive = weakref.WeakSet()

    def frames():
        for tokens in series(20):
            assert len(alive) <= 1
            alive.add(tokens)
            yield tokens

    every, some = PrincipalComponents.fit([*series(20)], 2), PrincipalComponents.fit(frames(), 2)
    np.testing.assert_array_equal(some.components, every.components)
    monkeypatch.setattr(pca, "_TOKENS", 10**6)
    exact = PrincipalComponents.fit(series(20), 2)
    assert (np.abs((some.components * exact.components).sum(1)) > 0.95).all()


def test_every_token_of_a_series_is_as_likely_in_the_sample():
    numbered = [replace(one, data=torch.full_like(one.data, k)) for k, one in enumerate(series(20))]
    kept, _ = sampled_tokens(iter(numbered), 1000)
    counts = np.bincount(kept[:, 0].astype(int), minlength=20)
    assert counts.sum() == 1000
    # Fifty of each are expected, with a standard deviation of seven.
    assert np.abs(counts - 50).max() < 28
    assert len(sampled_tokens(iter(numbered), 10**6)[0]) == 20 * 200


def test_colours_of_what_stays_are_the_same_in_all_frames():
    labels = np.repeat([[0] * 10, [1] * 10, [3] * 10], 5, axis=0)
    frames = []
    for k in range(8):
        seen = labels.copy()
        seen[3:, : k + 2] = 2
        frames.append(planted(seen, seed=k, spread=0))
    components = PrincipalComponents.fit(frames[k] for k in spread_indices(8, 4))
    colours = np.stack([components.rgb(one)[:16] for one in frames])
    assert colours.std(0).max() < 0.1
    alone = np.stack([PrincipalComponents.fit([one]).rgb(one)[:16] for one in frames])
    assert alone.std(0).max() > 0.2


def test_indices_are_spread_from_the_first_to_the_last():
    assert spread_indices(100, 4).tolist() == [0, 33, 66, 99]
    assert spread_indices(3, 16).tolist() == [0, 1, 2]
    assert spread_indices(1, 16).tolist() == [0]
    assert len(set(spread_indices(17, 16).tolist())) == 16
