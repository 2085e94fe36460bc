"""What a GPU makes of it, against the bare backbone and the naive way.

Run it wherever there is a GPU (CUDA); without one it says so and ends with code 0. Weights do not
matter for speed: a random ViT-S/14 is made where ``--weights`` names none.

- 17 passes at 518 x 518 against 17 bare half-precision forward passes with fused attention, batched
  alike: promised at most 1.5 times as long.
- Prediction of 2048 x 2048 from 16 passes on the GPU, 3 classes: promised within 20 ms, to labels
  on the CPU.
- The naive way, in the same run: pass by pass, the float32 map of all channels brought to full size
  and averaged, then multiplied by the weights.

``--check`` ends with code 1 where a promise is missed.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from napari_hrdv2 import FeatureExtractor, HRDv2Error
from napari_hrdv2.core.filters import filter_grids
from napari_hrdv2.core.tokens import Tokens
from napari_hrdv2.core.upsample import predicted

_DIM, _DEPTH, _PATCH, _GRID = 384, 12, 14, 37


def random_weights(path: Path) -> Path:
    """A checkpoint of a random ViT-S/14, under DINOv2's names."""
    torch.manual_seed(0)
    state = {
        "cls_token": torch.zeros(1, 1, _DIM),
        "pos_embed": torch.randn(1, 1 + _GRID**2, _DIM) * 0.02,
        "patch_embed.proj.weight": torch.randn(_DIM, 3, _PATCH, _PATCH) * 0.02,
        "patch_embed.proj.bias": torch.zeros(_DIM),
        "norm.weight": torch.ones(_DIM),
        "norm.bias": torch.zeros(_DIM),
    }
    for k in range(_DEPTH):
        for name, rows, columns in (
            ("attn.qkv", 3 * _DIM, _DIM),
            ("attn.proj", _DIM, _DIM),
            ("mlp.fc1", 4 * _DIM, _DIM),
            ("mlp.fc2", _DIM, 4 * _DIM),
        ):
            state[f"blocks.{k}.{name}.weight"] = torch.randn(rows, columns) * 0.02
            state[f"blocks.{k}.{name}.bias"] = torch.zeros(rows)
        for norm in ("norm1", "norm2"):
            state[f"blocks.{k}.{norm}.weight"] = torch.ones(_DIM)
            state[f"blocks.{k}.{norm}.bias"] = torch.zeros(_DIM)
        for scale in ("ls1", "ls2"):
            state[f"blocks.{k}.{scale}.gamma"] = torch.ones(_DIM)
    torch.save(state, path)
    return path


def timed(device: torch.device, action: Callable[[], object], repeat: int) -> float:
    """Median in seconds, the device's queue emptied before and after."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for _ in range(repeat + 2):
        wait()
        start = time.perf_counter()
        action()
        wait()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def naive(tokens: Tokens, weight: torch.Tensor) -> np.ndarray:
    """Every pass at full size with all its channels, averaged; then classes, without filters."""
    channels = tokens.data.shape[-1]
    total = torch.zeros((channels, *tokens.image_shape), device=tokens.data.device)
    for one in tokens.data:
        planes = one.float().permute(2, 0, 1).contiguous()[None]
        total += F.interpolate(planes, tokens.image_shape, mode="bilinear")[0]
    total /= tokens.passes
    scores = weight[:, :channels] @ total.reshape(channels, -1)
    return scores.argmax(0).reshape(tokens.image_shape).cpu().numpy()


def tokens_on(device: torch.device, side: int, extractor: FeatureExtractor) -> Tokens:
    """Random tokens of an image of that side, on the device, and its filters."""
    settings = extractor.settings
    transforms = settings.transforms()
    lattices = tuple(t.lattice((side, side), _PATCH, _PATCH, "reflect") for t in transforms)
    grid = [one.size for one in lattices[0]]
    dtype = torch.float16
    data = torch.randn((len(transforms), *grid, _DIM), device=device).to(dtype)
    filters = filter_grids(torch.rand((1, side, side), device=device))
    return Tokens(data, lattices, (side, side), settings, filters)


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", help="checkpoint of a ViT-S/14 (default: a random one)")
    parser.add_argument("--repeat", type=int, default=20, help="repetitions (default: 20)")
    parser.add_argument("--check", action="store_true", help="code 1 where a promise is missed")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--shrink", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU that torch can use (CUDA)")
        return 0
    device = torch.device(options.device)
    is_gpu = device.type == "cuda"
    with tempfile.TemporaryDirectory() as temporary:
        weights = options.weights or random_weights(Path(temporary) / "random.pth")
        try:
            extractors = [
                FeatureExtractor(
                    weights=weights, device=options.device, passes=passes, zooms=(1.0,)
                )
                for passes in (17, 16)
            ]
        except HRDv2Error as error:
            print(error, file=sys.stderr)
            return 2
        return report(options, device, is_gpu, *extractors)


def report(
    options: argparse.Namespace,
    device: torch.device,
    is_gpu: bool,
    extractor: FeatureExtractor,
    other: FeatureExtractor,
) -> int:
    """Measure, print, and say whether all promises were kept."""
    small, large = 518 // options.shrink, 2048 // options.shrink
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (small, small), np.uint8)
    vit, batches = extractor.backbone, []
    hook = vit.register_forward_pre_hook(lambda _, args: batches.append(args[0]))
    tokens = extractor.extract(image)
    hook.remove()
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    blocks = math.ceil(extractor.settings.depth * vit.depth)
    extraction = timed(device, lambda: extractor.extract(image), options.repeat)
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if is_gpu else 0.0
    bare = timed(device, lambda: [vit(batch, blocks=blocks) for batch in batches], options.repeat)
    whole = tokens_on(device, large, other)
    weight = rng.normal(0, 0.1, (3, whole.channels)).astype(np.float32)
    bias = np.zeros(3, np.float32)
    prediction = timed(device, lambda: predicted(whole, weight, bias), options.repeat)
    on_device = torch.from_numpy(weight).to(device)
    slow = timed(device, lambda: naive(whole, on_device), 3)
    where = torch.cuda.get_device_name(device) if is_gpu else "CPU"
    table = Table(title=f"{where}, torch {torch.__version__}")
    for column in ("what", "", "promised"):
        table.add_column(column, justify="left" if column == "what" else "right")
    ratio = extraction / bare
    table.add_row(f"17 passes at {small} x {small}, ms", f"{1e3 * extraction:.1f}", "")
    table.add_row("17 bare passes, ms", f"{1e3 * bare:.1f}", "")
    table.add_row("  ratio", f"{ratio:.2f}", "<= 1.5")
    table.add_row("tokens on", str(tokens.data.device), "")
    table.add_row(f"prediction of {large} x {large}, ms", f"{1e3 * prediction:.1f}", "<= 20")
    table.add_row("  the naive way, ms", f"{1e3 * slow:.0f}", "")
    table.add_row("  ratio", f"{slow / prediction:.0f}", "")
    table.add_row("peak memory of the extraction, MB", f"{peak:.0f}", "")
    Console().print(table)
    missed = [f"extraction takes {ratio:.2f} of the bare passes"] * (ratio > 1.5)
    missed += [f"prediction takes {1e3 * prediction:.1f} ms"] * (prediction > 0.02)
    for line in missed:
        print(f"missed: {line}")
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
