"""Hand-made channels beside the tokens: intensity, edges, ridges, blobs, corners and texture.

They are tokens of another kind: vectors on a lattice, which the same operator interpolates. The
fine scales lie on the pixels, the coarse ones, which hold no fine detail, on every second or fourth
of them, so that all together take little more room and time than the finest.

The set is ilastik's (Berg et al., Nature Methods 16, 2019) with local variance added, as measured
in docs/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .tokens import Grid
from .transforms import Lattice


class Scale(NamedTuple):
    """One scale at which an image is filtered.

    Attributes
    ----------
    stride
        Distance of the channels' samples in pixels.
    sigma
        Standard deviation of the Gaussian in samples.
    """

    stride: int
    sigma: float


SCALES = (Scale(1, 1.0), Scale(1, 2.0), Scale(2, 2.0))
# Which of the responses tell that there is an edge, but not which side of it a pixel is on.
_EDGES = (False, False, True, False, False, False, True, True, True)
_EDGES_OF_COLOURS = (False, True, True)
# Beyond, a Gaussian has less than a hundredth of its weight.
_REACH = 3.0
# Rows that are filtered together on a CPU.
_ROWS = 128


def filter_grids(
    image: torch.Tensor, on_step: Callable[[], None] | None = None, *, apart: bool = False
) -> tuple[Grid, ...]:
    """Filter an image.

    Of a colour image, luminance is filtered like a grey one, then two differences of colours by
    fewer filters; of one whose colours are all grey, luminance only.

    Parameters
    ----------
    image
        (1, 3 or n, h, w) of float32 in [0, 1], on any device.
    on_step
        Called now and then; what it raises ends the work.
    apart
        Whether these are n channels, of which each is filtered like a grey image, not colours.

    Returns
    -------
    tuple of Grid
        One for every stride, of float16 on the image's device; those of luminance first.
    """
    planes = [image]
    if len(image) > 1 and not apart:
        r, g, b = image.unbind()
        colours = torch.stack([r - g, (r + g) / 2 - b])
        planes = [image.mean(0, keepdim=True)]
        if colours.any():
            planes.append(colours)
    shape = (image.shape[-2], image.shape[-1])
    grids = []
    for k, plane in enumerate(planes):
        for stride in dict.fromkeys(scale.stride for scale in SCALES):
            sampled = _sampled(plane, stride)
            data = _channels(sampled, stride, every=k == 0, on_step=on_step)
            ny, nx = sampled.shape[-2:]
            lattices = (Lattice(stride / 2, stride, ny), Lattice(stride / 2, stride, nx))
            scales = sum(scale.stride == stride for scale in SCALES)
            flags = [False] * (stride == 1) + [*(_EDGES_OF_COLOURS if k else _EDGES)] * scales
            edges = tuple(flag for flag in flags for _ in plane)
            grids.append(Grid(data.permute(1, 2, 0)[None], (lattices,), shape, edges=edges))
    return tuple(grids)


def _channels(
    image: torch.Tensor, stride: int, *, every: bool, on_step: Callable[[], None] | None
) -> torch.Tensor:
    """All channels (C, ny, nx) of float16 that lie at a stride, of images (n, ny, nx) there."""
    sigmas = [scale.sigma for scale in SCALES if scale.stride == stride]
    height = image.shape[-2]
    # By strips, which a processor's cache holds, and as far beyond each as a pixel sees.
    step = _ROWS if image.device.type == "cpu" else height
    margin = max(_reach(sigma) + _reach(2 * sigma) for sigma in sigmas) + 2
    strips = []
    for start in range(0, height, step):
        if on_step is not None:
            on_step()
        low = max(0, start - margin)
        strip = image[:, low : start + step + margin]
        found = [strip] if stride == 1 else []
        for sigma in sigmas:
            found += _responses(strip, sigma, every=every)
        strips.append(torch.cat([one[:, start - low :][:, :step] for one in found]).half())
    return torch.cat(strips, 1)


def _sampled(image: torch.Tensor, stride: int) -> torch.Tensor:
    """Means (n, ny, nx) over squares of pixels; the outermost pixels go on beyond the edges."""
    if stride == 1:
        return image
    height, width = image.shape[-2:]
    more = (0, -width % stride, 0, -height % stride)
    return F.avg_pool2d(F.pad(image[:, None], more, mode="replicate"), stride)[:, 0]


def _responses(image: torch.Tensor, sigma: float, *, every: bool) -> list[torch.Tensor]:
    """Channels (n, h, w) of images (n, h, w) at one scale, on the scale of intensities."""
    smooth, square = _blurred(torch.stack([image, image * image]), sigma)
    deviation = (square - smooth * smooth).clamp_min(0).sqrt()
    gy, gx = (_difference(smooth, axis) * sigma for axis in (-2, -1))
    gradient = torch.hypot(gy, gx)
    if not every:
        return [smooth, gradient, deviation]
    yy, xx = (_second_difference(smooth, axis) * sigma**2 for axis in (-2, -1))
    yx = _difference(_difference(smooth, -2), -1) * sigma**2
    wide, tyy, tyx, txx = _blurred(torch.stack([image, gy * gy, gy * gx, gx * gx]), 2 * sigma)
    structure = [one.clamp_min(0).sqrt() for one in _eigenvalues(tyy, tyx, txx)]
    return [
        smooth,
        smooth - wide,
        gradient,
        *_eigenvalues(yy, yx, xx),
        yy + xx,
        *structure,
        deviation,
    ]


def _eigenvalues(
    yy: torch.Tensor, yx: torch.Tensor, xx: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The larger and the smaller one of symmetric 2 x 2 matrices."""
    mean, spread = (yy + xx) / 2, torch.hypot((yy - xx) / 2, yx)
    return mean + spread, mean - spread


