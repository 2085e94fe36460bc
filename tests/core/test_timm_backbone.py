"""Backbones of timm: a small model in its place against naive computations, and timm itself."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from napari_hrdv2.core import timm_backbone
from napari_hrdv2.core.backbone import HALVES, IMAGENET, Backbone, FacetBackbone
from napari_hrdv2.core.errors import (
    ArchitectureError,
    DownloadError,
    HashMismatchError,
    HRDv2Error,
    WeightsError,
)
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.timm_backbone import TimmBackbone
from napari_hrdv2.core.vit import VisionTransformer
from napari_hrdv2.core.weights import TrustedWeightsWarning, cache_folder, find, load_backbone

from . import states
from .fake_timm import DEPTH, DIM, PATCH, PLAIN, RELATIVE, SIDE, make_timm, random_state


@pytest.fixture
def install(monkeypatch) -> Callable[..., None]:
    def install(hub: Path | None = None) -> None:
        for module in make_timm(hub):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


@pytest.fixture
def fake(install) -> None:
    install()


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Files of weights of the models that are in timm's place."""
    found = {name: tmp_path / f"{name}.safetensors" for name in (PLAIN, RELATIVE)}
    for name, path in found.items():
        save_file(random_state(name), path)
    return found


def images_of(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(3))


def naive_norm(x: Tensor) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-5).sqrt()


def naive_tokens(
    image: Tensor,
    state: dict[str, Tensor],
    stride: int,
    depth: int = DEPTH,
    move: tuple[int, int] = (0, 0),
) -> Tensor:
    """Tokens (ny, nx, dim) of one image, token by token; positions moved by whole tokens."""
    ny, nx = ((n - PATCH) // stride + 1 for n in image.shape[-2:])
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    tokens = []
    for i in range(ny):
        for j in range(nx):
            part = image[:, i * stride :, j * stride :][:, :PATCH, :PATCH]
            token = naive_norm((part * weight).sum((1, 2, 3)) + bias)
            token = token * state["patch_embed.norm.weight"] + state["patch_embed.norm.bias"]
            y, x = ((i + move[0]) % ny) * SIDE // ny, ((j + move[1]) % nx) * SIDE // nx
            tokens.append(token + state["pos_embed"][0, y * SIDE + x])
    if "cls_token" in state:
        tokens.insert(0, state["cls_token"][0, 0])
    x = torch.stack(tokens)
    for k in range(depth):
        mix = x @ state[f"blocks.{k}.mix.weight"].T + state[f"blocks.{k}.mix.bias"]
        x = x + torch.tanh(mix + x.mean(0))
    x = naive_norm(x)
    if "norm.weight" in state:
        x = x * state["norm.weight"] + state["norm.bias"]
    return x[-ny * nx :].reshape(ny, nx, -1)


# --- the adapter


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("name", [PLAIN, RELATIVE])
@pytest.mark.parametrize("stride", [8, 5, 3])
def test_tokens_of_every_stride_equal_the_naive_ones(name, stride):
    state = random_state(name)
    backbone = timm_backbone.load(name, state)
    assert (backbone.patch, backbone.dim, backbone.depth) == (PATCH, DIM, DEPTH)
    images = images_of(41, 30)
    found = backbone(images, stride)
    for one, image in zip(found, images, strict=True):
        expected = naive_tokens(image, state, stride)
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)
    # The stride of one pass is none of the next.
    assert backbone(images).shape == (2, 5, 3, DIM)


@pytest.mark.usefixtures("fake")
def test_only_as_many_blocks_as_asked_for_are_gone_through():
    state = random_state(PLAIN)
    backbone = timm_backbone.load(PLAIN, state)
    image = images_of(24, 24, 1)
    for blocks in (1, 3, None):
        seen = []
        found = backbone(image, on_block=lambda: seen.append(1), blocks=blocks)  # noqa: B023
        assert len(seen) == (blocks or DEPTH)
        expected = naive_tokens(image[0], state, PATCH, blocks or DEPTH)
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("fake")
def test_a_pass_that_is_ended_leaves_nothing_behind():
    backbone = timm_backbone.load(PLAIN, random_state(PLAIN))

    def end() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backbone(images_of(24, 24), on_block=end)
    assert backbone(images_of(24, 24)).isfinite().all()


