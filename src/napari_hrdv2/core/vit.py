"""The backbone: one vision transformer for DINO, DINOv2, DeiT and timm checkpoints.

Its parameters carry the names of those checkpoints, and everything about its shape is read
from them. What the method must open up, it opens: the stride of the patches, the token grid,
queries, keys, values and the class token's attention in any block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import IMAGENET, Normalisation
from .errors import ArchitectureError

# Of all published ViTs that this class can hold, only these depart from 64 channels a head.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
_MLP_ROWS = 1024
# Where training left them, and where nothing that makes tokens needs them.
_WRAPPERS = ("state_dict", "model", "teacher", "module", "backbone", "encoder")
_UNUSED = re.compile(r"(mask_token|head(_dist)?\.|fc_norm\.|dino_head\.|ibot_head\.|decoder\.)")


FacetKind = Literal["attention", "q", "k", "v"]


class Facets(NamedTuple):
    """What one block computes on the way to its attention.

    Attributes
    ----------
    q, k, v
        Queries, keys and values of the patch tokens, (batch, heads, ny, nx, channels).
    cls_attention
        How much the class token attends to each patch token, (batch, heads, ny, nx), in
        [0, 1]; with what it gives to itself and the registers, a head's sum to 1.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    cls_attention: Tensor

    def tokens(self, kind: FacetKind) -> Tensor:
        """One of them as tokens (batch, ny, nx, C), the heads one after the other.

        Attention is given times the number of patch tokens: 1 is what each gets where all get
        the same, however large the image is, and half precision holds that.
        """
        if kind == "attention":
            _, _, ny, nx = self.cls_attention.shape
            return self.cls_attention.permute(0, 2, 3, 1) * (ny * nx)
        found: Tensor = getattr(self, kind)
        return found.permute(0, 2, 3, 1, 4).flatten(3)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (batch, heads, tokens, channels)."""
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        attended = F.scaled_dot_product_attention(*self.split(x))
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        # The hidden layer would need more memory than anything else.
        rows = _MLP_ROWS if x.device.type == "cpu" else x.shape[1]
        return torch.cat(
            [self.fc2(F.gelu(self.fc1(part))) for part in torch.split(x, rows, dim=1)], 1
        )


class _SwiGLU(nn.Module):
    """Gated feed-forward layer of DINOv2's giant model (arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class _LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(
        self, dim: int, heads: int, hidden: int, *, qkv_bias: bool, scale: bool, gated: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _SwiGLU(dim, hidden) if gated else _Mlp(dim, hidden)
        self.ls1 = _LayerScale(dim) if scale else nn.Identity()
        self.ls2 = _LayerScale(dim) if scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class _PatchEmbed(nn.Module):
    def __init__(self, dim: int, channels: int, patch: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch, bias=bias)


@lru_cache(maxsize=16)
def _moved(
    ny: int, nx: int, moves: tuple[tuple[float, float], ...], device: torch.device
) -> Tensor:
    """Index (batch, ny * nx) into positions, of those moved; kept, as a GPU waits for it."""
    cells = torch.arange(ny * nx).view(ny, nx)
    by = [(-int(y * ny), -int(x * nx)) for y, x in moves]
    return torch.stack([cells.roll(one, (0, 1)).flatten() for one in by]).to(device)