def _reach(sigma: float) -> int:
    """How many samples beyond its own a Gaussian sees."""
    return int(_REACH * sigma + 0.5)


def _blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian of images (..., h, w), whose outermost pixels go on beyond the edges."""
    kernel = _gaussian(sigma, images.device)
    reach = len(kernel) - 1
    blurred_along = _summed if images.device.type == "cpu" else _convolved
    flat = images.flatten(0, -3)
    for axis, margin in ((-2, (0, 0, reach, reach)), (-1, (reach, reach, 0, 0))):
        flat = blurred_along(F.pad(flat, margin, mode="replicate"), kernel, axis)
    return flat.reshape(images.shape)


@lru_cache
def _gaussian(sigma: float, device: torch.device) -> torch.Tensor:
    """First half and middle of a Gaussian of sum 1; kept, as a GPU waits for what it is sent."""
    kernel = torch.exp(-0.5 * (torch.arange(-_reach(sigma), 1) / sigma) ** 2)
    return (kernel / (2 * kernel.sum() - kernel[-1])).to(device)


def _summed(padded: torch.Tensor, kernel: torch.Tensor, axis: int) -> torch.Tensor:
    """A symmetric kernel's first half and middle over images (n, h, w), along an axis.

    Sums of moved images: on a CPU several times faster than a convolution of one channel.
    """
    *edge, middle = kernel.tolist()
    reach = len(edge)
    n = padded.shape[axis] - 2 * reach
    found: torch.Tensor = padded.narrow(axis, reach, n) * middle
    for k, weight in enumerate(edge):
        both = padded.narrow(axis, k, n) + padded.narrow(axis, 2 * reach - k, n)
        found.add_(both, alpha=weight)
    return found


def _convolved(padded: torch.Tensor, kernel: torch.Tensor, axis: int) -> torch.Tensor:
    """As :func:`_summed`, in one step: a GPU takes longer to begin a step than to do it."""
    whole = torch.cat([kernel, kernel[:-1].flip(0)])
    shaped = whole[:, None] if axis == -2 else whole[None]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found: torch.Tensor = F.conv2d(padded[:, None], shaped[None, None])[:, 0]
    return found


def _neighbours(image: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The image moved by a sample forth and back along an axis."""
    n = image.shape[axis]
    first, last = image.narrow(axis, 0, 1), image.narrow(axis, n - 1, 1)
    before = torch.cat([first, image.narrow(axis, 0, n - 1)], axis)
    return before, torch.cat([image.narrow(axis, 1, n - 1), last], axis)


def _difference(image: torch.Tensor, axis: int) -> torch.Tensor:
    before, after = _neighbours(image, axis)
    return (after - before) / 2


def _second_difference(image: torch.Tensor, axis: int) -> torch.Tensor:
    before, after = _neighbours(image, axis)
    return before + after - 2 * image
