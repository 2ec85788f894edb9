"""What a file of a whole model says of itself, so that it can be used without the run."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from clients.export.model_card import (
    ARGUMENTS,
    CATEGORIES,
    CLIENT_COLUMN,
    COLUMNS,
    DATES,
    INPUTS,
    INTEGERS,
    LABELS,
    LIMITS,
    MEASUREMENTS,
    NAME,
    NETWORK,
    OUTPUTS,
    PIXELS,
    SCALES,
    SHAPE,
    TASK,
    TRUSTED,
)
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import Federation
from pfl_flower.data.moments import feature_scales
from pfl_flower.data.readers.own_clients import client_column
from pfl_flower.data.schema import target_scale
from pfl_flower.export_limits import export_limits
from pfl_flower.model_setup import initial_model
from pfl_flower.models import MODELS, Architecture, build_model
from pfl_flower.models.libraries import is_of_library
from pfl_flower.models.lora import add_lora, layers_with_lora, require_peft
from strategies.errors import ArgumentError


def rebuild(lora_layers: Sequence[str] = (), **values: Any) -> nn.Module:
    """Return the network of an :class:`Architecture`, whose fields are given, with any values.

    Raises
    ------
    ArgumentError
        If it is none of :data:`MODELS` and of no library: the fields come from a file, and others
        are code.
    """
    name = str(values.get("model"))
    if name not in MODELS and not is_of_library(name):
        raise ArgumentError("model", name, choices=MODELS)
    given = {item: tuple(values.get(item, ())) for item in ("shape", "inputs")}
    # all values are in the file: no weights are looked for, nothing is downloaded or trained
    changes = {"pretrained": "", "download": False, "trainable": "all"}
    architecture = Architecture(**{**values, **given, **changes})
    model = build_model(architecture, 0)
    if lora_layers:
        require_peft()
        add_lora(model, lora_layers, architecture)
    return model


def about_model(config: RunConfig) -> dict[str, str]:
    """Return the model card of a run's models; see :mod:`clients.export.model_card`."""
    schema, architecture = config.required_schema, config.architecture
    own = architecture.model not in MODELS and not is_of_library(architecture.model)
    scales: dict[str, Any] = {}
    if schema.features is not None and schema.standardize:
        scales["inputs"] = [list(schema.features.means), feature_scales(schema.features).tolist()]
    if schema.task == "regression":
        scales["target"] = target_scale(schema)
    return {
        NETWORK: architecture.model if own else TRUSTED,
        ARGUMENTS: json.dumps(asdict(architecture) | _lora_layers(config)),
        SHAPE: json.dumps(schema.shape),
        OUTPUTS: str(architecture.num_classes),
        TASK: schema.task,
        LABELS: json.dumps(schema.labels),
        INTEGERS: json.dumps(schema.integers),
        INPUTS: json.dumps(schema.inputs),
        PIXELS: schema.pixels,
        COLUMNS: json.dumps(schema.columns),
        CATEGORIES: json.dumps(schema.categories),
        DATES: json.dumps(schema.dates),
        SCALES: json.dumps(scales),
        MEASUREMENTS: _measurements(config),
        LIMITS: "; ".join(export_limits(config)),
    }


def about_client(data: Federation, partition: int) -> dict[str, str]:
    """Return what the card says of the client: its name in the data, and the column that has it.

    Parameters
    ----------
    data : Federation
        The node's data.
    partition : int
        Which part of them is its own.
    """
    name, column = data.name(partition), client_column(data.settings)
    return {key: text for key, text in ((NAME, name), (CLIENT_COLUMN, column)) if name and text}


def _lora_layers(config: RunConfig) -> dict[str, list[str]]:
    """Return the layers that have LoRA; which they are depends on what was pretrained."""
    if config.trainable != "lora":
        return {}
    model, _ = initial_model(config.architecture, config.seed)
    return {"lora_layers": layers_with_lora(model)}


def _measurements(config: RunConfig) -> str:
    """Return what clients do to their measurements, in words."""
    if config.required_schema.graph:
        return "nodes of a graph, which is there"
    filled = [] if config.data.imputation == "none" else [f"filled in ({config.data.imputation})"]
    return " and ".join(filled + (["calibrated"] if config.data.calibrate_inputs else []))
