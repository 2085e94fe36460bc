"""The commands of ``evaluate`` that learn from labels, and what it all costs."""

from __future__ import annotations

from typing import Annotated

import typer

from .evaluate import Data, Features, Limit, Output, Overwrite, Running, report
from .options import Classifier, Device, Filters, Model, WeightsFile, spread
from .shared import make_extractor

Seed = Annotated[int, typer.Option(min=0, help="Of what is left to chance.")]


@spread
def coco_probe(
    folder: Data,
    output: Output,
    *,
    curated: Annotated[
        str | None,
        typer.Option(
            "--list",
            metavar="NAME",
            help="Use the images of the lists curated/{train2017,val2017}/NAME.txt, such as "
            "Coco164kFull_Stuff_Coarse_7. By default all.",
            show_default=False,
        ),
    ] = None,
    train_images: Annotated[
        int, typer.Option(min=0, help="Images learnt from, drawn by the seed. 0: all.")
    ] = 5000,
    epochs: Annotated[int, typer.Option(min=1, help="How often these are gone through.")] = 10,
    side: Annotated[
        int, typer.Option(min=14, help="Side that images are resized and cropped to, in pixels.")
    ] = 224,
    batch: Annotated[int, typer.Option(min=1, help="Images of a step.")] = 2,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="Of Adam.")] = 0.005,
    seed: Seed = 0,
    features: Features,
    how: Running,
) -> None:
    """Linear probe on COCO-Stuff 27, as FeatUp's: pixel accuracy and mean IoU on val2017.

    FOLDER holds images and annotations, each with train2017 and val2017.
    """
    from .._evaluate.coco import CocoProbe, find_coco

    # What is missing is told before weights are downloaded.
    find_coco(folder)
    evaluation = CocoProbe(
        data=folder,
        # As in the paper, from the last block and without what helps strokes.
        extractor=features.extractor(depth=1.0, move_positions=False),
        curated=curated,
        train_images=train_images or None,
        epochs=epochs,
        side=side,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        limit=how.limit,
    )
    report(evaluation, output, overwrite=how.overwrite, skip_missing=how.skip_missing)


@spread
def scribbles(
    folder: Data,
    output: Output,
    *,
    painted: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of every class's pixels that is painted by simulated strokes; several may "
            "be given. By default 0.005.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many times strokes are drawn.")] = 1,
    training: Annotated[
        int,
        typer.Option(
            min=0,
            help="Images that are painted, drawn by the seed; the others are segmented. 0: each "
            "image from strokes on itself.",
        ),
    ] = 0,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Leave NAME_strokes files alone.")
    ] = False,
    classifier: Classifier = "logistic",
    filters: Filters = None,
    features: Features,
    limit: Limit = None,
    overwrite: Overwrite = False,
) -> None:
    """Segmentation from strokes on your own images: mean IoU by image, class and share painted.

    FOLDER holds images NAME.*, truths NAME_truth.* (labels from 1, 0 where unknown) and, if there
    are any, strokes of a person NAME_strokes.*.
    """
    from .._evaluate.scribbles import Scribbles, find_files

    find_files(folder)
    evaluation = Scribbles(
        data=folder,
        extractor=features.extractor(filters=filters is not False),
        classifier=classifier,
        fractions=tuple(painted or (0.005,)),
        seeds=seeds,
        training=training,
        simulate=simulate,
        limit=limit,
    )
    report(evaluation, output, overwrite=overwrite)


def cost(
    output: Output,
    side: Annotated[
        list[int] | None,
        typer.Option(
            min=64,
            help="Side of the square images in pixels; several may be given. By default 256, 512 "
            "and 1024.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIANT",
            help="Measure this one of the transforms, such as 'passes 4'; several may be given. "
            "By default all.",
            show_default=False,
        ),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="How often; times are medians.")] = 1,
    model: Model = "auto",
    device: Device = "auto",
    weights: WeightsFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Seconds and memory of this machine, against the images' size and the transforms."""
    from .._evaluate.cost import SIDES, Cost

    extractor = make_extractor(device, weights, model=model)
    evaluation = Cost(
        resolved=extractor.settings,
        device=extractor.device,
        weights=weights,
        sides=tuple(side or SIDES),
        only=tuple(only or ()),
        repeat=repeat,
    )
    report(evaluation, output, overwrite=overwrite)
