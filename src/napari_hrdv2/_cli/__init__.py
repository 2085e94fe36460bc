"""The command ``napari-hrdv2``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import typer

from .applying import apply
from .compare import compare_app
from .counting import objects
from .demo import demo
from .evaluate import evaluate_app
from .evaluate_trained import coco_probe, cost, scribbles
from .segmenting import segment, train
from .shared import fail, stderr
from .weights import fetch, list_weights, path

app = typer.Typer(
    name="napari-hrdv2",
    help="Segment micrographs from a few painted strokes, with high-resolution features of a "
    "vision transformer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
weights_app = typer.Typer(help="The backbones' weights.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")
app.add_typer(evaluate_app, name="evaluate")
for _command in (segment, train, apply, objects, demo):
    app.command()(_command)
for _evaluation in (coco_probe, scribbles, cost):
    evaluate_app.command(_evaluation.__name__.replace("_", "-"))(_evaluation)
weights_app.command("list")(list_weights)
weights_app.command()(fetch)
weights_app.command()(path)
app.add_typer(compare_app, name="compare")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments
        Those after the program's name; by default the process's.

    Returns
    -------
    int
        0, or 2 after an error that the user can mend, printed as one line.
    """
    import pooch

    from ..core.errors import HRDv2Error, ImageWarning, RefinementWarning

    pooch.get_logger().setLevel("WARNING")  # the progress bar says the rest

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        stderr.print(f"napari-hrdv2: {message}", markup=False)

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        # Of every image, not only of the first.
        warnings.simplefilter("always", RefinementWarning)
        warnings.simplefilter("always", ImageWarning)
        try:
            code = app(arguments, prog_name="napari-hrdv2", standalone_mode=False)
        except (HRDv2Error, OSError) as error:
            fail(error)
            return 2
        except (KeyboardInterrupt, typer.Abort):
            return 130
        except Exception as error:
            # Wrong usage; typer's class for it moved between its versions.
            if not hasattr(error, "format_message"):
                raise
            if message := error.format_message():
                fail(message)
            return 2
    return code or 0
