"""What is measured of upsamplers and backbones alike, each in a fresh process.

Such a process's memory tells nothing of the others'.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field

from ..core.errors import HRDv2Error
from ..core.extraction import FeatureExtractor
from ..core.settings import Settings
from ..core.tokens import Tokens
from ..core.weights import TrustedWeightsWarning
from .reading import Case

_TINY_PX = 64


class Score(BaseModel):
    """What is found of each that is compared."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="What it is called.")
    peak_bytes: int | None = Field(
        description="Memory that its work took at the peak, weights and Python aside (bytes); null "
        "where it cannot be measured."
    )
    mean_iou: float | None = Field(None, description="Of a linear probe's labels, in [0, 1].")
    accuracy: float | None = Field(None, description="Of a linear probe's labels, in [0, 1].")


class Comparison(BaseModel):
    """What is found on an image, as it is written to JSON."""

    model_config = ConfigDict(frozen=True)

    image: str = Field(description="Name of the image.")
    shape: tuple[int, int] = Field(description="Its height and width (pixels).")
    device: str = Field(description="Where it was computed.")
    threads: int = Field(description="Threads on the CPU (a count).")
    probe: str | None = Field(description="What a linear probe was trained and tested on.")

    @classmethod
    def of(cls, case: Case, device: str, **rest: Any) -> Self:
        """With what all have in common filled in."""
        return cls(
            image=case.name,
            shape=case.image.shape[:2],
            device=device,
            threads=torch.get_num_threads(),
            probe=None if case.task is None else case.task.description,
            **rest,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """What a fresh process works on: tokens of these settings, by the weights in a file."""

    name: str
    settings: Settings
    weights: Path
    device: str
    case: Case
    threads: int = field(default_factory=torch.get_num_threads)

    def prepared(self) -> FeatureExtractor:
        """An extractor that has looked at something: the first image alone takes longer."""
        torch.set_num_threads(self.threads)
        with warnings.catch_warnings():
            # Told where the weights were found.
            warnings.simplefilter("ignore", TrustedWeightsWarning)
            extractor = FeatureExtractor(self.settings, device=self.device, weights=self.weights)
        extractor.extract(np.tile(np.array([0, 1], np.uint8), (_TINY_PX, _TINY_PX // 2)))
        return extractor


_J = TypeVar("_J", bound=Job)
_T = TypeVar("_T")


def check_names(names: Sequence[str], what: str, remedy: str) -> None:
    """Refuse names of which two are the same."""
    for name in names:
        if names.count(name) > 1:
            raise HRDv2Error(f"two {what} are called {name}: {remedy}")


def timed_tokens(extractor: FeatureExtractor, image: npt.ArrayLike) -> tuple[Tokens, float]:
    """Tokens of an image, and the seconds that they took."""
    start = time.perf_counter()
    tokens = extractor.extract(image)
    if extractor.device.type == "cuda":
        torch.cuda.synchronize(extractor.device)
    return tokens, time.perf_counter() - start


def in_fresh_process(work: Callable[[_J], _T], job: _J) -> _T:
    """Let a function of a module work on a job, in a process that has done nothing before.

    Raises
    ------
    HRDv2Error
        If the process ends before its work is done. What the work raises is raised here.
    """
    # Forked from one that has imported all this and done nothing: a new one takes no second.
    linux = sys.platform == "linux"
    # Its type does not tell of processes.
    context: Any = multiprocessing.get_context("forkserver" if linux else "spawn")
    if linux:
        context.set_forkserver_preload([work.__module__])
    receiver, sender = context.Pipe(duplex=False)
    # No pool, whose processes would wait for ever after this one was killed.
    child = context.Process(target=_send, args=(work, job, sender))
    child.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        raise HRDv2Error(
            f"the process of {job.name} ended before its work was done: the memory may be too "
            "small for it"
        ) from None
    finally:
        receiver.close()
        child.terminate()
        child.join()
    if isinstance(found, Exception):
        raise found
    result: _T = found
    return result


def _send(work: Callable[[_J], object], job: _J, sender: Connection) -> None:
    """What the work returns or raises, to the process that waits for it."""
    try:
        found: object = work(job)
    except Exception as error:
        found = error
    sender.send(found)
