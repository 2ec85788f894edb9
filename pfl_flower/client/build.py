"""From a node's config and the run config to its ``PersonalClient``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import Context
from torch import Tensor, nn

from clients import ClientDetails, PersonalClient, PersonalState, Scope, bind
from clients.frozen import copy_beside
from clients.local_training.training import device_of
from clients.measurement_error.multiple_imputation import average_predictions
from clients.scopes import names_of
from pfl_flower.client.frozen_base import check_base
from pfl_flower.client.loaders import evaluation_loader, stream_of, training_loader
from pfl_flower.client.model_card import about_client, about_model
from pfl_flower.client.node_config import Node, node_of, personal_directory
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import ClientData, Federation, federation
from pfl_flower.model_setup import ModelSetup, model_setup
from strategies.protocol import NUM_PARTITIONS


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
    setup : ModelSetup
        The network and its scopes.
    """

    config: RunConfig
    node: Node
    node_config: Mapping[str, Any]
    federation: Federation
    phase: int
    setup: ModelSetup


def build_client(
    config: RunConfig,
    context: Context,
    durable: bool = True,
    run: str = "",
    private_copy: bool = False,
    server_round: int = 0,
    exported: bool = False,
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
    exported : bool, default False
        Whether the personal directory gets the whole model of a client that is not durable, too.

    Raises
    ------
    ConfigError
        If the node config lacks ``partition-id`` and ``num-partitions``, or the node's frozen base
        is not the server's.
    MissingBaseError
        If the server has a base for the node, which does not have it yet.
    """
    node = node_of(context)
    torch.set_num_threads(config.threads)
    base = check_base(config, context)
    everybody = federation(node.settings(config.data), node.num_partitions)
    whole = everybody.client(node.partition, config.schema)
    data = whole.at(server_round, config.num_server_rounds)
    phase = whole.phase_at(server_round, config.num_server_rounds)
    setup = model_setup(config)
    build = ClientBuild(config, node, context.node_config, everybody, phase, setup)
    name = everybody.name(node.partition)
    arguments: dict[str, Any] = {
        "schedule": config.local_schedule,
        "optimization": config.optimization,
        "proximal_rules": config.proximal_rules,
        "fine_tuning": config.fine_tuning,
        "task": config.client_task,
        "state": _state(
            *(config, context, node, name),
            *(durable, run, durable or exported, base),
        ),
        "partition_id": node.number,
        "details": _details(build, whole, data),
        "seed": config.seed,
    }
    return config.row.client(
        _network(setup, data, private_copy),
        setup.scopes,
        training_loader(config, data),
        evaluation_loader(config, data.validation, data.graph),
        evaluation_loader(config, data.test, data.graph),
        **arguments | config.own_keys.client_arguments(build),
    )


def _network(setup: ModelSetup, data: ClientData, private_copy: bool) -> nn.Module:
    """Return the network with its first values, on its device and bound to the client's data."""
    config, model = setup.config, setup.model
    if private_copy:
        model = copy_beside(model, names_of(setup.scopes, Scope.FROZEN))
        setup.reset(model)
    else:
        setup.reset_model()
    bind(model, data.graph, config.whole_graph, config.fanout)
    if data.draws > 1:
        average_predictions(model, config.client_task)
    device = choose_device(config.device)
    return model if device_of(model) == device else model.to(device)


def _details(build: ClientBuild, whole: ClientData, data: ClientData) -> ClientDetails:
    """Return what a client knows of its data, of all phases and of the one at hand."""
    config = build.config
    return ClientDetails(
        num_examples=data.num_examples,
        stream=stream_of(config, whole, build.phase),
        quality=data.quality,
        properties={
            NUM_PARTITIONS: build.node.num_partitions,
            **config.own_keys.client_properties(build),
        },
        about=config.once("about", lambda: about_model(config))
        | about_client(build.federation, build.node.partition),
        preprocessing=lambda: _preprocessing(data),
    )


def _preprocessing(data: ClientData) -> dict[str, Tensor]:
    return {} if data.preprocessing is None else data.preprocessing.tensors()


def choose_device(name: str) -> torch.device:
    """Return the device to train on; ``"auto"`` is the first GPU if there is one.

    Raises
    ------
    ConfigError
        If this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts that it has it
        why = str(error).partition("\n")[0]
        raise ConfigError(
            f"device {name!r} cannot be used on this machine: {why}; take auto (a GPU where there "
            f"is one) or cpu",
            key="device",
            value=name,
            choices=("auto", "cpu"),
        ) from error
    return device


def _state(
    config: RunConfig,
    context: Context,
    node: Node,
    own_name: str,
    durable: bool,
    run: str,
    exported: bool,
    base: str,
) -> PersonalState:
    # the numbering of the classes decides what each output of a head means
    labels = config.once("labels", lambda: ",".join(map(str, config.required_schema.labels)))
    described = config.once("described data", config.data.describe)
    directory = personal_directory(config, context)
    return PersonalState(
        context.state,
        config.method,
        client=node.name,
        directory=directory if durable else None,
        model_directory=directory if exported else None,
        purpose=f"{described} clients={node.num_partitions} labels={labels}"
        + _whose(node, own_name),
        run=run,
        base=base,
    )


def _whose(node: Node, own_name: str) -> str:
    """Say whose rows a node has that is known by its number: another client's, once one is added.

    Parameters
    ----------
    node : Node
        The node.
    own_name : str
        The client's name in the data; empty without.
    """
    return f" name={own_name}" if own_name and not node.named else ""
