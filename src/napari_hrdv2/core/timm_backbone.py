"""Backbones of other families, through the package timm: SAM's encoder, DINOv3, and more.

timm is in none of the other extras, as it needs torchvision, of which a build for CUDA cannot be
imported beside a torch for the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import Normalisation
from .errors import ArchitectureError, DownloadError, WeightsError
from .vit import unwrapped

#: What the names of its models begin with here.
PREFIX = "timm:"
_FILE = "model.safetensors"
# Parts that make no tokens.
_HEADS = ("head", "fc_norm", "attn_pool", "neck")


def import_timm() -> Any:
    """The package timm.

    Raises
    ------
    WeightsError
        If it is not installed, or cannot be imported.
    """
    try:
        import timm
    except ImportError:
        raise WeightsError(
            "backbones named timm:NAME need the package timm: pip install 'napari-hrdv2[timm]'"
        ) from None
    except Exception as error:
        # What torchvision raises beside a torch that it was not built for.
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"timm cannot be imported ({reason[:200]}): install a torchvision that was built for "
            "this torch, both for CUDA or both for the CPU"
        ) from None
    return timm


def normalisation_of(name: str) -> Normalisation:
    """What timm's model of this name wants images to be brought to.

    Raises
    ------
    WeightsError
        If timm is missing or has no such model.
    """
    config = _config(name)
    mean, std = (tuple(map(float, values)) for values in (config.mean, config.std))
    if (len(mean), len(std)) != (3, 3):
        raise ArchitectureError(f"{PREFIX}{name} is not for images of three colours")
    return Normalisation(mean, std)  # type: ignore[arg-type]


def fetch(name: str, *, download: bool = True) -> Path:
    """The file of weights of a model, from timm's hub or its cache on this machine.

    Parameters
    ----------
    name
        What timm calls the model, its tag included: ``"samvit_base_patch16.sa1b"``.
    download
        Whether to download it if it is missing.

    Raises
    ------
    WeightsError
        If timm is missing, has no such model or no weights of it.
    DownloadError
        If they are missing and the hub cannot be reached.
    """
    config = _config(name)
    if not config.hf_hub_id:
        raise WeightsError(
            f"timm's hub has no weights of {PREFIX}{name}: add the tag of those that you want to "
            "its name, or pass a file as the weights (--weights FILE)"
        )
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(
            config.hf_hub_id, config.hf_hub_filename or _FILE, local_files_only=not download
        )
    except Exception as error:
        # The hub's package and the one beneath it raise errors of many kinds.
        if not download:
            raise DownloadError(
                f"the weights {PREFIX}{name} are not on this machine: get them with "
                f"'napari-hrdv2 weights fetch {PREFIX}{name}'"
            ) from None
        raise DownloadError(
            f"the weights {PREFIX}{name} could not be downloaded from huggingface.co/"
            f"{config.hf_hub_id} ({type(error).__name__}). Check the network, or fetch the file "
            "elsewhere and pass it as the weights."
        ) from None
    return Path(found)


def load(name: str, checkpoint: Mapping[str, object]) -> TimmBackbone:
    """Build a model, and load a checkpoint into it.

    Parameters
    ----------
    name
        What timm calls the model.
    checkpoint
        Contents of timm's file, or of an official one that timm knows to convert.

    Returns
    -------
    TimmBackbone
        In evaluation mode, without gradients, on the CPU, in float32.

    Raises
    ------
    WeightsError
        If timm is missing or has no such model.
    ArchitectureError
        If the model gives no token grid, or the checkpoint is none of it.
    """
    normalisation = normalisation_of(name)
    model = _create(name)
    state = dict(unwrapped(checkpoint))
    # Every family has its own, in the module of its class.
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        if convert is not None:
            state = convert(state, model)
        missing = model.load_state_dict(state, strict=False).missing_keys
    except Exception as error:
        # Converters meet whatever they do not expect in a file of something else.
        reason = " ".join(str(error).split())
        raise ArchitectureError(
            f"the checkpoint is none of {PREFIX}{name}: {reason[:300]}"
        ) from None
    missing = [one for one in missing if not one.startswith(_HEADS)]
    if missing:
        raise ArchitectureError(
            f"the checkpoint is none of {PREFIX}{name}: it lacks {len(missing)} parameters, "
            f"{missing[0]} among them"
        )
    return TimmBackbone(model, normalisation, name)


def _config(name: str) -> Any:
    timm = import_timm()
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    if config is None:
        raise WeightsError(
            f"timm {timm.__version__} has no model {name!r}: "
            "python -c 'import timm; print(timm.list_pretrained())' lists them"
        )
    return config


def _create(name: str) -> Any:
    """A model of timm's, for images of any size."""
    timm = import_timm()
    try:
        return timm.create_model(name, num_classes=0, dynamic_img_size=True)
    except TypeError:
        # SAM's encoder takes images of any size without being told.
        return timm.create_model(name, num_classes=0)


