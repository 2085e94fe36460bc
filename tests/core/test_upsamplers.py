"""Upsamplers against slow loops, and against cases whose answer is known."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from scipy.special import erf

from napari_hrdv2.core.errors import ArchitectureError, HRDv2Error, ImageError, WeightsError
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.normalise import stretch
from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.tokens import Tokens
from napari_hrdv2.core.transforms import AxisLattice, Joined, Lattice
from napari_hrdv2.core.upsample import dense_map
from napari_hrdv2.core.upsamplers import (
    UPSAMPLERS,
    FeatUp,
    InterpolatedPasses,
    JBUStack,
    JointBilateral,
    Program,
    Upsampler,
    make_upsampler,
)
from napari_hrdv2.core.upsamplers.base import guide_of
from napari_hrdv2.core.upsamplers.blocks import blocks

PATCH, CHANNELS = 4, 5
SETTINGS = Settings(
    model="none", weights_sha256="0" * 64, patch=PATCH, stride=PATCH, passes=1, filters=False
)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def tokens_of(vectors: np.ndarray, shape: tuple[int, int], settings: Settings = SETTINGS) -> Tokens:
    """Tokens (ny, nx, C) of one pass whose patches tile an image."""
    y, x = (Lattice(PATCH / 2, PATCH, n) for n in vectors.shape[:2])
    return Tokens(torch.from_numpy(vectors).float()[None], ((y, x),), shape, settings)


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    """Colours, of a size that is no multiple of the patch."""
    return rng.uniform(0, 1, (14, 19, 3))


@pytest.fixture
def tokens(rng: np.random.Generator) -> Tokens:
    return tokens_of(rng.normal(size=(4, 5, CHANNELS)), (14, 19))


def every_pixel(shape: tuple[int, int]) -> np.ndarray:
    return np.argwhere(np.ones(shape, bool))


def dense(upsampler: Upsampler, image: np.ndarray, tokens: Tokens) -> np.ndarray:
    """All features of all pixels, by way of rows."""
    features = upsampler.upsample(image, tokens)
    found = features.rows(every_pixel(features.shape))
    assert found.dtype == np.float32
    return found.reshape(*features.shape, -1)


# The operator's own.


def test_nearest_gives_every_pixel_the_token_of_its_patch(tokens, image):
    nearest = make_upsampler("nearest")
    kept = replace(tokens, settings=nearest.settings(SETTINGS))
    vectors = tokens.data[0].numpy()
    expected = vectors.repeat(PATCH, 0).repeat(PATCH, 1)[:14, :19]
    np.testing.assert_allclose(dense(nearest, image, kept), expected, rtol=1e-6)


def test_bilinear_is_the_dense_map(tokens, image):
    found = dense(make_upsampler("bilinear"), image, tokens)
    np.testing.assert_allclose(found, dense_map(tokens), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "passes", "stride", "kernel"),
    [
        ("nearest", 1, 14, "nearest"),
        ("bilinear", 1, 14, "bilinear"),
        ("strided", 1, 7, "bilinear"),
        ("strided:5", 1, 5, "bilinear"),
        ("shifts", 4, 14, "bilinear"),
        ("shifts:9", 9, 14, "bilinear"),
        ("guided", 1, 14, "bilinear"),
    ],
)
def test_tokens_that_are_wanted(text, passes, stride, kernel):
    base = SETTINGS.model_copy(update={"patch": 14, "stride": 3, "passes": 7, "scale": 2.0})
    upsampler = make_upsampler(text)
    found = upsampler.settings(base)
    assert (found.passes, found.stride, found.kernel, found.scale) == (passes, stride, kernel, 1)
    assert upsampler.name == text


def test_shifts_are_the_mean_of_their_passes(
    make_extractor: Callable[..., FeatureExtractor], rng: np.random.Generator
):
    shifts = make_upsampler("shifts:3")
    extractor = make_extractor(**shifts.settings(make_extractor().settings).model_dump())
    image = rng.uniform(size=(40, 50))
    found = extractor.extract(image)
    alone = [
        dense_map(replace(found, data=found.data[k : k + 1], lattices=found.lattices[k : k + 1]))
        for k in range(3)
    ]
    np.testing.assert_allclose(dense(shifts, image, found), np.mean(alone, 0), atol=1e-4)


# Joint bilateral.


def slow_guided(image: np.ndarray, vectors: np.ndarray, how: JointBilateral) -> np.ndarray:
    """The formula of the module, pixel by pixel."""
    h, w = image.shape[:2]
    ny, nx, channels = vectors.shape
    larger = [(0, ny * PATCH - h), (0, nx * PATCH - w), (0, 0)]
    seen = np.pad(image, larger, mode="reflect")
    around = seen.reshape(ny, PATCH, nx, PATCH, -1).mean((1, 3))
    found = np.zeros((h, w, channels))
    for y in range(h):
        for x in range(w):
            own = (y // PATCH, x // PATCH)
            total = 0.0
            for i in range(max(0, own[0] - how.reach), min(ny, own[0] + how.reach + 1)):
                for j in range(max(0, own[1] - how.reach), min(nx, own[1] + how.reach + 1)):
                    away = np.array([y + 0.5, x + 0.5]) / PATCH - (i + 0.5, j + 0.5)
                    unlike = image[y, x] - around[i, j]
                    weight = np.exp(-(away @ away) / (2 * how.sigma_spatial**2))
                    weight *= np.exp(-(unlike @ unlike) / (2 * how.sigma_range**2))
                    found[y, x] += weight * vectors[i, j]
                    total += weight
            found[y, x] /= total
    return found


@pytest.mark.parametrize(
    "how", [JointBilateral(), JointBilateral(1.5, 0.4, 1), JointBilateral(0.4, 2.0, 3)]
)
@pytest.mark.parametrize("colours", [True, False])
def test_guided_equals_the_slow_formula(tokens, image, how, colours):
    seen = image if colours else image[..., 0]
    expected = slow_guided(stretch(seen).astype(float), tokens.data[0].numpy(), how)
    np.testing.assert_allclose(dense(how, seen, tokens), expected, atol=1e-5)


def test_a_constant_guide_leaves_a_plain_gaussian(tokens):
    how = JointBilateral(0.8, 0.1, 4)
    along = []
    for n, count in ((14, 4), (19, 5)):
        away = (np.arange(n)[:, None] + 0.5) / PATCH - np.arange(count) - 0.5
        weight = np.exp(-(away**2) / (2 * 0.8**2))
        along.append(weight / weight.sum(1, keepdims=True))
    expected = np.einsum("yi,xj,ijc->yxc", *along, tokens.data[0].numpy())
    found = dense(how, np.full((14, 19), 7), tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_edge_of_the_guide_is_kept_where_it_is():
    # The edge at 18 px is inside the fifth patch, whose token is of both sides.
    image = np.zeros((16, 40))
    image[:, 18:] = 1
    vectors = np.zeros((4, 10, 1))
    vectors[:, 4], vectors[:, 5:] = 0.5, 1
    tokens = tokens_of(vectors, (16, 40))
    guided = dense(make_upsampler("guided"), image, tokens)[..., 0]
    np.testing.assert_allclose(guided, image, atol=1e-3)
    assert np.abs(dense(make_upsampler("bilinear"), image, tokens)[..., 0] - image).max() > 0.3


def test_a_pixel_like_none_of_its_tokens_has_a_value():
    image = np.zeros((16, 16))
    image[7, 7] = 1
    image[0, :3] = 1  # so that the last percentile is white
    found = dense(JointBilateral(sigma_range=1e-3), image, tokens_of(np.ones((4, 4, 2)), (16, 16)))
    np.testing.assert_allclose(found, 1, atol=1e-6)


def test_every_window_is_guided_by_itself(rng):
    image, vectors = rng.uniform(size=(16, 40)), rng.normal(size=(4, 11, 2))
    # Two windows that meet at 18 px, the second shifted by 3 px: tokens 0 to 5 and 6 to 10.
    parts = (Lattice(2, 4, 6), Lattice(19, 4, 5))
    y = Lattice(2, 4, 4)

    def made(part: slice, x: AxisLattice) -> np.ndarray:
        data = torch.from_numpy(vectors[:, part]).float()[None]
        return dense(make_upsampler("guided"), image, Tokens(data, ((y, x),), (16, 40), SETTINGS))

    found = made(slice(None), Joined(parts, (18, 40)))
    np.testing.assert_allclose(found[:, :18], made(slice(6), parts[0])[:, :18], atol=1e-5)
    np.testing.assert_allclose(found[:, 18:], made(slice(6, None), parts[1])[:, 18:], atol=1e-5)


@pytest.mark.parametrize("bad", [(0, 0.1, 2), (1, 0, 2), (1, 0.1, 0), (float("nan"), 1, 1)])
def test_deviations_out_of_range_are_refused(bad):
    with pytest.raises(HRDv2Error, match="deviations above 0 and a reach from 1"):
        JointBilateral(*bad)


def test_a_guide_wants_one_pass_that_tiles_its_image(tokens, image):
    two = replace(tokens, data=tokens.data.repeat(2, 1, 1, 1), lattices=tokens.lattices * 2)
    strided = replace(tokens, settings=SETTINGS.model_copy(update={"stride": 2}))
    for wrong in (two, strided):
        with pytest.raises(HRDv2Error, match="one pass, with the patch size as the stride"):
            make_upsampler("guided").upsample(image, wrong)
    with pytest.raises(ImageError, match=r"\(13, 19\)"):
        make_upsampler("guided").upsample(image[1:], tokens)


# Blocks.


@pytest.mark.parametrize("size", [None, (2, 3), (4, 5), (1, 1)])
@pytest.mark.parametrize("windows", [False, True])
def test_blocks_answer_for_every_pixel_once(rng, size, windows):
    image = rng.uniform(size=(14, 19, 3))
    x: AxisLattice = Lattice(2, 4, 5)
    if windows:
        x = Joined((Lattice(2, 4, 3), Lattice(9, 4, 3)), (10, 19))
    vectors = np.empty((1, 4, x.size, 2))
    vectors[0] = np.stack(np.mgrid[:4, : x.size], -1)
    tokens = Tokens(torch.from_numpy(vectors).float(), ((Lattice(2, 4, 4), x),), (14, 19), SETTINGS)
    if windows and size == (4, 5):
        size = (4, 3)
    seen = np.zeros((14, 19), int)
    expected = (stretch(image) - MEAN) / STD
    for block in blocks(guide_of(image, tokens), tokens, size):
        seen[block.pixels] += 1
        inner = np.s_[0, :, *block.inner]
        shown = block.image[inner].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(shown, expected[block.pixels], atol=1e-5)
        # The second window's patches begin at 7 px, with the fourth token.
        rows, columns = (np.arange(one.start, one.stop) for one in block.pixels)
        second = windows and columns[0] >= 10
        columns = 3 + (columns - 7) // PATCH if second else columns // PATCH
        own = block.tokens.numpy().repeat(PATCH, 2).repeat(PATCH, 3)[inner]
        np.testing.assert_array_equal(own[0], np.broadcast_to(rows[:, None] // PATCH, own[0].shape))
        np.testing.assert_array_equal(own[1], np.broadcast_to(columns, own[1].shape))
        if size is not None:
            assert block.tokens.shape[2:] == size
        assert block.image.shape[2:] == tuple(PATCH * n for n in block.tokens.shape[2:])
    assert (seen == 1).all()


# FeatUp.


def stack_state(channels: int = CHANNELS, seed: int = 0) -> dict[str, torch.Tensor]:
    """Parameters of a stack, large enough that everything in it counts."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: 0.4 * torch.randn(one.shape, generator=generator)
        for name, one in JBUStack(channels).state_dict().items()
    }
    for level in range(1, 5):
        state[f"up{level}.sigma_spatial"] = torch.tensor(0.4 + 0.2 * level)
        state[f"up{level}.range_temp"] = torch.tensor(0.3 * level - 1)
    return state