@pytest.mark.usefixtures("fake")
def test_moved_positions_equal_the_naive_ones():
    state = random_state(PLAIN)
    backbone = timm_backbone.load(PLAIN, state)
    assert backbone.moves_positions
    moves, images = [(0.0, 0.0), (0.5, 0.5), (0.25, 0.75)], images_of(35, 29, 3)
    found = backbone(images, 3, moves=moves)
    for one, image, (y, x) in zip(found, images, moves, strict=True):
        expected = naive_tokens(image, state, 3, move=(int(y * 10), int(x * 8)))
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, backbone(images, 3), atol=0.1)


@pytest.mark.usefixtures("fake")
def test_relative_positions_are_never_moved():
    backbone = timm_backbone.load(RELATIVE, random_state(RELATIVE))
    assert not backbone.moves_positions
    images = images_of(24, 24)
    assert backbone(images, moves=[(0.0, 0.0)] * 2).shape == (2, 3, 3, DIM)
    with pytest.raises(ValueError, match="relative positions"):
        backbone(images, moves=[(0.0, 0.0), (0.5, 0.5)])


@pytest.mark.usefixtures("fake")
def test_what_is_a_backbone():
    backbone = timm_backbone.load(PLAIN, random_state(PLAIN))
    typed: list[Backbone] = [backbone, VisionTransformer.from_state_dict(states.random_state())]
    assert [isinstance(one, FacetBackbone) for one in typed] == [False, True]
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())


