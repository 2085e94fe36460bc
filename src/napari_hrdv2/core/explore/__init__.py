"""What the features of images show without a single label."""

from .attention import AttentionMaps, attention_maps
from .boxes import Box, boxes
from .clusters import Clusters
from .foreground import attended_foreground, component_foreground, salient_clusters
from .fused import fused_clusters, fused_features
from .pca import PrincipalComponents
from .similarity import Similarity, descriptor, lengths

__all__ = [
    "AttentionMaps",
    "Box",
    "Clusters",
    "PrincipalComponents",
    "Similarity",
    "attended_foreground",
    "attention_maps",
    "boxes",
    "component_foreground",
    "descriptor",
    "fused_clusters",
    "fused_features",
    "lengths",
    "salient_clusters",
]
