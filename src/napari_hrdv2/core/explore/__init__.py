"""What the features of images show without a single label."""

from .attention import AttentionMaps, attention_maps
from .boxes import Box, boxes
from .clusters import Clusters
from .common import spread_indices
from .cosegmentation import CoSegmentation, cosegment
from .foreground import attended_foreground, component_foreground, salient_clusters
from .fused import fused_clusters, fused_features
from .matching import Correspondences, correspondences
from .pca import PrincipalComponents
from .regions import RegionKind, regions_of
from .retrieval import Match, RegionIndex, Regions
from .seeds import strokes_of
from .similarity import Similarity, descriptor, lengths

__all__ = [
    "AttentionMaps",
    "Box",
    "Clusters",
    "CoSegmentation",
    "Correspondences",
    "Match",
    "PrincipalComponents",
    "RegionIndex",
    "RegionKind",
    "Regions",
    "Similarity",
    "attended_foreground",
    "attention_maps",
    "boxes",
    "component_foreground",
    "correspondences",
    "cosegment",
    "descriptor",
    "fused_clusters",
    "fused_features",
    "lengths",
    "regions_of",
    "salient_clusters",
    "spread_indices",
    "strokes_of",
]