# --- through extraction


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("name", "move"), [(PLAIN, (2, 1)), (RELATIVE, (0, 0))])
def test_extraction_gives_the_naive_tokens(files, rng, name, move):
    image = rng.random((32, 24, 3))
    extractor = FeatureExtractor(
        model=f"timm:{name}",
        weights=files[name],
        device="cpu",
        precision="float32",
        passes=2,
        zooms=(1.0,),
        depth=0.5,
        filters=False,
        boundary="periodic",
        percentiles=(0, 100),
    )
    settings = extractor.settings
    assert (settings.model, settings.patch, settings.stride) == (f"timm:{name}", PATCH, PATCH)
    assert settings.move_positions == (name == PLAIN)
    tokens = extractor.extract(image)
    low, high = image.min(), image.max()
    mean, std = (0.5, 0.25) if name == PLAIN else (0.4, 0.2)
    seen = (torch.from_numpy((image - low) / (high - low)).float().permute(2, 0, 1) - mean) / std
    state = random_state(name)
    expected = naive_tokens(seen, state, PATCH, 2)
    torch.testing.assert_close(tokens.data[0], expected, rtol=1e-3, atol=1e-3)
    shift = [int(v) for v in settings.transforms()[1].shift]
    y, x = settings.position_moves()[1]
    moved = (int(y * 4), int(x * 3))
    assert (shift, moved) == ([4, 4], move)
    expected = naive_tokens(torch.roll(seen, shift, (1, 2)), state, PATCH, 2, moved)
    torch.testing.assert_close(tokens.data[1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("fake")
def test_facets_are_a_clear_error(files, rng):
    extractor = FeatureExtractor(model=f"timm:{PLAIN}", weights=files[PLAIN], device="cpu")
    with pytest.raises(HRDv2Error, match="timm:NAME cannot be had") as caught:
        extractor.facets(rng.random((16, 16)), "attention")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("fake")
def test_saved_settings_find_their_weights_again(files):
    settings = FeatureExtractor(model=f"timm:{PLAIN}", weights=files[PLAIN]).settings
    assert FeatureExtractor(settings, weights=files[PLAIN]).settings == settings


@pytest.mark.usefixtures("fake")
def test_stride_beyond_the_patch_is_an_error(files):
    with pytest.raises(HRDv2Error, match="must not exceed the patch size, 8 px"):
        FeatureExtractor(model=f"timm:{PLAIN}", weights=files[PLAIN], stride=9)


# --- where weights come from


def test_hub_is_trusted_at_its_first_file_and_held_to_it(install, tmp_path, empty_cache):
    hub = tmp_path / "hub"
    hub.mkdir()
    install(hub)
    path = hub / "model.safetensors"
    save_file(random_state(PLAIN), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.warns(TrustedWeightsWarning, match=digest):
        found = find(f"timm:{PLAIN}")
    assert (found.name, found.path) == (f"timm:{PLAIN}", path)
    assert found.sha256 != digest
    assert find(f"timm:{PLAIN}", download=False) == found
    assert find(f"timm:{PLAIN}", path) == found
    assert load_backbone(found).normalisation == ((0.5,) * 3, (0.25,) * 3)
    save_file(random_state(PLAIN, seed=1), path)
    with pytest.raises(HashMismatchError, match=f"remove .*timm-{PLAIN}.sha256") as caught:
        find(f"timm:{PLAIN}")
    assert "\n" not in str(caught.value)
    next(cache_folder().iterdir()).unlink()
    with pytest.warns(TrustedWeightsWarning):
        assert find(f"timm:{PLAIN}").sha256 != found.sha256


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("download", [True, False])
def test_hub_out_of_reach(download):
    with pytest.raises(DownloadError, match=r"downloaded from|weights fetch") as caught:
        find(f"timm:{PLAIN}", download=download)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("fake")
def test_model_without_weights_in_the_hub():
    with pytest.raises(WeightsError, match=r"has no weights of timm:sam.*--weights FILE"):
        find(f"timm:{RELATIVE}")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("name", ["dinov9", "vit_fake_patch8.wrong"])
def test_model_that_timm_does_not_know(name, files):
    for weights in (None, files[PLAIN]):
        with pytest.raises(WeightsError, match=rf"timm 1\.0\.fake has no model '{name}'"):
            find(f"timm:{name}", weights)


@pytest.mark.usefixtures("fake")
def test_file_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match="no weights file"):
        find(f"timm:{PLAIN}", tmp_path / "missing.safetensors")


def test_without_timm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match=r"pip install 'napari-hrdv2\[timm\]'") as caught:
        find(f"timm:{PLAIN}")
    assert "\n" not in str(caught.value)


def test_torchvision_of_another_torch_is_told(monkeypatch, tmp_path):
    text = "raise RuntimeError('operator torchvision::nms\\n does not exist')"
    (tmp_path / "timm.py").write_text(text)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match=r"nms does not exist\).*for this torch"):
        find(f"timm:{PLAIN}")


# --- checkpoints


@pytest.mark.usefixtures("fake")
def test_official_names_are_converted_by_the_models_own_family():
    state = random_state(PLAIN)
    official = {"model": {f"official.{name}": value for name, value in state.items()}}
    images = images_of(24, 24)
    found = timm_backbone.load(PLAIN, official)(images)
    torch.testing.assert_close(found, timm_backbone.load(PLAIN, state)(images))


@pytest.mark.usefixtures("fake")
def test_heads_may_be_there_or_missing():
    state = random_state(RELATIVE)
    without = {k: v for k, v in state.items() if not k.startswith("neck")}
    more = state | {"head.weight": torch.zeros(5, DIM)}
    images = images_of(24, 24)
    first, second = (timm_backbone.load(RELATIVE, one)(images) for one in (without, more))
    torch.testing.assert_close(first, second)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    "change",
    [
        {"blocks.1.mix.bias": None},
        {"pos_embed": torch.zeros(1, 9, DIM)},
        {"pos_embed": "no tensor"},
    ],
)
def test_checkpoint_of_something_else(change):
    state: dict[str, Any] = random_state(PLAIN) | change
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(ArchitectureError, match=f"none of timm:{PLAIN}") as caught:
        timm_backbone.load(PLAIN, state)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("fake")
def test_model_without_a_token_grid():
    state = nn.Sequential(nn.Conv2d(3, 4, 3)).state_dict()
    with pytest.raises(ArchitectureError, match="timm:convnet gives no grid of tokens"):
        timm_backbone.load("convnet", state)


