"""What a session promises for stacks, and for images of different brightness and dtype.

stack
    A z-stack of 50 planes (mirrored and turned copies of a real micrograph, 256 x 256, 1 pass),
    strokes on 2 of them, in napari's window (Xvfb is one): until all planes are segmented in the
    background; how long the event loop is blocked meanwhile, at the 99th percentile of what a
    timer of 1 ms finds; the planes that are segmented when it is cancelled half-way, and those
    computed anew after going on.
formats
    Three images of ``superalloy`` as 8 bits, as 16 bits of other brightness and as floats, in one
    session with simulated strokes on 1 % of each: the mean IoU of each, against that of the same
    images all in 8 bits.

``--check`` ends with code 1 where a promise is missed. Without the benchmark data the program says
so and ends with code 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from typing import Any

import numpy as np
from _data import folder, samples
from latency import missed, promise, run, table_of
from rich.console import Console
from rich.table import Table

from napari_hrdv2._evaluate.scores import mean_iou
from napari_hrdv2._job import Sight
from napari_hrdv2._session import Session
from napari_hrdv2._subject import Subject
from napari_hrdv2.core.cache import TokenStore
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.planes import Planes
from napari_hrdv2.core.simulate import simulate_strokes

PLANES, SIDE = 50, 256


def stack_section(options: argparse.Namespace, image: np.ndarray, truth: np.ndarray) -> Table:
    """Segment a stack in the background of a window."""
    import napari
    from qtpy.QtCore import QTimer
    from qtpy.QtTest import QTest

    rng = np.random.default_rng(0)
    planes, truths = [], []
    for k in range(PLANES):
        y, x = rng.integers(0, len(image) - SIDE, 2)
        turned = [
            np.rot90(one[y : y + SIDE, x : x + SIDE], k % 4)[:: 1 - 2 * (k % 2)]
            for one in (image, truth)
        ]
        planes.append(turned[0])
        truths.append(turned[1])
    strokes = np.zeros((PLANES, SIDE, SIDE), np.uint8)
    for k in (10, 30):
        strokes[k] = simulate_strokes(truths[k], 0.02, k)

    viewer = napari.Viewer()
    _, panel = viewer.window.add_plugin_dock_widget("napari-hrdv2", "Segment")
    panel.session.store = TokenStore(tempfile.mkdtemp(), 10**9)
    panel.session.configure(model=options.model, passes=1, device="cpu")
    viewer.add_image(np.stack(planes), name="stack", axis_labels=("z", "y", "x"))
    painted = viewer.add_labels(np.zeros_like(strokes), name="stack strokes")
    viewer.dims.set_point(0, 10)
    while panel.is_busy:
        QTest.qWait(10)
    computed = [0]
    forward = FeatureExtractor._forward

    def counting(self: FeatureExtractor, images: Any, *how: Any) -> Any:
        computed[0] += len(images)
        return forward(self, images, *how)

    FeatureExtractor._forward = counting  # type: ignore[method-assign]

    def segmented() -> int:
        layer = next((one for one in viewer.layers if one.name == "stack segmentation"), None)
        return 0 if layer is None else int(layer.data.reshape(PLANES, -1).any(1).sum())

    def wait(count: int) -> None:
        end = time.monotonic() + 300
        while segmented() < count and time.monotonic() < end:
            QTest.qWait(20)

    painted.data = strokes
    start = time.perf_counter()
    # At its first look at a segmentation napari makes a layer's controls, once.
    wait(2)
    ticks: list[float] = []
    clock = QTimer()
    clock.timeout.connect(lambda: ticks.append(time.perf_counter()))
    clock.start(1)
    wait(PLANES // 2)
    clock.stop()
    panel.cancel()
    while panel.is_busy:
        QTest.qWait(20)
    kept, before = segmented(), computed[0]
    panel.segment()
    wait(PLANES)
    while panel.is_busy:
        QTest.qWait(20)
    seconds = time.perf_counter() - start
    FeatureExtractor._forward = forward  # type: ignore[method-assign]
    layer = viewer.layers["stack segmentation"]
    score = np.mean([mean_iou(true, found) for found, true in zip(layer.data, truths, strict=True)])
    blocked = 1e3 * float(np.quantile(np.diff(ticks), 0.99))
    done = segmented()
    # Of a plane on the way when cancelled, features may be at hand: it needs none.
    again = max(0, computed[0] - before - (PLANES - kept))
    viewer.close()
    table = table_of(f"{PLANES} planes of {SIDE} x {SIDE}, strokes on 2", "what", "", "promised")
    table.add_row("segmented", f"{done}", promise("planes segmented", done, PLANES, least=True))
    table.add_row("seconds", f"{seconds:.0f}", "")
    table.add_row("mean IoU", f"{score:.3f}", "")
    table.add_row("event loop blocked, ms", f"{blocked:.0f}", promise("blocked", blocked, 50))
    table.add_row("segmented when cancelled", f"{kept}", "")
    table.add_row("computed twice", f"{again}", promise("computed twice", again, 1))
    return table


def scores(
    options: argparse.Namespace, images: list[np.ndarray], truths: list[np.ndarray]
) -> list[float]:
    """Mean IoU of every image, of one model of all in one session."""
    session = Session()
    session.store = TokenStore(tempfile.mkdtemp(), 0)
    session.configure(model=options.model, device="cpu")
    subjects = []
    for k, (image, truth) in enumerate(zip(images, truths, strict=True)):
        strokes = simulate_strokes(truth, 0.01, k)
        subjects.append(Subject(Planes(image, "YX"), Planes(strokes, "YX")))
    for subject in subjects:
        session.watch(subject)
    found = []
    for subject in subjects:
        session.watch(subject)
        look = session.look(subject.at(()))
        for step in [] if look is None else look.run():
            if isinstance(step, Sight):
                session.saw(step)
        job = session.prepare(subject.at(()))
        if job is not None:
            session.accept(run(job))
    for subject, truth in zip(subjects, truths, strict=True):
        session.watch(subject)
        for _ in session.undone(()):
            # Those segmented before the last ones were learnt from.
            session.accept(run(session.prepare(subject.at(()))))
        (place,) = subject.at(())
        tokens = session.tokens_at(place)
        assert tokens is not None
        assert session.classifier is not None
        found.append(mean_iou(truth, session.classifier.predict(tokens)))
    return found


def formats_section(options: argparse.Namespace, data: Any) -> Table:
    """Images of three kinds against the same in 8 bits."""
    some = samples(data, "superalloy")[:3]
    truths = [one.truth for one in some]
    plain = [one.image for one in some]
    mixed = [
        plain[0],
        (plain[1].astype(np.uint16) * 57 + 3000),
        (plain[2].astype(np.float32) / 255 * 0.02 - 0.5),
    ]
    ours, eight = scores(options, mixed, truths), scores(options, plain, truths)
    table = table_of("one model of three images, mean IoU", "dtype", "IoU", "all uint8", "promised")
    for image, here, there in zip(mixed, ours, eight, strict=True):
        least = round(there - 0.02, 3)
        kept = promise(f"{image.dtype}", here, least, least=True)
        table.add_row(str(image.dtype), f"{here:.3f}", f"{there:.3f}", kept)
    return table


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="auto", help="backbone (default: auto)")
    parser.add_argument("--only", choices=("stack", "formats"), help="one part (default: both)")
    parser.add_argument("--check", action="store_true", help="code 1 where a promise is missed")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data = folder()
    console = Console()
    if options.only != "stack":
        console.print(formats_section(options, data))
    if options.only != "formats":
        sample = samples(data, "superalloy")[0]
        if sys.platform == "linux" and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            print("stack: no display")
        else:
            console.print(stack_section(options, sample.image, sample.truth))
    for line in missed:
        print(f"missed: {line}")
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
