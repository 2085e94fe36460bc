"""One row of :mod:`.cost`, in a process of its own: what is asked on stdin, the row on stdout."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ..core.classifier import PixelClassifier
from ..core.errors import DeviceError, HRDv2Error
from ..core.extraction import FeatureExtractor
from ..core.memory import is_measurable, reset_peak, resident
from ..core.settings import Settings
from .cost import NO_MEMORY
from .running import Row

_T = TypeVar("_T")
_TINY, _MEGABYTE = 64, 1e6
# Painted pixels of each of the two classes.
_PAINTED = 1000


def picture(side: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A square image with structures of all sizes, half of it darker, and strokes on both."""
    rng = np.random.default_rng(0)
    image = np.zeros((side, side))
    for size in (4, 16, 64):
        coarse = rng.random((-(-side // size),) * 2)
        image += np.kron(coarse, np.ones((size, size)))[:side, :side]
    image[:, : side // 2] *= 0.7
    strokes = np.zeros((side, side), np.uint8)
    for label, columns in ((1, slice(0, side // 2)), (2, slice(side // 2, side))):
        half = np.flatnonzero(np.ones((side, side))[:, columns])
        chosen = np.zeros(half.size, np.uint8)
        chosen[rng.permutation(half.size)[:_PAINTED]] = label
        strokes[:, columns] = chosen.reshape(side, -1)
    return (255 * image / image.max()).astype(np.uint8), strokes


def measured(request: Mapping[str, Any]) -> Row:
    """Seconds and memory.

    Parameters
    ----------
    request
        ``side`` in pixels, ``settings`` of features, ``device``, ``weights`` (None: the model's
        own), and how often to ``repeat``.

    Returns
    -------
    dict
        ``features_s``, ``fit_s`` and ``segment_s``, medians in seconds; ``tokens_mb``;
        ``before_mb`` and ``peak_mb``, of the process with the weights loaded and at its peak, or of
        what torch has on a GPU, in 10^6 bytes; None where the system does not tell.
    """
    extractor = FeatureExtractor(
        Settings.model_validate(request["settings"]),
        device=request["device"],
        weights=request["weights"],
        download=False,
    )
    cuda = extractor.device if extractor.device.type == "cuda" else None
    _segmented(extractor, *picture(_TINY))
    image, strokes = picture(request["side"])
    before = _taken(cuda)
    if cuda is not None:
        torch.cuda.reset_peak_memory_stats(cuda)
    elif is_measurable():
        reset_peak()
    rounds = [_segmented(extractor, image, strokes) for _ in range(request["repeat"])]
    seconds = np.median([times for times, _ in rounds], axis=0).tolist()
    return {
        **dict(zip(("features_s", "fit_s", "segment_s"), seconds, strict=True)),
        "tokens_mb": rounds[0][1] / _MEGABYTE,
        "before_mb": before,
        "peak_mb": _taken(cuda, at_peak=True),
    }


def _segmented(
    extractor: FeatureExtractor, image: npt.NDArray[np.uint8], strokes: npt.NDArray[np.uint8]
) -> tuple[list[float], int]:
    """Seconds of features, fit and segmentation, and bytes of the tokens."""

    def timed(action: Callable[[], _T]) -> tuple[_T, float]:
        start = time.perf_counter()
        found = action()
        if extractor.device.type == "cuda":
            torch.cuda.synchronize(extractor.device)
        return found, time.perf_counter() - start

    tokens, features_s = timed(lambda: extractor.extract(image))
    model, fit_s = timed(lambda: PixelClassifier().fit(tokens, strokes))
    _, segment_s = timed(lambda: model.predict(tokens))
    return [features_s, fit_s, segment_s], tokens.nbytes


def _taken(cuda: torch.device | None, *, at_peak: bool = False) -> float | None:
    """Memory in 10^6 bytes."""
    if cuda is not None:
        of = torch.cuda.max_memory_allocated if at_peak else torch.cuda.memory_allocated
        return of(cuda) / _MEGABYTE
    if is_measurable():
        return resident("VmHWM" if at_peak else "VmRSS") / _MEGABYTE
    return None


def main() -> int:
    """Measure what stdin asks for."""
    warnings.simplefilter("ignore")
    try:
        row = measured(json.load(sys.stdin))
    except (DeviceError, MemoryError) as error:
        print(error, file=sys.stderr)
        return NO_MEMORY
    except HRDv2Error as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
