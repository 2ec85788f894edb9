"""Client side: NumPyClients that keep personal parameters on the device.

``PersonalClient`` takes any ``torch.nn.Module`` and its loaders; ``client_app`` makes a Flower
``ClientApp`` of it. This package knows no data set and no study.
"""

from clients.adapters.feddpa import FedDPAClient
from clients.app import client_app
from clients.base_client import ClientDetails
from clients.clustered.clustered_client import ClusteredClient
from clients.clustered.start_gradient import start_gradient
from clients.data.dataset_loader import dataset_loader
from clients.data.datasets import DatasetError
from clients.data.inputs import pad_sequences
from clients.data.loaders import in_memory_loader
from clients.entries import entries_of
from clients.evaluation import evaluate
from clients.frozen import base_fingerprint, frozen_entries, trained_parameters
from clients.graphs.graph import Graph, GraphNetwork, bind
from clients.hierarchical.hierarchical_bayes import HierarchicalBayesClient
from clients.hierarchical.hierarchical_linear import HierarchicalLinearClient
from clients.inference.fisher import fisher_diagonal
from clients.lifelong.lifelong import LifelongClient
from clients.local_training.fine_tuning import FineTuning, fine_tune
from clients.local_training.local_step import LocalState, Optimization, gradient, local_step
from clients.local_training.proximal import ProximalRule, ProximalTerm
from clients.local_training.training import (
    Phase,
    TrainingDivergedError,
    body_only,
    head_then_body,
    joint,
    train,
)
from clients.measurement_error.errors_in_variables import ErrorsInVariablesClient
from clients.method_hooks import LocalRound
from clients.model_components.errors import ScopeError
from clients.model_components.low_rank import LowRankPair, low_rank_pairs
from clients.model_components.outputs import take_logits
from clients.personal_client import PersonalClient
from clients.personalized_models.apfl import APFLClient
from clients.personalized_models.ditto import DittoClient
from clients.personalized_models.l2gd import L2GDClient
from clients.personalized_models.mr_mtl import MRMTLClient
from clients.personalized_models.pfedme import PFedMeClient
from clients.scopes import Scope, assign_scopes, components, select
from clients.state.personal_state import (
    CorruptStateError,
    ForeignStateError,
    PersonalState,
    PersonalStateError,
    Snapshot,
)
from clients.task import Classification, LinkPrediction, Regression, Task

__all__ = [
    "APFLClient",
    "Classification",
    "ClientDetails",
    "ClusteredClient",
    "CorruptStateError",
    "DatasetError",
    "DittoClient",
    "ErrorsInVariablesClient",
    "FedDPAClient",
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
    "LowRankPair",
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
    "base_fingerprint",
    "bind",
    "body_only",
    "client_app",
    "components",
    "dataset_loader",
    "entries_of",
    "evaluate",
    "fine_tune",
    "fisher_diagonal",
    "frozen_entries",
    "gradient",
    "head_then_body",
    "in_memory_loader",
    "joint",
    "local_step",
    "low_rank_pairs",
    "pad_sequences",
    "select",
    "start_gradient",
    "take_logits",
    "train",
    "trained_parameters",
]
