"""Hand-made channels beside the tokens: intensity, edges, ridges, blobs, corners and texture.

They are tokens of another kind: vectors on a lattice, which the same operator interpolates. The
fine scales lie on the pixels, the coarse ones, which hold no fine detail, on every second or fourth
of them, so that all together take little more room and time than the finest.

The set is ilastik's (Berg et al., Nature Methods 16, 2019) with local variance added, as measured
in docs/accuracy.md.
"""

from __future__ import annotations

import itertools
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
    sigmas = tuple(scale.sigma for scale in SCALES if scale.stride == stride)
    height = image.shape[-2]
    # By strips, which a processor's cache holds, and as far beyond each as a pixel sees; a GPU
    # takes longer to begin a step than to do it.
    step, alone = (_ROWS, True) if image.device.type == "cpu" else (height, False)
    margin = max(_reach(sigma) + _reach(2 * sigma) for sigma in sigmas) + 2
    own, kinds = int(stride == 1), len(_EDGES if every else _EDGES_OF_COLOURS)
    found = image.new_empty((own + len(sigmas) * kinds, *image.shape), dtype=torch.float16)
    if own:
        found[0] = image
    responses = found[own:].view(len(sigmas), kinds, *image.shape)
    for start in range(0, height, step):
        if on_step is not None:
            on_step()
        low, stop = max(0, start - margin), min(start + step, height)
        strip, inner = image[:, low : stop + margin], slice(start - low, stop - low)
        for k, group in enumerate([(one,) for one in sigmas] if alone else [sigmas]):
            some = _responses(strip, group, every=every)[..., inner, :]
            responses[k : k + len(group), :, :, start:stop] = some.permute(2, 0, 1, 3, 4)
    return found.flatten(0, 1)


def _sampled(image: torch.Tensor, stride: int) -> torch.Tensor:
    """Means (n, ny, nx) over squares of pixels, or over what the image has of them."""
    if stride == 1:
        return image
    return F.avg_pool2d(image[:, None], stride, ceil_mode=True)[:, 0]


def _responses(image: torch.Tensor, sigmas: tuple[float, ...], *, every: bool) -> torch.Tensor:
    """Channels (C, n, scales, h, w) of images (n, h, w), on the scale of intensities."""
    smooth, square = _blurred(torch.stack([image, image * image])[:, :, None], sigmas)
    variance = torch.addcmul(square, smooth, smooth, value=-1)
    derivatives = _derivatives(smooth, sigmas, every=every).unbind(2)
    if not every:
        gy, gx = derivatives
        found = torch.stack([smooth, torch.hypot(gy, gx), variance])
        found[2].clamp_min_(0).sqrt_()
        return found
    gy, gx, laplacian, difference, yx = derivatives
    gradient = torch.hypot(gy, gx)
    tensor = torch.stack([image[:, None].expand_as(gy), gradient * gradient, gx * gx, gy * gx])
    wide, trace, txx, tyx = _blurred(tensor, tuple(2 * sigma for sigma in sigmas))
    found = torch.stack(
        [
            smooth,
            smooth - wide,
            gradient,
            *_eigenvalues(laplacian, difference, yx),
            laplacian,
            *_eigenvalues(trace, torch.sub(txx, trace, alpha=0.5), tyx),
            variance,
        ]
    )
    # What can only be negative by rounding.
    found[6:].clamp_min_(0).sqrt_()
    return found


def _eigenvalues(
    trace: torch.Tensor, difference: torch.Tensor, yx: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The larger and the smaller one of symmetric 2 x 2 matrices.

    Given are the sum and half the difference of what is on the diagonal, and what is beside it.
    """
    larger = torch.add(torch.hypot(difference, yx), trace, alpha=0.5)
    return larger, trace - larger


def _reach(sigma: float) -> int:
    """How many samples beyond its own a Gaussian sees."""
    return int(_REACH * sigma + 0.5)


def _blurred(images: torch.Tensor, sigmas: tuple[float, ...]) -> torch.Tensor:
    """Gaussians (a, b, scales, h, w) of images (a, b, 1 or scales, h, w)."""
    along_y, along_x = _gaussians(sigmas, images.device)
    margin = along_x.shape[-1] // 2
    padded = F.pad(images.flatten(0, 1), (margin,) * 4, mode="replicate")
    found = _correlated(_correlated(padded, along_y), along_x)
    return found.reshape(*images.shape[:2], *found.shape[1:])


@lru_cache
def _gaussians(
    sigmas: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernels of sum 1 along y and along x; kept, as a GPU waits for what it is sent."""
    reach = max(map(_reach, sigmas))
    at = torch.arange(-reach, reach + 1)
    kernels = torch.zeros((len(sigmas), 1, 1, len(at)))
    for kernel, sigma in zip(kernels, sigmas, strict=True):
        kernel[0, 0] = torch.exp(-0.5 * (at / sigma) ** 2) * (at.abs() <= _reach(sigma))
        kernel /= kernel.sum()
    return kernels.transpose(-1, -2).to(device), kernels.to(device)


def _derivatives(smooth: torch.Tensor, sigmas: tuple[float, ...], *, every: bool) -> torch.Tensor:
    """Derivatives (n, scales, kinds, h, w) of images (n, scales, h, w), each times its sigma.

    By y, by x and, where every one is wanted, the Laplacian, half the difference of the second
    ones by y and by x, and the mixed one.
    """
    padded = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    found = _correlated(padded, _stencils(sigmas, smooth.device, every=every))
    return found.reshape(len(smooth), len(sigmas), -1, *smooth.shape[-2:])


@lru_cache
def _stencils(sigmas: tuple[float, ...], device: torch.device, *, every: bool) -> torch.Tensor:
    """Kernels of :func:`_derivatives`, kept."""
    none, one = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([-0.5, 0.0, 0.5])
    two = torch.tensor([1.0, -2.0, 1.0])
    y, x, yx = torch.outer(one, none), torch.outer(none, one), torch.outer(one, one)
    yy, xx = torch.outer(two, none), torch.outer(none, two)
    first, second = [y, x], [yy + xx, (yy - xx) / 2, yx] if every else []
    kernels = [s * one for s in sigmas for one in [*first, *(s * other for other in second)]]
    return torch.stack(kernels)[:, None].to(device)


def _correlated(padded: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Images (n, groups, h, w) seen through kernels (m, 1, ...), as many for each group."""
    if padded.device.type == "cpu":
        return _summed(padded, kernels)
    return _convolved(padded, kernels)


def _summed(padded: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Sums of moved images: on a CPU several times faster than a convolution of one channel."""
    rows, columns = kernels.shape[-2:]
    height, width = padded.shape[-2] - rows + 1, padded.shape[-1] - columns + 1
    found = padded.new_zeros((len(padded), len(kernels), height, width))
    each = len(kernels) // padded.shape[1]
    for k, (kernel,) in enumerate(kernels.tolist()):
        for y, x in itertools.product(range(rows), range(columns)):
            if weight := kernel[y][x]:
                moved = padded[:, k // each, y : y + height, x : x + width]
                found[:, k].add_(moved, alpha=weight)
    return found


def _convolved(padded: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """As :func:`_summed`, in one step: a GPU takes longer to begin a step than to do it."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found: torch.Tensor = F.conv2d(padded, kernels, groups=padded.shape[1])
    return found
