"""The command ``apply``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .options import Axes, Device, OutputFolder, Refining, WeightsFile, spread
from .shared import download_bar, fail, stderr


@spread
def apply(
    model: Annotated[Path, typer.Argument(help="Model that 'train' or the window saved.")],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images to segment: files, OME-Zarr, folders of images, or patterns such as "
            "'plate*/*.tif'.",
            metavar="IMAGE...",
        ),
    ],
    output: OutputFolder,
    *,
    format_: Annotated[
        str, typer.Option("--format", help="tif for OME-TIFF, or zarr for OME-Zarr.")
    ] = "tif",
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write the classes' probabilities too, as NAME_probabilities.",
        ),
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Table to write: area and number of objects of every class in every image.",
            show_default=False,
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Look into the folders in folders, too.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Make results anew that are there already, of the same image and model.",
        ),
    ] = False,
    axes: Axes = None,
    level: Annotated[
        int, typer.Option(help="Resolution of images that hold several. 0: the full one.")
    ] = 0,
    device: Device = "auto",
    weights: WeightsFile = None,
    refining: Refining,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Work on a dask cluster, such as tcp://10.0.0.5:8786, whose workers see the same "
            "folders.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Work in so many processes of this machine. 0: in one.")
    ] = 0,
) -> None:
    """Segment images with a trained model; label images get the inputs' names.

    Results that are there already are kept, so that the same command goes on where it was
    interrupted.
    """
    from .._batch import Batch, Event, Report

    refinement = refining.refinement()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=stderr)
    with download_bar() as progress, ExitStack() as stack:
        batch = Batch(
            model,
            images,
            output,
            format=format_,
            probabilities=probabilities,
            csv=table,
            recursive=recursive,
            overwrite=overwrite,
            axes=axes,
            level=level,
            refinement=refinement,
            device=device,
            weights=None if weights is None else str(weights),
            progress=progress,
            scheduler=scheduler,
            workers=workers,
        )
        task = bar.add_task("")

        def reported() -> Iterator[Event | Report]:
            yield (yield from batch.run())

        for event in reported():
            if isinstance(event, Report):
                report = event
            else:
                # Not before: two bars at once are none, and weights may have to be downloaded.
                if not bar.live.is_started:
                    stack.enter_context(bar)
                bar.update(task, completed=event.done, total=event.total, description=event.text)
                if event.kind == "failed":
                    fail(event.text)
    found = len(report.written) + len(report.kept)
    kept = f", {len(report.kept)} of them earlier" if report.kept else ""
    total = found + len(report.failed)
    stderr.print(f"wrote {found} of {total} label images to {output}{kept}")
    if report.failed:
        names = ", ".join(path.name for path in report.failed)
        stderr.print(f"failed: {names}", markup=False)
        raise typer.Exit(2)
