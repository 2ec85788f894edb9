"""What a server must know of data it never sees: cards of the clients, put together.

Before the first round every client tells the shape of an example, its labels and, where features
are to be standardised or filled in, their mean and variance. From the cards come the size of the
network, one numbering of the classes for everybody, and the federated mean and deviation of every
feature. No example leaves its client.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.graphs.graph import Graph
from pfl_flower.data.moments import Moments, feature_deviations, merge_moments

Split = tuple[Tensor, Tensor]
"""(inputs, targets) of some examples."""

TaskName = Literal["classification", "regression", "link-prediction"]
Label = int | str


class DataError(ValueError):
    """A data set that is missing, cannot be read, or cannot be split as asked."""


@dataclass(frozen=True)
class DataCard:
    """What one client tells of its data.

    Attributes
    ----------
    shape : of one example
    task : whether targets are classes, numbers or links
    graph : whether its examples are nodes of a graph, or pairs of them; ``shape`` is then that of
        the features of a node
    labels : its classes, ascending; empty for regression
    features : moments of the features over its training examples; None if nobody needs them, or
        the client has fewer than :data:`pfl_flower.data.moments.FEWEST_ROWS`
        examples
    target : moments of the targets over its training examples, for regression; None likewise
    edges : how many connections of a graph that was cut are kept by the cut, and dropped by it. One
        that is dropped is counted by one of its two clients only, so that sums are right. None
        where no graph was cut
    standardize : whether features are brought to mean 0 and deviation 1, where their moments are
        known
    columns : names of the features of a table, in their order; empty where they have none
    """

    shape: tuple[int, ...]
    task: TaskName
    labels: tuple[Label, ...] = ()
    features: Moments | None = None
    target: Moments | None = None
    graph: bool = False
    edges: tuple[int, int] | None = None
    standardize: bool = True
    columns: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the card as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "DataCard":
        """Return the card that :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(
            tuple(values["shape"]),
            values["task"],
            tuple(values["labels"]),
            _moments_of(values["features"]),
            _moments_of(values["target"]),
            values["graph"],
            None if values["edges"] is None else tuple(values["edges"]),
            values["standardize"],
            tuple(values["columns"]),
        )


def _moments_of(values: Mapping[str, Any] | None) -> Moments | None:
    if values is None:
        return None
    return Moments(
        values["count"],
        tuple(values["means"]),
        tuple(values["variances"]),
        tuple(values["counts"]),
    )


DataFacts = DataCard
"""The cards of all clients put together: the same fields, over everybody."""


def merge_cards(cards: Mapping[int, DataCard]) -> tuple[DataFacts, dict[int, str]]:
    """Return the facts, and for every client whose data do not fit the others' the reason.

    The shape and task that most clients have are the federation's (ties: the lowest client's).

    Parameters
    ----------
    cards : client -> its card, at least one
    """
    kinds = Counter(_kind(card) for _, card in sorted(cards.items()))
    kind, common = kinds.most_common(1)[0]
    graph, shape, task = kind
    deviants = {
        client: f"its {_noun(card.graph)} have shape {card.shape} and are for {card.task}; the "
        f"{_noun(graph)} of {common} clients have shape {shape} and are for {task}"
        for client, card in sorted(cards.items())
        if _kind(card) != kind
    }
    columns, misnamed = _common_columns({c: card for c, card in cards.items() if c not in deviants})
    fitting = [card for client, card in sorted(cards.items()) if client not in deviants | misnamed]
    labels = {label for card in fitting for label in card.labels}
    features = [card.features for card in fitting if card.features and card.features.finite]
    targets = [card.target for card in fitting if card.target and card.target.finite]
    cuts = [card.edges for card in fitting if card.edges is not None]
    facts = DataFacts(
        shape,
        task,
        ordered(labels),
        merge_moments(features) if features else None,
        merge_moments(targets) if targets else None,
        graph,
        (sum(kept for kept, _ in cuts), sum(dropped for _, dropped in cuts)) if cuts else None,
        all(card.standardize for card in fitting),
        columns,
    )
    return facts, deviants | misnamed


def _common_columns(cards: Mapping[int, DataCard]) -> tuple[tuple[str, ...], dict[int, str]]:
    """Return the names that most tables have for their features, and who has others, with reason.

    Who has no names, because his data are no table, is taken at the word of his shape.
    """
    named = {client: card.columns for client, card in sorted(cards.items()) if card.columns}
    if not named:
        return (), {}
    common, count = Counter(named.values()).most_common(1)[0]
    reasons = {
        client: f"{_only_in(own, common)} of {count} clients"
        for client, own in named.items()
        if own != common
    }
    return common, reasons


