"""FeatUp's learned upsampler: a stack of joint bilateral upsamplings.

Fu, Hamilton, Brandt, Feldmann, Zhang and Freeman, 'FeatUp: a model-agnostic framework for
features at any resolution' (ICLR 2024, arXiv 2403.10516). Four times features are enlarged twice,
bicubically, and filtered with the image g, averaged to that size, as the guide. With o the offsets
of a window of 7 x 7, of half-width 1, around pixel p,

    a(p, o) = softmax over o of t <m(g(p)), m(g(p + o))>,
    b(p, o) = a(p, o) exp(-|o|^2 / 2 s^2) / sum over o of the same,
    F(p) = sum_o (b(p, o) + 0.1 n(b(p, .), g(p))_o) F'(p + o)

with small networks m and n, a temperature t and a deviation s, all learned; in the end
F + 0.1 (P F + q). All of that is affine in the tokens, which are normalised each by itself before:
maps of a few projected channels are filtered, never all channels. What FeatUp has a CUDA kernel
for, a filter with another kernel at every pixel, is a sum over the offsets here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ArchitectureError, HRDv2Error, ImageError
from ..tokens import Tokens
from ..weights import read_checkpoint
from .base import Floats, GuidedFeatures, OnePass, Pixels, guide_of
from .blocks import Block, blocks

_LEVELS = 4
_FIRST = "up1.range_temp"
_MIX = 0.1
# Rows of which the kernels of all pixels are held at once.
_ROWS = 32
# Channels that are brought to full size together for single pixels' sake.
_CHANNELS = 128


class _LearnedRange(nn.Module):
    """One joint bilateral upsampling, with FeatUp's parameter names."""

    def __init__(self, colours: int, key: int, taps: int) -> None:
        super().__init__()
        self.radius = (round(taps**0.5) - 1) // 2
        self.range_temp = nn.Parameter(torch.tensor(0.0))
        self.sigma_spatial = nn.Parameter(torch.tensor(1.0))
        # Where FeatUp drops channels while it is trained, nothing is done.
        self.range_proj = nn.Sequential(
            nn.Conv2d(colours, key, 1), nn.GELU(), nn.Identity(), nn.Conv2d(key, key, 1)
        )
        self.fixup_proj = nn.Sequential(
            nn.Conv2d(colours + taps, taps, 1), nn.GELU(), nn.Identity(), nn.Conv2d(taps, taps, 1)
        )

    def _spatial(self) -> Tensor:
        along = torch.linspace(-1, 1, 2 * self.radius + 1, device=self.sigma_spatial.device)
        square = along[:, None] ** 2 + along**2
        return torch.exp(-square / (2 * self.sigma_spatial**2)).reshape(1, -1, 1, 1)

    def _around(self, padded: Tensor, rows: int, columns: int) -> Iterator[Tensor]:
        """A map of so many rows as every offset sees it."""
        for dy in range(2 * self.radius + 1):
            for dx in range(2 * self.radius + 1):
                yield padded[:, :, dy : dy + rows, dx : dx + columns]

    def forward(self, source: Tensor, guide: Tensor) -> Tensor:
        h, w = guide.shape[-2:]
        temperature = self.range_temp.exp().clamp(1e-4, 1e4)
        spatial, pad = self._spatial(), [self.radius] * 4
        keys = F.pad(self.range_proj(guide), pad, mode="reflect")
        large = F.interpolate(source, (h, w), mode="bicubic", align_corners=False)
        large = F.pad(large, pad, mode="reflect")
        found = []
        for start in range(0, h, _ROWS):
            rows = min(_ROWS, h - start)
            part = slice(start, start + rows + 2 * self.radius)
            own = keys[:, :, start + self.radius :][:, :, :rows, self.radius :][..., :w]
            alike = [(one * own).sum(1) for one in self._around(keys[:, :, part], rows, w)]
            kernel = F.softmax(temperature * torch.stack(alike, 1), dim=1) * spatial
            kernel = kernel / kernel.sum(1, keepdim=True).clamp(1e-7)
            seen = torch.cat([kernel, guide[:, :, start : start + rows]], 1)
            kernel = kernel + _MIX * self.fixup_proj(seen)
            out = torch.zeros_like(large[:, :, :rows, :w])
            around = self._around(large[:, :, part], rows, w)
            for weight, one in zip(kernel.unbind(1), around, strict=True):
                out.addcmul_(weight[:, None], one)
            found.append(out)
        return torch.cat(found, 2)


