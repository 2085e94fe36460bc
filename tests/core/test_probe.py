from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_hrdv2.core.probe import UNKNOWN, LinearProbe
from napari_hrdv2.core.upsample import dense_map

CLASSES = 5


@pytest.fixture(scope="module")
def images(make_extractor):
    rng = np.random.default_rng(3)
    extractor = make_extractor(passes=3, rotations=True, filters=True, window=56)
    shapes = ((60, 75), (41, 52), (30, 33))
    tokens = [extractor.extract(rng.random(shape)) for shape in shapes]
    return [(one, rng.integers(UNKNOWN, CLASSES, one.image_shape)) for one in tokens]


def dense_layer(images):
    """The naive way: a linear layer on the features of all pixels, and Adam."""
    layer = torch.nn.Linear(images[0][0].channels, CLASSES)
    start = LinearProbe(images[0][0].channels, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(start.weight)
        layer.bias.copy_(start.bias)
    return layer, torch.optim.Adam(layer.parameters(), lr=0.005)


def dense_step(layer, adam, images):
    features = torch.cat([torch.from_numpy(dense_map(t)).flatten(0, 1) for t, _ in images])
    classes = torch.cat([torch.from_numpy(c).flatten() for _, c in images])
    loss = F.cross_entropy(layer(features)[classes >= 0], classes[classes >= 0])
    adam.zero_grad()
    loss.backward()
    adam.step()
    return loss.item()


def test_gradients_and_steps_are_those_of_all_pixels(images):
    probe = LinearProbe(images[0][0].channels, CLASSES)
    layer, adam = dense_layer(images)
    for batch in (images[:2], images[2:], images[1:]):
        loss, count = probe.step(batch)
        assert loss == pytest.approx(dense_step(layer, adam, batch), rel=1e-4)
        assert count == sum((classes >= 0).sum() for _, classes in batch)
        np.testing.assert_allclose(probe.weight.grad, layer.weight.grad, rtol=1e-3, atol=2e-5)
        np.testing.assert_allclose(probe.bias.grad, layer.bias.grad, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(probe.weight.detach(), layer.weight.detach(), atol=2e-4)
    found = probe.predict(images[0][0])
    dense = layer(torch.from_numpy(dense_map(images[0][0]))).argmax(-1).numpy()
    assert (found == dense).mean() > 0.99


def test_goes_on_from_a_state_bit_for_bit(images):
    channels = images[0][0].channels
    straight, interrupted = (LinearProbe(channels, CLASSES) for _ in range(2))
    for k in range(6):
        if k == 3:
            state = interrupted.state()
            interrupted = LinearProbe(channels, CLASSES, seed=9)
            interrupted.restore(state)
        for one in (straight, interrupted):
            one.step([images[k % 3]])
    last = straight.state()
    assert last.keys() == interrupted.state().keys()
    assert all(torch.equal(last[name], one) for name, one in interrupted.state().items())


def test_a_state_does_not_change_with_the_probe(images):
    probe = LinearProbe(images[0][0].channels, CLASSES)
    probe.step(images[:1])
    state = probe.state()
    kept = {name: one.clone() for name, one in state.items()}
    other = LinearProbe(images[0][0].channels, CLASSES)
    other.restore(state)
    probe.step(images)
    other.step(images)
    assert all(torch.equal(kept[name], one) for name, one in state.items())


def test_takes_no_step_where_nothing_is_known(images):
    probe = LinearProbe(images[0][0].channels, CLASSES)
    before = probe.state()
    tokens = images[0][0]
    assert probe.step([(tokens, np.full(tokens.image_shape, UNKNOWN))]) == (0.0, 0)
    assert all(torch.equal(before[name], one) for name, one in probe.state().items())


def test_refuses_the_state_of_another(images):
    state = LinearProbe(7, CLASSES).state()
    with pytest.raises(ValueError, match=r"no weight of shape \(5, 8\)"):
        LinearProbe(8, CLASSES).restore(state)
    with pytest.raises(ValueError, match="no bias"):
        LinearProbe(7, CLASSES).restore({"weight": state["weight"]})
