"""Client side: NumPyClients that keep personal parameters on the device.

``PersonalClient`` takes any ``torch.nn.Module`` and its loaders; ``client_app`` makes a Flower
``ClientApp`` of it. This package knows no data set and no study.
"""

from clients.apfl import APFLClient
from clients.app import client_app
from clients.bayes import HierarchicalBayesClient
from clients.constellation import ConstellationClient, DittoClient
from clients.errors_in_variables import ErrorsInVariablesClient
from clients.evaluation import FineTuning, evaluate, fine_tune
from clients.fisher import fisher_diagonal
from clients.gradient import start_gradient
from clients.graph import Graph, GraphNetwork, bind
from clients.grouped import GroupedClient
from clients.hierarchical_linear import HierarchicalLinearClient
from clients.l2gd import L2GDClient
from clients.lifelong import LifelongClient
from clients.loaders import in_memory_loader
from clients.personal import PersonalClient
from clients.pfedme import PFedMeClient
from clients.scopes import Scope, ScopeError, assign_scopes, components, select
from clients.state import (
    CorruptStateError,
    ForeignStateError,
    PersonalState,
    PersonalStateError,
    Snapshot,
)
from clients.task import Classification, LinkPrediction, Regression, Task
from clients.tether import Pull, Tether
from clients.training import (
    Optimization,
    Phase,
    TrainingDivergedError,
    body_only,
    head_then_body,
    joint,
    train,
)

__all__ = [
    "APFLClient",
    "Classification",
    "ConstellationClient",
    "CorruptStateError",
    "DittoClient",
    "ErrorsInVariablesClient",
    "FineTuning",
    "ForeignStateError",
    "Graph",
    "GraphNetwork",
    "GroupedClient",
    "HierarchicalBayesClient",
    "HierarchicalLinearClient",
    "L2GDClient",
    "LifelongClient",
    "LinkPrediction",
    "Optimization",
    "PFedMeClient",
    "PersonalClient",
    "PersonalState",
    "PersonalStateError",
    "Phase",
    "Pull",
    "Regression",
    "Scope",
    "ScopeError",
    "Snapshot",
    "Task",
    "Tether",
    "TrainingDivergedError",
    "assign_scopes",
    "bind",
    "body_only",
    "client_app",
    "components",
    "evaluate",
    "fine_tune",
    "fisher_diagonal",
    "head_then_body",
    "in_memory_loader",
    "joint",
    "select",
    "start_gradient",
    "train",
]
