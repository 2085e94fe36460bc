"""What the exploring panel promises: maps from features at hand, similarity under the mouse.

Of an image of 1024 x 1024, 4 passes of ViT-S/14, tokens and attention at random (no time hangs on
what they say), by their parts in the core, and as the panel does it in a napari without a window:
the job is run, its result is written into a layer.

components
    The basis is found, the plane coloured; the second time with the basis at hand.
attention
    All heads and their sum.
similarity
    To one pixel after another, as the mouse moves, after lengths are measured once.

With a display (Xvfb is one) the same in napari's window, from the click on a button, and frames are
those that were drawn; without a graphics card most of their time is the drawing.

``--check`` ends with code 1 where a promise is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from latency import add_milliseconds, median, missed, promise, run, table_of
from napari.components import ViewerModel
from rich.console import Console
from rich.table import Table

from napari_hrdv2._explore import Exploration
from napari_hrdv2._job import Made, Spot
from napari_hrdv2._subject import Subject
from napari_hrdv2._widgets.finds import Finds
from napari_hrdv2._widgets.layers import Reading, planes_of, window_of
from napari_hrdv2.core.errors import never
from napari_hrdv2.core.explore import PrincipalComponents, Similarity, attention_maps, descriptor
from napari_hrdv2.core.extraction import _Passes
from napari_hrdv2.core.planes import Planes
from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.tiles import Piece
from napari_hrdv2.core.tokens import Tokens

SIDE, CHANNELS, HEADS = 1024, 384, 6
_MOVES = 60


class RandomExtractor:
    """Stands for a backbone that has looked already."""

    def __init__(self, settings: Settings, image: np.ndarray, channels: int = CHANNELS) -> None:
        self.settings = settings.resolve(model="random", weights_sha256="0" * 64, patch=14)
        self.weights = SimpleNamespace(name="random")
        self._image, self._channels = image, channels

    def of_facet(self, kind: str) -> RandomExtractor:
        """Its attention."""
        settings = self.settings.model_copy(update={"facet": (kind, 11), "depth": 1.0})
        return RandomExtractor(settings, self._image, HEADS)

    def passes(self, piece: Piece, **_: Any) -> Any:
        """All passes at once."""
        settings = self.settings
        # Where they lie hangs neither on the backbone nor on what it shows.
        plain = settings.model_copy(update={"facet": None})
        vit = SimpleNamespace(dim=CHANNELS)
        extractor: Any = SimpleNamespace(settings=plain, backbone=vit)
        lattices = _Passes(extractor, piece, settings.transforms(), never)._lattices
        ny, nx = (one.size for one in lattices[0])
        shape = (settings.passes, ny, nx, self._channels)
        generator = torch.Generator().manual_seed(0)
        data = torch.randn(shape, generator=generator).half()
        yield Tokens(data, lattices, piece.pixels.shape[:2], settings)


def core_section(tokens: Tokens, attention: Tokens, repeat: int) -> Table:
    """The core's part of the work."""
    table = table_of(f"core, {SIDE} x {SIDE}, {tokens.passes} passes, ms", "what", "ms", "promised")
    add = partial(add_milliseconds, table)
    basis = PrincipalComponents.fit([tokens])
    add("basis of the components", median(lambda: PrincipalComponents.fit([tokens]), repeat))
    add("colours", median(lambda: basis.rgb(tokens), repeat))
    both = median(lambda: PrincipalComponents.fit([tokens]).rgb(tokens), repeat)
    add("basis and colours", both, 300)
    add("attention", median(lambda: attention_maps(attention), repeat), 300)
    start = time.perf_counter()
    similarity = Similarity(tokens)
    similarity.to(descriptor(tokens, (0, 0)))
    add("similarity, the first time", time.perf_counter() - start)
    pixels = iter(np.random.default_rng(0).integers(0, SIDE, (repeat + 1, 2)).tolist())
    move = median(lambda: similarity.to(descriptor(tokens, tuple(next(pixels)))), repeat)
    rate = 1 / move
    kept = promise("core: similarity, frames a second", rate, 10, least=True)
    table.add_row("similarity, a move", f"{1e3 * move:.0f}", f"{rate:.0f}/s {kept}")
    return table


