"""The command ``objects``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .shared import stderr


def objects(
    labels: Annotated[
        Path,
        typer.Argument(help="Segmentation, as 'segment' and 'apply' write: TIFF or PNG."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT.tif", help="Image of the objects' numbers to write."
        ),
    ],
    label: Annotated[
        int, typer.Option("--class", min=1, metavar="LABEL", help="Label of the class to count.")
    ],
    watershed: Annotated[
        bool, typer.Option("--watershed", help="Split objects that touch at the necks between.")
    ] = False,
    neck: Annotated[
        float | None,
        typer.Option(
            metavar="PX",
            help="How much less than the smaller object's radius half a neck must be wide for a "
            "split: more where rough borders split what is one. By default 0.5.",
            show_default=False,
        ),
    ] = None,
    min_size: Annotated[
        int, typer.Option(metavar="PX", help="Drop objects of fewer pixels. 0: none.")
    ] = 0,
    clear_border: Annotated[
        bool, typer.Option("--clear-border", help="Drop objects that touch the image's edge.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Table of the objects to write.", show_default=False
        ),
    ] = None,
) -> None:
    """Count the objects of one class, and measure them."""
    import numpy as np

    from .._io import check_output, label_dtype, open_image, open_results
    from ..core.errors import HRDv2Error, StrokesError
    from ..core.objects import (
        find_objects,
        make_object_settings,
        measure_objects,
        rows_of,
        write_csv,
    )

    check_output(output, labels)
    if table is not None and table.resolve() in {labels.resolve(), output.resolve()}:
        raise HRDv2Error(f"{table} is one of the images: give the table another name")
    if neck is not None and not watershed:
        raise HRDv2Error("--neck is for splitting: give --watershed too")
    changes: dict[str, Any] = {} if neck is None else {"neck": neck}
    settings = make_object_settings(
        split=watershed, min_size=min_size, clear_border=clear_border, **changes
    )
    source = open_image(labels)
    planes = source.planes
    if planes.channels is not None or "S" in planes.axes or planes.array.dtype.kind not in "bui":
        raise StrokesError(f"{labels} is no label image: whole numbers, one for every pixel")
    indices = list(planes.indices())
    stack = np.stack([planes.read(one) for one in indices]).reshape(planes.labels_shape)
    sizes = [source.pixel_size.get(axis) for axis in "YX"]
    size = None if None in sizes else tuple(one for one in sizes if one is not None)
    found = find_objects(stack, label, settings, pixel_size=size)
    axes, shape = planes.labels_axes, planes.labels_shape
    about: dict[str, Any] = {"pixel_size": source.pixel_size, "unit": source.unit}
    with open_results(output, axes, shape, label_dtype(found), **about) as results:
        for one in indices:
            results.write(one, None, found[one])
    if table is not None:
        measured = measure_objects(found, pixel_size=size, unit=source.unit)
        write_csv(table, rows_of(measured), [*measured])
    stderr.print(f"wrote {output}: {found.max()} objects of class {label}")
