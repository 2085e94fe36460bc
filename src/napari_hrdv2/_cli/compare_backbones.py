"""The command ``compare backbones``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from .options import Axes, Device, OutputFolder, Passes, Scale, Stride
from .shared import stderr

if TYPE_CHECKING:
    from .._backbones import BackboneComparison


def backbones(
    image: Annotated[
        Path, typer.Argument(help="Image: TIFF, OME-Zarr, PNG, JPEG, or what else bioio reads.")
    ],
    output: OutputFolder,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Backbones: names of 'weights list', timm:NAME for one of the package timm, FILE "
            "for a checkpoint of your own, NAME=FILE for one in the place of a download. By "
            "default one of each kind.",
            show_default=False,
        ),
    ] = None,
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
    passes: Passes = None,
    stride: Stride = None,
    scale: Scale = None,
    depth: Annotated[
        float | None,
        typer.Option(
            help="Share of the backbones' blocks that tokens go through. By default 0.75.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder that holds the models' official files, to use instead of downloads.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare backbones on an image; those that cannot be had are told and left out.

    Writes backbones.png (components as colours, attention, labels of a linear probe) and
    backbones.json (patch, stride, channels, parameters, time, memory, the probe's scores).
    """
    from rich.progress import Progress

    from .._backbones import BY_DEFAULT, Candidate, backbones_picture, compare_backbones
    from .._comparison import Task
    from .._io import open_image, open_strokes
    from ..core.base import check_strokes
    from ..core.errors import HRDv2Error, ImageError
    from ..core.files import replacing

    if output.exists() and not output.is_dir():
        raise HRDv2Error(f"{output} is a file: name a folder to write to")
    wanted = BY_DEFAULT if models is None else models.split(",")
    candidates = [Candidate.of(one, weights) for one in wanted]
    planes = open_image(image, axes=axes).planes
    indices = list(planes.indices())
    if planes.channel_count is not None or len(indices) > 1:
        raise ImageError(
            f"{image} holds several planes or channels: backbones are compared on a grey or RGB "
            "image"
        )
    (index,) = indices
    drawn, known = (
        None if one is None else check_strokes(open_strokes(one, planes).read(index), planes.shape)
        for one in (strokes, truth)
    )
    task = Task.of(drawn, known)
    pixels = planes.read(index)
    settings = {"passes": passes, "stride": stride, "scale": scale, "depth": depth}
    with Progress(console=stderr) as bar:
        step = bar.add_task("", total=len(candidates))
        download = bar.add_task("weights", visible=False)
        count = iter(range(len(candidates)))
        comparison, panels = compare_backbones(
            pixels,
            image.name,
            candidates,
            task,
            device=device,
            progress=lambda done, total: bar.update(
                download, completed=done, total=total, visible=done < total
            ),
            on_step=lambda name: bar.update(step, description=escape(name), completed=next(count)),
            on_missing=lambda name, reason: stderr.print(
                f"napari-hrdv2: {name} is left out: {' '.join(reason.split())}", markup=False
            ),
            **{name: value for name, value in settings.items() if value is not None},
        )
        bar.update(step, completed=len(candidates))
    with (
        replacing(output / "backbones.png") as whole_picture,
        replacing(output / "backbones.json") as whole,
    ):
        backbones_picture(pixels, panels, task).save(whole_picture, optimize=True)
        whole.write_text(comparison.model_dump_json(indent=2))
    _print(comparison, Console())
    stderr.print(f"wrote {output / 'backbones.png'} and backbones.json")


def _print(comparison: BackboneComparison, console: Console) -> None:
    """Print what was found as a table."""
    from rich.table import Table

    h, w = comparison.shape
    # Narrow, as columns that have no room in a terminal are not shown at all.
    title = escape(f"{comparison.image}, {h} x {w}")
    table = Table(title=title, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("backbone", overflow="fold", min_width=12)
    columns = ("patch", "stride", "chan.", "par., M", "pass, s", "peak, MB", "mean IoU", "acc.")
    has_probe = comparison.probe is not None
    for name in columns if has_probe else columns[:-2]:
        table.add_column(name, justify="right")
    for one in comparison.backbones:
        peak = "-" if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.0f}"
        cells = [str(one.settings.patch), str(one.settings.stride), str(one.channels)]
        cells += [f"{one.parameters / 1e6:.1f}", f"{one.seconds:.2f}", peak]
        if one.mean_iou is not None:
            cells += [f"{one.mean_iou:.3f}", f"{one.accuracy:.3f}"]
        table.add_row(escape(one.name), *cells)
    if has_probe:
        table.caption = f"linear probe: {comparison.probe}"
    console.print(table)
