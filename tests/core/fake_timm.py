"""A module in the place of timm, with a small model of its interface."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

#: A model with learned positions and a class token, and one with relative positions.
PLAIN, RELATIVE = "vit_fake_patch8.random", "sam_fake_patch8.random"
PATCH, DIM, SIDE, DEPTH = 8, 24, 5, 4


class Format(enum.StrEnum):
    """timm's of the same name."""

    NHWC = "NHWC"


class PatchEmbed(nn.Module):
    """What :class:`.TimmBackbone` takes the convolution out of."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_size, self.img_size = (PATCH, PATCH), (SIDE * PATCH, SIDE * PATCH)
        self.grid_size, self.num_patches = (SIDE, SIDE), SIDE**2
        self.output_fmt = Format.NHWC
        self.proj = nn.Conv2d(3, DIM, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(DIM)


class Block(nn.Module):
    """Tokens that change by what they are, and by the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.mix(x) + x.mean(1, keepdim=True))


class Model(nn.Module):
    """A transformer of timm's, as far as its interface goes."""

    def __init__(self, is_relative: bool) -> None:
        super().__init__()
        self.patch_embed: Any = PatchEmbed()
        self.prefix = 0 if is_relative else 1
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.pos_embed = nn.Parameter(torch.zeros(1, SIDE**2, DIM))
        if is_relative:
            self.rel_pos_h = nn.Parameter(torch.zeros(3))
            self.neck = nn.Conv2d(DIM, 2, 1)
        else:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
            self.norm = nn.LayerNorm(DIM)
            self.head = nn.Identity()

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Sequence[int],
        norm: bool,
        stop_early: bool,
        output_fmt: str,
        intermediates_only: bool,
    ) -> list[Tensor]:
        """As timm's models do; of all blocks, only the last asked for."""
        assert (stop_early, output_fmt, intermediates_only) == (True, "NCHW", True)
        size = x.shape[-2:]
        x = self.patch_embed(x)
        grid = self.pos_embed.reshape(1, *self.patch_embed.grid_size, DIM).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, x.shape[1:3], mode="nearest")
        x = (x + grid.permute(0, 2, 3, 1)).flatten(1, 2)
        if self.prefix:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks[: indices[0] + 1]:
            x = block(x)
        x = self.norm(x) if norm else x
        ny, nx = self.patch_embed.dynamic_feat_size(size)
        return [x[:, self.prefix :].reshape(len(x), ny, nx, DIM).permute(0, 3, 1, 2)]


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """timm's converters of official files have this name."""
    return {name.removeprefix("official."): value for name, value in state.items()}


def random_state(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Parameters of one of its models."""
    generator = torch.Generator().manual_seed(seed)
    state = Model(name == RELATIVE).state_dict()
    return {k: torch.randn(v.shape, generator=generator) * 0.3 for k, v in state.items()}


def make_timm(hub: Path | None = None) -> tuple[ModuleType, ModuleType]:
    """The modules ``timm`` and ``huggingface_hub``; the hub's files lie in a folder."""
    timm, huggingface_hub = ModuleType("timm"), ModuleType("huggingface_hub")
    configs = {
        PLAIN: SimpleNamespace(
            mean=(0.5,) * 3, std=(0.25,) * 3, hf_hub_id="timm/plain", hf_hub_filename=None
        ),
        RELATIVE: SimpleNamespace(
            mean=(0.4,) * 3, std=(0.2,) * 3, hf_hub_id=None, hf_hub_filename=None
        ),
        "convnet": SimpleNamespace(
            mean=(0.4,) * 3, std=(0.2,) * 3, hf_hub_id=None, hf_hub_filename=None
        ),
    }

    def get_pretrained_cfg(name: str) -> Any:
        if name.endswith(".wrong"):
            raise RuntimeError("Invalid pretrained tag (wrong) for model.")
        return configs.get(name)

    def create_model(name: str, *, num_classes: int, **options: Any) -> nn.Module:
        assert num_classes == 0
        if name == "convnet":
            return nn.Sequential(nn.Conv2d(3, 4, 3))
        if name == RELATIVE and options:
            raise TypeError("unexpected keyword argument 'dynamic_img_size'")
        assert options == ({} if name == RELATIVE else {"dynamic_img_size": True})
        return Model(name == RELATIVE)

    def hf_hub_download(repo: str, file: str, *, local_files_only: bool) -> str:
        assert (repo, file) == ("timm/plain", "model.safetensors")
        if hub is None:
            raise ConnectionError("no hub\nin two lines")
        return str(hub / file)

    timm.__dict__.update(
        __version__="1.0.fake",
        models=SimpleNamespace(get_pretrained_cfg=get_pretrained_cfg),
        create_model=create_model,
    )
    huggingface_hub.__dict__["hf_hub_download"] = hf_hub_download
    return timm, huggingface_hub
