"""The backbone against one written out in plain functions, for every layout of checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from napari_hrdv2.core.backbone import HALVES, IMAGENET
from napari_hrdv2.core.errors import ArchitectureError
from napari_hrdv2.core.vit import VisionTransformer

from .states import random_state

State = dict[str, Tensor]


def norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    bias = state.get(f"{name}.bias", torch.zeros(1))
    return x @ state[f"{name}.weight"].T + bias


def naive_qkv(x: Tensor, state: State, block: str, heads: int) -> list[Tensor]:
    """Queries, keys and values, each a list over heads (tokens, channels)."""
    q, k, v = linear(norm(x, state, f"{block}norm1"), state, f"{block}attn.qkv").chunk(3, -1)
    return [part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (q, k, v)]


def naive_block(x: Tensor, state: State, block: str, heads: int) -> Tensor:
    q, k, v = naive_qkv(x, state, block, heads)
    attention = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
    mixed = linear((attention @ v).transpose(0, 1).flatten(1), state, f"{block}attn.proj")
    x = x + state.get(f"{block}ls1.gamma", 1) * mixed
    inner = norm(x, state, f"{block}norm2")
    if f"{block}mlp.w12.weight" in state:
        gate, value = linear(inner, state, f"{block}mlp.w12").chunk(2, -1)
        out = linear(gate * gate.sigmoid() * value, state, f"{block}mlp.w3")
    else:
        wide = linear(inner, state, f"{block}mlp.fc1")
        wide = wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
        out = linear(wide, state, f"{block}mlp.fc2")
    return x + state.get(f"{block}ls2.gamma", 1) * out


def official_positions(pos: Tensor, ny: int, nx: int, registers: bool) -> Tensor:
    """Patch positions (ny * nx, dim), as DINOv2's ``interpolate_pos_encoding`` has them."""
    side = int(math.sqrt(pos.shape[0]))
    if ny == nx == side:
        return pos
    grid = pos.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if registers:
        grid = F.interpolate(grid, size=(ny, nx), mode="bicubic", antialias=True)
    else:
        scale = ((ny + 0.1) / side, (nx + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=False)
    assert grid.shape[-2:] == (ny, nx)
    return grid[0].permute(1, 2, 0).flatten(0, 1)


def naive_embedding(image: Tensor, state: State, stride: int) -> tuple[Tensor, int, int]:
    """Tokens before the first block, prefix first, of one image in DINOv2's layout."""
    weight = state["patch_embed.proj.weight"]
    patch = weight.shape[-1]
    ny, nx = ((n - patch) // stride + 1 for n in image.shape[-2:])
    tokens = [
        (image[:, i * stride :, j * stride :][:, :patch, :patch] * weight).sum((1, 2, 3))
        for i in range(ny)
        for j in range(nx)
    ]
    patches = torch.stack(tokens) + state["patch_embed.proj.bias"]
    pos = state["pos_embed"][0]
    registers = state.get("register_tokens", torch.zeros(1, 0, weight.shape[0]))[0]
    patches = patches + official_positions(pos[1:], ny, nx, len(registers) > 0)
    return torch.cat([state["cls_token"][0] + pos[:1], registers, patches]), ny, nx


def naive_vit(image: Tensor, state: State, stride: int, heads: int) -> Tensor:
    """Patch tokens (ny, nx, dim) of one image."""
    x, ny, nx = naive_embedding(image, state, stride)
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    for i in range(depth):
        x = naive_block(x, state, f"blocks.{i}.", heads)
    return norm(x, state, "norm")[-ny * nx :].unflatten(0, (ny, nx))


def image_of(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(3))


def assert_same_tokens(
    model: VisionTransformer, state: State, *, heads: int = 2, strides: tuple[int, ...] = (14,)
) -> None:
    images = image_of(61, 45, 2)
    for stride in strides:
        found = model(images, stride)
        for one, image in zip(found, images, strict=True):
            expected = naive_vit(image, state, stride, heads)
            torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)


# --- layouts of checkpoints


KINDS = {
    "DINO": {"scale": False},
    "DINOv2": {},
    "DINOv2 with registers": {"registers": 4},
    "DINOv2 giant": {"gated": True},
    "DINOv2 giant with registers": {"gated": True, "registers": 4},
    "without bias of q, k, v": {"qkv_bias": False},
    "patches of 8 pixels": {"patch": 8, "scale": False},
    "three blocks of three heads": {"depth": 3, "dim": 192},
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_equal_the_naive_transformer(kind):
    state = random_state(**KINDS[kind])
    model = VisionTransformer.from_state_dict(state)
    patch = state["patch_embed.proj.weight"].shape[-1]
    assert (model.patch, model.dim) == (patch, state["cls_token"].shape[-1])
    assert_same_tokens(model, state, heads=model.dim // 64, strides=(patch, 7, 4))


def test_every_stride_down_to_one_pixel():
    state = random_state(depth=1)
    model = VisionTransformer.from_state_dict(state)
    image = image_of(20, 18)
    for stride in range(1, 15):
        expected = naive_vit(image[0], state, stride, 2)
        assert model(image, stride).shape[1:3] == (6 // stride + 1, 4 // stride + 1)
        torch.testing.assert_close(model(image, stride)[0], expected, rtol=1e-4, atol=1e-4)


def test_norms_of_faint_tokens_equal_the_naive_ones():
    """Where the constant that keeps a norm from dividing by zero counts."""
    state = random_state(depth=1)
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        state[name] = state[name] * 2e-3
    state["blocks.0.ls1.gamma"] *= 1e-3
    state["blocks.0.ls2.gamma"] *= 1e-3
    assert_same_tokens(VisionTransformer.from_state_dict(state), state)


def test_position_embedding_is_taken_as_it_is_on_its_own_grid():
    state = random_state(side=5)
    model = VisionTransformer.from_state_dict(state)
    found, ny, nx = model._embed(image_of(70, 70), 14)
    expected, *_ = naive_embedding(image_of(70, 70)[0], state, 14)
    assert (ny, nx) == (5, 5)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("grid", [(3, 5), (5, 7), (12, 12), (1, 1), (40, 2)])
def test_position_embedding_is_resampled_as_the_official_code_does(registers, grid):
    state = random_state(registers=registers, depth=1)
    model = VisionTransformer.from_state_dict(state)
    image = image_of(14 * grid[0], 14 * grid[1])
    found, *_ = model._embed(image, 14)
    expected, *_ = naive_embedding(image[0], state, 14)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "teacher"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "encoder."])
def test_wrapped_and_prefixed_checkpoints(wrapper, prefix):
    state = random_state()
    inner = {f"{prefix}{name}": value for name, value in state.items()}
    checkpoint = {wrapper: inner, "epoch": 7, "optimizer": {"lr": 1.0}}
    assert_same_tokens(VisionTransformer.from_state_dict(checkpoint), state)


def test_full_dino_training_checkpoint():
    """Student and teacher with projection heads; the teacher is the one to take."""
    teacher, student = random_state(scale=False), random_state(scale=False, seed=9)
    checkpoint = {
        "student": {f"module.backbone.{k}": v for k, v in student.items()},
        "teacher": {f"backbone.{k}": v for k, v in teacher.items()}
        | {"head.mlp.0.weight": torch.zeros(3, 3), "head.last_layer.weight_g": torch.zeros(3)},
        "epoch": 3,
    }
    assert_same_tokens(VisionTransformer.from_state_dict(checkpoint), teacher)


def test_dinov2_training_checkpoint_with_chunked_blocks():
    state = random_state()
    chunked = {k.replace("blocks.", "blocks.0.", 1): v for k, v in state.items()}
    assert_same_tokens(VisionTransformer.from_state_dict({"teacher": chunked}), state)


def test_deit_with_its_distillation_token():
    """The distillation token comes second, with a position of its own, and is no patch."""
    state = random_state(scale=False)
    generator = torch.Generator().manual_seed(5)
    dist, dist_pos = (torch.randn(1, 1, 128, generator=generator) for _ in range(2))
    pos = state["pos_embed"]
    deit = state | {
        "dist_token": dist,
        "pos_embed": torch.cat([pos[:, :1], dist_pos, pos[:, 1:]], 1),
        "head.weight": torch.zeros(10, 128),
        "head_dist.weight": torch.zeros(10, 128),
    }
    model = VisionTransformer.from_state_dict({"model": deit})
    image = image_of(42, 56)
    x, ny, nx = naive_embedding(image[0], state, 14)
    x = torch.cat([x[:1], dist[0] + dist_pos[0], x[1:]])
    for i in range(2):
        x = naive_block(x, state, f"blocks.{i}.", 2)
    expected = norm(x, state, "norm")[2:].reshape(ny, nx, -1)
    torch.testing.assert_close(model(image)[0], expected, rtol=1e-4, atol=1e-4)


def dino_full(state: State) -> dict[str, object]:
    """As DINO's training leaves it: the student beside the teacher, both with projection heads."""
    head = {"head.mlp.0.weight": torch.zeros(3, 3), "head.last_layer.weight_v": torch.zeros(3, 3)}
    return {
        "student": {f"module.backbone.{k}": v + 1 for k, v in state.items()},
        "teacher": {f"backbone.{k}": v for k, v in state.items()}
        | {f"head.{k}": v for k, v in head.items()},
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 99,
        "dino_loss": {"center": torch.zeros(1, 3)},
    }


CHECKPOINTS = {
    "DINO, the backbone alone": (16, lambda s: s),
    "DINO of small patches": (8, lambda s: s),
    "DINO, all of its training": (16, dino_full),
    "DeiT": (16, lambda s: {"model": s | {"head.weight": torch.ones(9, 128)}}),
    "AugReg": (
        16,
        lambda s: (
            s
            | {"head.weight": torch.ones(21, 128), "head.bias": torch.ones(21)}
            | {"fc_norm.weight": torch.ones(128), "fc_norm.bias": torch.ones(128)}
        ),
    ),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_published_checkpoints_in_small(kind, tmp_path):
    """From the file, under the real names of parameters, to the naive transformer's tokens."""
    patch, published = CHECKPOINTS[kind]
    state = random_state(patch=patch, scale=False, side=14)
    del state["mask_token"]
    torch.save(published(state), tmp_path / "published.pth")
    checkpoint = torch.load(tmp_path / "published.pth", weights_only=True)
    model = VisionTransformer.from_state_dict(checkpoint)
    assert (model.patch, model.dim, model.depth) == (patch, 128, 2)
    assert {k for k, _ in model.named_parameters()} == set(state)
    assert_same_tokens(model, state, strides=(patch, 5))


def test_normalisation_is_the_backbones_own():
    state = random_state(depth=1)
    assert VisionTransformer.from_state_dict(state).normalisation == IMAGENET
    other = VisionTransformer.from_state_dict(state, normalisation=HALVES)
    assert other.normalisation == HALVES
    # It tells what images are to be brought to; it does not do it.
    image = image_of(28, 28)
    assert torch.equal(other(image), VisionTransformer.from_state_dict(state)(image))


def timm_registers(state: State, own: str) -> tuple[State, Callable[[Tensor], Tensor]]:
    """timm's layout of a model with registers, and the naive prefix that it means."""
    pos, cls, registers = state["pos_embed"], state["cls_token"], state["register_tokens"]
    timm = {k: v for k, v in state.items() if k not in ("register_tokens", "mask_token")}
    timm["reg_token"] = registers
    prefix = torch.cat([cls, registers], 1)
    if own == "none":
        return timm | {"pos_embed": pos[:, 1:]}, prefix[0]
    generator = torch.Generator().manual_seed(6)
    extra = torch.randn(1, 1 + registers.shape[1], 128, generator=generator)
    return timm | {"pos_embed": torch.cat([extra, pos[:, 1:]], 1)}, (prefix + extra)[0]


@pytest.mark.parametrize("own", ["none", "each"])
def test_timm_with_registers(own):
    """timm's ``reg_token``: the prefix has no positions, or every token of it has its own."""
    state = random_state(registers=4)
    timm, prefix = timm_registers(state, own)
    model = VisionTransformer.from_state_dict(timm)
    image = image_of(42, 56)
    x, ny, nx = naive_embedding(image[0], state, 14)
    x = torch.cat([prefix, x[5:]])
    for i in range(2):
        x = naive_block(x, state, f"blocks.{i}.", 2)
    expected = norm(x, state, "norm")[5:].reshape(ny, nx, -1)
    torch.testing.assert_close(model(image)[0], expected, rtol=1e-4, atol=1e-4)


def test_timm_names_of_the_gated_layer():
    state = random_state(gated=True)
    timm = {k.replace("w12", "fc1").replace("w3", "fc2"): v for k, v in state.items()}
    assert_same_tokens(VisionTransformer.from_state_dict(timm), state)


def test_half_precision_checkpoints_are_widened():
    state = random_state()
    halved = {k: v.half() for k, v in state.items()}
    model = VisionTransformer.from_state_dict(halved)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert_same_tokens(model, {k: v.float() for k, v in halved.items()})


def test_heads_are_the_published_models():
    for dim, heads in ((192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1536, 24)):
        state = random_state(dim=dim, depth=1, patch=4, side=2)
        model = VisionTransformer.from_state_dict(state)
        assert model.blocks[0].attn.heads == heads


def test_heads_may_be_given():
    state = random_state()
    model = VisionTransformer.from_state_dict(state, heads=8)
    assert_same_tokens(model, state, heads=8)


def test_model_is_frozen():
    model = VisionTransformer.from_state_dict(random_state())
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert not model(image_of(28, 28)).requires_grad


# --- moved positions

MOVES = [(0.0, 0.0), (0.5, 0.5), (0.25, 0.0), (0.5, 0.75)]


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("grid", [(4, 6), (5, 5), (3, 7)])
def test_moved_positions_are_the_image_rolled_by_whole_patches(registers, grid):
    model = VisionTransformer.from_state_dict(random_state(registers=registers))
    images = image_of(14 * grid[0], 14 * grid[1], len(MOVES))
    found = model(images, moves=MOVES)
    for one, image, move in zip(found, images, MOVES, strict=True):
        by = [int(share * n) for share, n in zip(move, grid, strict=True)]
        rolled = torch.roll(image, [14 * n for n in by], (1, 2))
        expected = torch.roll(model(rolled[None])[0], [-n for n in by], (0, 1))
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)
    # Did positions not count, all this would say nothing.
    assert not torch.allclose(found, model(images), atol=0.1)


def test_moved_positions_of_overlapping_patches_equal_the_naive_ones(monkeypatch):
    state = random_state()
    model = VisionTransformer.from_state_dict(state)
    image = image_of(33, 47)
    plain = official_positions

    def moved(pos: Tensor, ny: int, nx: int, registers: bool) -> Tensor:
        positions = plain(pos, ny, nx, registers)
        rows = [
            positions[(y + ny // 4) % ny * nx + (x + nx // 2) % nx]
            for y in range(ny)
            for x in range(nx)
        ]
        return torch.stack(rows)

    found = model(image, 4, moves=[(0.25, 0.5)])[0]
    monkeypatch.setitem(globals(), "official_positions", moved)
    torch.testing.assert_close(found, naive_vit(image[0], state, 4, 2), rtol=1e-4, atol=1e-4)


# --- facets


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("block", [0, 1, 2, -1, -3])
def test_facets_equal_those_of_the_naive_block(registers, block):
    state = random_state(registers=registers, depth=3)
    model = VisionTransformer.from_state_dict(state)
    image = image_of(33, 47)
    facets = model.facets(image, block, stride=7)
    x, ny, nx = naive_embedding(image[0], state, 7)
    for i in range(block % 3):
        x = naive_block(x, state, f"blocks.{i}.", 2)
    q, k, v = naive_qkv(x, state, f"blocks.{block % 3}.", 2)
    attention = (q @ k.transpose(1, 2) / 8).softmax(-1)  # heads of 64 channels
    first = 1 + registers
    for found, whole in ((facets.q, q), (facets.k, k), (facets.v, v)):
        expected = whole[:, first:].unflatten(1, (ny, nx))
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
    row = attention[:, 0, first:].unflatten(1, (ny, nx))
    torch.testing.assert_close(facets.cls_attention[0], row, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        facets.cls_attention.sum((-2, -1))[0], 1 - attention[:, 0, :first].sum(-1)
    )


def test_facets_of_a_block_that_is_not_there():
    model = VisionTransformer.from_state_dict(random_state())
    for block in (2, -3):
        with pytest.raises(IndexError):
            model.facets(image_of(28, 28), block)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return out


@pytest.mark.parametrize("what", ["forward", "facets"])
def test_no_matrix_of_all_tokens_by_all_tokens(what):
    model = VisionTransformer.from_state_dict(random_state(dim=64, depth=2))
    image = image_of(14 + 3 * 49, 14 + 3 * 49)
    tokens = 50 * 50
    with Largest() as largest:
        model(image, 3) if what == "forward" else model.facets(image, 1, 3)
    assert largest.numel > tokens * 64  # it does see the tokens
    assert largest.numel < tokens**2 / 5


# --- what is no such transformer


def broken(change: Callable[[State], object]) -> State:
    state = random_state()
    change(state)
    return state


NOT_A_VIT = {
    "empty": {},
    "a convolutional network": {"conv1.weight": torch.zeros(4, 3, 7, 7), "fc.bias": torch.zeros(4)},
    "no class token": broken(lambda s: s.pop("cls_token")),
    "no last norm": broken(lambda s: s.pop("norm.weight")),
    "no positions": broken(lambda s: s.pop("pos_embed")),
    "no blocks": {k: v for k, v in random_state().items() if not k.startswith("blocks.")},
    "a block missing": {k: v for k, v in random_state().items() if not k.startswith("blocks.0.")},
    "a layer of another width": broken(
        lambda s: s.update({"blocks.1.attn.qkv.weight": torch.zeros(300, 128)})
    ),
    "unknown parameters": broken(
        lambda s: s.update({"blocks.0.attn.q_norm.weight": torch.ones(4)})
    ),
    "oblong patches": broken(
        lambda s: s.update({"patch_embed.proj.weight": torch.zeros(128, 3, 14, 16)})
    ),
    "a linear patch embedding": broken(
        lambda s: s.update({"patch_embed.proj.weight": torch.zeros(128, 588)})
    ),
    "positions of another width": broken(lambda s: s.update({"pos_embed": torch.zeros(1, 26, 64)})),
    "positions of an oblong grid": broken(
        lambda s: s.update({"pos_embed": torch.zeros(1, 1 + 4 * 8, 128)})
    ),
    "a flat class token": broken(lambda s: s.update({"cls_token": torch.zeros(128)})),
    "registers of another width": random_state() | {"register_tokens": torch.zeros(1, 4, 64)},
    "no tensors": {"model": "a name", "epoch": 3},
}


@pytest.mark.parametrize("kind", NOT_A_VIT)
def test_wrong_architecture_is_a_clear_error(kind):
    with pytest.raises(ArchitectureError) as caught:
        VisionTransformer.from_state_dict(NOT_A_VIT[kind])
    message = str(caught.value)
    assert "transformer" in message or "heads" in message
    assert "\n" not in message
    assert len(message) < 500


def test_width_that_heads_cannot_share_is_an_error():
    with pytest.raises(ArchitectureError, match="128 channels cannot be split into 3 heads"):
        VisionTransformer.from_state_dict(random_state(), heads=3)
    with pytest.raises(ArchitectureError, match="heads"):
        VisionTransformer.from_state_dict(random_state(dim=32))