def model_section(image: np.ndarray, repeat: int) -> Table:
    """Jobs and layers of a napari without a window."""
    viewer = ViewerModel()
    layer = viewer.add_image(image, name="image")
    planes = planes_of(layer, Reading())
    window = window_of(layer, planes, Reading())
    finds, exploration, spot = Finds(viewer), *explored(image)
    run(exploration.tokens_of(spot))
    run(exploration.attention(spot))
    show = partial(finds.show_image, layer, window, ())
    table = table_of("job and layer, napari without a window, ms", "what", "ms", "promised")
    add = partial(add_milliseconds, table)

    def components() -> None:
        exploration._fits._kept.clear()
        show("components", run(exploration.components(spot)).colours)

    def attention() -> None:
        show("attention", run(exploration.attention(spot)).together, colormap="magma")

    start = time.perf_counter()
    components()
    add("components, a new layer", time.perf_counter() - start, 300)
    add("components, again", median(components, repeat), 300)
    start = time.perf_counter()
    attention()
    add("attention, a new layer", time.perf_counter() - start, 300)
    add("attention, again", median(attention, repeat), 300)
    alike = run(exploration.similarity(spot))
    pixels = iter(np.random.default_rng(0).integers(0, SIDE, (repeat + 1, 2)).tolist())
    move = median(lambda: show("similarity", alike.to_pixel(tuple(next(pixels)))), repeat)
    kept = promise("model: similarity, frames a second", 1 / move, 10, least=True)
    table.add_row("similarity, a move", f"{1e3 * move:.0f}", f"{1 / move:.0f}/s {kept}")
    return table


def explored(image: np.ndarray) -> tuple[Exploration, Spot]:
    """An exploration of an image, by a backbone that has looked already."""
    exploration = Exploration()
    exploration.session.store.budget = 0
    subject = Subject(Planes(image, "YX"))
    exploration.session.watch(subject)
    give(exploration, image)
    return exploration, exploration.spot(subject, ())


def give(exploration: Exploration, image: np.ndarray) -> None:
    """Have random tokens at hand."""
    wanted = exploration.job(lambda source: iter(())).wanted
    extractor: Any = RandomExtractor(wanted.settings, image)
    exploration._keep(Made(wanted, extractor))


def window_section(image: np.ndarray) -> Table | None:
    """Similarity under the mouse in napari's window, None without a display."""
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return None
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_hrdv2._widgets.explore import ExploreWidget

    viewer = napari.Viewer()
    panel = ExploreWidget(viewer)
    viewer.window.add_dock_widget(panel)
    viewer.add_image(image, name="image")
    panel.session.store.budget = 0
    give(panel.exploration, image)

    def wait() -> None:
        while panel.is_busy:
            QApplication.processEvents()
            time.sleep(0.001)

    times = {}
    for name, button in (
        ("components", panel.components_button),
        ("attention", panel.attention_button),
    ):
        for _ in range(3):
            panel.exploration._fits._kept.clear()
            start = time.perf_counter()
            button.click()
            wait()
            times[name] = time.perf_counter() - start
    panel.follow_button.click()
    wait()
    # What the mouse over the canvas calls, as fast as it is heard; canvas and events included.
    drawn: list[float] = []
    canvas = viewer.window._qt_viewer.canvas._scene_canvas
    canvas.events.draw.connect(lambda event: drawn.append(time.perf_counter()))
    moved: list[Any] = []
    panel.follower.moved.connect(moved.append)
    start = time.perf_counter()
    for position in np.random.default_rng(0).integers(0, SIDE, (_MOVES, 2)).tolist():
        moved.clear()
        panel.follower._on_move(viewer, SimpleNamespace(position=position))
        while not moved:
            QApplication.processEvents()
        QApplication.processEvents()
    seconds = time.perf_counter() - start
    viewer.close()
    table = table_of("in napari's window, ms", "what", "ms", "promised")
    for name, took in times.items():
        add_milliseconds(table, f"{name}, from click to layer", took, 300)
    rate = min(_MOVES, len(drawn)) / seconds
    kept = promise("window: similarity, frames a second", rate, 10, least=True)
    table.add_row("similarity, a frame drawn", f"{1e3 / rate:.0f}", f"{rate:.0f}/s {kept}")
    return table


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=20, help="of everything (default: 20)")
    parser.add_argument("--check", action="store_true", help="code 1 where a promise is missed")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE), np.uint8)
    extractor = RandomExtractor(Settings(filters=False), image)
    piece = Piece(image)
    tokens = next(extractor.passes(piece))
    attention = next(extractor.of_facet("attention").passes(piece))
    console = Console()
    console.print(core_section(tokens, attention, options.repeat))
    console.print(model_section(image, options.repeat))
    window = window_section(image)
    if window is None:
        print("window: no display")
    else:
        console.print(window)
    for line in missed:
        print(f"missed: {line}")
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
