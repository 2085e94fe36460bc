"""Random checkpoints in DINOv2's layout, which the tests rename into the others."""

from __future__ import annotations

import torch
from torch import Tensor


def random_state(
    *,
    dim: int = 128,
    depth: int = 2,
    patch: int = 14,
    side: int = 5,
    registers: int = 0,
    scale: bool = True,
    gated: bool = False,
    qkv_bias: bool = True,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Seeded parameters, large enough that tokens depend on content, position and attention."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    hidden = 2 * dim
    state = {
        "cls_token": normal(1, 1, dim, std=1),
        "pos_embed": normal(1, 1 + side**2, dim, std=0.5),
        "mask_token": normal(1, dim, std=1),
        "patch_embed.proj.weight": normal(dim, 3, patch, patch, std=(3 * patch**2) ** -0.5),
        "patch_embed.proj.bias": normal(dim, std=0.1),
        "norm.weight": 1 + normal(dim, std=0.2),
        "norm.bias": normal(dim, std=0.2),
    }
    if registers:
        state["register_tokens"] = normal(1, registers, dim, std=1)
    for i in range(depth):
        block = f"blocks.{i}."
        for k in "12":
            state[f"{block}norm{k}.weight"] = 1 + normal(dim, std=0.2)
            state[f"{block}norm{k}.bias"] = normal(dim, std=0.2)
            if scale:
                state[f"{block}ls{k}.gamma"] = 0.5 + normal(dim, std=0.2)
        first, last, wide = ("w12", "w3", 2 * hidden) if gated else ("fc1", "fc2", hidden)
        for name, n_out, n_in in (
            ("attn.qkv", 3 * dim, dim),
            ("attn.proj", dim, dim),
            (f"mlp.{first}", wide, dim),
            (f"mlp.{last}", dim, hidden),
        ):
            state[f"{block}{name}.weight"] = normal(n_out, n_in, std=1.5 * n_in**-0.5)
            if name != "attn.qkv" or qkv_bias:
                state[f"{block}{name}.bias"] = normal(n_out, std=0.2)
    return state
