"""A client that may fall back: of its models under several methods it uses the best."""

import math
from collections.abc import Mapping
from typing import Any

from flwr.client import NumPyClient

from clients.personal import NDArrays, PersonalClient, Scalars


class SafeguardedClient(NumPyClient):
    """Choose among the models of one client, on its own validation examples.

    Parameters
    ----------
    candidates : name of a method -> this client under it. The first one is the personalized one,
        which wins ties; the others are what it may fall back on, such as the global model and one
        trained alone. Their names may not hold a slash.

    Attributes
    ----------
    shared_names : ``<method>/<name>`` of every array that the candidates share
    """

    def __init__(self, candidates: Mapping[str, PersonalClient]) -> None:
        if not candidates:
            raise ValueError("a safeguard needs candidates to choose among")
        self.candidates = candidates
        self.shared_names = [
            f"{method}/{name}"
            for method, client in candidates.items()
            for name in client.shared_names
        ]

    def evaluate(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[float, int, Scalars]:
        """Evaluate every candidate; return the test scores of the one that validation chose.

        Parameters
        ----------
        parameters : in the order of ``shared_names``
        config : as in :meth:`PersonalClient.evaluate`

        Returns
        -------
        test loss, number of test examples and metrics of the chosen candidate; ``chosen`` is its
        place among the candidates. Without validation examples it is the first.
        """
        received = dict(zip(self.shared_names, parameters, strict=True))
        best, chosen = -math.inf, None
        for place, (method, client) in enumerate(self.candidates.items()):
            own = [received[f"{method}/{name}"] for name in client.shared_names]
            loss, examples, metrics = client.evaluate(own, config)
            score = float(metrics[f"validation-{client.task.score}"])
            value = score if client.task.higher_is_better else -score
            if chosen is None or value > best:  # never true of NaN
                best = -math.inf if math.isnan(value) else value
                chosen = loss, examples, metrics | {"chosen": place}
        assert chosen is not None
        return chosen
