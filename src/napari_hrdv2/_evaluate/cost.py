"""What features and a segmentation cost: seconds and memory against image size and transforms."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import HRDv2Error
from ..core.settings import Settings
from .layout import DataSetError
from .running import Evaluation, Row

#: Sides of the square images in pixels.
SIDES = (256, 512, 1024)


def variants(patch: int) -> dict[str, dict[str, Any]]:
    """Settings that are compared, by name, of a backbone with patches of so many pixels."""
    found: dict[str, dict[str, Any]] = {
        "passes 1": {"passes": 1},
        "passes 4": {"passes": 4},
        "passes 16": {"passes": 16},
        f"stride {patch // 2}, passes 1": {"stride": patch // 2, "passes": 1},
        "moore, passes 9": {"shifts": "moore", "passes": 9},
        "flips, passes 4": {"flips": True, "passes": 4},
        "rotations, passes 4": {"rotations": True, "passes": 4},
        "scale 2, passes 1": {"scale": 2.0, "passes": 1},
    }
    # The default's zooms by themselves.
    alike = {name: one | {"zooms": (1.0,)} for name, one in found.items()}
    return {"default": {}} | alike


def machine(device: torch.device) -> dict[str, Any]:
    """What figures are of."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": str(device),
        "gpu": gpu,
        "processor": platform.processor() or platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def in_fresh_process(request: Mapping[str, Any]) -> Row:
    """Measure one row in a process of its own, in which nothing else was done.

    Parameters
    ----------
    request
        What :func:`.cost_row.measured` takes.

    Raises
    ------
    DataSetError
        If the memory does not suffice.
    HRDv2Error
        If it fails otherwise.
    """
    command = [sys.executable, "-P", "-m", "napari_hrdv2._evaluate.cost_row"]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        row: Row = json.loads(done.stdout)
        return row
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode in (-9, NO_MEMORY):
        raise DataSetError(f"the memory does not suffice: {last or 'the process was killed'}")
    raise HRDv2Error(f"measuring failed with code {done.returncode}: {last}")


#: Exit code of a process that had too little memory.
NO_MEMORY = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class Cost(Evaluation):
    """Seconds and memory of images of several sizes, with several settings.

    Every row is measured in a fresh process, after a small image that loads all there is to load:
    features of an image, the fit to 2,000 painted pixels and the segmentation. Rows are timings:
    those done before an interruption are kept, and not measured again.

    Attributes
    ----------
    resolved
        Settings with the weights' hash filled in, of which variants change some.
    device
        Where.
    weights
        A checkpoint, instead of the model's own.
    sides
        Of the square images, in pixels.
    only
        Names of :func:`variants`; by default all.
    repeat
        How often each is done; seconds are the median.
    measured
        What measures a row.
    """

    name = "cost"
    scores = "time and memory against image size and transforms"
    columns = ("features_s", "fit_s", "segment_s", "peak_mb")
    resolved: Settings
    device: torch.device
    weights: Path | None = None
    sides: tuple[int, ...] = SIDES
    only: tuple[str, ...] = ()
    repeat: int = 1
    measured: Callable[[Mapping[str, Any]], Row] = in_fresh_process

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the rows, and of the machine."""
        own = {name: getattr(self, name) for name in ("sides", "only", "repeat")}
        return {**own, **machine(self.device), **self.resolved.model_dump(mode="json")}

    @cached_property
    def _plan(self) -> dict[str, dict[str, Any]]:
        assert self.resolved.patch is not None
        known = variants(self.resolved.patch)
        strange = [name for name in self.only if name not in known]
        if strange:
            raise HRDv2Error(f"there is no variant {strange[0]!r}: choose among {', '.join(known)}")
        found = {}
        for (name, changes), side in product(known.items(), self.sides):
            if name in self.only or not self.only:
                item = f"{name}, {side} x {side}"
                found[item] = {"variant": name, "side": side, "changes": changes}
        return dict(list(found.items())[: self.limit])

    @property
    def items(self) -> Sequence[str]:
        """Rows: every variant at every size."""
        return list(self._plan)

    def files(self, item: str) -> Sequence[Path]:
        """None: images are made."""
        return ()

    def measure(self, item: str) -> Row:
        """One row."""
        plan = self._plan[item]
        settings = self.resolved.model_dump(mode="json") | plan["changes"]
        # What is in the place of the weights' own is found by the hash again.
        request = {
            "side": plan["side"],
            "settings": settings | {"weights_sha256": None, "patch": None},
            "device": str(self.device),
            "weights": None if self.weights is None else str(self.weights),
            "repeat": self.repeat,
        }
        about = {"variant": plan["variant"], "side": plan["side"], "pixels": plan["side"] ** 2}
        return about | self.measured(request)

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Of each variant the exponent of time against pixels, and what the largest image takes."""
        found: dict[str, Any] = {}
        for name in dict.fromkeys(row["variant"] for row in rows):
            own = sorted((row for row in rows if row["variant"] == name), key=lambda r: r["pixels"])
            largest = own[-1]
            if len(own) > 1:
                found[f"exponent, {name}"] = exponent(
                    [row["pixels"] for row in own], [row["features_s"] for row in own]
                )
            found[f"s per megapixel, {name}"] = 1e6 * largest["features_s"] / largest["pixels"]
            if largest["peak_mb"] is not None:
                found[f"peak MB at {largest['side']}, {name}"] = largest["peak_mb"]
        return found


def exponent(pixels: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent e of seconds = a pixels^e, by least squares of the logarithms."""
    return float(np.polyfit(np.log(pixels), np.log(seconds), 1)[0])
