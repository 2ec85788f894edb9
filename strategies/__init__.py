"""Server side: what is averaged, for whom, and how. Flower ``Strategy`` classes and their maths.

Use one in any Flower project: ``PartialAveraging(...).start(grid, initial_arrays, num_rounds)``.
``PFedHN`` and its ``Hypernetwork`` need torch, which is not imported before they are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from strategies.adapters.exact_mean import LowRankAveraging, mean_of_products
from strategies.client_reports import ClientReport
from strategies.client_strategy import ClientStrategy
from strategies.clustered.assignments import NO_GROUP, Assignment, Grouping
from strategies.clustered.cfl import CFL
from strategies.clustered.gradient_clusters import GradientClusters
from strategies.clustered.group_averaging import GroupAveraging
from strategies.clustered.ifca import IFCA
from strategies.clustered.similarity_clustering import ClusteringRules
from strategies.graphs.update_clusters import UpdateClusters
from strategies.hierarchical.hierarchical_bayes import HierarchicalBayes
from strategies.hierarchical.hierarchical_linear import HierarchicalLinear
from strategies.measurement_error.errors_in_variables import ErrorsInVariables
from strategies.measurement_error.quality_weighted import QualityWeighted
from strategies.partial_averaging import PartialAveraging
from strategies.privacy import Privacy
from strategies.replies import Reply, mean_metrics
from strategies.rounds import Round

if TYPE_CHECKING:
    from strategies.hypernetwork.network import Hypernetwork
    from strategies.hypernetwork.pfedhn import PFedHN

_LAZY = {
    "Hypernetwork": "strategies.hypernetwork.network",
    "PFedHN": "strategies.hypernetwork.pfedhn",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'strategies' has no attribute {name!r}")


__all__ = [
    "CFL",
    "IFCA",
    "NO_GROUP",
    "Assignment",
    "ClientReport",
    "ClientStrategy",
    "ClusteringRules",
    "ErrorsInVariables",
    "GradientClusters",
    "GroupAveraging",
    "Grouping",
    "HierarchicalBayes",
    "HierarchicalLinear",
    "Hypernetwork",
    "LowRankAveraging",
    "PFedHN",
    "PartialAveraging",
    "Privacy",
    "QualityWeighted",
    "Reply",
    "Round",
    "UpdateClusters",
    "mean_metrics",
    "mean_of_products",
]