# --- timm itself


@pytest.fixture(scope="module")
def timm() -> Any:
    try:
        return importlib.import_module("timm")
    except Exception as error:
        pytest.skip(f"needs timm and a torchvision of the same torch ({type(error).__name__})")


def tiny(timm: Any, name: str, **options: Any) -> nn.Module:
    """A model of timm's in small, all its parameters random."""
    model = timm.create_model(name, num_classes=0, embed_dim=64, depth=4, num_heads=2, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.eval()


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "vit_small_patch16_dinov3"])
@torch.no_grad()
def test_tokens_of_timm_are_its_own(timm, name):
    model = tiny(timm, name, dynamic_img_size=True)
    images = images_of(64, 96)
    own = model.forward_features(images)[:, model.num_prefix_tokens :].reshape(2, 4, 6, 64)
    backbone = TimmBackbone(model, IMAGENET, name)
    torch.testing.assert_close(backbone(images), own, rtol=1e-4, atol=1e-4)
    assert backbone.moves_positions == (name == "vit_small_patch16_224")
    assert backbone(images, 8).shape == (2, 7, 11, 64)
    # Before they attend to each other, every second token of half the stride is one of the whole.
    embed = backbone.model.patch_embed
    dense = embed(images)
    embed.stride = 16
    torch.testing.assert_close(dense[:, ::2, ::2], embed(images), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_sam_of_timm_before_its_neck(timm):
    model = tiny(timm, "samvit_base_patch16", img_size=96, neck_chans=8, global_attn_indexes=[1])
    images = images_of(64, 96)
    (own,) = model.forward_intermediates(images, indices=[3], intermediates_only=True)
    backbone = TimmBackbone(model, IMAGENET, "sam")
    expected = naive_norm(own.permute(0, 2, 3, 1))
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
    assert not backbone.moves_positions
    assert backbone(images, 5).shape == (2, 10, 17, 64)


@torch.no_grad()
def test_timm_and_our_own_transformer_agree_on_a_vit(timm):
    model = tiny(timm, "vit_small_patch16_224", dynamic_img_size=True, img_size=64)
    ours = VisionTransformer.from_state_dict(model.state_dict(), 2, 0.0, HALVES)
    backbone = TimmBackbone(model, HALVES, "vit")
    images = images_of(64, 64)
    for options in ({}, {"blocks": 2}, {"moves": [(0.5, 0.25), (0.0, 0.75)]}):
        found, expected = backbone(images, **options), ours(images, **options)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_angles_of_rotary_embeddings_stay_exact_in_half_precision(timm):
    model = tiny(timm, "vit_small_patch16_dinov3", dynamic_img_size=True)
    backbone = TimmBackbone(model, IMAGENET, "dinov3")
    exact = backbone(images_of(64, 96))
    halved = backbone.to("cpu", torch.float16)
    assert {b.dtype for b in halved.model.rope.buffers()} <= {torch.float32}
    found = halved(images_of(64, 96).half()).float()
    assert np.quantile((found - exact).abs(), 0.99) < 0.05


@pytest.mark.parametrize(
    "name", ["resnet18", "swin_tiny_patch4_window7_224", "beit_base_patch16_224"]
)
def test_other_families_of_timm_are_refused(timm, name):
    model = timm_backbone._create(name)
    with pytest.raises(ArchitectureError, match="gives no grid of tokens"):
        TimmBackbone(model, IMAGENET, name)


@pytest.mark.parametrize(
    ("name", "normalisation"),
    [
        ("samvit_base_patch16.sa1b", IMAGENET),
        ("vit_small_patch16_dinov3.lvd1689m", IMAGENET),
        ("vit_small_patch16_224.augreg_in21k", HALVES),
    ],
)
@pytest.mark.usefixtures("timm")
def test_normalisation_that_timm_tells(name, normalisation):
    assert timm_backbone.normalisation_of(name) == normalisation
    for wrong in ("dinov9", f"{name}x"):
        with pytest.raises(WeightsError, match="has no model"):
            timm_backbone.normalisation_of(wrong)
