"""What the features of images show without a single label."""

from .attention import AttentionMaps, attention_maps
from .pca import PrincipalComponents
from .similarity import Similarity, descriptor, lengths

__all__ = [
    "AttentionMaps",
    "PrincipalComponents",
    "Similarity",
    "attention_maps",
    "descriptor",
    "lengths",
]
