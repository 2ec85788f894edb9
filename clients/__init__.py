"""Client side: NumPyClients that keep personal parameters on the device.

``PersonalClient`` takes any ``torch.nn.Module`` and its loaders; ``client_app`` makes a Flower
``ClientApp`` of it. This package knows no data set and no study.
"""

from clients.app import client_app
from clients.clustered.clustered_client import ClusteredClient
from clients.clustered.start_gradient import start_gradient
from clients.entries import canonical_names, entries_of, functional
from clients.evaluation import evaluate
from clients.fine_tuning import FineTuning, fine_tune
from clients.graphs.graph import Graph, GraphNetwork, bind
from clients.hierarchical.hierarchical_bayes import HierarchicalBayesClient
from clients.hierarchical.hierarchical_linear import HierarchicalLinearClient
from clients.inference.example_gradients import ExampleGradients, mixing_layers
from clients.inference.fisher import fisher_diagonal
from clients.lifelong.lifelong import LifelongClient
from clients.loaders import in_memory_loader
from clients.local_client import ClientDetails
from clients.local_step import LocalState, Optimization, gradient, local_step
from clients.measurement_error.errors_in_variables import ErrorsInVariablesClient
from clients.normalization import check_variances, settle_spectral_norm
from clients.personal import LocalRound, PersonalClient
from clients.personalized_models.apfl import APFLClient
from clients.personalized_models.ditto import DittoClient
from clients.personalized_models.l2gd import L2GDClient
from clients.personalized_models.mr_mtl import MRMTLClient
from clients.personalized_models.pfedme import PFedMeClient
from clients.proximal import ProximalRule, ProximalTerm
from clients.scopes import Scope, ScopeError, assign_scopes, components, select
from clients.state.personal_state import (
    CorruptStateError,
    ForeignStateError,
    PersonalState,
    PersonalStateError,
    Snapshot,
)
from clients.task import Classification, LinkPrediction, Regression, Task
from clients.training import Phase, TrainingDivergedError, body_only, head_then_body, joint, train

__all__ = [
    "APFLClient",
    "Classification",
    "ClientDetails",
    "ClusteredClient",
    "CorruptStateError",
    "DittoClient",
    "ErrorsInVariablesClient",
    "ExampleGradients",
    "FineTuning",
    "ForeignStateError",
    "Graph",
    "GraphNetwork",
    "HierarchicalBayesClient",
    "HierarchicalLinearClient",
    "L2GDClient",
    "LifelongClient",
    "LinkPrediction",
    "LocalRound",
    "LocalState",
    "MRMTLClient",
    "Optimization",
    "PFedMeClient",
    "PersonalClient",
    "PersonalState",
    "PersonalStateError",
    "Phase",
    "ProximalRule",
    "ProximalTerm",
    "Regression",
    "Scope",
    "ScopeError",
    "Snapshot",
    "Task",
    "TrainingDivergedError",
    "assign_scopes",
    "bind",
    "body_only",
    "canonical_names",
    "check_variances",
    "client_app",
    "components",
    "entries_of",
    "evaluate",
    "fine_tune",
    "fisher_diagonal",
    "functional",
    "gradient",
    "head_then_body",
    "in_memory_loader",
    "joint",
    "local_step",
    "mixing_layers",
    "select",
    "settle_spectral_norm",
    "start_gradient",
    "train",
]
