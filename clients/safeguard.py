"""A client that may fall back: of its models under several methods it uses the best."""

import math
from collections.abc import Mapping
from typing import Any

from flwr.client import NumPyClient

from clients.base_client import NDArrays, Scalars
from clients.personal_client import PersonalClient
from clients.thresholds.threshold_client import thresholds_of_round
from strategies.errors import ArgumentError
from strategies.protocol import SERVER_ROUND


class SafeguardedClient(NumPyClient):
    """Choose among the models of one client, on its own validation examples.

    Parameters
    ----------
    candidates : mapping of str to PersonalClient
        Name of a method -> this client under it. The first one is the personalized one, which wins
        ties; the others are what it may fall back on, such as the global model and one trained
        alone. Their names may not hold a slash.
    thresholds : bool, default False
        Whether the candidates have found decision thresholds. Those of the chosen one go with it.

    Attributes
    ----------
    shared_names : list of str
        ``<method>/<name>`` of every array that the candidates share.

    Raises
    ------
    ArgumentError
        If there are no candidates.
    """

    def __init__(self, candidates: Mapping[str, PersonalClient], thresholds: bool = False) -> None:
        if not candidates:
            raise ArgumentError("candidates", {}, "one or more to choose among")
        self.candidates = candidates
        self.thresholds = thresholds
        self.shared_names = [
            f"{method}/{name}"
            for method, client in candidates.items()
            for name in client.shared_names
        ]

    def evaluate(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[float, int, Scalars]:
        """Evaluate every candidate; return the test scores of the one that validation chose.

        The model of that one is kept, to be exported, and no other.

        Parameters
        ----------
        parameters : list of ndarray
            In the order of ``shared_names``.
        config : dict of str to object
            As in :meth:`PersonalClient.evaluate`.

        Returns
        -------
        tuple of float, int and dict
            Test loss, number of test examples and metrics of the chosen candidate; ``chosen`` is
            its place among the candidates: the first where its validation score is unknown (no
            validation examples, or too few to choose fine-tuning epochs and judge them).

        Raises
        ------
        ValueError, RuntimeError
            What the first candidate raised, if none can be evaluated.
        """
        received = dict(zip(self.shared_names, parameters, strict=True))
        server_round = int(config.get(SERVER_ROUND, 0))
        found: dict[int, tuple[float, tuple[float, int, Scalars]]] = {}
        errors: list[Exception] = []
        for place, (method, client) in enumerate(self.candidates.items()):
            own = [received[f"{method}/{name}"] for name in client.shared_names]
            try:
                loss, examples, metrics = client.scored(own, config)
            except (ValueError, RuntimeError) as error:  # then the others are there
                errors.append(error)
                continue
            score = float(metrics[f"validation-{client.task.score}"])
            value = score if client.task.higher_is_better else -score
            found[place] = value, (loss, examples, metrics | {"chosen": place})
        if not found:
            raise errors[0]
        chosen = _best({place: value for place, (value, _) in found.items()})
        client = list(self.candidates.values())[chosen]
        thresholds = thresholds_of_round(client, server_round) if self.thresholds else {}
        client.keep_model(server_round, thresholds)
        return found[chosen][1]


def _best(values: Mapping[int, float]) -> int:
    """Return the place of the best value; the first place in a tie, or if its own is unknown."""
    if 0 in values and math.isnan(values[0]):
        return 0
    return max(values, key=lambda p: -math.inf if math.isnan(values[p]) else values[p])
