from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from napari_hrdv2.core.errors import HRDv2Error, SettingsMismatchError
from napari_hrdv2.core.explore import PrincipalComponents, pca
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
