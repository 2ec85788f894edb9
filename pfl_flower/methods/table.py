"""The table of methods. A method is a row: what it sets differently from plain averaging.

Adding a method is adding a row, plus one strategy or one client class where it truly differs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from clients import Optimization, PersonalClient, body_only, head_then_body, joint
from clients.clustered.clustered_client import GroupedClient
from clients.hierarchical.hierarchical_bayes import HierarchicalBayesClient
from clients.hierarchical.hierarchical_linear import HierarchicalLinearClient, check_protocol
from clients.lifelong.lifelong import LifelongClient
from clients.measurement_error.errors_in_variables import ErrorsInVariablesClient
from clients.personalized_models.apfl import APFLClient
from clients.personalized_models.ditto import DittoClient
from clients.personalized_models.l2gd import MOST_AVERAGING, L2GDClient, largest_l2gd_strength
from clients.personalized_models.local_model import LocalModelClient
from clients.personalized_models.mr_mtl import MRMTLClient
from clients.personalized_models.pfedme import PFedMeClient
from clients.personalized_models.strength import check_overshoot
from clients.training import EVERYTHING, Schedule
from strategies import (
    CFL,
    IFCA,
    ClusteringRules,
    ErrorsInVariables,
    GradientClusters,
    GroupAveraging,
    HierarchicalBayes,
    HierarchicalLinear,
    PartialAveraging,
    QualityWeighted,
    UpdateClusters,
)
from strategies.hypernetwork.pfedhn import PFedHN

SCHEDULES: Mapping[str, Callable[[int, int, int], Schedule]] = {
    "joint": lambda epochs, steps, head_epochs: joint(epochs, steps),
    "head-then-body": head_then_body,
    "body-only": lambda epochs, steps, head_epochs: body_only(epochs, steps),
}
"""Name of a schedule -> (local epochs, local steps, head epochs) -> phases."""


Check = Callable[..., None]
"""(how clients step, arguments of the method's client, ``task``: the name of what clients predict,
if known) -> None, or a ValueError."""


def _check_nothing(optimization: Optimization, **arguments: Any) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes
    ----------
    summary : what it does, in a line
    source : the paper
    settings : values for run-config keys that the user left empty
    block : kind of network that the method needs: ``""``, ``"se"`` or ``"adapter"``
    model : the only network that the method can do with, a key of
        :data:`pfl_flower.models.MODELS`; empty for any
    corrects_errors : whether it corrects for the errors of readings itself; nothing else may then
    graphs : whether it is for graphs only
    fine_tunes : rule of scopes trained at evaluation: ``""``, ``"all"`` or ``"personal"``
    fine_tunes_every_round : at every evaluation, or only after the last round
    strengths : the run-config key that is the method's own strength -> values worth trying
    candidates : what each client chooses from with ``lambda="auto"``
    check : refuses what a client would refuse, before a run starts
    strategy : the server side; called with the arguments of :class:`PartialAveraging`
    client : the device side; called with the arguments of :class:`PersonalClient`
    """

    summary: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    block: str = ""
    model: str = ""
    corrects_errors: bool = False
    graphs: bool = False
    fine_tunes: str = ""
    fine_tunes_every_round: bool = False
    strengths: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    candidates: tuple[float, ...] = ()
    check: Check = _check_nothing
    strategy: Callable[..., PartialAveraging] = PartialAveraging
    client: Callable[..., PersonalClient] = PersonalClient

    @property
    def groups(self) -> bool:
        """Whether there is a model for each group of clients."""
        return "group" in self.settings

    @property
    def asks_metadata(self) -> bool:
        """Whether clients are asked what they tell of themselves."""
        return "use_metadata" in self.settings

    @property
    def keeps_model(self) -> bool:
        """Whether clients keep a whole model of their own."""
        return isinstance(self.client, type) and issubclass(self.client, LocalModelClient)

    @property
    def makes_local_model(self) -> bool:
        """Whether every client ends with a whole model of its own, kept or computed anew."""
        return self.keeps_model or getattr(self.client, "makes_local_model", False)