def _only_in(own: tuple[str, ...], common: tuple[str, ...]) -> str:
    """Return in words what a table has that the others have not, and the other way around."""
    mine, theirs = (
        ", ".join(repr(name) for name in names if name not in others)
        for names, others in ((own, common), (common, own))
    )
    return f"its table has the features {mine} in place of {theirs} in the tables"


def _kind(card: DataCard) -> tuple[bool, tuple[int, ...], TaskName]:
    """Return what the data of all clients must have in common."""
    return card.graph, card.shape, card.task


def _noun(graph: bool) -> str:
    return "nodes of a graph" if graph else "examples"


def ordered(labels: set[Label]) -> tuple[Label, ...]:
    """Return labels in order: numbers by size, then words by the alphabet."""
    numbers = sorted(label for label in labels if isinstance(label, int))
    return (*numbers, *sorted(label for label in labels if isinstance(label, str)))


def target_scale(facts: DataFacts) -> tuple[float, float]:
    """Return mean and deviation of the targets of a regression, which trains on unit deviation."""
    if facts.target is None:
        return 0.0, 1.0
    return facts.target.means[0], math.sqrt(facts.target.variances[0]) or 1.0


def fleet_means(facts: DataFacts) -> NDArray[np.float64]:
    """Return the fleet's mean of every feature, flat, in the unit of the model; 0 where unknown."""
    if facts.features is None or facts.standardize:
        return np.zeros(math.prod(facts.shape))
    return np.array(facts.features.means)


class FactsError(DataError):
    """A client's data that do not fit the facts of the federation."""


def check_graph(graph: Graph, facts: DataFacts) -> None:
    """Check that a client's graph is one like everybody's.

    Raises
    ------
    FactsError
        If the federation's examples are no nodes of graphs, or their features are others in number.
    """
    if not facts.graph:
        raise FactsError("examples are nodes of a graph; the federation's are not")
    if tuple(graph.features.shape[1:]) != facts.shape:
        raise FactsError(
            f"nodes have {graph.features.shape[1]} features; the federation's have {facts.shape[0]}"
        )


def check_columns(columns: tuple[str, ...], facts: DataFacts) -> None:
    """Check that the features of a client's table are those of everybody's tables.

    Raises
    ------
    FactsError
        If they are not; who has no table has no names, and is taken at the word of his shape.
    """
    if columns and facts.columns and columns != facts.columns:
        raise FactsError(f"{_only_in(columns, facts.columns)} of the federation")


def fit_inputs(inputs: Tensor, facts: DataFacts) -> Tensor:
    """Return float32 inputs, standardised where the facts say so; a constant feature becomes 0.

    Raises
    ------
    FactsError
        If an example has another shape than the federation's, whose examples may be nodes.
    """
    if facts.graph:
        raise FactsError("examples are not nodes of a graph; the federation's are")
    if tuple(inputs.shape[1:]) != facts.shape:
        raise FactsError(
            f"examples have shape {tuple(inputs.shape[1:])}; the federation's have {facts.shape}"
        )
    if facts.features is None or not facts.standardize:
        return inputs
    deviations = feature_deviations(facts.features)
    scale = _tensor(np.where(deviations > 0, deviations, 1.0)).reshape(facts.shape)
    mean = _tensor(np.array(facts.features.means)).reshape(facts.shape)
    return ((inputs.double() - mean) / scale).float()


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values)


def fit_targets(targets: NDArray[Any], facts: DataFacts) -> Tensor:
    """Return class numbers 0..C-1 (int64), or numbers of mean 0 and deviation 1 (float32).

    Links stay 1.0 and 0.0 (float32).

    Raises
    ------
    FactsError
        If a label is unknown to the federation.
    """
    if facts.task == "link-prediction":
        return torch.from_numpy(targets).float()
    if facts.task == "regression":
        mean, deviation = target_scale(facts)
        return torch.from_numpy((targets.astype(np.float64) - mean) / deviation).float()
    known = {label: number for number, label in enumerate(facts.labels)}
    found, places = np.unique(targets, return_inverse=True)
    if unknown := [label for label in found.tolist() if label not in known]:
        raise FactsError(
            f"labels {unknown} are unknown to the federation, which has {facts.labels}"
        )
    numbers = np.array([known[label] for label in found.tolist()], dtype=np.int64)
    return torch.from_numpy(numbers[places].reshape(targets.shape))
