"""pFedHN: a hypernetwork on the server writes each client's model, from its metadata if any."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from clients import PersonalClient
from clients.local_training.training import EVERYTHING
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.validators import between, key
from pfl_flower.methods.method import Method, MethodKeys
from pfl_flower.results.hypernetwork import write_hypernetwork
from pfl_flower.utils.text import split_words
from strategies.hypernetwork.pfedhn import PFedHN
from strategies.protocol import METADATA

if TYPE_CHECKING:
    from pfl_flower.client.build import ClientBuild
    from pfl_flower.model_setup import ModelSetup
    from pfl_flower.results.method_run import MethodRun


@dataclass(frozen=True)
class PFedHNKeys(MethodKeys):
    """Keys of the hypernetwork."""

    use_metadata: bool = key(
        True, "models are written from what clients report of themselves", to="strategy"
    )
    server_learning_rate: float = key(
        0.01, "of pfedhn's hypernetwork", between(0, 0.5, open_low=True), to="strategy"
    )
    embedding_size: int = key(
        64, "of pfedhn: length of a client's embedding", between(1), to="strategy"
    )

    def check_model(self, setup: "ModelSetup") -> None:
        """Refuse rules that leave no parameter for the hypernetwork to write."""
        if not setup.shared_parameters:
            raise ConfigError(
                f"personal={setup.config.personal_rule!r} leaves nothing for "
                f"{setup.config.method!r} to write",
                key="personal",
                value=setup.config.personal_rule,
            )

    def client_properties(self, build: "ClientBuild") -> Mapping[str, bool | int | float | str]:
        """Return what the client reports of itself, as JSON.

        That are the entries of the node config that its entry ``metadata`` names (a,b,c), and only
        these. Without it, clients of a benchmark report their own metadata, others nothing.

        Raises
        ------
        ConfigError
            If an entry is named that the node config does not have.
        """
        declared = build.node_config.get(METADATA)
        if declared is None:
            return {METADATA: json.dumps(build.federation.client_metadata(build.node.partition))}
        names = split_words(str(declared))
        if unknown := [name for name in names if name not in build.node_config]:
            raise ConfigError(
                f"the node config's metadata names {unknown}, which it does not have; it has "
                f"{sorted(build.node_config)}",
                key=METADATA,
                value=declared,
                choices=sorted(build.node_config),
            )
        return {METADATA: json.dumps({name: build.node_config[name] for name in names})}


def describe_models(run: "MethodRun", personal: bool) -> str:
    """Say whose model a client has."""
    return "a model of its own"


METHODS = {
    "pfedhn": Method(
        summary="a hypernetwork on the server writes each client's model, from its metadata if any",
        source="Shamsian et al. 2021, arXiv:2103.04628",
        keys=PFedHNKeys,
        defaults={"norm": "group", "weighting": "uniform"},
        refuses={
            "initial": "of its clients' models, shared arrays are the mean",
            "server-momentum": "its hypernetwork is trained by Adam",
        },
        strengths={"server-learning-rate": (0.003, 0.01, 0.03)},
        strategy=PFedHN,
        client=partial(PersonalClient, adapts=EVERYTHING),
        write=write_hypernetwork,
        describe=describe_models,
    ),
}