def checkpoint(path: Path, state: dict[str, torch.Tensor], norm: bool = True) -> Path:
    """A checkpoint as FeatUp's training writes it."""
    whole: dict[str, Any] = {f"upsampler.{k}": v for k, v in state.items()}
    whole["model.0.model.blocks.0.attn.qkv.weight"] = torch.zeros(3, 3)
    whole["downsampler.attention_net.1.weight"] = torch.zeros(1, 3)
    whole["scale_net.net.weight"] = torch.zeros(1, 3, 1, 1)
    if norm:
        whole["model.1.norm.weight"] = torch.linspace(0.5, 1.5, CHANNELS)
        whole["model.1.norm.bias"] = torch.linspace(-1, 1, CHANNELS)
    torch.save({"epoch": 0, "global_step": 7, "state_dict": whole, "callbacks": {}}, path)
    return path


def convolved(state: dict[str, np.ndarray], name: str, vector: np.ndarray) -> np.ndarray:
    """Two layers of one pixel with GELU between."""
    hidden = state[f"{name}.0.weight"][:, :, 0, 0] @ vector + state[f"{name}.0.bias"]
    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    return state[f"{name}.3.weight"][:, :, 0, 0] @ hidden + state[f"{name}.3.bias"]


def slow_level(state: dict[str, np.ndarray], source: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """One level (C, h, w) -> (C, 2 h, 2 w) of the formula, pixel by pixel."""
    _, h, w = guide.shape
    large = F.interpolate(torch.from_numpy(source)[None], (h, w), mode="bicubic")[0].numpy()
    large = np.pad(large, [(0, 0), (3, 3), (3, 3)], mode="reflect")
    keys = np.array(
        [[convolved(state, "range_proj", guide[:, y, x]) for x in range(w)] for y in range(h)]
    )
    padded = np.pad(keys, [(3, 3), (3, 3), (0, 0)], mode="reflect")
    offsets = np.stack(np.mgrid[-3:4, -3:4], -1) / 3
    near = np.exp(-(offsets**2).sum(-1) / (2 * state["sigma_spatial"] ** 2))
    found = np.zeros((len(source), h, w))
    for y in range(h):
        for x in range(w):
            alike = np.exp(np.exp(state["range_temp"]) * padded[y : y + 7, x : x + 7] @ keys[y, x])
            kernel = alike / alike.sum() * near
            kernel = (kernel / kernel.sum()).ravel()
            seen = np.concatenate([kernel, guide[:, y, x]])
            kernel = kernel + 0.1 * convolved(state, "fixup_proj", seen)
            window = large[:, y : y + 7, x : x + 7].reshape(len(source), -1)
            found[:, y, x] = window @ kernel
    return found


def slow_featup(
    state: dict[str, torch.Tensor], vectors: np.ndarray, image: np.ndarray, norm: bool
) -> np.ndarray:
    """Features (h, w, C) of the whole stack."""
    numbers = {k: v.double().numpy() for k, v in state.items()}
    ny, nx, channels = vectors.shape
    h, w = image.shape[:2]
    larger = [(0, ny * PATCH - h), (0, nx * PATCH - w), (0, 0)]
    guide = ((np.pad(image, larger, mode="reflect") - MEAN) / STD).transpose(2, 0, 1)
    if norm:
        centred = vectors - vectors.mean(-1, keepdims=True)
        vectors = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        vectors = vectors * np.linspace(0.5, 1.5, channels) + np.linspace(-1, 1, channels)
    maps = vectors.transpose(2, 0, 1)
    for level in range(1, 5):
        own = {
            k.removeprefix(f"up{level}."): v
            for k, v in numbers.items()
            if k.startswith(f"up{level}.")
        }
        size = (2 * maps.shape[1], 2 * maps.shape[2])
        small = F.adaptive_avg_pool2d(torch.from_numpy(guide), size).numpy()
        maps = slow_level(own, maps, small)
    mixing = numbers["fixup_proj.1.weight"][:, :, 0, 0]
    mixed = np.einsum("kc,chw->khw", mixing, maps)
    maps = maps + 0.1 * (mixed + numbers["fixup_proj.1.bias"][:, None, None])
    full = F.interpolate(torch.from_numpy(maps)[None], guide.shape[1:], mode="bilinear")[0]
    return full.permute(1, 2, 0).numpy()[:h, :w]


@pytest.mark.parametrize("norm", [True, False])
def test_featup_equals_the_slow_formula(tmp_path, rng, norm):
    state = stack_state()
    upsampler = make_upsampler(f"featup:{checkpoint(tmp_path / 'cocostuff.ckpt', state, norm)}")
    assert upsampler.name == "cocostuff"
    image, vectors = rng.uniform(size=(7, 11, 3)), rng.normal(size=(2, 3, CHANNELS))
    found = dense(upsampler, image, tokens_of(vectors, (7, 11)))
    expected = slow_featup(state, vectors, stretch(image).astype(float), norm)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_a_stack_without_its_prefix_is_found(tmp_path, tokens, image):
    state = stack_state()
    torch.save(state, tmp_path / "bare.pth")
    bare = dense(FeatUp.load(tmp_path / "bare.pth"), image, tokens)
    path = checkpoint(tmp_path / "whole.ckpt", state, norm=False)
    np.testing.assert_array_equal(bare, dense(FeatUp.load(path), image, tokens))


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def test_a_checkpoint_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": stack_state(), "more": _Evil()}, "evil.ckpt")
    with pytest.raises(WeightsError, match=r"evil\.ckpt cannot be read as a checkpoint"):
        make_upsampler("featup:evil.ckpt")
    assert not Path("executed").exists()


def test_broken_checkpoints_are_told(tmp_path):
    def told(state: object, match: str) -> None:
        torch.save(state, tmp_path / "a.ckpt")
        with pytest.raises(ArchitectureError, match=match):
            FeatUp.load(tmp_path / "a.ckpt")

    state = stack_state()
    told({}, "holds no JBU stack of FeatUp: it has 0 parameters")
    told([1], "holds no dictionary")
    told(state | {f"more.{k}": v for k, v in state.items()}, "it has 2 parameters")
    told({k: v for k, v in state.items() if k != "up3.fixup_proj.3.bias"}, "up3.fixup_proj.3.bias")
    told(state | {"up2.range_proj.0.weight": torch.zeros(32, 4, 1, 1)}, "as it should be")
    told({k: v for k, v in state.items() if "up4" not in k}, "as it should be")
    told(
        {f"upsampler.{k}": v for k, v in state.items()}
        | {"model.1.norm.weight": torch.ones(3), "model.1.norm.bias": torch.ones(3)},
        "other channels than the 5",
    )
    told(
        {f"upsampler.{k}": v for k, v in state.items()}
        | {"model.1.norm.weight": torch.ones(CHANNELS)},
        "other channels",
    )
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(3)[:2])
    with pytest.raises(WeightsError, match="cannot be read"):
        FeatUp.load(tmp_path / "b.ckpt")
    with pytest.raises(WeightsError, match="there is no checkpoint"):
        FeatUp.load(tmp_path / "c.ckpt")