def _check_pfedme(
    optimization: Optimization,
    strength: float | Sequence[float] | None,
    outer_learning_rate: float,
    **_: Any,
) -> None:
    for value in _finite(strength):
        check_overshoot(value, 1 / outer_learning_rate, "1 / outer-learning-rate")


def _check_l2gd(
    optimization: Optimization,
    strength: float | Sequence[float] | None,
    averaging_probability: float | None,
    **_: Any,
) -> None:
    if optimization.optimizer != "sgd":
        raise ValueError("its averaging steps balance plain SGD; set optimizer to 'sgd'")
    if strength is None and averaging_probability is not None:
        raise ValueError("with tau the coin has to fit it: leave averaging-probability empty")
    if averaging_probability is None:
        averaging_probability = MOST_AVERAGING
    largest = largest_l2gd_strength(optimization.learning_rate, averaging_probability)
    for value in _finite(strength):
        check_overshoot(value, largest, "p / ((1 - p) learning-rate)")


def _finite(strength: float | Sequence[float] | None) -> list[float]:
    values = strength if isinstance(strength, Sequence) else [strength]
    return [value for value in values if value is not None and math.isfinite(value)]


AUTO = (0.0, 0.1, 0.3, 1.0, math.inf)
"""What clients choose from, the ends included: training alone and the shared model."""


def _split_rules(arguments: Mapping[str, Any]) -> tuple[ClusteringRules, dict[str, Any]]:
    """Return the rules of clusters, and the other arguments."""
    names = {item.name for item in fields(ClusteringRules)}
    rules = ClusteringRules(**{name: value for name, value in arguments.items() if name in names})
    return rules, {name: value for name, value in arguments.items() if name not in names}


def _check_rules(optimization: Optimization, **arguments: Any) -> None:
    _split_rules(arguments)


def _check_models(optimization: Optimization, clusters: int, **_: Any) -> None:
    if not clusters:
        raise ValueError("its number of clusters has to be given, at least 1")


def _check_hierarchical(
    optimization: Optimization, protocol: str, task: str | None = None, **_: Any
) -> None:
    if task is not None:
        check_protocol(protocol, task == "regression")


def _gradient_clusters(**arguments: Any) -> GradientClusters:
    rules, others = _split_rules(arguments)
    return GradientClusters(rules=rules, **others)


COMMUNITIES: Mapping[str, Callable[..., GroupAveraging]] = {
    "told": lambda clusters, **others: GroupAveraging(**others),
    "gradients": lambda clusters, **others: GradientClusters(
        rules=ClusteringRules(clusters=clusters), **others
    ),
    "updates": UpdateClusters,
}
"""How the community of a client is known -> a strategy of that kind."""


def _community_adapters(communities: str, **arguments: Any) -> GroupAveraging:
    return COMMUNITIES[communities](**arguments)


def _check_communities(
    optimization: Optimization, communities: str, clusters: int, **_: Any
) -> None:
    if clusters and communities == "told":
        raise ValueError("its communities are told, and their number with them; leave clusters")


