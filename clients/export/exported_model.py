"""A client's model off the device: taken out of the personal directory, and used on a file."""

import csv
import importlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.state.model_file import PersonalizedModel, model_files, read_model, write_model

NETWORK, ARGUMENTS = "network", "network-arguments"
"""About a model: the function that builds its network, ``module:function``, and what it is given
(JSON)."""

SHAPE, OUTPUTS, TASK, LABELS = "shape", "outputs", "task", "labels"
"""About a model: shape of an example, number of outputs, task, and names of classes (JSON)."""

COLUMNS = "columns"
"""About a model: names of the features of a table, in its own order (JSON); ``[]`` elsewhere."""

SCALES = "scales"
"""About a model: ``{"inputs": [means, deviations], "target": [mean, deviation]}`` (JSON); examples
are brought to mean 0 and deviation 1 before the model sees them, and back."""

MEASUREMENTS = "readings"
"""About a model: what a client does to its readings before the model sees them, in words; empty
for nothing."""

TRUSTED = "pfl_flower.client.model_card:rebuild"
"""The only function that is called because a file says so; it builds networks of this app, and
nothing else."""

_KINDS: Mapping[str, type] = {
    ARGUMENTS: dict,
    SHAPE: list,
    OUTPUTS: int,
    LABELS: list,
    COLUMNS: list,
    SCALES: dict,
}

Build = Callable[..., nn.Module]


class ExportError(ValueError):
    """A model that cannot be taken out, or used."""


def take_out(directory: Path, client: str, target: Path) -> PersonalizedModel:
    """Copy the whole model of a client from a personal directory to a file of its own.

    Parameters
    ----------
    directory : Path
        The personal directory of the device.
    client : str
        Whose; empty where there is only one.
    target : Path
        Where to; a file that is there already is not overwritten.

    Raises
    ------
    ExportError
        If it is not clear whose, there is no such model, or the file is there.
    PersonalStateError
        If the model cannot be read, or the file not be written.
    """
    files = model_files(directory)
    if not files:
        raise ExportError(
            f"{directory} holds no whole model; there is one after a client's first evaluation"
        )
    if not client and len(files) > 1:
        raise ExportError(f"whose model? --client is one of {', '.join(files)}")
    if (client or next(iter(files))) not in files:
        raise ExportError(f"there is no model of {client!r}; there are {', '.join(files)}")
    if target.exists():
        raise ExportError(f"{target} is there already; name another file")
    model = read_model(files[client or next(iter(files))])
    write_model(target, model)
    return model


def network_of(model: PersonalizedModel, stated: str = "") -> nn.Module:
    """Build the network of a model, with its parameters, ready to predict.

    Parameters
    ----------
    model : PersonalizedModel
        From a file.
    stated : str, default ""
        ``module:function`` of one's own, called with the shape of an example and the number of
        outputs; empty for what the file says, which must be :data:`TRUSTED`.

    Raises
    ------
    ExportError
        If there is no such function, the file does not say what it is to be given, or its network
        has other parameters.
    """
    name = stated or model.about.get(NETWORK, "")
    if not stated and name != TRUSTED:
        raise ExportError(
            f"the file says that {name!r} builds its network; a file is not believed about code: "
            f"say it yourself with --network {name or 'module:function'}"
        )
    if stated:
        network = _function(name)(tuple(told(model, SHAPE)), told(model, OUTPUTS))
    else:
        try:
            network = _function(name)(**told(model, ARGUMENTS))
        except (TypeError, ValueError, KeyError) as error:
            raise ExportError(f"what the file says of its network fits none: {error}") from error
    if not isinstance(network, nn.Module):
        raise ExportError(f"{name} returned a {type(network).__name__}, no torch.nn.Module")
    try:
        network.load_state_dict(dict(model.entries))
    except RuntimeError as error:
        raise ExportError(f"the network of {name} does not fit the model: {error}") from error
    return network.eval()


def told(model: PersonalizedModel, key: str) -> Any:
    """Return what a file says about its model, from JSON.

    Raises
    ------
    ExportError
        If it does not say it: the client was not told ``about`` its model.
    """
    try:
        found = json.loads(model.about[key])
        if not isinstance(found, _KINDS[key]):
            raise ValueError(f"{found!r} is no {_KINDS[key].__name__}")
        return found
    except (KeyError, ValueError) as error:
        raise ExportError(
            f"the file does not say the {key} of its model; give the client an 'about' that does"
        ) from error


def _function(name: str) -> Build:
    module, colon, function = name.partition(":")
    try:
        if not colon:
            raise ImportError("write module:function")
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise ExportError(f"{name!r} names no function that can be imported: {error}") from error


@torch.no_grad()
def predict(
    network: nn.Module, model: PersonalizedModel, inputs: NDArray[np.float32]
) -> list[dict[str, Any]]:
    """Return a row for every example: ``prediction``, and of classes the probability of each.

    A class is chosen by the client's own decision thresholds, where it has some.

    Parameters
    ----------
    network : nn.Module
        From :func:`network_of`.
    model : PersonalizedModel
        The file it came from.
    inputs : ndarray
        ``(N, *shape)`` as the client's own examples are, before they are standardised.

    Raises
    ------
    ExportError
        If the file does not say what outputs mean, or names more or fewer classes than there are.
    """
    scales = told(model, SCALES) if SCALES in model.about else {}
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
    labels = told(model, LABELS)
    if len(labels) != chances.shape[1]:
        raise ExportError(
            f"the file names {len(labels)} classes; its network has {chances.shape[1]} outputs"
        )
    chosen = _chosen(chances, model.thresholds)
    return [
        {"prediction": labels[place]}
        | {f"probability-{label}": float(p) for label, p in zip(labels, row, strict=True)}
        for place, row in zip(chosen.tolist(), chances, strict=True)
    ]


def _chosen(chances: Tensor, thresholds: Mapping[str, Tensor]) -> NDArray[np.int64]:
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
