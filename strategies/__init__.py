"""Server side: what is averaged, for whom, and how. Flower ``Strategy`` classes and their maths.

Use one in any Flower project: ``PartialAveraging(...).start(grid, initial_arrays, num_rounds)``.
"""

from strategies.averaging import PartialAveraging
from strategies.bayes import HierarchicalBayes
from strategies.clustering import GradientClusters
from strategies.grouping import GroupAveraging
from strategies.ifca import IFCA
from strategies.placements import NO_GROUP, Grouping, Placement
from strategies.recursive import CFL
from strategies.replies import ClientReport, Reply, mean_metrics
from strategies.tribes import TribeRules

__all__ = [
    "CFL",
    "IFCA",
    "NO_GROUP",
    "ClientReport",
    "GradientClusters",
    "GroupAveraging",
    "Grouping",
    "HierarchicalBayes",
    "PartialAveraging",
    "Placement",
    "Reply",
    "TribeRules",
    "mean_metrics",
]
