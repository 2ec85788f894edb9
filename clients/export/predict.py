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

from clients.adapters.mixed_adapters import MixedAdapters
from clients.data.inputs import named_inputs, spread_inputs
from clients.data.preprocessing import Preprocessing
from clients.export.model_card import (
    ARGUMENTS,
    INPUTS,
    INTEGERS,
    LABELS,
    NETWORK,
    OUTPUTS,
    PIXELS,
    SCALES,
    SHAPE,
    TASK,
    TRUSTED,
    ExportError,
    card_entry,
)
from clients.inference.gaussian_posterior import PosteriorAverage, unstacked
from clients.model_components.outputs import take_logits
from clients.model_components.token_ids import check_token_ids, vocabulary_of
from clients.state.model_file import PersonalizedModel
from clients.task import Classification, Regression
from strategies.errors import ArgumentError

Build = Callable[..., nn.Module]


def build_network(model: PersonalizedModel, function: str = "") -> nn.Module:
    """Build the network of a model and load its parameters.

    What predicts may be more: an average over draws of them, or a mixture with a second adapter.

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
        If the function cannot be imported or raises, if its arguments are missing in the file, or
        if its network has other parameters than the model.
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
        network = _built(name, _shape(model), card_entry(model, OUTPUTS))
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
    take_logits(network)
    spread_inputs(network)
    try:
        state = network.state_dict()  # with the versions of its modules: torch takes a plain dict
        state.clear()  # for one of an old release, and gives batch norm a counter
        state.update(model.entries)
        network.load_state_dict(state)
    except RuntimeError as error:
        words = f"the network of {name} does not fit the model: {error}"
        raise ExportError(words, key=NETWORK, value=name) from error
    if model.adapter:
        return _with_adapter(network, model.adapter, name)
    if not (draws := unstacked(model.draws)):
        return network.eval()
    regression = model.about.get(TASK) == "regression"
    return PosteriorAverage(network, draws, Regression() if regression else Classification()).eval()


def _with_adapter(network: nn.Module, adapter: Mapping[str, Tensor], name: str) -> nn.Module:
    """Return a network whose adapters are mixed with the client's second one."""
    try:
        return MixedAdapters.from_tensors(network, adapter).eval()
    except (KeyError, RuntimeError) as error:
        words = f"the low-rank adapters of the network of {name} do not fit the model: {error}"
        raise ExportError(words, key=NETWORK, value=name) from error


def _built(name: str, shape: tuple[int, ...], outputs: int) -> Any:
    """Return what the user's function returns, which may raise anything."""
    function = _function(name)
    try:
        return function(shape, outputs)
    except Exception as error:
        raise _failed(
            f"the function {name!r}, called with {shape} and {outputs},", name, error
        ) from error


def _failed(what: str, name: str, error: Exception) -> ExportError:
    words = (
        f"{what} raised {type(error).__name__}: {error}. All values of the network come from the "
        f"model's file, so here the function need not read a pretrained base or another file"
    )
    return ExportError(words, key=NETWORK, value=name)


def preprocessing_of(model: PersonalizedModel) -> Preprocessing | None:
    """Return what the client did to examples before its network got them; None for nothing.

    Raises
    ------
    ExportError
        If the file has a part of it only.
    """
    if not model.preprocessing:
        return None
    try:
        return Preprocessing.from_tensors(model.preprocessing)
    except KeyError as error:
        words = f"the file's preprocessing lacks {error}; export the model again"
        raise ExportError(words, key="preprocessing", value=sorted(model.preprocessing)) from error


def _shape(model: PersonalizedModel) -> tuple[int, ...]:
    """Return the shape of an example as the network gets it."""
    shape, done = tuple(card_entry(model, SHAPE)), preprocessing_of(model)
    if _names(model):
        return shape[1:]
    return (2 * shape[0],) if done is not None and done.masks else shape


def _names(model: PersonalizedModel) -> list[str]:
    """Return the names of several inputs; none where the network gets one tensor."""
    return card_entry(model, INPUTS) if INPUTS in model.about else []


def _function(name: str) -> Build:
    module, colon, function = name.partition(":")
    try:
        if not colon:
            raise ImportError("write module:function")
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        words = f"the function {name!r} cannot be imported: {error}"
        raise ExportError(words, key=NETWORK, value=name) from error
    except Exception as error:  # the user's module runs when it is imported
        raise _failed(f"the import of {name!r}", name, error) from error


@torch.no_grad()
def predict(
    network: nn.Module, model: PersonalizedModel, inputs: NDArray[np.floating]
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
        Examples ``(N, *shape)``, not standardized, in the form of the client's examples; NaN for
        a missing value, if the client fills it in.

    Returns
    -------
    list of dict of str to object
        ``prediction`` -> class name or number in the unit of the targets, and for classes
        ``probability-<label>`` -> probability.

    Raises
    ------
    ExportError
        If the file does not declare the labels, or their number differs from that of the outputs;
        or if the network takes integers and an example has a fraction, or a token id that its
        embedding does not have.
    """
    if model.about.get(PIXELS) == "bytes" and inputs.size and float(inputs.max()) > 1:
        words = "the model takes pixels from 0 to 1, as uint8 are scaled; divide by 255"
        raise ExportError(words, key=PIXELS, value=float(inputs.max()))
    scales = card_entry(model, SCALES) if SCALES in model.about else {}
    values = torch.tensor(inputs)  # a copy: a network may write in it
    if "inputs" in scales:
        mean, deviation = (torch.tensor(row, dtype=torch.float64) for row in scales["inputs"])
        shape = inputs.shape[1:]
        values = ((values.double() - mean.reshape(shape)) / deviation.reshape(shape)).float()
    if (done := preprocessing_of(model)) is not None:
        rows = done(values.flatten(1).double().numpy())
        values = torch.from_numpy(rows).float().reshape(len(values), *_shape(model))
    if INTEGERS in model.about and card_entry(model, INTEGERS):
        values = _as_integers(values)
    values = values if values.dtype == torch.int64 else values.float()
    names = _names(model)
    outputs = network(_checked(named_inputs(values, names), network) if names else values)
    if model.about.get(TASK) == "regression":
        mean, deviation = scales.get("target", (0.0, 1.0))
        return [{"prediction": mean + deviation * float(each)} for each in outputs.reshape(-1)]
    chances = outputs.double().softmax(dim=1)  # as thresholds were found
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


def _checked(inputs: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    try:
        check_token_ids(inputs, vocabulary_of(network))
    except ArgumentError as error:
        raise ExportError(str(error), key=INPUTS, value=error.value) from error
    return inputs


def _as_integers(inputs: Tensor) -> Tensor:
    whole = inputs.long()
    if (odd := inputs[whole != inputs]).numel():
        raise ExportError(
            f"the network takes integers, and an example has the fraction {odd[0].item():g}",
            key=INTEGERS,
            value=odd[0].item(),
        )
    return whole


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
