"""How much memory some work takes at its peak."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# What Linux takes for: forget the peak.
_RESET_PEAK = "5"


def is_measurable() -> bool:
    """Whether this system tells a process's own memory; Linux does."""
    return _CLEAR.exists()


def resident(what: str) -> int:
    """Resident memory of this process in bytes: ``VmRSS`` now, ``VmHWM`` at its peak.

    Parameters
    ----------
    what
        Name of the entry in ``/proc/self/status``.
    """
    found = re.search(rf"{what}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return 1024 * int(found[1])


def reset_peak() -> None:
    """Count the peak from now on.

    Raises
    ------
    OSError
        If this system does not let it be reset.
    """
    _CLEAR.write_text(_RESET_PEAK)


@dataclass
class Peak:
    """Memory at its peak.

    Attributes
    ----------
    growth
        Bytes above what was in use before; None where it cannot be told.
    """

    growth: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the memory that the work within takes at its peak.

    On a GPU of CUDA that is what torch allocates there; else, on Linux, the resident memory of
    the process. An allocator that kept memory of earlier work hides what the next takes: measure in
    a fresh process.

    Parameters
    ----------
    device
        Where the work is done.

    Yields
    ------
    Peak
        Whose growth is filled in at the end.
    """
    peak = Peak()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.growth = torch.cuda.max_memory_allocated(device) - before
        return
    try:
        reset_peak()
    except OSError:
        yield peak
        return
    before = resident("VmRSS")
    yield peak
    peak.growth = max(0, resident("VmHWM") - before)
