"""The commands of ``compare``, and the first of them, ``compare upsamplers``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .options import Axes, Device, Model, OutputFolder, WeightsFile
from .shared import make_extractor, stderr

if TYPE_CHECKING:
    from .._comparison import Comparison

compare_app = typer.Typer(help="Ways to see features, side by side.", no_args_is_help=True)

_BY_DEFAULT = ["nearest", "bilinear", "strided", "shifts", "guided"]


def upsamplers(
    image: Annotated[
        Path, typer.Argument(help="Image: TIFF, OME-Zarr, PNG, JPEG, or what else bioio reads.")
    ],
    output: OutputFolder,
    upsampler: Annotated[
        list[str],
        typer.Option(
            "--upsampler",
            "-u",
            metavar="NAME",
            help="nearest, bilinear, strided[:PX], shifts[:N], guided, featup:FILE (a checkpoint "
            "of FeatUp), or onnx:FILE (any other learned one); repeat for more. By default all "
            "that need no file.",
            show_default=False,
        ),
    ] = _BY_DEFAULT,
    strokes: Annotated[
        Path | None,
        typer.Option(
            metavar="STROKES",
            help="Painted labels, on which a linear probe is trained; it is tested on strokes held "
            "out, or on the truth.",
            show_default=False,
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="TRUTH",
            help="Label image, 0 where unknown, on which a linear probe is tested; without "
            "strokes they are simulated.",
            show_default=False,
        ),
    ] = None,
    axes: Axes = None,
    model: Model = "auto",
    depth: Annotated[
        float | None,
        typer.Option(
            help="Share of the backbone's blocks that tokens go through. By default 0.75; learned "
            "upsamplers were trained with 1.",
            show_default=False,
        ),
    ] = None,
    reference_passes: Annotated[
        int,
        typer.Option(min=1, help="Passes, at half a patch as the stride, of the reference."),
    ] = 16,
    device: Device = "auto",
    weights: WeightsFile = None,
) -> None:
    """Compare ways to bring a backbone's tokens to full resolution on an image.

    Writes upsamplers.png (colours in a basis shared by all, a part enlarged, errors) and
    upsamplers.json (time, memory, error, the scores of a linear probe).
    """
    from rich.progress import Progress

    from .._comparison import Task, compare_upsamplers, picture
    from .._io import open_image, open_strokes
    from ..core.base import check_strokes
    from ..core.errors import HRDv2Error, ImageError
    from ..core.files import replacing
    from ..core.upsamplers import make_upsampler

    if output.exists() and not output.is_dir():
        raise HRDv2Error(f"{output} is a file: name a folder to write to")
    chosen = [make_upsampler(one) for one in upsampler]
    planes = open_image(image, axes=axes).planes
    indices = list(planes.indices())
    if planes.channel_count is not None or len(indices) > 1:
        raise ImageError(
            f"{image} holds several planes or channels: upsamplers are compared on a grey or RGB "
            "image"
        )
    (index,) = indices
    drawn, known = (
        None if one is None else check_strokes(open_strokes(one, planes).read(index), planes.shape)
        for one in (strokes, truth)
    )
    task = Task.of(drawn, known)
    pixels = planes.read(index)
    extractor = make_extractor(device, weights, model=model, depth=depth)
    with Progress(console=stderr) as bar:
        step = bar.add_task("", total=len(chosen) + 1)

        def on_step(name: str) -> None:
            bar.update(step, description=name, completed=next(count))

        count = iter(range(len(chosen) + 1))
        comparison, panels = compare_upsamplers(
            pixels, image.name, chosen, extractor, task, reference_passes, on_step
        )
        bar.update(step, completed=len(chosen) + 1)
    with (
        replacing(output / "upsamplers.png") as whole_picture,
        replacing(output / "upsamplers.json") as whole,
    ):
        picture(pixels, panels, task).save(whole_picture, optimize=True)
        whole.write_text(comparison.model_dump_json(indent=2))
    _print(comparison, Console())
    stderr.print(f"wrote {output / 'upsamplers.png'} and upsamplers.json")


def _print(comparison: Comparison, console: Console) -> None:
    """Print what was found as a table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    h, w = comparison.shape
    title = f"{comparison.image}, {h} x {w}, {comparison.settings.model}"
    # Where it goes to no terminal there are 80 columns.
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("upsampler", no_wrap=True, min_width=10)
    columns = ("passes", "stride", "tokens s", "maps s", "peak MB", "error", "mean IoU", "acc.")
    has_probe = comparison.probe is not None
    for name in columns if has_probe else columns[:-2]:
        table.add_column(name, justify="right")
    for one in comparison.upsamplers:
        peak = "-" if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.0f}"
        cells = [str(one.passes), str(one.stride), f"{one.seconds_tokens:.2f}"]
        cells += [f"{one.seconds_maps:.2f}", peak, f"{one.error:.3f}"]
        if one.mean_iou is not None:
            cells += [f"{one.mean_iou:.3f}", f"{one.accuracy:.3f}"]
        table.add_row(one.name, *cells)
    if has_probe:
        table.caption = f"linear probe: {comparison.probe}"
    console.print(table)