def test_featup_refuses_tokens_of_other_channels_and_tiny_images(tmp_path, image, rng):
    upsampler = FeatUp.load(checkpoint(tmp_path / "a.ckpt", stack_state()))
    with pytest.raises(HRDv2Error, match="for tokens of 5 channels, the backbone's have 6"):
        upsampler.upsample(image, tokens_of(rng.normal(size=(4, 5, 6)), (14, 19)))
    with pytest.raises(ImageError, match="at least two patches"):
        upsampler.upsample(image[:4], tokens_of(rng.normal(size=(1, 5, CHANNELS)), (4, 19)))


# Programs.


def program(path: Path, features: str = "1,C,h,w", body: str = "", gives: str = "C") -> Path:
    """A program that gives every pixel its token's magnitude, plus the image's mean colour."""
    body = body or (
        'up = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", '
        'nearest_mode="floor">(features, , scales) '
        "size = Abs(up) grey = ReduceMean<axes=[1]>(image) out = Add(size, grey)"
    )
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]>'
            f"upsampler (float[1,3,H,W] image, float[{features}] features) "
            f"=> (float[1,{gives},Y,X] out) "
            f"<float[4] scales = {{1, 1, {PATCH}, {PATCH}}}> {{ {body} }}"
        ),
        path,
    )
    return path


