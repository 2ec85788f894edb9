"""The ClientApp: from a node's config and the run config to its ``PersonalClient``."""

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from clients import (
    PersonalClient,
    PersonalState,
    Scope,
    assign_scopes,
    bind,
    client_app,
    in_memory_loader,
)
from clients.app import NamedClient
from clients.evaluation import Stream
from clients.graphs.graph import Graph
from clients.hierarchical.hierarchical_bayes import prior_parameters
from clients.loaders import Loader
from clients.measurement_error.multiple_imputation import average_predictions
from clients.safeguard import SafeguardedClient
from clients.thresholds.threshold_client import ThresholdClient
from pfl_flower.client.model_card import about_model
from pfl_flower.client.node_config import node_of
from pfl_flower.config.run_config import ConfigError, RunConfig, under_home
from pfl_flower.config.validators import split_words
from pfl_flower.data import ClientData, DataError, DataSchema, Federation, federation
from pfl_flower.data.schema import Split
from pfl_flower.models import Architecture, build_model
from strategies import NO_GROUP
from strategies.protocol import (
    CLIENT_SCHEMA,
    DATA_SCHEMA,
    GROUP,
    METADATA,
    METHOD,
    NUM_PARTITIONS,
    PARTITION_ID,
    PROPERTIES,
    RUN,
    SAFEGUARD,
    SERVER_ROUND,
    THRESHOLD,
)

_EVALUATION_BATCH = 512


