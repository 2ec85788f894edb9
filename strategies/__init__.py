"""Server side: what is averaged, for whom, and how. Flower ``Strategy`` classes and their maths.

Use one in any Flower project: ``PartialAveraging(...).start(grid, initial_arrays, num_rounds)``.
``PFedHN`` and its ``Hypernetwork`` need torch, which is not imported before they are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from strategies.averaging import PartialAveraging
from strategies.bayes import HierarchicalBayes
from strategies.clustering import GradientClusters
from strategies.community import UpdateClusters
from strategies.errors_in_variables import ErrorsInVariables
from strategies.grouping import GroupAveraging
from strategies.hierarchical_linear import HierarchicalLinear
from strategies.ifca import IFCA
from strategies.placements import NO_GROUP, Grouping, Placement
from strategies.quality import QualityWeighted
from strategies.recursive import CFL
from strategies.replies import ClientReport, Reply, mean_metrics
from strategies.tribes import TribeRules

if TYPE_CHECKING:
    from strategies.hypernetwork import Hypernetwork
    from strategies.pfedhn import PFedHN

_WITH_TORCH = {"Hypernetwork": "strategies.hypernetwork", "PFedHN": "strategies.pfedhn"}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for."""
    if name in _WITH_TORCH:
        return getattr(import_module(_WITH_TORCH[name]), name)
    raise AttributeError(f"module 'strategies' has no attribute {name!r}")


__all__ = [
    "CFL",
    "IFCA",
    "NO_GROUP",
    "ClientReport",
    "ErrorsInVariables",
    "GradientClusters",
    "GroupAveraging",
    "Grouping",
    "HierarchicalBayes",
    "HierarchicalLinear",
    "Hypernetwork",
    "PFedHN",
    "PartialAveraging",
    "Placement",
    "QualityWeighted",
    "Reply",
    "TribeRules",
    "UpdateClusters",
    "mean_metrics",
]
