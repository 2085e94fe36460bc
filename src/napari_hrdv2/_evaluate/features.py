"""What evaluations need of whatever makes tokens."""

from __future__ import annotations

from typing import Any, Protocol

import numpy.typing as npt

from ..core.cache import TokenStore
from ..core.settings import Settings
from ..core.tiles import Piece
from ..core.tokens import Tokens


class Extractor(Protocol):
    """What makes tokens, as :class:`.FeatureExtractor` does."""

    settings: Settings

    def extract(
        self, image: npt.NDArray[Any] | Piece, *, store: TokenStore | None = None
    ) -> Tokens:
        """Tokens of an image."""
