"""The commands of ``compare``, and the first of them, ``compare upsamplers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import OutputFolder

compare_app = typer.Typer(help="Ways to see features, side by side.", no_args_is_help=True)


def upsamplers(
    image: Annotated[
        Path, typer.Argument(help="Image: TIFF, OME-Zarr, PNG, JPEG, or what else bioio reads.")
    ],
    output: OutputFolder,
) -> None:
    """Compare ways to bring a backbone's tokens to full resolution on an image."""
    from ..core.errors import HRDv2Error

    raise HRDv2Error(f"{image} cannot be compared to {output} yet")
