"""Federated graph neural networks: a shared encoder, and adapters for communities of clients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients import ProximalRule, Scope
from clients.clustered.clustered_client import ClusteredClient
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.validators import again, between, choice, key
from pfl_flower.methods.clustered import (
    NO_INITIAL,
    OUTPUTS,
    GradientClustersKeys,
    GroupKeys,
    declared_group,
)
from pfl_flower.methods.method import Method
from strategies import ClusteringRules, GradientClusters, GroupAveraging, UpdateClusters

if TYPE_CHECKING:
    from pfl_flower.client.build import ClientBuild
    from pfl_flower.config.run_config import RunConfig

COMMUNITIES: Mapping[str, Callable[..., GroupAveraging]] = {
    "declared": lambda clusters, **others: GroupAveraging(**others),
    "gradients": lambda clusters, **others: GradientClusters(
        rules=ClusteringRules(clusters=clusters), **others
    ),
    "updates": UpdateClusters,
}
"""How the community of a client is known -> a strategy of that kind."""


def community_strategy(communities: str, **arguments: Any) -> GroupAveraging:
    """Return the strategy that knows communities in a certain way."""
    return COMMUNITIES[communities](**arguments)


@dataclass(frozen=True)
class CommunityKeys(GroupKeys):
    """Keys of adapters that clients of a community share."""

    group: str = again(GroupKeys, "group", "adapter,head")
    group_decay: float = key(1e-4, "proximal term of a group's parameters to zero", between(0))
    communities: str = key(
        "declared", "how communities are known", choice(*COMMUNITIES), to="strategy"
    )
    clusters: int = again(GradientClustersKeys, "clusters", 0, to="strategy")

    def check(self, config: "RunConfig") -> None:
        """Refuse a number of communities where these are declared."""
        super().check(config)
        if self.clusters and self.communities == "declared":
            raise ConfigError(
                "its communities are declared, and their number with them; leave clusters",
                key="clusters",
                value=self.clusters,
            )

    def client_properties(self, build: "ClientBuild") -> Mapping[str, bool | int | float | str]:
        """Return the community that the client declares; nothing where they are found."""
        return declared_group(build) if self.communities == "declared" else {}

    def client_arguments(self, build: "ClientBuild") -> dict[str, Any]:
        """Return the proximal rules, with that of the group's parameters."""
        near_zero = ProximalRule(Scope.GROUP, "zero", self.group_decay)
        rules = (*build.config.proximal_rules, near_zero)
        return super().client_arguments(build) | {"proximal_rules": rules}


METHODS = {
    "fedavg-gnn": Method(
        summary="one graph neural network for everybody: the weighted mean",
        source="McMahan et al. 2017, arXiv:1602.05629, of a network of Kipf & Welling 2017",
        graphs=True,
    ),
    "local-gnn": Method(
        summary="a graph neural network for every client alone; nothing is shared",
        source="the baseline without federation",
        defaults={"personal": "all"},
        graphs=True,
    ),
    "community-adapters": Method(
        summary="shared encoder; small adapters and the head are shared within a community",
        source="after Houlsby et al. 2019, arXiv:1902.00751; Sattler et al. 2021, arXiv:1910.01991",
        keys=CommunityKeys,
        refuses=NO_INITIAL,
        block="adapter",
        strengths={"group-decay": (1e-5, 1e-4, 1e-3)},
        strategy=community_strategy,
        client=ClusteredClient,
        **OUTPUTS,
    ),
}
