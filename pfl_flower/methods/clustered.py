"""Clustered federated learning: one model for each cluster of clients.

Clusters are declared by the clients, or found by first gradients, by losses (IFCA), or by splitting
where clients' updates disagree (CFL).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients import Scope
from clients.clustered.clustered_client import ClusteredClient
from clients.scopes import names_of
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.validators import again, between, choice, key
from pfl_flower.methods.method import Method, MethodKeys
from pfl_flower.results.clustered import describe_groups, group_summary, write_groups
from pfl_flower.utils.text import split_words
from strategies import CFL, IFCA, NO_GROUP, ClusteringRules, GradientClusters, GroupAveraging
from strategies.clustered.clusterers import CLUSTERERS
from strategies.protocol import GROUP

if TYPE_CHECKING:
    from pfl_flower.client.build import ClientBuild
    from pfl_flower.config.run_config import RunConfig
    from pfl_flower.model_setup import ModelSetup


@dataclass(frozen=True)
class GroupKeys(MethodKeys):
    """Keys of a method with something that only clients of one group share."""

    group: str = key(
        "rest", "rule: what clients of one group share; rest: all that is not personal"
    )

    def group_rule(self, config: "RunConfig") -> str:
        """Return the rule; what the user made personal is not shared within groups."""
        if "group" in config.own or not config.personal:
            return self.group
        personal = split_words(config.personal)
        return ",".join(w for w in split_words(self.group) if w not in personal) or "none"

    def check(self, config: "RunConfig") -> None:
        """Refuse rules that leave nothing for the groups."""
        nothing = "group" not in config.own and self.group_rule(config) == "none"
        if config.personal == "all" or nothing:
            raise _nothing_left(config)

    def check_model(self, setup: "ModelSetup") -> None:
        """Refuse networks of which nothing that is trained is left for the groups."""
        if not setup.shared_parameters:
            raise _nothing_left(setup.config)

    def strategy_arguments(self, setup: "ModelSetup") -> dict[str, Any]:
        """Return which arrays are averaged within groups."""
        return super().strategy_arguments(setup) | {
            "group_names": names_of(setup.scopes, Scope.GROUP)
        }


def _nothing_left(config: "RunConfig") -> ConfigError:
    return ConfigError(
        f"personal={config.personal_rule!r} leaves nothing that is trained for the groups of "
        f"{config.method!r}",
        key="personal",
        value=config.personal_rule,
    )


def declared_group(build: "ClientBuild") -> Mapping[str, int]:
    """Return the group that a client declares, as a property; -1 for none.

    It is that of its node config, else the benchmark's cluster or community.

    Raises
    ------
    ConfigError
        If the node config's is no number from 0.
    """
    declared = build.node_config.get(GROUP)
    if declared is None:
        data, client = build.federation, build.node.partition
        clustered = bool(build.config.cluster_sizes)
        known = data.true_clusters[client] if clustered else data.community(client)
        return {GROUP: NO_GROUP if known is None else known}
    if not isinstance(declared, int) or isinstance(declared, bool) or declared < 0:
        raise ConfigError(
            f"the node config's group is {declared!r}; it must be a number from 0",
            key=GROUP,
            value=declared,
        )
    return {GROUP: declared}


@dataclass(frozen=True)
class KnownGroupsKeys(GroupKeys):
    """Keys of groups that clients declare."""

    def client_properties(self, build: "ClientBuild") -> Mapping[str, bool | int | float | str]:
        """Return the group that the client declares."""
        return declared_group(build)


@dataclass(frozen=True)
class GradientClustersKeys(GroupKeys):
    """Keys of clusters that are found by first gradients."""

    clusters: int = key(0, "number of clusters; 0: found, where the method can", between(0))
    clusterer: str = key("agglomerative", "how clusters are found", choice(*CLUSTERERS))
    agreement: float = key(
        0.4,
        "least cosine of gradients, free of noise, within a cluster",
        between(0.01, 0.99),
    )
    few_examples: int = key(15, "clients with fewer examples found no cluster", between(0))
    smallest_cluster: int = key(1, "fewest clients of a cluster", between(1))
    projection_size: int = key(
        8192, "length of the gradients that are sent; 0: whole", between(0), to="strategy"
    )
    revise_every: int = key(
        0, "rounds between looks at validation losses; 0: never", between(0), to="strategy"
    )

    @property
    def rules(self) -> ClusteringRules:
        """How clusters are found."""
        return ClusteringRules(
            clusters=self.clusters,
            clusterer=self.clusterer,
            agreement=self.agreement,
            few_examples=self.few_examples,
            smallest_cluster=self.smallest_cluster,
        )

    def check(self, config: "RunConfig") -> None:
        """Refuse rules that make no sense, and revisions without validation examples."""
        super().check(config)
        _ = self.rules
        if self.revise_every and not config.validation_fraction:
            raise ConfigError(
                "revise-every needs validation examples; set validation-fraction",
                key="revise-every",
                value=self.revise_every,
            )

    def strategy_arguments(self, setup: "ModelSetup") -> dict[str, Any]:
        """Return the rules beside what is passed on."""
        return super().strategy_arguments(setup) | {"rules": self.rules}


@dataclass(frozen=True)
class IFCAKeys(GroupKeys):
    """Keys of IFCA."""

    clusters: int = again(GradientClustersKeys, "clusters", 3, to="strategy")
    restart: int = key(0, "names another start of ifca", between(0), to="strategy")

    def check(self, config: "RunConfig") -> None:
        """Refuse no number of clusters."""
        super().check(config)
        if not self.clusters:
            raise ConfigError(
                f"{config.method!r} has to be given its number of clusters, at least 1",
                key="clusters",
                value=0,
            )

    def strategy_arguments(self, setup: "ModelSetup") -> dict[str, Any]:
        """Return how the models are drawn beside what is passed on."""
        return super().strategy_arguments(setup) | {"starts": setup.another_draw}


@dataclass(frozen=True)
class CFLKeys(GroupKeys):
    """Keys of CFL."""

    mean_below: float = key(
        0.4,
        "of cfl: a cluster is split below this ratio of its mean update to its clients' own",
        between(0, open_low=True),
        to="strategy",
    )
    median_above: float = key(
        0.8,
        "of cfl: and only while its clients' updates are above this part of those of round 1",
        between(0),
        to="strategy",
    )


NO_INITIAL: Mapping[str, str] = {"initial": "of its groups' models, shared arrays are the mean"}
OUTPUTS: Mapping[str, Any] = {
    "write": write_groups,
    "summarize": group_summary,
    "describe": describe_groups,
}
"""What a run with groups leaves behind."""

METHODS = {
    "known-groups": Method(
        summary="one model a group; every client declares its group",
        source="clustered federated learning with an oracle",
        keys=KnownGroupsKeys,
        refuses=NO_INITIAL,
        strategy=GroupAveraging,
        **OUTPUTS,
    ),
    "gradient-clusters": Method(
        summary="one model a cluster of clients whose first gradients agree",
        source="after Sattler et al. 2021, arXiv:1910.01991; Ghosh et al. 2020, arXiv:2006.04088",
        keys=GradientClustersKeys,
        refuses=NO_INITIAL,
        strategy=GradientClusters,
        client=ClusteredClient,
        **OUTPUTS,
    ),
    "ifca": Method(
        summary="several models; every client trains the one that fits its examples best",
        source="Ghosh et al. 2020, arXiv:2006.04088",
        keys=IFCAKeys,
        refuses=NO_INITIAL,
        strengths={"clusters": (2, 3, 5)},
        strategy=IFCA,
        client=ClusteredClient,
        **OUTPUTS,
    ),
    "cfl": Method(
        summary="one model, split in two where its clients' updates disagree, again and again",
        source="Sattler et al. 2021, arXiv:1910.01991",
        keys=CFLKeys,
        refuses=NO_INITIAL,
        strategy=CFL,
        client=ClusteredClient,
        **OUTPUTS,
    ),
}
