"""Prediction with a client's exported model, away from its device."""

import csv
import importlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.export.model_card import (
    ARGUMENTS,
    LABELS,
    NETWORK,
    OUTPUTS,
    SCALES,
    SHAPE,
    TASK,
    TRUSTED,
    ExportError,
    card_entry,
)
from clients.state.model_file import PersonalizedModel

Build = Callable[..., nn.Module]


def build_network(model: PersonalizedModel, function: str = "") -> nn.Module:
    """Build the network of a model and load its parameters.

    Parameters
    ----------
    model : PersonalizedModel
        The model, from its file.
    function : str, default ""
        The user's ``module:function`` that builds the network; it is called with the shape of an
        example and the number of outputs. If it is empty, the function named in the file is used,
        which must be :data:`~clients.export.model_card.TRUSTED`.

    Returns
    -------
    nn.Module
        The network in eval mode.

    Raises
    ------
    ExportError
        If the function cannot be imported, if its arguments are missing in the file, or if its
        network has other parameters than the model.
    """
    name = function or model.about.get(NETWORK, "")
    if not function and name != TRUSTED:
        raise ExportError(
            f"the file says that {name!r} builds its network; code named in a file is not trusted: "
            f"confirm it with --network {name or 'module:function'}",
            key=NETWORK,
            value=name,
        )
    if function:
        network = _function(name)(tuple(card_entry(model, SHAPE)), card_entry(model, OUTPUTS))
    else:
        try:
            network = _function(name)(**card_entry(model, ARGUMENTS))
        except (TypeError, ValueError, KeyError) as error:
            words = f"the file's {ARGUMENTS} do not describe a network: {error}"
            found = model.about.get(ARGUMENTS)
            raise ExportError(words, key=ARGUMENTS, value=found) from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        words = f"{name} returned a {kind}, not a torch.nn.Module"
        raise ExportError(words, key=NETWORK, value=name)
    try:
        network.load_state_dict(dict(model.entries))
    except RuntimeError as error:
        words = f"the network of {name} does not fit the model: {error}"
        raise ExportError(words, key=NETWORK, value=name) from error
    return network.eval()


def _function(name: str) -> Build:
    module, colon, function = name.partition(":")
    try:
        if not colon:
            raise ImportError("write module:function")
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        words = f"the function {name!r} cannot be imported: {error}"
        raise ExportError(words, key=NETWORK, value=name) from error


@torch.no_grad()
def predict(
    network: nn.Module, model: PersonalizedModel, inputs: NDArray[np.float32]
) -> list[dict[str, Any]]:
    """Return a row for every example: ``prediction``, and the probabilities of classes.

    If the client has decision thresholds, they choose the class.

    Parameters
    ----------
    network : nn.Module
        From :func:`build_network`.
    model : PersonalizedModel
        The model of the network.
    inputs : ndarray
        Examples ``(N, *shape)``, not standardized, in the form of the client's examples.

    Returns
    -------
    list of dict of str to object
        ``prediction`` -> class name or number in the unit of the targets, and for classes
        ``probability-<label>`` -> probability.

    Raises
    ------
    ExportError
        If the file does not declare the labels, or their number differs from that of the outputs.
    """
    scales = card_entry(model, SCALES) if SCALES in model.about else {}
    values = torch.from_numpy(inputs)
    if "inputs" in scales:
        mean, deviation = (torch.tensor(row, dtype=torch.float64) for row in scales["inputs"])
        shape = inputs.shape[1:]
        values = ((values.double() - mean.reshape(shape)) / deviation.reshape(shape)).float()
    outputs = network(values)
    if model.about.get(TASK) == "regression":
        mean, deviation = scales.get("target", (0.0, 1.0))
        return [{"prediction": mean + deviation * float(each)} for each in outputs.reshape(-1)]
    chances = outputs.softmax(dim=1).double()
    labels = card_entry(model, LABELS)
    if len(labels) != chances.shape[1]:
        raise ExportError(
            f"the file has {len(labels)} labels; its network has {chances.shape[1]} outputs",
            key=LABELS,
            value=labels,
        )
    chosen = _chosen(chances, model.thresholds)
    return [
        {"prediction": labels[place]}
        | {f"probability-{label}": float(p) for label, p in zip(labels, row, strict=True)}
        for place, row in zip(chosen.tolist(), chances, strict=True)
    ]


def _chosen(chances: Tensor, thresholds: Mapping[str, Tensor]) -> NDArray[np.int64]:
    """Return the indices ``(N,)`` of the predicted classes."""
    if "values" not in thresholds:
        found: NDArray[np.int64] = chances.argmax(dim=1).numpy()
        return found
    from clients.thresholds.threshold_client import decide  # scikit-learn takes a second

    return decide(chances.numpy(), thresholds["values"].tolist())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["prediction"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def size_of(model: PersonalizedModel) -> int:
    """Return the number of values in a model."""
    return sum(math.prod(tensor.shape) for tensor in model.entries.values())