@lru_cache(maxsize=4)
def initial_model(architecture: Architecture, seed: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the network and its first values, made once a process."""
    model = build_model(architecture, seed)
    return model, copy.deepcopy(model.state_dict())


@lru_cache(maxsize=16)
def _scopes(
    architecture: Architecture, seed: int, personal: str, group: str
) -> Mapping[str, Scope]:
    """Return the scope of every entry of the network, checked once a process."""
    model, _ = initial_model(architecture, seed)
    return assign_scopes(model, personal, group)


def scopes_of(config: RunConfig) -> Mapping[str, Scope]:
    """Return the scopes of a config's network under its method's rules."""
    return _scopes(config.architecture, config.seed, config.personal_rule, config.group_rule)


def prior_of(config: RunConfig) -> tuple[str, ...]:
    """Return the parameters that have a prior; none where the method has no prior.

    Raises
    ------
    ScopeError
        If the rule does not fit the network, or the rules of scopes.
    """
    if "prior" not in config.row.settings:
        return ()
    model, _ = initial_model(config.architecture, config.seed)
    return prior_parameters(model, str(config.value("prior", "head")), scopes_of(config))


def choose_device(name: str) -> torch.device:
    """Return the device to train on; ``"auto"`` is the first GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def build_client(
    config: RunConfig,
    context: Context,
    durable: bool = True,
    run: str = "",
    own_model: bool = False,
    server_round: int = 0,
) -> PersonalClient:
    """Return the client of a node: its data, its network, its personal state.

    Parameters
    ----------
    config : of the method at hand
    context : of the node; ``node_config`` gives ``partition-id``, ``num-partitions`` and, if
        personal parameters are to survive the run, ``personal-dir`` (or ``$PFL_PERSONAL_DIR``, or
        the run config's ``personal-dir``)
    durable : whether the personal directory is used
    run : name of the run
    server_round : the round at hand, which decides the phase of data that are a stream
    own_model : whether the network is this client's alone, for clients that live side by side;
        otherwise it is one that all clients of this process use, one after another

    Raises
    ------
    ConfigError
        If the node config lacks ``partition-id`` and ``num-partitions``.
    """
    node = node_of(context)
    torch.set_num_threads(config.threads)
    everybody = federation(node.settings(config.data), node.num_partitions)
    whole = everybody.client(node.partition, config.schema)
    data = whole.at(server_round, config.num_server_rounds)
    phase = whole.phase_at(server_round, config.num_server_rounds)
    model, initial = initial_model(config.architecture, config.seed)
    model = copy.deepcopy(model) if own_model else model
    model.load_state_dict(initial)
    bind(model, data.graph, config.whole_graph, config.fanout)
    if data.draws > 1:
        average_predictions(model, config.client_task)
    batch = config.batch_size
    if data.graph is not None and len(data.graph) <= config.whole_graph:
        batch = max(1, len(data.train[1]))  # every step encodes all nodes anyway
    state = PersonalState(
        context.state,
        config.method,
        client=node.name,
        directory=_personal_directory(config, context) if durable else None,
        purpose=f"{config.data.describe()} clients={node.num_partitions} labels={_labels(config)}",
        run=run,
    )
    return config.row.client(
        model.to(choose_device(config.device)),
        scopes_of(config),
        in_memory_loader(*data.train, batch, shuffle=True, drop_last=config.drop_last),
        _evaluation_loader(data.validation, data.graph),
        _evaluation_loader(data.test, data.graph),
        num_examples=data.num_examples,
        schedule=config.local_schedule,
        optimization=config.optimization,
        proximal_rules=config.proximal_rules,
        fine_tuning=config.fine_tuning,
        task=config.client_task,
        stream=_stream(whole, phase),
        state=state,
        partition_id=node.number,
        properties={
            NUM_PARTITIONS: node.num_partitions,
            **_group(config, context, everybody),
            **_metadata(config, context, everybody),
        },
        quality=data.quality,
        about=about_model(config),
        seed=config.seed,
        **config.client_arguments,
        **({"task_id": phase} if config.value("task_changes", "") == "announced" else {}),
    )


def _evaluation_loader(examples: Split, graph: Graph | None = None) -> Loader:
    """Return batches to evaluate on; of a graph one, since each would encode all of its nodes."""
    size = _EVALUATION_BATCH if graph is None else max(1, len(examples[1]))
    return in_memory_loader(*examples, size)


def _stream(data: ClientData, phase: int) -> Stream | None:
    if not data.phases:
        return None
    return Stream(phase, [_evaluation_loader(p.test) for p in data.phases])


def _group(config: RunConfig, context: Context, data: Federation) -> dict[str, int]:
    """The group of a client: of its node config, else its cluster or community, else none (-1).

    Nothing where the method has no groups, or finds communities itself.

    Raises
    ------
    ConfigError
        If the node config's is no number from 0.
    """
    if not config.row.groups or config.value("communities", "told") != "told":
        return {}
    stated = context.node_config.get(GROUP)
    if stated is None:
        client = node_of(context).partition
        known = data.true_clusters[client] if config.cluster_sizes else data.community(client)
        return {GROUP: NO_GROUP if known is None else known}
    if not isinstance(stated, int) or isinstance(stated, bool) or stated < 0:
        raise ConfigError(f"the node config's group is {stated!r}; it must be a number from 0")
    return {GROUP: stated}


def _metadata(config: RunConfig, context: Context, data: Federation) -> dict[str, str]:
    """What a client tells of itself, as JSON; nothing where the method does not ask for it.

    That are the entries of the node config that its entry ``metadata`` names (a,b,c), and only
    these. Without it generated clients tell their descriptions, others nothing.

    Raises
    ------
    ConfigError
        If an entry is named that the node config does not have.
    """
    if not config.row.asks_metadata:
        return {}
    stated = context.node_config.get(METADATA)
    if stated is None:
        return {METADATA: json.dumps(data.client_metadata(node_of(context).partition))}
    names = split_words(str(stated))
    if unknown := [name for name in names if name not in context.node_config]:
        raise ConfigError(
            f"the node config's metadata names {unknown}, which it does not have; it has "
            f"{sorted(context.node_config)}"
        )
    return {METADATA: json.dumps({name: context.node_config[name] for name in names})}


def _labels(config: RunConfig) -> str:
    """The numbering of the classes, which decides what each output of a head means."""
    return ",".join(map(str, config.required_schema.labels))


def _personal_directory(config: RunConfig, context: Context) -> Path | None:
    stated = context.node_config.get("personal-dir") or os.environ.get("PFL_PERSONAL_DIR")
    if stated:
        return under_home(str(stated))
    return under_home(config.personal_dir) if config.personal_dir else None


class Registrar(NumPyClient):
    """Answers the first question, who a node is and what its data look like; has no model yet.

    Parameters
    ----------
    config : of the run
    context : of the node
    """

    shared_names: list[str] = []  # noqa: RUF012

    def __init__(self, config: RunConfig, context: Context) -> None:
        self.config = config
        self.node = node_of(context)

    def get_properties(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return ``partition-id``, ``num-partitions`` and ``client-schema``."""
        answer: dict[str, Any] = {
            PARTITION_ID: self.node.number,
            NUM_PARTITIONS: self.node.num_partitions,
        }
        if CLIENT_SCHEMA in str(config.get(PROPERTIES, "")).split(","):
            try:
                settings = self.node.settings(self.config.data)
                data = federation(settings, self.node.num_partitions)
                answer[CLIENT_SCHEMA] = data.client_schema(self.node.partition).to_json()
            except DataError as error:
                raise DataError(f"client {self.node.number}: {error}") from error
        return answer


def make_app(run_config: Mapping[str, Any] | None = None) -> ClientApp:
    """Return the ClientApp.

    Parameters
    ----------
    run_config : used instead of the context's, for engines that carry none
    """

    def build(context: Context, message_config: Mapping[str, Any]) -> NamedClient:
        values = context.run_config if run_config is None else run_config
        config = _config_of(tuple(values.items()), str(message_config.get(DATA_SCHEMA, "")))
        asked = CLIENT_SCHEMA in str(message_config.get(PROPERTIES, ""))
        if DATA_SCHEMA not in message_config and (config.known_schema is None or asked):
            return Registrar(config, context)

        def under(method: str, own_model: bool = False) -> PersonalClient:
            # The baselines of a run are thrown away; only its own method leaves files behind.
            run, durable = str(message_config.get(RUN, "")), method == config.method
            server_round = int(message_config.get(SERVER_ROUND, 0))
            return build_client(
                config.for_method(method), context, durable, run, own_model, server_round
            )

        if SAFEGUARD in message_config:
            methods = str(message_config[SAFEGUARD]).split(",")
            return SafeguardedClient({method: under(method, True) for method in methods})
        client = under(str(message_config.get(METHOD, config.method)))
        if THRESHOLD in message_config:
            classes = len(config.required_schema.labels)
            return ThresholdClient(client, str(config.threshold), config.objective, classes)
        return client

    return client_app(build)


@lru_cache(maxsize=8)
def _config_of(values: tuple[tuple[str, Any], ...], schema: str) -> RunConfig:
    """Return a run config, with the schema in a message if there are any; read once a process."""
    config = RunConfig.parse(dict(values))
    return replace(config, schema=DataSchema.from_json(schema)) if schema else config


app = make_app()
