"""The ClientApp: from a node's config and the run config to its ``PersonalClient``."""

import copy
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from clients import (
    PersonalClient,
    PersonalState,
    Scope,
    assign_scopes,
    client_app,
    in_memory_loader,
)
from pfl_flower.config import ConfigError, RunConfig
from pfl_flower.data import federation
from pfl_flower.models import Architecture, build_model
from strategies.protocol import METHOD, NUM_PARTITIONS, PARTITION_ID

_EVALUATION_BATCH = 512


@lru_cache(maxsize=4)
def initial_model(architecture: Architecture, seed: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the network and its first values, made once a process."""
    model = build_model(architecture, seed)
    return model, copy.deepcopy(model.state_dict())


@lru_cache(maxsize=16)
def _scopes(architecture: Architecture, seed: int, personal: str) -> Mapping[str, Scope]:
    """Return the scope of every entry of the network, checked once a process."""
    model, _ = initial_model(architecture, seed)
    return assign_scopes(model, personal)


def scopes_of(config: RunConfig) -> Mapping[str, Scope]:
    """Return the scopes of a config's network under its method's rules."""
    return _scopes(config.architecture, config.seed, config.personal_rule)


def choose_device(name: str) -> torch.device:
    """Return the device to train on; ``"auto"`` is the first GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def build_client(config: RunConfig, context: Context, durable: bool = True) -> PersonalClient:
    """Return the client of a node: its data, its network, its personal state.

    Parameters
    ----------
    config : of the method at hand
    context : of the node; ``node_config`` gives ``partition-id``, ``num-partitions`` and, if
        personal parameters are to survive the run, ``personal-dir`` (or ``$PFL_PERSONAL_DIR``)
    durable : whether the personal directory is used

    Raises
    ------
    ConfigError
        If the node config lacks ``partition-id`` and ``num-partitions``.
    """
    partition_id, num_partitions = partition_of(context)
    torch.set_num_threads(config.threads)
    data = federation(config.data, num_partitions).client(partition_id)
    model, initial = initial_model(config.architecture, config.seed)
    model.load_state_dict(initial)
    directory = context.node_config.get("personal-dir") or os.environ.get("PFL_PERSONAL_DIR")
    state = PersonalState(
        context.state,
        config.method,
        client=f"client-{partition_id}",
        directory=Path(str(directory)).expanduser() if directory and durable else None,
        purpose=f"{config.data.describe()} clients={num_partitions}",
    )
    return config.row.client(
        model.to(choose_device(config.device)),
        scopes_of(config),
        in_memory_loader(*data.train, config.batch_size, shuffle=True),
        in_memory_loader(*data.validation, _EVALUATION_BATCH),
        in_memory_loader(*data.test, _EVALUATION_BATCH),
        schedule=config.local_schedule,
        optimization=config.optimization,
        pulls=config.pulls,
        fine_tuning=config.fine_tuning,
        state=state,
        partition_id=partition_id,
        properties={NUM_PARTITIONS: num_partitions},
        seed=config.seed,
    )


def partition_of(context: Context) -> tuple[int, int]:
    """Return (partition id, number of partitions) of a node.

    Raises
    ------
    ConfigError
        If the node config lacks one of them.
    """
    values = [context.node_config.get(key) for key in (PARTITION_ID, NUM_PARTITIONS)]
    if not all(isinstance(value, int) for value in values):
        raise ConfigError(
            "the node config needs partition-id and num-partitions: flower-supernode "
            "--node-config 'partition-id=0 num-partitions=10'"
        )
    partition_id, num_partitions = int(values[0]), int(values[1])  # type: ignore[arg-type]
    if not 0 <= partition_id < num_partitions:
        raise ConfigError(f"partition-id {partition_id} is not in 0..{num_partitions - 1}")
    return partition_id, num_partitions


def make_app(run_config: Mapping[str, Any] | None = None) -> ClientApp:
    """Return the ClientApp.

    Parameters
    ----------
    run_config : used instead of the context's, for engines that carry none
    """

    def build(context: Context, message_config: Mapping[str, Any]) -> PersonalClient:
        values = context.run_config if run_config is None else run_config
        config = RunConfig.parse(values)
        method = str(message_config.get(METHOD, config.method))
        # The baselines of a run are thrown away; only its own method leaves files behind.
        return build_client(config.for_method(method), context, durable=method == config.method)

    return client_app(build)


app = make_app()
