"""The frozen base that a device was sent: kept by its fingerprint, on its disk or in its state."""

from collections.abc import Mapping
from logging import WARNING

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context
from flwr.common.logger import log
from torch import Tensor

from clients import PersonalStateError
from clients.state.model_file import BASE_SUFFIX, read_base, write_base
from pfl_flower.client.node_config import personal_directory
from pfl_flower.config.run_config import RunConfig
from strategies.arrays import view

RECORD = "sent-base."
"""Prefix of the record in ``context.state``; the fingerprint follows."""


def keep_base(config: RunConfig, context: Context, arrays: Mapping[str, Array]) -> None:
    """Keep the base that a run goes by: on the disk, or without a directory in the node's state.

    Parameters
    ----------
    config : RunConfig
        Of the run; the base is that of its schema.
    context : Context
        Of the node.
    arrays : mapping
        Frozen entry -> value, as received.

    Raises
    ------
    PersonalStateError
        If the disk refuses.
    """
    fingerprint = config.required_schema.base
    directory = personal_directory(config, context)
    if directory is None:
        # the bytes that came: clients of one process that were sent the same have them once
        context.state[RECORD + fingerprint] = ArrayRecord(dict(arrays))
    else:
        write_base(directory, fingerprint, tensors_of(arrays))


def tensors_of(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return received arrays as tensors of their own."""
    return {name: torch.from_numpy(np.array(view(array))) for name, array in arrays.items()}


def kept_base(config: RunConfig, context: Context) -> Mapping[str, Tensor] | None:
    """Return the base that a run goes by; None if the node does not have it, or has it damaged.

    Parameters
    ----------
    config : RunConfig
        Of the run; the base is that of its schema.
    context : Context
        Of the node.
    """
    fingerprint = config.required_schema.base
    if isinstance(kept := context.state.get(RECORD + fingerprint), ArrayRecord):
        return tensors_of(kept)
    directory = personal_directory(config, context)
    path = None if directory is None else directory / f"{fingerprint}{BASE_SUFFIX}"
    if path is None or not path.exists():
        return None
    try:
        return read_base(path, fingerprint, "The server is asked for it again")
    except PersonalStateError as error:
        log(WARNING, "%s", error)
        return None
