"""Linear probe on COCO-Stuff 27, the way FeatUp judges features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .._io.source import first_line
from ..core.cache import TokenStore
from ..core.errors import HRDv2Error, ImageWarning
from ..core.files import replacing
from ..core.probe import UNKNOWN, LinearProbe
from ..core.tiles import Piece
from .features import Extractor
from .layout import DataSetError, find_root, read_lines
from .running import Authors, Evaluation, Row
from .scores import agreement, counted

#: Ids of COCO-Stuff's 182 classes in the PNGs of its stuffthingmaps, by the 27 coarse classes that
#: its hierarchy groups them in, as IIC, PiCIE and STEGO number these; things first, then stuff.
COARSE = {
    "electronic-things": "71-76",
    "appliance-things": "77-82",
    "food-things": "51-60",
    "furniture-things": "61-70",
    "indoor-things": "83-90",
    "kitchen-things": "43-50",
    "accessory-things": "25-32",
    "animal-things": "15-24",
    "outdoor-things": "9-14",
    "person-things": "0",
    "sports-things": "33-42",
    "vehicle-things": "1-8",
    "ceiling-stuff": "101-102",
    "floor-stuff": "100 113-117",
    "food-stuff": "120-121 152 169",
    "furniture-stuff": "97 106-107 109 111 122 129 132 155 160 164",
    "rawmaterial-stuff": "99 131 138 142",
    "textile-stuff": "91-92 103-104 108 130 136 140 151 166-167",
    "wall-stuff": "170-176",
    "window-stuff": "179-180",
    "building-stuff": "94-95 127 150 157 165",
    "ground-stuff": "110 124-125 135 139 143-144 146 148 153 158",
    "plant-stuff": "93 96 118 123 128 133 141 162 168",
    "sky-stuff": "105 156",
    "solid-stuff": "126 134 149 159 161 181",
    "structural-stuff": "98 112 137 145 163",
    "water-stuff": "119 147 154 177-178",
}
CLASSES = tuple(COARSE)
_FINE, _UNLABELLED = 182, 255
# Ids of things that COCO numbered and never annotated: train ids leave them out.
_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_TRAIN_IDS = "_labelTrainIds"
_TRAIN, _VAL = _SPLITS = ("train2017", "val2017")
_FIRST = "epoch 1,"
# Photographs as they are: black is 0 and white 255, as where the backbones were trained.
_LEVELS = np.array([[0.0, 255.0]])
_STORE_BYTES = 20 * 10**9


def _coarse_of_fine() -> npt.NDArray[np.int64]:
    found = np.full(256, UNKNOWN)
    for coarse, ids in enumerate(COARSE.values()):
        for part in ids.split():
            first, _, last = part.partition("-")
            found[int(first) : int(last or first) + 1] = coarse
    return found


#: (256,) of int64: coarse class of every id, -1 of none.
COARSE_OF_FINE = _coarse_of_fine()
#: The same of train ids, 0 to 170.
COARSE_OF_TRAIN_ID = np.full(256, UNKNOWN)
COARSE_OF_TRAIN_ID[: _FINE - len(_UNUSED)] = np.delete(COARSE_OF_FINE[:_FINE], _UNUSED)


def find_coco(given: Path) -> Path:
    """The folder of the data set, which may be given itself or by the one that it lies in.

    Raises
    ------
    DataSetError
        If it is not there, or lacks one of its folders.
    """
    parts = [f"{kind}/{split}" for kind in ("images", "annotations") for split in _SPLITS]
    return find_root(given, "cocostuff", *parts)


@dataclass
class _Progress:
    """The probe between two items.

    Attributes
    ----------
    folder
        Where its states are kept.
    probe
        As it is after ``chunks`` items of the training.
    """

    folder: Path | None = None
    probe: LinearProbe | None = None
    chunks: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class CocoProbe(Evaluation):
    """A linear classifier of pixels, trained on train2017 and scored on val2017.

    After FeatUp (arXiv 2403.10516): Adam with a learning rate of 0.005 on the cross-entropy of all
    labelled pixels of two images a step, 5,000 images of the training set in an order of chance,
    features as they are; images with their shorter side at 224 pixels and cropped to their middle.
    Accuracy and mean IoU are of all labelled pixels of the validation images together.

    Attributes
    ----------
    data
        The folder that holds ``images`` and ``annotations``, each with ``train2017`` and
        ``val2017``; annotations are the PNGs of the stuffthingmaps (NAME.png) or of train ids
        (NAME_labelTrainIds.png).
    extractor
        What makes tokens.
    curated
        Name of lists in ``curated/train2017`` and ``curated/val2017`` such as
        ``Coco164kFull_Stuff_Coarse_7`` of STEGO, of the images that are used; by default all.
    train_images
        How many images of the training set are learnt from, drawn by the seed; None: all.
    epochs
        How often.
    side
        Of the square images, in pixels.
    batch
        Images of a step.
    learning_rate, seed
        Of the probe.
    chunk
        Images after which the probe's state is kept.
    limit
        How many images of the validation set are looked at, the first ones; by default all.
    """

    name = "coco-probe"
    scores = "linear probe on COCO-Stuff 27, val2017"
    data: Path
    extractor: Extractor
    curated: str | None = None
    train_images: int | None = 5000
    epochs: int = 10
    side: int = 224
    batch: int = 2
    learning_rate: float = 0.005
    seed: int = 0
    chunk: int = 100
    _progress: _Progress = field(default_factory=_Progress, init=False, repr=False)

    @property
    def authors(self) -> Authors:
        """Of HR-Dv2, with DINOv2."""
        return Authors("HR-Dv2, arXiv 2410.19836", {"pixel accuracy": 0.651, "mean IoU": 0.406})

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the probe, and of features."""
        own = ("curated", "train_images", "epochs", "side", "batch", "learning_rate", "seed")
        return {
            **{name: getattr(self, name) for name in own},
            "levels": _LEVELS[0].tolist(),
            **self.extractor.settings.model_dump(mode="json"),
        }

    @cached_property
    def _root(self) -> Path:
        return find_coco(self.data)

    def _names(self, split: str) -> list[str]:
        """Names of the images of one part, in order."""
        if self.curated is not None:
            file = self.curated.removesuffix(".txt") + ".txt"
            return read_lines(self._root / "curated" / split / file)
        folder = self._root / "images" / split
        found = sorted(one.stem for one in folder.iterdir() if one.suffix == ".jpg")
        if not found:
            raise DataSetError(f"{folder} holds no images (.jpg)")
        return found

    @cached_property
    def _training(self) -> dict[str, list[str]]:
        """Names of the images of every item of the training, in the order that they are seen."""
        names = self._names(_TRAIN)
        chosen = np.random.default_rng(self.seed).permutation(len(names))[: self.train_images]
        # Steps do not go over the ends of items.
        size = max(self.batch, self.chunk - self.chunk % self.batch)
        found = {}
        for epoch in range(1, self.epochs + 1):
            order = np.random.default_rng([self.seed, epoch]).permutation(np.sort(chosen))
            for start in range(0, len(order), size):
                part = [names[k] for k in order[start : start + size]]
                item = f"epoch {epoch}, images {start + 1} to {start + len(part)}"
                found[item] = part
        return found

    @cached_property
    def items(self) -> Sequence[str]:
        """Parts of the training, then the images to score."""
        return [*self._training, *self._names(_VAL)[: self.limit]]

    def files(self, item: str) -> Sequence[Path]:
        """Images and annotations."""
        if item not in self._training:
            return self._pair(_VAL, item)
        # Of later epochs they are the same.
        if not item.startswith(_FIRST):
            return ()
        return [path for name in self._training[item] for path in self._pair(_TRAIN, name)]

    def _pair(self, split: str, name: str) -> tuple[Path, Path]:
        annotations = self._root / "annotations" / split
        annotation = annotations / f"{name}{_TRAIN_IDS}.png"
        if not annotation.exists():
            annotation = annotations / f"{name}.png"
        return self._root / "images" / split / f"{name}.jpg", annotation

    def begin(self, folder: Path, done: Sequence[str]) -> Sequence[str]:
        """Go back to the last state of the probe that is there."""
        self._progress.folder = folder
        trained = [one for one in self._training if one in set(done)]
        while trained and self._state(len(trained)) is None:
            trained.pop()
        if len(trained) < len(self._training):
            return trained
        return done

    def measure(self, item: str) -> Row:
        """Train on a part, or score on an image."""
        if item in self._training:
            return self._train(item)
        piece, truth = self._read(_VAL, item)
        found = self._probe(len(self._training)).predict(self.extractor.extract(piece))
        counts = counted(truth, found, len(CLASSES))
        pixels = int(counts.sum())
        return {
            "accuracy": agreement(counts).accuracy if pixels else None,
            "pixels": pixels,
            "_counts": [[int(a), int(b), int(counts[a, b])] for a, b in np.argwhere(counts)],
        }

    def _train(self, item: str) -> Row:
        chunks, names = list(self._training).index(item), self._training[item]
        probe: LinearProbe | None = None
        loss, pixels, left_out = 0.0, 0, []
        for start in range(0, len(names), self.batch):
            images = []
            for name in names[start : start + self.batch]:
                try:
                    piece, truth = self._read(_TRAIN, name)
                except DataSetError as error:
                    left_out.append(name)
                    if item.startswith(_FIRST):
                        warnings.warn(f"{error}: not learnt from", ImageWarning, stacklevel=2)
                    continue
                images.append((self.extractor.extract(piece, store=self._store), truth))
            if images:
                probe = probe or self._taken(chunks, images[0][0].channels)
                mean, count = probe.step(images)
                loss, pixels = loss + mean * count, pixels + count
        if probe is None and chunks == 0:
            raise HRDv2Error(f"none of the first {len(names)} images of {_TRAIN} can be read")
        probe = probe or self._taken(chunks)
        self._keep(probe, chunks + 1)
        return {
            "images": len(names) - len(left_out),
            "loss": loss / pixels if pixels else None,
            "left_out": left_out,
        }

    def _probe(self, chunks: int, channels: int | None = None) -> LinearProbe:
        """The probe after so many items of the training; before the first one, a new one."""
        now = self._progress
        if now.probe is None or now.chunks != chunks:
            state = self._state(chunks) if chunks else None
            if state is not None:
                channels = state["weight"].shape[1]
            assert channels is not None
            probe = LinearProbe(
                channels, len(CLASSES), learning_rate=self.learning_rate, seed=self.seed
            )
            if state is not None:
                probe.restore(state)
            now.probe, now.chunks = probe, chunks
        return now.probe

    def _taken(self, chunks: int, channels: int | None = None) -> LinearProbe:
        """The same, to be changed: it is not kept as it is then, should the work end early."""
        probe = self._probe(chunks, channels)
        self._progress.probe = None
        return probe

    def _keep(self, probe: LinearProbe, chunks: int) -> None:
        """Write the probe down, and forget all of its states but the last two.

        The item's row is kept after this, or never: then it begins at the last state but one again.
        """
        with replacing(self._file(chunks)) as path:
            save_file(probe.state(), path)
        self._file(chunks - 2).unlink(missing_ok=True)
        self._progress.probe, self._progress.chunks = probe, chunks

    def _state(self, chunks: int) -> dict[str, torch.Tensor] | None:
        """What was written down after so many items, if it is there whole."""
        try:
            return load_file(self._file(chunks))
        except (OSError, SafetensorError):
            return None

    def _file(self, chunks: int) -> Path:
        assert self._progress.folder is not None
        return self._progress.folder / f"probe-{chunks}.safetensors"

    def _read(self, split: str, name: str) -> tuple[Piece, npt.NDArray[np.int64]]:
        """An image as the backbone sees it, and its coarse classes.

        Raises
        ------
        DataSetError
            If one of them is missing or broken, or they do not fit.
        """
        file, annotation = self._pair(split, name)
        picture = _opened(file).convert("RGB")
        labels = _opened(annotation)
        if labels.mode not in ("L", "P"):
            raise DataSetError(f"{annotation} holds no ids of 8 bits, but an image {labels.mode}")
        if labels.size != picture.size:
            raise DataSetError(f"{annotation} is {labels.size}, its image {picture.size}")
        ids = np.asarray(self._cropped(labels, Image.Resampling.NEAREST))
        is_train_id = annotation.stem.endswith(_TRAIN_IDS)
        table = COARSE_OF_TRAIN_ID if is_train_id else COARSE_OF_FINE
        classes = table[ids]
        strange = ids[(classes == UNKNOWN) & (ids != _UNLABELLED)]
        if strange.size:
            raise DataSetError(f"{annotation} holds the id {strange[0]}, which no class has")
        pixels = np.asarray(self._cropped(picture, Image.Resampling.BILINEAR))
        return Piece(pixels, levels=_LEVELS), classes

    def _cropped(self, image: Image.Image, resampling: Image.Resampling) -> Image.Image:
        """The middle of an image whose shorter side is resized, as torchvision does both."""
        width, height = image.size
        short = min(width, height)
        width, height = (self.side * n // short for n in (width, height))
        left, top = (round((n - self.side) / 2) for n in (width, height))
        box = (left, top, left + self.side, top + self.side)
        return image.resize((width, height), resampling).crop(box)

    @cached_property
    def _store(self) -> TokenStore | None:
        """Tokens of the images learnt from, where they are needed again."""
        folder = self._progress.folder
        if self.epochs == 1 or folder is None:
            return None
        return TokenStore(folder / "tokens", _STORE_BYTES)

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Accuracy, mean IoU, and IoU of every class that there is."""
        counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
        trained = [row for row in rows if "loss" in row]
        scored = [row for row in rows if "pixels" in row]
        for row in scored:
            for found, truth, count in row["_counts"]:
                counts[found, truth] += count
        if not counts.any():
            raise DataSetError(f"no image of {_VAL} holds a labelled pixel of the 27 classes")
        result = agreement(counts)
        return {
            "pixel accuracy": result.accuracy,
            "mean IoU": result.mean_iou,
            "images scored": len(scored),
            "images learnt from": sum(row["images"] for row in trained) // self.epochs,
            "images left out": sum(len(row["left_out"]) for row in trained) // self.epochs,
            "loss at the end": trained[-1]["loss"],
            **{f"IoU {name}": iou for name, iou in zip(CLASSES, result.ious, strict=True)},
        }


def _opened(path: Path) -> Image.Image:
    """A picture with all its pixels.

    Raises
    ------
    DataSetError
        If it is missing or broken.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as reason:
        # The readers raise whatever a damaged file drives them into.
        raise DataSetError(f"{path} cannot be read: {first_line(reason)}") from reason