class JBUStack(nn.Module):
    """FeatUp's stack, whose parameters have the names of its checkpoints.

    Parameters
    ----------
    channels
        C of the tokens.
    colours
        Of the guide.
    key
        Channels in which the guide's pixels are compared.
    taps
        Pixels of a window, the square of an odd number.
    """

    def __init__(self, channels: int, colours: int = 3, key: int = 32, taps: int = 49) -> None:
        super().__init__()
        for level in range(1, _LEVELS + 1):
            self.add_module(f"up{level}", _LearnedRange(colours, key, taps))
        self.fixup_proj = nn.Sequential(nn.Identity(), nn.Conv2d(channels, channels, 1))

    @property
    def channels(self) -> int:
        """C of the tokens."""
        return self._mixing.in_channels

    @property
    def _mixing(self) -> nn.Conv2d:
        found = self.fixup_proj[1]
        assert isinstance(found, nn.Conv2d)
        return found

    def spread(self, maps: Tensor, guide: Tensor) -> Tensor:
        """Filter maps of any channels: (1, K, ny, nx) to (1, K, 16 ny, 16 nx).

        Parameters
        ----------
        maps
            Projected tokens.
        guide
            (1, colours, height, width), normalised as for the backbone.
        """
        for level in range(1, _LEVELS + 1):
            h, w = maps.shape[-2:]
            small = F.adaptive_avg_pool2d(guide, (2 * h, 2 * w))
            maps = self.get_submodule(f"up{level}")(maps, small)
        return maps

    def folded(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (K, C) and biases (K,) on what is spread, of weights (K, C) on the features."""
        mixing, bias = self._mixing.weight[:, :, 0, 0], self._mixing.bias
        assert bias is not None
        return weight + _MIX * weight @ mixing, _MIX * weight @ bias


@dataclass(frozen=True, eq=False)
class FeatUp(OnePass):
    """FeatUp's upsampler, from a checkpoint of its authors or of one's own training.

    Attributes
    ----------
    name
        What it is called.
    stack
        Its parameters.
    norm
        Weight and bias (C,) of the normalisation that tokens get first, where FeatUp was trained
        with one.

    Examples
    --------
    >>> FeatUp.load(Path("dinov2_jbu_stack_cocostuff.ckpt"))  # doctest: +SKIP
    """

    name: str
    stack: JBUStack
    norm: tuple[Tensor, Tensor] | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a checkpoint; nothing in it is executed.

        Of a training's checkpoint the backbone's, the downsampler's and other parameters are
        passed over.

        Raises
        ------
        WeightsError
            If the file is missing or cannot be read as a checkpoint.
        ArchitectureError
            If it holds no stack of joint bilateral upsamplings.
        """
        if not path.is_file():
            raise ArchitectureError(f"there is no checkpoint {path} of an upsampler")
        checkpoint = read_checkpoint(path)
        state = checkpoint.get("state_dict", checkpoint)
        known = {k: v for k, v in state.items() if isinstance(v, Tensor)}
        prefixes = [k.removesuffix(_FIRST) for k in known if k.endswith(_FIRST)]
        if len(prefixes) != 1:
            raise ArchitectureError(
                f"{path} holds no JBU stack of FeatUp: it has {len(prefixes)} parameters that end "
                f"in {_FIRST}, one is needed"
            )
        prefix = prefixes[0]
        own = {
            k.removeprefix(prefix): v.float()
            for k, v in known.items()
            if k.startswith((f"{prefix}up", f"{prefix}fixup_proj"))
        }
        try:
            colours = own["up1.range_proj.0.weight"].shape[1]
            key, taps = (own[f"up1.{part}_proj.0.weight"].shape[0] for part in ("range", "fixup"))
            stack = JBUStack(own["fixup_proj.1.weight"].shape[0], colours, key, taps)
            stack.load_state_dict(own)
        except (KeyError, IndexError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ArchitectureError(
                f"{path} holds no JBU stack of FeatUp as it should be: {reason[:200]}"
            ) from None
        norm = _norm_of(known, path, stack.channels)
        return cls(path.stem, stack.requires_grad_(False), norm)

    def upsample(self, image: npt.ArrayLike, tokens: Tokens) -> FeatUpFeatures:
        """As :meth:`.Upsampler.upsample`."""
        if tokens.data.shape[-1] != self.stack.channels:
            raise HRDv2Error(
                f"the upsampler is for tokens of {self.stack.channels} channels, the backbone's "
                f"have {tokens.data.shape[-1]}: choose the backbone that it was trained with"
            )
        if min(tokens.data.shape[1:3]) < 2:
            raise ImageError("FeatUp wants images of at least two patches along each axis")
        return FeatUpFeatures(tokens, guide_of(image, tokens), self)


def _norm_of(state: dict[str, Any], path: Path, channels: int) -> tuple[Tensor, Tensor] | None:
    """The normalisation of channels that FeatUp's models end with, if any."""
    names = [k for k in state if k.endswith("model.1.norm.weight")]
    if not names:
        return None
    found = state[names[0]].float(), state.get(f"{names[0][: -len('weight')]}bias")
    if found[1] is None or {len(found[0]), len(found[1])} != {channels}:
        raise ArchitectureError(
            f"{path} holds a normalisation of other channels than the {channels} of its JBU stack"
        )
    return found[0], found[1].float()


@dataclass(frozen=True, eq=False)
class FeatUpFeatures(GuidedFeatures):
    """Features as :class:`FeatUp` gives them.

    Attributes
    ----------
    upsampler
        Whose they are.
    """

    upsampler: FeatUp

    def rows(self, pixels: Pixels) -> Floats:
        found = np.empty((len(pixels), self.channels), np.float32)
        every = torch.eye(self.channels)
        for start in range(0, self.channels, _CHANNELS):
            maps = self._maps(every[start : start + _CHANNELS], torch.zeros(1))
            found[:, start : start + _CHANNELS] = maps[pixels[:, 0], pixels[:, 1]]
        return found

    def maps(self, weight: Floats, bias: Floats | float = 0.0) -> Floats:
        found: Floats = self._maps(torch.as_tensor(weight), torch.as_tensor(bias)).numpy()
        return found

    @torch.inference_mode()
    def _maps(self, weight: Tensor, bias: Tensor) -> Tensor:
        device = self.guide.device
        stack = self.upsampler.stack.to(device)
        folded, offset = stack.folded(weight.to(device))
        offset = offset + bias.to(device)
        whole = torch.empty((*self.shape, len(weight)))
        for block in blocks(self.guide, self.tokens):
            maps = torch.einsum("kc,bcyx->bkyx", folded, self._normalised(block))
            maps = stack.spread(maps, block.image)
            size = block.image.shape[-2:]
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
            y, x = block.inner
            whole[block.pixels] = (maps[0, :, y, x] + offset[:, None, None]).permute(1, 2, 0).cpu()
        return whole

    def _normalised(self, block: Block) -> Tensor:
        """Tokens of a block as FeatUp has them."""
        norm, vectors = self.upsampler.norm, block.tokens
        if norm is None:
            return vectors
        weight, bias = (one.to(vectors.device) for one in norm)
        last = F.layer_norm(vectors.permute(0, 2, 3, 1), weight.shape, weight, bias)
        return last.permute(0, 3, 1, 2)
