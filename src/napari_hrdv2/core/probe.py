"""A linear classifier of pixels that is trained image by image, as deep networks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from .tokens import Tokens
from .upsample import best_of

#: Class of the pixels that a probe does not learn from.
UNKNOWN = -1


class LinearProbe:
    """A linear classifier of pixels, trained by Adam on a few images a step.

    FeatUp (arXiv 2403.10516) judges upsampled features by it: cross-entropy of all pixels whose
    class is known, features as they are, neither standardised nor normalised, Adam with a learning
    rate of 0.005. It differs from :class:`PixelClassifier`, which solves for a few strokes, by
    never having more than a step's images in memory. Class scores A (T W') + b are those of all
    pixels, exactly, and so is the gradient: automatic differentiation goes through the operator
    back to the projected tokens, and the map of all channels is not built here either.

    The arithmetic is the processor's, whatever device tokens lie on: a step costs little beside the
    backbone, and some sums of GPUs come out in another order each time.

    Parameters
    ----------
    channels
        Features C of a pixel.
    classes
        Number K of classes.
    learning_rate
        Of Adam.
    seed
        Of the weights that it begins with, uniform within 1 / sqrt(C) of 0.

    Attributes
    ----------
    weight, bias
        (K, C) and (K,) of float32.

    Examples
    --------
    >>> probe = LinearProbe(tokens.channels, 27)  # doctest: +SKIP
    >>> loss, pixels = probe.step([(tokens, classes)])  # doctest: +SKIP
    >>> probe.predict(tokens)  # doctest: +SKIP
    """

    def __init__(
        self, channels: int, classes: int, *, learning_rate: float = 0.005, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        bound = channels**-0.5
        self.weight, self.bias = (
            ((2 * torch.rand(shape, generator=generator) - 1) * bound).requires_grad_()
            for shape in ((classes, channels), (classes,))
        )
        self._adam = torch.optim.Adam([self.weight, self.bias], lr=learning_rate)

    def step(self, images: Sequence[tuple[Tokens, npt.NDArray[np.integer]]]) -> tuple[float, int]:
        """Take one step downhill.

        Parameters
        ----------
        images
            Of each its tokens and its classes (h, w), from 0, :data:`UNKNOWN` where not known.

        Returns
        -------
        tuple of float, int
            Mean cross-entropy of the known pixels before the step, in nats, and their number.
            Where none is known, 0.0 and 0, and no step is taken.
        """
        count = sum(int((classes != UNKNOWN).sum()) for _, classes in images)
        if count == 0:
            return 0.0, 0
        self._adam.zero_grad()
        loss = 0.0
        for tokens, classes in images:
            # Image by image: gradients add up, activations need not be there together.
            part = self._loss(tokens, classes) / count
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        self._adam.step()
        return loss, count

    def _loss(self, tokens: Tokens, classes: npt.NDArray[np.integer]) -> torch.Tensor:
        """Sum of the cross-entropies of an image's known pixels."""
        truth = torch.from_numpy(np.asarray(classes, np.int64))
        scores = self._scores(tokens).transpose(0, 1)[None]
        return F.cross_entropy(scores, truth[None], ignore_index=UNKNOWN, reduction="sum")

    def _scores(self, tokens: Tokens) -> torch.Tensor:
        """(h, K, w) of class scores."""
        parts, start = [], 0
        for grid in tokens.grids:
            weight = self.weight[:, start : start + grid.channels]
            parts.append(grid.operator.maps(grid.data.float().cpu() @ weight.T))
            start += grid.channels
        scores: torch.Tensor = reduce(torch.add, parts, self.bias[:, None])
        return scores

    def predict(self, tokens: Tokens) -> npt.NDArray[np.integer]:
        """Class of every pixel (h, w), the first of those that score the same."""
        with torch.no_grad():
            return best_of([self._scores(tokens)])

    def state(self) -> dict[str, torch.Tensor]:
        """All that later steps depend on, by name: weights, and what Adam remembers."""
        found = {"weight": self.weight.detach(), "bias": self.bias.detach()}
        for name, one in (("weight", self.weight), ("bias", self.bias)):
            found |= {f"adam.{name}.{key}": value for key, value in self._adam.state[one].items()}
        return {name: value.clone() for name, value in found.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go back to a :meth:`state`.

        Raises
        ------
        ValueError
            If it is of another number of features or classes, or incomplete.
        """
        for name, one in (("weight", self.weight), ("bias", self.bias)):
            prefix = f"adam.{name}."
            kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if name not in state or state[name].shape != one.shape:
                raise ValueError(f"the state has no {name} of shape {tuple(one.shape)}")
            with torch.no_grad():
                one.copy_(state[name])
            self._adam.state[one] = {key: value.clone() for key, value in kept.items()}
