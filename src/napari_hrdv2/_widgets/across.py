"""The part of the exploring panel about several images."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

import numpy as np
import numpy.typing as npt
from magicgui.types import FileDialogMode
from magicgui.widgets import FileEdit
from napari.layers import Image, Layer
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHeaderView,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSpinBox,
    QTabWidget,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from .._across import Across, Retrieved, Sight, pair_colours
from .._explore import Coloured
from .._job import Spot
from ..core.errors import HRDv2Error, ImageError
from ..core.explore import Correspondences, PrincipalComponents
from .layer_combo import LayerCombo, follow_layers
from .layers import Reading, may_be_image
from .parts import offer

if TYPE_CHECKING:
    from .explore import ExploreWidget

_LIST_PX, _FOUND_PX = 84, 150
_REGIONS = (
    ("clusters", "parts", "Connected pixels of like features: parts of things, large and small"),
    ("superpixels", "superpixels", "About a hundred regions of like size and colour an image"),
    ("grid", "squares", "Squares, a sixth of an image's shorter side: for textures"),
)
_POINTS = 50
_OUTLINE_PX = 3


class LayerChecks(QListWidget):
    """Lists the images of a viewer, each to be ticked or not; at first all are.

    Parameters
    ----------
    viewer
        Whose images are listed.
    parent
        As for every Qt widget.

    Examples
    --------
    >>> checks = LayerChecks(viewer)  # doctest: +SKIP
    >>> checks.ticked()  # doctest: +SKIP
    """

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._rows: list[Image] = []
        self._left_out: WeakSet[Image] = WeakSet()
        self.setMaximumHeight(_LIST_PX)
        self.itemChanged.connect(self._on_changed)

    def follow(self, ties: ExitStack) -> None:
        """Keep up with the viewer until ``ties`` are cut."""
        follow_layers(self._viewer, self.refresh, ties)

    def refresh(self, event: object = None) -> None:
        """List the viewer's images as they are now."""
        self._rows = [one for one in self._viewer.layers if may_be_image(one)]
        with QSignalBlocker(self):
            self.clear()
            for image in self._rows:
                item = QListWidgetItem(image.name)
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                is_in = image not in self._left_out
                item.setCheckState(Qt.CheckState.Checked if is_in else Qt.CheckState.Unchecked)
                self.addItem(item)

    def ticked(self) -> list[Image]:
        """The images ticked, from the lowest on."""
        return [one for one in self._rows if one not in self._left_out]

    def leave_out(self, image: Image) -> None:
        """Tick an image no more."""
        self._left_out.add(image)
        self.refresh()

    def _on_changed(self, item: QListWidgetItem) -> None:
        image = self._rows[self.row(item)]
        if item.checkState() == Qt.CheckState.Checked:
            self._left_out.discard(image)
        else:
            self._left_out.add(image)