@pytest.mark.parametrize("features", ["1,C,h,w", "1,5,4,5", "1,C,3,2", "1,5,1,1"])
def test_a_program_sees_image_and_tokens(tmp_path, tokens, image, features):
    upsampler = make_upsampler(f"onnx:{program(tmp_path / 'my.onnx', features)}")
    assert upsampler.name == "my"
    magnitudes = np.abs(tokens.data[0].numpy()).repeat(PATCH, 0).repeat(PATCH, 1)[:14, :19]
    grey = ((stretch(image) - MEAN) / STD).mean(-1, keepdims=True)
    found = dense(upsampler, image, tokens)
    np.testing.assert_allclose(found, magnitudes + grey, atol=1e-5)


def test_maps_of_another_size_are_resized(tmp_path, tokens, image):
    path = program(tmp_path / "my.onnx", body="out = Abs(features)")
    small = tokens.data[0].abs().permute(2, 0, 1)[None]
    expected = F.interpolate(small, (16, 20), mode="bilinear")[0].permute(1, 2, 0)[:14, :19]
    np.testing.assert_allclose(dense(Program(path), image, tokens), expected, atol=1e-5)


def test_a_program_goes_to_another_process(tmp_path, tokens, image):
    here = Program(program(tmp_path / "my.onnx"))
    there = pickle.loads(pickle.dumps(here))  # noqa: S301, what processes do
    np.testing.assert_array_equal(dense(here, image, tokens), dense(there, image, tokens))