METHODS: Mapping[str, Method] = {
    "fedavg": Method(
        summary="one model for everybody: the weighted mean",
        source="McMahan et al. 2017, arXiv:1602.05629",
    ),
    "fedprox": Method(
        summary="FedAvg, each client held near the model it received",
        source="Li et al. 2020, arXiv:1812.06127",
        settings={"mu": 0.1},
        strengths={"mu": (0.01, 0.1, 1.0)},
    ),
    "local": Method(
        summary="every client alone; nothing is shared",
        source="the baseline without federation",
        settings={"personal": "all"},
    ),
    "fedavg-ft": Method(
        summary="FedAvg, then each client fine-tunes for a number of epochs it validates",
        source="Wang et al. 2019, arXiv:1910.10252; Wu et al. 2022 (Motley), arXiv:2206.09262",
        fine_tunes="all",
    ),
    "fedper": Method(
        summary="shared body, personal head, trained together",
        source="Arivazhagan et al. 2019, arXiv:1912.00818",
        settings={"personal": "head"},
    ),
    "fedrep": Method(
        summary="shared body, personal head, trained one after the other",
        source="Collins et al. 2021, arXiv:2102.07078",
        settings={"personal": "head", "schedule": "head-then-body"},
        strengths={"head-epochs": (1, 2, 5)},
    ),
    "fedbabu": Method(
        summary="shared body under a head that never trains; fine-tuned head at evaluation",
        source="Oh et al. 2022, arXiv:2106.06042",
        settings={"personal": "head", "schedule": "body-only"},
        fine_tunes="personal",
        fine_tunes_every_round=True,
    ),
    "lg-fedavg": Method(
        summary="personal body, shared head",
        source="Liang et al. 2020, arXiv:2001.01523",
        settings={"personal": "body"},
    ),
    "fedbn": Method(
        summary="everything shared but the normalization layers",
        source="Li et al. 2021, arXiv:2102.07623",
        settings={"personal": "norm"},
    ),
    "personal-se": Method(
        summary="everything shared but the squeeze-and-excitation blocks",
        source="after Hu et al. 2018, arXiv:1709.01507",
        settings={"personal": "se"},
        block="se",
    ),
    "adapters": Method(
        summary="shared core, small personal adapters pulled towards doing nothing",
        source="after Houlsby et al. 2019, arXiv:1902.00751",
        settings={"personal": "adapter", "personal_decay": 1e-3},
        strengths={"personal-decay": (1e-4, 1e-3, 1e-2)},
        block="adapter",
    ),
    "ditto": Method(
        summary="own models around the FedAvg model, which the pull lambda ties them to",
        source="Li et al. 2021, arXiv:2012.04221",
        settings={"lambda_": 0.3, "tau": None},
        strengths={"lambda": (0.1, 0.3, 1.0)},
        candidates=AUTO,
        client=DittoClient,
    ),
    "mr-mtl": Method(
        summary="own models around their mean",
        source="Liu et al. 2022, arXiv:2206.07902",
        settings={"lambda_": 0.3, "tau": None},
        strengths={"lambda": (0.1, 0.3, 1.0)},
        candidates=AUTO,
        client=MRMTLClient,
    ),
    "pfedme": Method(
        summary="own models around a minimizer of Moreau envelopes",
        source="Dinh et al. 2020, arXiv:2006.08848",
        settings={
            "lambda_": 15.0,
            "inner_steps": 5,
            "outer_learning_rate": 0.01,
        },
        strengths={"lambda": (1.0, 5.0, 15.0)},
        candidates=(0.0, 1.0, 5.0, 15.0, math.inf),
        check=_check_pfedme,
        client=PFedMeClient,
    ),
    "apfl": Method(
        summary="a mixture of an own model and the shared one, with a weight that adapts",
        source="Deng et al. 2020, arXiv:2003.13461",
        settings={"mixing": "auto"},
        strengths={"mixing": (0.25, 0.5, 0.75)},
        client=APFLClient,
    ),
    "l2gd": Method(
        summary="own models around their mean; a coin decides between a step and the mean",
        source="Hanzely & Richtarik 2020, arXiv:2002.05516",
        settings={
            "lambda_": 0.3,
            "tau": None,
            "averaging_probability": None,
            "weighting": "uniform",
        },
        strengths={"lambda": (0.1, 0.3, 1.0)},
        candidates=AUTO,
        check=_check_l2gd,
        client=L2GDClient,
    ),
    "lifelong": Method(
        summary="learn the new, preserve the old (lambda, Fisher), stay with the group (mu)",
        source="after Kirkpatrick et al. 2017, arXiv:1612.00796",
        settings={
            "lambda_": 0.4,
            "mu": 0.2,
            "fisher_decay": 1.0,
            "fisher_samples": 0,
            "task_changes": "announced",
        },
        strengths={"lambda": (0.1, 1.0, 10.0)},
        client=LifelongClient,
    ),
    "known-groups": Method(
        summary="one model a group; every client tells its group",
        source="clustered federated learning with an oracle",
        settings={"group": "rest"},
        strategy=GroupAveraging,
    ),
    "gradient-clusters": Method(
        summary="one model a cluster of clients whose first gradients agree",
        source="after Sattler et al. 2021, arXiv:1910.01991; Ghosh et al. 2020, arXiv:2006.04088",
        settings={
            "group": "rest",
            "clusters": 0,
            "clusterer": "agglomerative",
            "agreement": 0.4,
            "few_examples": 15,
            "smallest_cluster": 1,
            "projection_size": 8192,
            "revise_every": 0,
        },
        check=_check_rules,
        strategy=_gradient_clusters,
        client=GroupedClient,
    ),
    "ifca": Method(
        summary="several models; every client trains the one that fits its examples best",
        source="Ghosh et al. 2020, arXiv:2006.04088",
        settings={"group": "rest", "clusters": 3, "restart": 0},
        strengths={"clusters": (2, 3, 5)},
        check=_check_models,
        strategy=IFCA,
        client=GroupedClient,
    ),
    "cfl": Method(
        summary="one model, split in two where its clients pull apart, again and again",
        source="Sattler et al. 2021, arXiv:1910.01991",
        settings={"group": "rest", "mean_below": 0.4, "median_above": 0.8},
        strategy=CFL,
        client=GroupedClient,
    ),
    "pfedhn": Method(
        summary="a hypernetwork on the server writes each client's model, from its metadata if any",
        source="Shamsian et al. 2021, arXiv:2103.04628",
        settings={
            "norm": "group",
            "weighting": "uniform",
            "use_metadata": True,
            "server_learning_rate": 0.01,
            "embedding_size": 64,
        },
        strengths={"server-learning-rate": (0.003, 0.01, 0.03)},
        strategy=PFedHN,
        client=partial(PersonalClient, joins=EVERYTHING),
    ),
    "hierarchical-linear": Method(
        summary="linear models of the clients' own, weighed against a prior that all share",
        source="Lindley & Smith 1972; Laird & Ware 1982, Biometrics 38",
        settings={"protocol": "auto", "covariance": "auto", "restricted": True},
        model="linear",
        check=_check_hierarchical,
        strategy=HierarchicalLinear,
        client=HierarchicalLinearClient,
    ),
    "hierarchical-bayes": Method(
        summary="shared body; own heads under a Gaussian prior that all clients make together",
        source="empirical Bayes, after Efron & Morris 1973; Laplace's posterior, MacKay 1992",
        settings={
            "prior": "head",
            "prior_variance": 1.0,
            "prior_weight": 10.0,
            "posterior_samples": 0,
        },
        strengths={"prior-variance": (0.1, 1.0, 10.0)},
        strategy=HierarchicalBayes,
        client=HierarchicalBayesClient,
    ),
    "quality-weighted": Method(
        summary="FedAvg by examples x quality of the data; bounded, so that no client can lie much",
        source="DerSimonian & Laird 1986 (weights); Sun et al. 2019, arXiv:1911.07963 (clipping)",
        settings={"largest_share": None, "least_quality": 0.0, "update_clip": 2.0},
        strengths={"least-quality": (0.0, 0.3, 0.6)},
        strategy=QualityWeighted,
    ),
    "errors-in-variables": Method(
        summary="a linear model of true values; each client calibrates its own noisy readings",
        source="Fuller 1987, Measurement Error Models; Carroll et al. 2006; Efron 1975",
        model="linear",
        corrects_errors=True,
        strategy=ErrorsInVariables,
        client=ErrorsInVariablesClient,
    ),
    "fedavg-gnn": Method(
        summary="one graph neural network for everybody: the weighted mean",
        source="McMahan et al. 2017, arXiv:1602.05629, of a network of Kipf & Welling 2017",
        graphs=True,
    ),
    "local-gnn": Method(
        summary="a graph neural network for every client alone; nothing is shared",
        source="the baseline without federation",
        settings={"personal": "all"},
        graphs=True,
    ),
    "community-adapters": Method(
        summary="shared encoder; small adapters and the head are shared within a community",
        source="after Houlsby et al. 2019, arXiv:1902.00751; Sattler et al. 2021, arXiv:1910.01991",
        settings={
            "group": "adapter,head",
            "group_decay": 1e-4,
            "communities": "told",
            "clusters": 0,
        },
        strengths={"group-decay": (1e-5, 1e-4, 1e-3)},
        block="adapter",
        check=_check_communities,
        strategy=_community_adapters,
        client=GroupedClient,
    ),
}
"""Name of a method -> its row."""