class _PatchEmbed(nn.Module):
    """A model's patch convolution, with a stride of one's choice.

    Where positions are to be moved, the tokens are moved the other way instead: without positions
    a transformer does not know their order.
    """

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.proj, self.norm = own.proj, own.norm
        self.patch_size, self.img_size = own.patch_size, own.img_size
        # That of the learned positions.
        self.grid_size, self.num_patches = own.grid_size, own.num_patches
        self.stride: int = own.proj.stride[0]
        self.moves: Sequence[tuple[float, float]] = ()

    def dynamic_feat_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The token grid of an image (height, width)."""
        patch = self.proj.kernel_size[0]
        ny, nx = ((n - patch) // self.stride + 1 for n in size)
        return ny, nx

    def feat_ratio(self, as_scalar: bool = True) -> Any:
        """Pixels from token to token."""
        return self.stride if as_scalar else (self.stride, self.stride)

    def forward(self, images: Tensor) -> Tensor:
        x = F.conv2d(images, self.proj.weight, self.proj.bias, stride=self.stride)
        x = self.norm(x.permute(0, 2, 3, 1))
        return _rolled(x, self.moves, 1)


def _rolled(grids: Tensor, moves: Sequence[tuple[float, float]], sign: int) -> Tensor:
    """Grids (batch, ny, nx, C), each rolled by its share of itself."""
    if not moves:
        return grids
    ny, nx = grids.shape[1:3]
    shifts = [(sign * int(y * ny), sign * int(x * nx)) for y, x in moves]
    return torch.stack([g.roll(by, (0, 1)) for g, by in zip(grids, shifts, strict=True)])


class TimmBackbone(nn.Module):
    """A transformer of timm's, frozen, as a :class:`.Backbone`.

    Its tokens are those after the model's last norm. Where it has none, as where SAM's encoder
    goes on with convolutions, they are brought to mean 0 and variance 1 over their channels.

    Parameters
    ----------
    model
        Of timm, made for images of any size.
    normalisation
        What its images are brought to.
    name
        What timm calls it.

    Attributes
    ----------
    patch
        Patch size in pixels.
    dim
        Channels of a token.
    normalisation
        See above.

    Raises
    ------
    ArchitectureError
        If the model gives no grid of tokens that are all of square patches of its own.
    """

    patch: int
    dim: int
    normalisation: Normalisation

    def __init__(self, model: Any, normalisation: Normalisation, name: str) -> None:
        super().__init__()
        own = getattr(model, "patch_embed", None)
        proj = getattr(own, "proj", None)
        if not (
            isinstance(proj, nn.Conv2d)
            and proj.in_channels == 3
            and proj.kernel_size == proj.stride
            and proj.stride[0] == proj.stride[1]
            # The format in which the grid of any image stays a grid.
            and str(getattr(getattr(own, "output_fmt", ""), "value", "")) == "NHWC"
            and hasattr(model, "blocks")
            and hasattr(model, "forward_intermediates")
        ):
            raise ArchitectureError(
                f"{PREFIX}{name} gives no grid of tokens for images of any size: choose a plain "
                "vision transformer, such as timm:vit_small_patch16_dinov3.lvd1689m or "
                "timm:samvit_base_patch16.sa1b"
            )
        self.patch, self.dim = proj.kernel_size[0], proj.out_channels
        self.normalisation = normalisation
        model.patch_embed = _PatchEmbed(own)
        self.model = model
        self._has_norm = not isinstance(getattr(model, "norm", nn.Identity()), nn.Identity)
        names = [one for one, _ in model.named_parameters()]
        self._moves = getattr(model, "pos_embed", None) is not None and not (
            any("rel_pos" in one for one in names)
            or any(getattr(model, one, None) is not None for one in ("rope", "rope_global"))
        )
        self.requires_grad_(False).eval()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Angles of rotary embeddings are too fine for half precision.
        for one in ("rope", "rope_global", "rope_window"):
            if isinstance(rope := getattr(self.model, one, None), nn.Module):
                rope.float()
        return self

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.model.blocks)

    @property
    def moves_positions(self) -> bool:
        """Whether tokens know where they lie by learned absolute positions alone."""
        return self._moves

    @torch.no_grad()
    def forward(
        self,
        images: Tensor,
        stride: int | None = None,
        on_block: Callable[[], None] | None = None,
        blocks: int | None = None,
        moves: Sequence[tuple[float, float]] = (),
    ) -> Tensor:
        """Patch tokens, see :class:`.Backbone`."""
        moves = moves if any(map(any, moves)) else ()
        if moves and not self._moves:
            raise ValueError("relative positions cannot be moved")
        embed = self.model.patch_embed
        embed.stride, embed.moves = stride or self.patch, moves
        last = (blocks or self.depth) - 1
        hooks = []
        if on_block is not None:
            called = on_block
            hooks = [
                one.register_forward_pre_hook(lambda *_: called())
                for one in self.model.blocks[: last + 1]
            ]
        try:
            (found,) = self.model.forward_intermediates(
                images,
                indices=[last],
                norm=self._has_norm,
                stop_early=True,
                output_fmt="NCHW",
                intermediates_only=True,
            )
        finally:
            for one in hooks:
                one.remove()
        tokens = found.permute(0, 2, 3, 1)
        if not self._has_norm:
            tokens = F.layer_norm(tokens, tokens.shape[-1:])
        return _rolled(tokens, moves, -1)
