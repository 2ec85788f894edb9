"""From a node's config and the run config to its ``PersonalClient``."""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context

from clients import ClientDetails, PersonalClient, PersonalState, bind, in_memory_loader
from clients.entries import put_entries
from clients.evaluation import Stream
from clients.graphs.graph import Graph
from clients.loaders import Loader
from clients.measurement_error.multiple_imputation import average_predictions
from clients.training import device_of
from pfl_flower.client.model_card import about_model
from pfl_flower.client.node_config import Node, node_of
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import ClientData, Federation, federation
from pfl_flower.data.schema import Split
from pfl_flower.model_setup import model_setup
from pfl_flower.utils.files import under_home
from strategies.protocol import NUM_PARTITIONS

_EVALUATION_BATCH = 512


@dataclass(frozen=True)
class ClientBuild:
    """What a client is built from.

    Parameters
    ----------
    config : RunConfig
        Of the method at hand.
    node : Node
        Who the node is.
    node_config : mapping
        The node's whole config.
    federation : Federation
        The data of all clients that this process can load.
    phase : int
        The phase of the client's data at hand; 0 where they are no stream.
    """

    config: RunConfig
    node: Node
    node_config: Mapping[str, Any]
    federation: Federation
    phase: int


def build_client(
    config: RunConfig,
    context: Context,
    durable: bool = True,
    run: str = "",
    private_copy: bool = False,
    server_round: int = 0,
) -> PersonalClient:
    """Return the client of a node: its data, its network, its personal state.

    Parameters
    ----------
    config : RunConfig
        Of the method at hand.
    context : Context
        Of the node; ``node_config`` gives ``partition-id``, ``num-partitions`` and, if personal
        parameters are to survive the run, ``personal-dir`` (or ``$PFL_PERSONAL_DIR``, or the run
        config's ``personal-dir``).
    durable : bool, default True
        Whether the personal directory is used.
    run : str
        Name of the run.
    private_copy : bool, default False
        Whether the network is this client's alone, for clients that live side by side; otherwise
        it is one that all clients of this process use, one after another.
    server_round : int
        The round at hand, which decides the phase of data that are a stream.

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
    setup = model_setup(config)
    model = copy.deepcopy(setup.model) if private_copy else setup.model
    if private_copy:
        put_entries(model, setup.initial)
    else:
        setup.reset_model()
    bind(model, data.graph, config.whole_graph, config.fanout)
    if data.draws > 1:
        average_predictions(model, config.client_task)
    build = ClientBuild(config, node, context.node_config, everybody, phase)
    arguments: dict[str, Any] = {
        "schedule": config.local_schedule,
        "optimization": config.optimization,
        "proximal_rules": config.proximal_rules,
        "fine_tuning": config.fine_tuning,
        "task": config.client_task,
        "state": _state(config, context, node, durable, run),
        "partition_id": node.number,
        "details": ClientDetails(
            num_examples=data.num_examples,
            stream=_stream(whole, phase),
            quality=data.quality,
            properties={
                NUM_PARTITIONS: node.num_partitions,
                **config.own_keys.client_properties(build),
            },
            about=config.once("about", lambda: about_model(config)),
        ),
        "seed": config.seed,
    }
    device = choose_device(config.device)
    return config.row.client(
        model if device_of(model) == device else model.to(device),
        setup.scopes,
        _training_loader(config, data),
        _evaluation_loader(data.validation, data.graph),
        _evaluation_loader(data.test, data.graph),
        **arguments | config.own_keys.client_arguments(build),
    )


def choose_device(name: str) -> torch.device:
    """Return the device to train on; ``"auto"`` is the first GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _state(
    config: RunConfig, context: Context, node: Node, durable: bool, run: str
) -> PersonalState:
    # the numbering of the classes decides what each output of a head means
    labels = config.once("labels", lambda: ",".join(map(str, config.required_schema.labels)))
    described = config.once("described data", config.data.describe)
    return PersonalState(
        context.state,
        config.method,
        client=node.name,
        directory=_personal_directory(config, context) if durable else None,
        purpose=f"{described} clients={node.num_partitions} labels={labels}",
        run=run,
    )


def _personal_directory(config: RunConfig, context: Context) -> Path | None:
    declared = context.node_config.get("personal-dir") or os.environ.get("PFL_PERSONAL_DIR")
    if declared:
        return under_home(str(declared))
    return under_home(config.personal_dir) if config.personal_dir else None


def _training_loader(config: RunConfig, data: ClientData) -> Loader:
    batch = config.batch_size
    if data.graph is not None and len(data.graph) <= config.whole_graph:
        batch = max(1, len(data.train[1]))  # every step encodes all nodes anyway
    return in_memory_loader(*data.train, batch, shuffle=True, drop_last=config.drop_last)


def _evaluation_loader(examples: Split, graph: Graph | None = None) -> Loader:
    """Return batches to evaluate on; of a graph one, since each would encode all of its nodes."""
    size = _EVALUATION_BATCH if graph is None else max(1, len(examples[1]))
    return in_memory_loader(*examples, size)


def _stream(data: ClientData, phase: int) -> Stream | None:
    if not data.phases:
        return None
    return Stream(phase, [_evaluation_loader(p.test) for p in data.phases])