def test_programs_that_do_not_fit_are_told(tmp_path, tokens, image):
    with pytest.raises(WeightsError, match="there is no file"):
        Program(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no program")
    with pytest.raises(WeightsError, match=r"bad\.onnx cannot be read as an ONNX file"):
        Program(tmp_path / "bad.onnx")
    model = onnx.load(program(tmp_path / "a.onnx"))
    model.graph.input[0].name = model.graph.node[2].input[0] = "picture"
    onnx.save(model, tmp_path / "names.onnx")
    with pytest.raises(WeightsError, match="takes the inputs picture"):
        Program(tmp_path / "names.onnx")
    other = Program(program(tmp_path / "b.onnx", "1,6,h,w"))
    with pytest.raises(HRDv2Error, match="for tokens of 6 channels, the backbone's have 5"):
        other.upsample(image, tokens)
    large = Program(program(tmp_path / "c.onnx", "1,C,8,8"))
    with pytest.raises(ImageError, match="for 8 tokens along an axis, the image has 4"):
        large.upsample(image, tokens).rows(np.zeros((1, 2), int))
    for body, gives, match in (
        ("out = Add(image, features)", "C", "failed"),
        ("out = Concat<axis=1>(features, features)", "D", "gives 10 channels of 5"),
        ("out = ReduceSum<keepdims=0>(features)", "C", "features .1, C, H, W. are needed"),
    ):
        wrong = Program(program(tmp_path / "d.onnx", body=body, gives=gives))
        with pytest.raises(HRDv2Error, match=match):
            wrong.upsample(image, tokens).rows(np.zeros((1, 2), int))


def test_without_onnxruntime_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(WeightsError, match="pip install onnxruntime"):
        Program(program(tmp_path / "a.onnx"))


# All of them.


def made(kind: str, folder: Path) -> Upsampler:
    if kind == "featup":
        return FeatUp.load(checkpoint(folder / "a.ckpt", stack_state()))
    if kind == "onnx":
        return Program(program(folder / "a.onnx", "1,C,2,3"))
    return make_upsampler(kind)


@pytest.mark.parametrize("kind", UPSAMPLERS)
def test_projected_and_then_upsampled_is_upsampled_and_then_projected(
    tmp_path, tokens, image, rng, kind
):
    upsampler = made(kind, tmp_path)
    features = upsampler.upsample(image, tokens)
    weight = rng.normal(size=(3, CHANNELS)).astype(np.float32)
    bias = rng.normal(size=3).astype(np.float32)
    whole = dense(upsampler, image, tokens)
    assert features.shape == (14, 19)
    assert features.channels == whole.shape[-1] == CHANNELS
    found = features.maps(weight, bias)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole @ weight.T + bias, atol=2e-4 * np.abs(whole).max())
    plain = features.maps(weight)
    np.testing.assert_allclose(plain + bias, found, atol=2e-4 * np.abs(whole).max())
    some = np.array([(13, 18), (0, 0), (5, 7), (0, 0)])
    np.testing.assert_allclose(features.rows(some), whole[some[:, 0], some[:, 1]], rtol=1e-4)
    assert features.rows(some[:0]).shape == (0, CHANNELS)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("cubic", "there is no upsampler 'cubic': choose of nearest, bilinear"),
        ("", "there is no upsampler ''"),
        ("strided:", "a number from 1, not ''"),
        ("strided:x", "a number from 1, not 'x'"),
        ("shifts:0", "a number from 1, not '0'"),
        ("shifts:²", "a number from 1"),
        ("nearest:3", "nearest takes nothing after a colon"),
        ("featup", "featup wants a file: featup:FILE"),
        ("onnx:", "onnx wants a file"),
    ],
)
def test_names_that_mean_nothing_are_told(text, match):
    with pytest.raises(HRDv2Error, match=match):
        make_upsampler(text)


def test_a_stride_above_the_patch_is_refused():
    with pytest.raises(HRDv2Error, match="must not exceed the patch size"):
        make_upsampler("strided:5").settings(SETTINGS)
    with pytest.raises(HRDv2Error, match="resolved"):
        InterpolatedPasses("bilinear").settings(Settings())
