"""What a file of a whole model says of itself, so that it can be used without the run."""

import json
from dataclasses import asdict
from typing import Any

from torch import nn

from clients.export.model_card import (
    ARGUMENTS,
    COLUMNS,
    LABELS,
    MEASUREMENTS,
    NETWORK,
    OUTPUTS,
    SCALES,
    SHAPE,
    TASK,
    TRUSTED,
)
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data.moments import feature_deviations
from pfl_flower.data.schema import target_scale
from pfl_flower.models import MODELS, Architecture, build_model
from strategies.errors import ArgumentError


def rebuild(**values: Any) -> nn.Module:
    """Return the network of an :class:`Architecture`, whose fields are given, with any values.

    Raises
    ------
    ArgumentError
        If it is none of :data:`MODELS`: the fields come from a file, and others are code.
    """
    if values.get("model") not in MODELS:
        raise ArgumentError("model", values.get("model"), choices=MODELS)
    return build_model(Architecture(**{**values, "shape": tuple(values["shape"])}), 0)


def about_model(config: RunConfig) -> dict[str, str]:
    """Return the model card of a run's models; see :mod:`clients.export.model_card`."""
    schema, architecture = config.required_schema, config.architecture
    own = architecture.model not in MODELS
    scales: dict[str, Any] = {}
    if schema.features is not None and schema.standardize:
        deviations = feature_deviations(schema.features)
        scales["inputs"] = [list(schema.features.means), [float(d) or 1.0 for d in deviations]]
    if schema.task == "regression":
        scales["target"] = target_scale(schema)
    return {
        NETWORK: architecture.model if own else TRUSTED,
        ARGUMENTS: json.dumps(asdict(architecture)),
        SHAPE: json.dumps(schema.shape),
        OUTPUTS: str(architecture.num_classes),
        TASK: schema.task,
        LABELS: json.dumps(schema.labels),
        COLUMNS: json.dumps(schema.columns),
        SCALES: json.dumps(scales),
        MEASUREMENTS: _measurements(config),
    }


def _measurements(config: RunConfig) -> str:
    """Return what clients do to their measurements, in words."""
    if config.required_schema.graph:
        return "nodes of a graph, which is there"
    filled = [] if config.data.imputation == "none" else [f"filled in ({config.data.imputation})"]
    return " and ".join(filled + (["calibrated"] if config.data.calibrate_inputs else []))
