"""The command ``demo``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Filters, Looking, OutputFolder, spread
from .shared import extract, stderr

if TYPE_CHECKING:
    import numpy.typing as npt


@spread
def demo(
    output: OutputFolder = Path("demo"),
    show: Annotated[
        bool, typer.Option("--show", help="Open napari on the result, where there is a display.")
    ] = False,
    *,
    looking: Looking,
    filters: Filters = None,
) -> None:
    """Segment the sample image from its strokes and draw a picture of it.

    Writes the image and its strokes, the segmentation, the model and demo.png, which shows
    image, strokes, segmentation and confidence side by side.
    """
    from PIL import Image

    from .._io import write_labels
    from .._picture import overview
    from .._sample_data import CLASSES, sample_image, sample_strokes
    from ..core.classifier import PixelClassifier
    from ..core.files import replacing

    image, strokes = sample_image(), sample_strokes()
    extractor = looking.extractor(filters=filters)
    tokens = extract(extractor, image, "glands")
    classifier = PixelClassifier().fit(tokens, strokes, CLASSES)
    probabilities = classifier.predict_proba(tokens)
    labels = classifier.labels_of(probabilities)
    pictures = {
        "glands.png": Image.fromarray(image),
        "glands_strokes.png": Image.fromarray(strokes),
        "demo.png": overview(image, strokes, probabilities, CLASSES),
    }
    for name, picture in pictures.items():
        with replacing(output / name) as whole:
            picture.save(whole)
    write_labels(output / "glands_segmentation.tif", labels)
    classifier.save(output / "glands.safetensors")
    stderr.print(f"wrote {output / 'demo.png'} (weights: {extractor.settings.model})")
    if show:
        _show(labels)


def _show(labels: npt.NDArray[Any]) -> None:
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        stderr.print("there is no display: napari is not opened")
        return
    from ..core.errors import HRDv2Error

    try:
        import napari
    except ImportError:
        raise HRDv2Error("--show needs napari: pip install 'napari-hrdv2[all]'") from None
    from .._sample_data import CLASSES, make_sample
    from .._widgets.layers import Reading, Segmentations, planes_of, window_of

    viewer = napari.Viewer()
    (pixels, options, _), (painted, strokes_options, _) = make_sample()
    image = viewer.add_image(pixels, **options)
    strokes = viewer.add_labels(painted, **strokes_options)
    # As the panel does, which then goes on with it.
    planes = planes_of(image, Reading())
    whole = ((), (slice(None), slice(None)), labels)
    window = window_of(image, planes, Reading())
    Segmentations(viewer).show(image, window, [whole], CLASSES, strokes)
    viewer.window.add_plugin_dock_widget("napari-hrdv2")
    napari.run()
