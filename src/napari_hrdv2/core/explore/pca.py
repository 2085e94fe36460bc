"""What varies most in the features, as colours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.decomposition import PCA

from ..base import refuse_differences
from ..errors import HRDv2Error
from ..settings import Settings
from ..tokens import Tokens
from ..upsample import projected_maps
from .common import Floats, sampled_tokens, unit, unit_tokens

# Of more tokens the directions are the same to the eye.
_TOKENS = 10_000


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Principal components of the tokens of one or several images, applicable to further ones.

    As a component is a linear map, tokens are projected first and then brought to full size. The
    basis and what becomes black and full colour are shared, so that colours mean the same in
    all images, and in all frames of a video.

    Attributes
    ----------
    mean
        (C,) of float32, the tokens' mean.
    components
        (K, C) of float32, orthonormal, that of the largest variance first.
    levels
        (K, 2) of float32: of each component the values that become 0 and 1 in colours.
    is_normalised
        Whether they are those of tokens of length 1.
    settings
        With which the tokens were made.

    Examples
    --------
    >>> components = PrincipalComponents.fit([first, second])  # doctest: +SKIP
    >>> colours = components.rgb(third)  # doctest: +SKIP
    >>> some = (extractor.extract(movie[k]) for k in spread_indices(len(movie), 16))
    ... # doctest: +SKIP
    >>> PrincipalComponents.fit(some)  # doctest: +SKIP
    """

    mean: Floats
    components: Floats
    levels: Floats
    is_normalised: bool
    settings: Settings

    @classmethod
    def fit(
        cls,
        images: Iterable[Tokens],
        count: int = 3,
        *,
        normalised: bool = False,
        percentiles: tuple[float, float] = (1.0, 99.0),
    ) -> Self:
        """Find the components.

        Parameters
        ----------
        images
            Tokens of the images, all made alike; of many tokens a sample is taken. They may be
            those of a series, extracted one after the other: none but the sample is kept.
        count
            Number K of components, from 1 to C.
        normalised
            Whether every token is brought to length 1 first: then directions count alone.
        percentiles
            Of all images' values together, what becomes 0 and 1 in colours (percent).

        Raises
        ------
        HRDv2Error
            If there are no images, or not so many components.
        SettingsMismatchError
            If the tokens were made with different settings.
        """
        vectors, settings = sampled_tokens(images, _TOKENS)
        if normalised:
            vectors = unit(vectors)
        most = min(vectors.shape)
        if not 1 <= count <= most:
            raise HRDv2Error(f"{count} components asked for: there are 1 to {most}")
        # Of a constant image it wants shares of no variance.
        with np.errstate(invalid="ignore"):
            # It squares before it centres, which single precision is too little for.
            pca = PCA(count, svd_solver="covariance_eigh").fit(vectors.astype(np.float64))
        low, high = np.percentile(pca.transform(vectors), percentiles, axis=0)
        levels = np.stack([low, high], 1).astype(np.float32)
        mean, components = (one.astype(np.float32) for one in (pca.mean_, pca.components_))
        return cls(mean, components, levels, normalised, settings)

    def maps(self, tokens: Tokens) -> Floats:
        """The components at every pixel.

        Parameters
        ----------
        tokens
            Of an image, one of those that they were fitted to or another.

        Returns
        -------
        ndarray of float32
            (h, w, K), around 0.

        Raises
        ------
        SettingsMismatchError
            If the tokens were made with other settings.
        """
        return self._projected(tokens, self.components, -self.components @ self.mean)

    def rgb(self, tokens: Tokens) -> Floats:
        """The first three components as red, green and blue.

        Parameters
        ----------
        tokens
            As for :meth:`maps`.

        Returns
        -------
        ndarray of float32
            (h, w, 3), in [0, 1].

        Raises
        ------
        HRDv2Error
            If there are fewer than three components.
        SettingsMismatchError
            As :meth:`maps`.
        """
        if len(self.components) < 3:
            raise HRDv2Error(f"colours need 3 components, there are {len(self.components)}")
        low, high = self.levels[:3].T
        span = high - low
        span[span == 0] = 1
        weight = self.components[:3] / span[:, None]
        colours = self._projected(tokens, weight, -weight @ self.mean - low / span)
        return np.clip(colours, 0, 1, out=colours)

    def _projected(self, tokens: Tokens, weight: Floats, bias: Floats) -> Floats:
        refuse_differences(self.settings, tokens.settings, "those of the components")
        return projected_maps(unit_tokens(tokens) if self.is_normalised else tokens, weight, bias)
