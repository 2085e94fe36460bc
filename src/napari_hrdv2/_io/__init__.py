"""Reading images and strokes, writing results: what the command line needs of files."""

from .reading import is_image, open_image, open_strokes, read_classes, read_notes
from .source import Source
from .writing import (
    Results,
    check_output,
    label_dtype,
    open_results,
    write_labels,
)

__all__ = [
    "Results",
    "Source",
    "check_output",
    "is_image",
    "label_dtype",
    "open_image",
    "open_results",
    "open_strokes",
    "read_classes",
    "read_notes",
    "write_labels",
]
