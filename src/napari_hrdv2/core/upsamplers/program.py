"""Learned upsamplers of any kind, as programs in ONNX files.

A program takes ``image`` (1, 3, H, W), normalised as for the backbone, and ``features``
(1, C, h, w), and gives features (1, C', H', W') of that image. It need not be linear in the tokens:
the map of all channels of one block of the image is there at a time.

Why ONNX: it is a graph of known operators and their weights, in which there is no place for Python
code. What torch writes itself is no safer than a script: the files of torch.export are unpickled
where plain loading fails, and TorchScript programs may read and write files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ..errors import HRDv2Error, WeightsError
from ..tokens import Tokens
from ..upsample import project
from .base import Floats, GuidedFeatures, OnePass, Pixels, guide_of
from .blocks import Block, blocks

_INPUTS = ("image", "features")
# Warnings of a program are not for its user.
_ERRORS_ONLY = 3


class Program(OnePass):
    """A learned upsampler in an ONNX file.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    size
        (h, w) of the features that it is for, where these are fixed: images are then worked on
        in overlapping blocks.

    Raises
    ------
    WeightsError
        If onnxruntime is not installed, or the file is missing, damaged, or takes other inputs.

    Examples
    --------
    >>> Program(Path("anyup.onnx"))  # doctest: +SKIP
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.stem
        if not path.is_file():
            raise WeightsError(f"there is no file {path} of an upsampler")
        try:
            onnxruntime = import_module("onnxruntime")
        except ImportError:
            raise WeightsError(
                "upsamplers in ONNX files need onnxruntime: pip install onnxruntime"
            ) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise WeightsError(f"{path} cannot be read as an ONNX file: {_first(error)}") from None
        shapes = {one.name: one.shape for one in self._session.get_inputs()}
        if set(shapes) != set(_INPUTS) or {len(one) for one in shapes.values()} != {4}:
            listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise WeightsError(
                f"{path} takes the inputs {listed}: an upsampler takes image (1, 3, H, W) and "
                "features (1, C, h, w)"
            )
        *_, h, w = shapes["features"]
        self._channels = shapes["features"][1]
        found = self._session.get_outputs()[0].shape
        self._gives = found[1] if found and len(found) == 4 else None
        self.size = (h, w) if isinstance(h, int) and isinstance(w, int) else None

    def __reduce__(self) -> tuple[type[Program], tuple[Path]]:
        return Program, (self._path,)

    def upsample(self, image: npt.ArrayLike, tokens: Tokens) -> ProgramFeatures:
        """As :meth:`.Upsampler.upsample`."""
        count = tokens.data.shape[-1]
        if isinstance(self._channels, int) and self._channels != count:
            raise HRDv2Error(
                f"the upsampler {self.name} is for tokens of {self._channels} channels, the "
                f"backbone's have {count}: choose the backbone that it was trained with"
            )
        return ProgramFeatures(tokens, guide_of(image, tokens), self)

    def channels(self, of_tokens: int) -> int:
        """Features of a pixel, of tokens of so many channels: as many, unless the file says so."""
        return self._gives if isinstance(self._gives, int) else of_tokens

    def run(self, block: Block) -> torch.Tensor:
        """Features of a block's pixels, (C', patch ny, patch nx) of float32.

        Raises
        ------
        HRDv2Error
            If the program fails, or gives what are no features.
        """
        inputs = {"image": block.image, "features": block.tokens}
        try:
            found, *_ = self._session.run(None, {k: v.cpu().numpy() for k, v in inputs.items()})
        except Exception as error:
            raise HRDv2Error(f"the upsampler {self.name} failed: {_first(error)}") from None
        shape = np.shape(found)
        if len(shape) != 4 or shape[0] != 1:
            raise HRDv2Error(
                f"the upsampler {self.name} gives {shape}: features (1, C, H, W) are needed"
            )
        size = block.image.shape[-2:]
        if shape[1] != self.channels(block.tokens.shape[1]):
            raise HRDv2Error(
                f"the upsampler {self.name} gives {shape[1]} channels of {block.tokens.shape[1]}, "
                "which its file does not say"
            )
        maps = torch.from_numpy(found).float()
        if shape[2:] != size:
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        return maps[0]


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@dataclass(frozen=True, eq=False)
class ProgramFeatures(GuidedFeatures):
    """Features as a :class:`Program` gives them, anew every time they are asked for.

    Attributes
    ----------
    program
        Whose they are.
    """

    program: Program

    @property
    def channels(self) -> int:
        return self.program.channels(self.tokens.data.shape[-1])

    def _blocks(self) -> Iterator[tuple[tuple[slice, slice], torch.Tensor]]:
        """Pixels and their features (C', rows, columns)."""
        for block in blocks(self.guide, self.tokens, self.program.size):
            y, x = block.inner
            yield block.pixels, self.program.run(block)[:, y, x]

    def rows(self, pixels: Pixels) -> Floats:
        found = np.empty((len(pixels), self.channels), np.float32)
        for (y, x), maps in self._blocks():
            inside = (y.start <= pixels[:, 0]) & (pixels[:, 0] < y.stop)
            inside &= (x.start <= pixels[:, 1]) & (pixels[:, 1] < x.stop)
            at = pixels[inside] - (y.start, x.start)
            found[inside] = maps[:, at[:, 0], at[:, 1]].T
        return found

    def maps(self, weight: Floats, bias: Floats | float = 0.0) -> Floats:
        whole = torch.empty((*self.shape, len(weight)))
        for place, maps in self._blocks():
            whole[place] = project(maps.permute(1, 2, 0)[None], weight)[0]
        whole += torch.as_tensor(bias)
        found: Floats = whole.numpy()
        return found