class AcrossImages(QWidget):
    """See what several images have in common, and find in a folder what is like a region.

    Parameters
    ----------
    panel
        That it is a part of, which runs its work.
    viewer
        Whose layers are used.

    Attributes
    ----------
    across
        What does the work.
    images
        Those ticked are looked at together.
    tabs
        What there is to do: with the ticked images, with two, and with a folder.

    Examples
    --------
    >>> section = AcrossImages(panel, viewer)  # doctest: +SKIP
    >>> section.cosegment()  # doctest: +SKIP
    """

    def __init__(self, panel: ExploreWidget, viewer: Any) -> None:
        super().__init__()
        self._panel, self._viewer = panel, viewer
        self.across = Across(panel.exploration)
        self._ranked: Retrieved | None = None
        self._opened: WeakValueDictionary[tuple[Path, tuple[int, ...]], Image] = (
            WeakValueDictionary()
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        # Below one another they would be higher than many a screen.
        self.tabs = QTabWidget()
        for title, content, tip in (
            ("Common", self._build_common(), "What the ticked images have in common"),
            ("Points", self._build_points(), "Points of two images that show the same"),
            ("Folder", self._build_folder(), "Find a region in a folder of images"),
        ):
            self.tabs.setTabToolTip(self.tabs.addTab(content, title), tip)
        layout.addWidget(self.tabs)

    def _build_common(self) -> QWidget:
        box = QWidget()
        self.images = LayerChecks(self._viewer)
        self.images.setToolTip("The images that are looked at together")
        self.colours_button = QPushButton("Same colours")
        self.colours_button.setToolTip(
            "Principal components of all ticked images: the same colour means the same in each"
        )
        self.classes = QSpinBox()
        self.classes.setRange(1, 100)
        self.classes.setSuffix(" classes")
        self.classes.setSpecialValueText("1 class")
        self.classes.setToolTip("What the common foreground is cut into, alike in all images")
        self.cosegment_button = QPushButton("Co-segment")
        self.cosegment_button.setToolTip(
            "The foreground that the ticked images share: clusters of all of them together that "
            "are attended to in most images in which they occur"
        )
        grid = QGridLayout(box)
        grid.addWidget(self.images, 0, 0, 1, 2)
        grid.addWidget(self.colours_button, 1, 0, 1, 2)
        grid.addWidget(self.classes, 2, 0)
        grid.addWidget(self.cosegment_button, 2, 1)
        self._panel.on_click(self.colours_button, self.colours)
        self._panel.on_click(self.cosegment_button, self.cosegment)
        return box

    def _build_points(self) -> QWidget:
        box = QWidget()
        self.other_combo = LayerCombo(self._viewer, may_be_image, "no other image")
        self.other_combo.setToolTip("The image whose points are compared with the one above")
        self.count = QSpinBox()
        self.count.setRange(1, 1000)
        self.count.setValue(_POINTS)
        self.count.setSuffix(" points")
        self.count.setToolTip("Pairs at most, the most alike first")
        self.common_box = QCheckBox("In what both share")
        self.common_box.setChecked(True)
        self.common_box.setToolTip(
            "Only points in the foreground that both images have: elsewhere the most alike are "
            "often of floors, walls and borders, at the same place in both"
        )
        self.turned_box = QCheckBox("One may be turned")
        self.turned_box.setToolTip(
            "Look at both images turned by quarters, too, so that turned things are found again; "
            "both are looked at anew the first time"
        )
        self.points_button = QPushButton("Find points")
        self.points_button.setToolTip(
            "Points of the two images that are each other's most similar; the two of a pair have "
            "the same colour and the same number"
        )
        grid = QGridLayout(box)
        grid.addWidget(self.other_combo, 0, 0)
        grid.addWidget(self.count, 0, 1)
        grid.addWidget(self.common_box, 1, 0)
        grid.addWidget(self.turned_box, 2, 0)
        grid.addWidget(self.points_button, 2, 1)
        grid.setColumnStretch(0, 1)
        grid.setRowStretch(3, 1)
        self._panel.on_click(self.points_button, self.points)
        return box

    def _build_folder(self) -> QWidget:
        box = QWidget()
        # An empty field is the folder that napari was started in.
        self.folder = FileEdit(
            mode=FileDialogMode.EXISTING_DIRECTORY, tooltip="The folder of images to look through"
        )
        self.regions = QComboBox()
        offer(self.regions, _REGIONS)
        self.regions.setToolTip("What images are cut into")
        self.find_button = QPushButton("Find the region")
        self.find_button.setToolTip(
            "Rank what is in the folder's images by how like it is to the region chosen under "
            "Similarity: what is painted with the layer's selected label"
        )
        self.found = QTreeWidget()
        self.found.setColumnCount(2)
        self.found.setHeaderLabels(["image", "similarity"])
        self.found.setRootIsDecorated(False)
        self.found.setMaximumHeight(_FOUND_PX)
        self.found.setToolTip("The most alike first; a click opens the image")
        header = self.found.header()
        assert header is not None
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        grid = QGridLayout(box)
        grid.addWidget(self.folder.native, 0, 0, 1, 3)
        grid.addWidget(QLabel("cut into"), 1, 0)
        grid.addWidget(self.regions, 1, 1)
        grid.addWidget(self.find_button, 1, 2)
        grid.addWidget(self.found, 2, 0, 1, 3)
        grid.setColumnStretch(1, 1)
        self._panel.on_click(self.find_button, self.retrieve)
        self.found.itemClicked.connect(self._on_picked)
        return box

    def follow(self, ties: ExitStack) -> None:
        """Keep up with the viewer until ``ties`` are cut."""
        self.images.follow(ties)
        self.other_combo.follow(ties)

    # What images have in common ----------------------------------------------------------------

    def spots(self) -> list[Spot]:
        """Planes in view of the ticked images.

        Raises
        ------
        HRDv2Error
            If there are fewer than two, or one cannot be explored.
        """
        images = self.images.ticked()
        if len(images) < 2:
            raise HRDv2Error("open and tick at least two images")
        return [self._spot(one) for one in images]

    def _spot(self, image: Layer) -> Spot:
        panel = self._panel
        # Which channels there are to be, the image chosen above says.
        panel.opened()
        try:
            opened = panel.subjects.open(image, None)
            opened.subject.forget_levels()
            return panel.exploration.spot(opened.subject, panel.index_of(image, opened))
        except HRDv2Error as error:
            raise ImageError(
                f"'{image.name}' cannot be explored with the others: {error}"
            ) from None

    def colours(self) -> None:
        """Show principal components of the ticked images, of one basis.

        Raises
        ------
        HRDv2Error
            As :meth:`spots`.
        """
        spots = self.spots()
        job = self._panel.exploration.components_of(spots, sampled=len(spots))
        self._panel.start(job, self._show_colours, "Finding components of all images.")

    def _show_colours(self, found: Coloured | PrincipalComponents) -> None:
        if isinstance(found, PrincipalComponents):
            self._panel.status.setText("The same colour means the same in all ticked images.")
            return
        self._panel.show_map(found.spot, "shared components", found.colours)

    def cosegment(self) -> None:
        """Show the foreground that the ticked images share.

        Raises
        ------
        HRDv2Error
            As :meth:`spots`.
        """
        job = self.across.cosegment(self.spots(), self.classes.value())
        self._panel.start(job, self._show_common, "Finding what the images share.")

    def _show_common(self, found: Any) -> None:
        for spot, labels in found:
            layer = self._panel.show_labels(spot, "common foreground", labels)
            if layer is not None:
                layer.visible = True
        share = float(np.mean([(labels > 0).mean() for _, labels in found]))
        self._panel.status.setText(f"The common foreground takes {share:.0%} of the images.")

    # Points ------------------------------------------------------------------------------------

    def points(self) -> None:
        """Show points of the image chosen and of another that show the same.

        Raises
        ------
        HRDv2Error
            If there are not two images, or one cannot be explored.
        """
        image, other = self._panel.image_combo.layer(), self.other_combo.layer()
        if image is None or other is None or other is image:
            raise HRDv2Error("choose another image to compare the points of this one with")
        spots = self._spot(image), self._spot(other)
        job = self.across.points(
            *spots,
            self.count.value(),
            in_common=self.common_box.isChecked(),
            turned=self.turned_box.isChecked(),
        )
        self._panel.start(job, partial(self._show_points, spots), "Comparing points.")

    def _show_points(self, spots: tuple[Spot, Spot], found: Correspondences) -> None:
        count = len(found.similarity)
        features: dict[str, npt.NDArray[Any]] = {
            "pair": np.arange(1, count + 1),
            "similarity": found.similarity,
        }
        for spot, points in zip(spots, (found.first, found.second), strict=True):
            known = self._panel.where(spot)
            if known is not None:
                image, opened = known
                self._panel.finds.show_points(
                    *(image, opened.window, spot.place.plane, "points", points),
                    colours=pair_colours(count),
                    features=features,
                )
        self._panel.status.setText(f"Points: {count} pairs, each of one colour.")

    # A folder ----------------------------------------------------------------------------------

    def retrieve(self) -> None:
        """Rank the regions of a folder's images by how like the region painted they are.

        Raises
        ------
        HRDv2Error
            If nothing is painted, no folder is chosen, or the image cannot be explored.
        """
        spot, mask, name = self._panel.painted()
        folder = Path(str(self.folder.value))
        if str(folder) == ".":
            raise HRDv2Error("choose the folder of images to look through")
        job = self.across.retrieve(spot, mask, folder, self.regions.currentData())
        self.found.clear()
        self._ranked = None
        self._panel.start(job, partial(self._show_ranked, name), "Looking through the folder.")

    def _show_ranked(self, name: str, ranked: Retrieved) -> None:
        self._ranked = ranked
        for one in ranked.found:
            row = QTreeWidgetItem([one.plane.name, f"{one.similarity:.3f}"])
            row.setTextAlignment(1, Qt.AlignmentFlag.AlignRight)
            row.setToolTip(0, str(ranked.folder.folder / one.plane.path))
            self.found.addTopLevelItem(row)
        count = len({one.path for one in ranked.folder.planes})
        self._panel.status.setText(
            f"The regions of {count} images most like {name}: a click opens one."
        )

    def look(self, row: int) -> None:
        """Open the image of a region that was found, by its row in the list."""
        if self._ranked is not None:
            job = self.across.look(self._ranked.folder, self._ranked.found[row])
            self._panel.start(job, self._show_sight, "Reading the image.")

    def _show_sight(self, sight: Sight) -> None:
        layers, plane = self._viewer.layers, sight.found.plane
        image = self._opened.get((sight.path, plane.index))
        if image is None or image not in layers:
            image = self._open(sight)
            self._opened[sight.path, plane.index] = image
        opened = self._panel.subjects.open(image, None)
        mask = sight.mask.astype(np.uint8)
        region = self._panel.finds.show_labels(image, opened.window, (), "region", mask)
        region.contour = _OUTLINE_PX
        region.opacity = 1
        for layer in (image, region):
            layer.visible = True
            layers.move(layers.index(layer), len(layers))
        self._panel.status.setText(f"{plane.name}: similarity {sight.found.similarity:.3f}.")

    def _open(self, sight: Sight) -> Image:
        layers, pixels = self._viewer.layers, sight.pixels
        name = sight.found.plane.name
        active = layers.selection.active
        if sight.has_channels:
            image = Image(np.moveaxis(pixels, -1, 0), name=name)
            self._panel.subjects.read(image, Reading(axes="CYX"))
        else:
            image = Image(pixels, name=name, rgb=pixels.ndim == 3)
        layers.append(image)
        # What was found is looked at, not yet with the images that were chosen.
        self.images.leave_out(image)
        if active is not None:
            layers.selection.active = active
        return image

    def _on_picked(self, item: QTreeWidgetItem) -> None:
        self._panel.attempt(partial(self.look, self.found.indexOfTopLevelItem(item)))
