"""The commands of ``weights``."""

from __future__ import annotations

from typing import Annotated

import typer

from .shared import find_weights


def list_weights() -> None:
    """List the backbones, and which of them are on this machine."""
    from ..core.weights import REGISTRY, is_cached

    for name, entry in REGISTRY.items():
        state = "here" if is_cached(name) else "-"
        typer.echo(f"{name:20} {entry.megabytes:>5} MB  {state:4}  {entry.description}")


def fetch(name: Annotated[str, typer.Argument(help="Backbone, see 'weights list'.")]) -> None:
    """Download a backbone's weights into the cache, and check them."""
    typer.echo(find_weights(name).path)


def path(name: Annotated[str, typer.Argument(help="Backbone, see 'weights list'.")]) -> None:
    """Print where a backbone's weights are on this machine."""
    from ..core.weights import find

    typer.echo(find(name, download=False).path)
