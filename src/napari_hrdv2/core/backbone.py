"""What extraction asks of a backbone, whichever family it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .vit import Facets


class Normalisation(NamedTuple):
    """What a backbone's images are brought to: (image - mean) / std, of images in [0, 1].

    Attributes
    ----------
    mean, std
        Of red, green and blue.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


#: That of DINO, DINOv2, DINOv3 and DeiT, and of SAM, whose code has it in [0, 255].
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: That of ViTs trained with Google's code, AugReg among them.
HALVES = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Backbone(Protocol):
    """A frozen transformer that makes a grid of tokens from an image.

    Attributes
    ----------
    patch
        Patch size in pixels.
    dim
        Channels of a token.
    normalisation
        What its images are brought to.
    """

    patch: int
    dim: int
    normalisation: Normalisation

    @property
    def depth(self) -> int:
        """Number of blocks."""

    @property
    def moves_positions(self) -> bool:
        """Whether tokens know where they lie by learned absolute positions alone."""

    def to(self, device: torch.device, dtype: torch.dtype, /) -> Self:
        """The same, elsewhere and in another precision."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """What was learned."""

    def __call__(
        self,
        images: Tensor,
        stride: int | None = None,
        on_block: Callable[[], None] | None = None,
        blocks: int | None = None,
        moves: Sequence[tuple[float, float]] = (),
    ) -> Tensor:
        """Patch tokens.

        Parameters
        ----------
        images
            (batch, channels, H, W), normalised, at least one patch high and wide; pixels beyond
            the last whole patch are ignored.
        stride
            Distance of the patches in pixels, by default the patch size.
        on_block
            Called before every block; what it raises ends the pass.
        blocks
            How many blocks the tokens go through, by default all.
        moves
            For each image, the share of the token grid, (y, x) in [0, 1), by which its content
            stands elsewhere for the position embeddings, around the edges. But for them a
            transformer does not know its tokens' order: with strides of whole patches these
            are the tokens of the image rolled by as many whole patches, rolled back. By
            default nothing is moved.

        Returns
        -------
        Tensor
            (batch, ny, nx, dim).

        Raises
        ------
        ValueError
            If positions are to be moved that cannot be.
        """


@runtime_checkable
class FacetBackbone(Backbone, Protocol):
    """A backbone whose attention can be looked into.

    Attributes
    ----------
    heads
        Number of attention heads of a block.
    """

    @property
    def heads(self) -> int:
        """Number of attention heads of a block."""

    def facets(
        self,
        images: Tensor,
        block: int = -1,
        stride: int | None = None,
        on_block: Callable[[], None] | None = None,
        moves: Sequence[tuple[float, float]] = (),
    ) -> Facets:
        """Queries, keys, values and the class token's attention in one block.

        The attention of all tokens to all is never formed, only the class token's.

        Parameters
        ----------
        images, stride, on_block, moves
            As for the tokens.
        block
            Index of the block, from the end where negative.

        Raises
        ------
        IndexError
            If there is no such block.
        """