class VisionTransformer(nn.Module):
    """A frozen ViT whose tokens are its patch tokens after the last norm.

    Build it with :meth:`from_state_dict`.

    Parameters
    ----------
    state
        Cleaned parameters, see :meth:`from_state_dict`.
    heads
        Number of attention heads.
    position_offset
        See :meth:`from_state_dict`.

    Attributes
    ----------
    patch
        Patch size in pixels.
    dim
        Channels of a token.
    normalisation
        See :meth:`from_state_dict`.
    """

    patch: int
    dim: int
    normalisation: Normalisation
    register_tokens: Tensor | None
    dist_token: Tensor | None

    def __init__(
        self, state: Mapping[str, Tensor], heads: int, position_offset: float | None = None
    ) -> None:
        super().__init__()
        if position_offset is None:
            position_offset = 0.0 if "register_tokens" in state else 0.1
        self._position_offset = position_offset
        self._grid: tuple[tuple[int, int, torch.device, torch.dtype], Tensor] | None = None
        dim, channels, patch, _ = state["patch_embed.proj.weight"].shape
        self.patch, self.dim = patch, dim
        self.patch_embed = _PatchEmbed(dim, channels, patch, "patch_embed.proj.bias" in state)
        self.cls_token = nn.Parameter(torch.empty_like(state["cls_token"]))
        self.pos_embed = nn.Parameter(torch.empty_like(state["pos_embed"]))
        for name in ("register_tokens", "dist_token"):
            parameter = nn.Parameter(torch.empty_like(state[name])) if name in state else None
            self.register_parameter(name, parameter)
        self._check_tokens()
        gated = "blocks.0.mlp.w12.weight" in state
        narrow = state["blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight"]
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        self.blocks = nn.ModuleList(
            _Block(
                dim,
                heads,
                narrow.shape[1],
                qkv_bias="blocks.0.attn.qkv.bias" in state,
                scale="blocks.0.ls1.gamma" in state,
                gated=gated,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    @classmethod
    def from_state_dict(
        cls,
        checkpoint: Mapping[str, object],
        heads: int | None = None,
        position_offset: float | None = None,
        normalisation: Normalisation = IMAGENET,
    ) -> VisionTransformer:
        """Build the model that a checkpoint holds, and load it.

        Parameters
        ----------
        checkpoint
            Contents of an official DINO, DINOv2 or DeiT file or of a timm ViT; parameters
            may lie in a dictionary within (``teacher``, ``model``, ...) or carry prefixes.
        heads
            Number of attention heads, which a checkpoint does not tell. By default the
            published models' number for the checkpoint's width: 64 channels a head.
        position_offset
            What is added to the token grid's size where the position embedding's scale is
            computed, which moves every sample of it a little. By default as the official
            code does: 0.1, and 0 with registers.
        normalisation
            What its images are brought to, which a checkpoint does not tell.

        Returns
        -------
        VisionTransformer
            In evaluation mode, without gradients, on the CPU, in float32.

        Raises
        ------
        ArchitectureError
            If the checkpoint holds no such transformer.
        """
        state = _clean(checkpoint)
        try:
            dim = state["patch_embed.proj.weight"].shape[0]
            if heads is None:
                heads = _HEADS.get(dim, dim // 64)
            if heads == 0 or dim % heads:
                raise ArchitectureError(f"{dim} channels cannot be split into {heads} heads")
            with torch.device("meta"):
                model = cls(state, heads, position_offset)
            model.load_state_dict(state, assign=True)
        except (KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, ArchitectureError):
                raise
            reason = " ".join(str(error).split())
            raise ArchitectureError(
                "the checkpoint holds no vision transformer of the DINO, DINOv2, DeiT or timm "
                f"kind: {reason[:300]}"
            ) from None
        model.normalisation = normalisation
        return model.requires_grad_(False).eval()

    def _prefix(self) -> list[Tensor]:
        """Tokens before the patches' own."""
        tokens = (self.cls_token, self.dist_token, self.register_tokens)
        return [token for token in tokens if token is not None]

    def _positions(self) -> tuple[int, int]:
        """Side of the grid of positions, and how many positions the prefix has before it."""
        count = self.pos_embed.shape[1]
        side = math.isqrt(count)
        return side, count - side**2

    def _check_tokens(self) -> None:
        """Refuse shapes that broadcasting would let pass."""
        prefix = self._prefix()
        shapes = [tuple(one.shape) for one in (*prefix, self.pos_embed)]
        if all(len(shape) == 3 and shape[::2] == (1, self.dim) for shape in shapes):
            counts = [one.shape[1] for one in prefix]
            plain = len(counts) - (self.register_tokens is not None)
            # timm has models whose prefix has no positions, and such whose registers have some.
            if self._positions()[1] in (0, sum(counts[:plain]), sum(counts)):
                return
        raise ArchitectureError(
            f"the transformer's class token, registers and positions, {shapes}, do not fit "
            f"{self.dim} channels and a square grid"
        )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def heads(self) -> int:
        """Number of attention heads of a block."""
        block = self.blocks[0]
        assert isinstance(block, _Block)
        return block.attn.heads

    @property
    def moves_positions(self) -> bool:
        """Whether positions can be moved: those that are learned and absolute can."""
        return True

    def _embed(
        self, images: Tensor, stride: int, moves: Sequence[tuple[float, float]] = ()
    ) -> tuple[Tensor, int, int]:
        """Tokens that enter the first block, class token and its like first; the token grid."""
        proj = self.patch_embed.proj
        x = F.conv2d(images, proj.weight, proj.bias, stride=stride)
        ny, nx = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        grid = self._resampled(ny, nx).to(x)
        if moves:
            grid = grid[0, _moved(ny, nx, tuple(moves), grid.device)]
        x = x + grid
        start = torch.cat(self._prefix(), 1)
        positions = self.pos_embed[:, : self._positions()[1]]
        start = start + F.pad(positions, (0, 0, 0, start.shape[1] - positions.shape[1]))
        return torch.cat([start.expand(len(x), -1, -1), x], 1), ny, nx

    def _resampled(self, ny: int, nx: int) -> Tensor:
        """Positions (1, ny * nx, dim) of a token grid, kept until another one is asked for."""
        pos = self.pos_embed
        side, own = self._positions()
        if (ny, nx) == (side, side):
            return pos[:, own:]
        key = (ny, nx, pos.device, pos.dtype)
        if self._grid is None or self._grid[0] != key:
            # On the CPU: not every device resamples, and so all of them agree.
            grid = pos[:, own:].float().cpu().reshape(1, side, side, -1).permute(0, 3, 1, 2)
            antialias = self.register_tokens is not None
            if offset := self._position_offset:
                scale = ((ny + offset) / side, (nx + offset) / side)
                grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=antialias)
            else:
                grid = F.interpolate(grid, size=(ny, nx), mode="bicubic", antialias=antialias)
            self._grid = key, grid.flatten(2).transpose(1, 2).to(pos)
        return self._grid[1]

    @torch.no_grad()
    def forward(
        self,
        images: Tensor,
        stride: int | None = None,
        on_block: Callable[[], None] | None = None,
        blocks: int | None = None,
        moves: Sequence[tuple[float, float]] = (),
    ) -> Tensor:
        """Patch tokens after the last norm, see :class:`.Backbone`."""
        x, ny, nx = self._embed(images, stride or self.patch, moves)
        for block in self.blocks[:blocks]:
            if on_block is not None:
                on_block()
            x = block(x)
        out: Tensor = self.norm(x[:, x.shape[1] - ny * nx :])
        return out.reshape(len(out), ny, nx, -1)

    @torch.no_grad()
    def facets(
        self,
        images: Tensor,
        block: int = -1,
        stride: int | None = None,
        on_block: Callable[[], None] | None = None,
        moves: Sequence[tuple[float, float]] = (),
    ) -> Facets:
        """What attends to what in one block, see :class:`.FacetBackbone`."""
        x, ny, nx = self._embed(images, stride or self.patch, moves)
        wanted = range(self.depth)[block]
        for earlier in self.blocks[:wanted]:
            if on_block is not None:
                on_block()
            x = earlier(x)
        chosen = self.blocks[wanted]
        assert isinstance(chosen, _Block)
        q, k, v = chosen.attn.split(chosen.norm1(x))
        scores = (q[:, :, :1] * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        attention = scores.softmax(-1)[:, :, 0]
        first = x.shape[1] - ny * nx
        grid = (*q.shape[:2], ny, nx)
        q, k, v = (part[:, :, first:].reshape(*grid, -1) for part in (q, k, v))
        return Facets(q, k, v, attention[..., first:].reshape(grid))


def unwrapped(checkpoint: Mapping[str, object]) -> Mapping[str, object]:
    """The dictionary within a checkpoint, or within that, that holds its parameters."""
    inner = [checkpoint[key] for key in _WRAPPERS if isinstance(checkpoint.get(key), Mapping)]
    return unwrapped(inner[0]) if inner else checkpoint  # type: ignore[arg-type]


def _clean(checkpoint: Mapping[str, object]) -> dict[str, Tensor]:
    """Parameters of a checkpoint under their common names, without heads and optimisers."""
    state = {}
    for name, value in unwrapped(checkpoint).items():
        if not isinstance(value, Tensor):
            continue
        while (prefix := name.split(".", 1)[0]) in _WRAPPERS:
            name = name.removeprefix(f"{prefix}.")
        if not _UNUSED.match(name):
            state["register_tokens" if name == "reg_token" else name] = value.float()
    # Training checkpoints cut the blocks into chunks: blocks.CHUNK.BLOCK.
    state = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): v for name, v in state.items()}
    return {_gated_name(name, state): value for name, value in state.items()}


def _gated_name(name: str, state: Mapping[str, Tensor]) -> str:
    """DINOv2's name of a gated layer's parameter that timm calls by its plain layer's."""
    if ".mlp.fc" not in name:
        return name
    layer = name.rsplit(".", 2)[0]
    wide, narrow = state.get(f"{layer}.fc1.weight"), state.get(f"{layer}.fc2.weight")
    if wide is None or narrow is None or len(wide) == narrow.shape[1]:
        return name
    return name.replace(".fc1.", ".w12.").replace(".fc2.", ".w3.")
