"""The embeddings of clients, and how they and the network that reads them are trained."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.arrays import as_part, part_of
from strategies.hypernetwork.metadata_encoder import Metadata
from strategies.hypernetwork.network import Hypernetwork, pull_back
from strategies.randomness import generator


class Embeddings:
    """The free parts of clients' embeddings, trained with the hypernetwork by one Adam.

    Who has no part in a step has no gradient, so nothing of its embedding moves: neither momentum
    nor decay reaches it.

    Parameters
    ----------
    network : Hypernetwork
        Which is trained.
    learning_rate : float
        Of Adam.
    weight_decay : float, default 0.0
        Of the network, decoupled (AdamW, Loshchilov & Hutter 2019): it keeps generated models near
        the common start, and what tells nothing out of the embeddings.
    decay : float, default 0.0
        Pull of free parts to zero, of clients that tell metadata.
    dropout : float, default 0.0
        How often the free part of a client that tells metadata is left out in training.
    seed : int, default 0
        Of the first free parts and of who is left out.

    Attributes
    ----------
    free : client -> the free part of its embedding, ``(embedding_size,)``
    """

    def __init__(
        self,
        network: Hypernetwork,
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        decay: float = 0.0,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.network = network
        self.free: dict[int, Tensor] = {}
        self._decay = decay
        self._dropout = dropout
        self._seed = seed
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, weight_decay=weight_decay
        )

    def grow(
        self, clients: Sequence[int], metadata: Sequence[Metadata], late: bool = False
    ) -> None:
        """Give clients that are trained for the first time a free part.

        Zero beside metadata; without them standard normal numbers, since equal embeddings would
        stay alike, and an unseen client's for those that come ``late``, after training.
        """
        for client, told in zip(clients, metadata, strict=True):
            if client not in self.free:
                first = self.network.unseen_client().clone()
                if not told and not late:
                    draw = generator(self._seed, "free", client).normal(size=len(first))
                    first = torch.from_numpy(draw.astype(np.float32))
                self._add(client, first)

    def _add(self, client: int, first: Tensor) -> None:
        self.free[client] = first.requires_grad_(True)
        self._optimizer.add_param_group({"params": [self.free[client]], "weight_decay": 0.0})

    def left_out(
        self, clients: Sequence[int], metadata: Sequence[Metadata], server_round: int
    ) -> set[int]:
        """Return the clients whose free parts are left out in a round of training."""
        telling = [client for client, told in zip(clients, metadata, strict=True) if told]
        draws = {c: generator(self._seed, "drop", c, server_round).random() for c in telling}
        return {client for client, draw in draws.items() if draw < self._dropout}

    def of_clients(self, clients: Sequence[int], left_out: Collection[int] = ()) -> Tensor:
        """Return free parts ``(N, embedding_size)``; an unseen client's for those not trained."""
        rows = []
        for client in clients:
            own = self.free.get(client)
            own = self.network.unseen_client() if own is None else own
            rows.append(torch.zeros_like(own) if client in left_out else own)
        return torch.stack(rows)

    @torch.no_grad()
    def write(
        self, client: int, metadata: Metadata, left_out: Collection[int] = ()
    ) -> NDArray[np.float32]:
        """Return the parameters ``(P,)`` of a client.

        One client at a time, so that what one gets does not depend, in its last bits, on how many
        others there are.
        """
        embedding = self.network.embed([metadata], self.of_clients([client], left_out))
        written: NDArray[np.float32] = self.network(embedding)[0].numpy()
        return written

    @torch.no_grad()
    def write_mean(self, metadata: Mapping[int, Metadata]) -> NDArray[np.float32]:
        """Return the parameters ``(P,)`` for the mean of the embeddings of clients trained."""
        clients = sorted(self.free)
        told = [metadata.get(client, {}) for client in clients]
        mean = self.network.embed(told, self.of_clients(clients)).mean(0, keepdim=True)
        written: NDArray[np.float32] = self.network(mean)[0].numpy()
        return written

    def step(
        self,
        clients: Sequence[int],
        metadata: Sequence[Metadata],
        moved: NDArray[np.float32],
        weights: Sequence[float],
        left_out: Collection[int] = (),
    ) -> None:
        """Take a step on what the clients of a round changed.

        Parameters
        ----------
        clients, metadata, weights : sequence of int
            One each; weights sum to 1.
        moved : ndarray
            ``(N, P)`` what they were sent less what came back.
        left_out : collection of int, default ()
            Whose free parts were left out.
        """
        self._optimizer.zero_grad(set_to_none=True)
        free = self.of_clients(clients, left_out)
        pull_back(self.network, metadata, free, moved, weights)
        for client, told, weight in zip(clients, metadata, weights, strict=True):
            own = self.free[client]
            if told and self._decay and own.grad is not None:
                own.grad += self._decay * weight * own.detach()
        self._optimizer.step()
        self.network.centre.copy_(self.of_clients(sorted(self.free)).detach().mean(0))

    def fit(
        self,
        clients: Sequence[int],
        metadata: Sequence[Metadata],
        moved: NDArray[np.float32],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Take a step of an optimizer of free parts only, as in :meth:`Hypernetwork.fit`."""
        optimizer.zero_grad(set_to_none=True)
        pull_back(self.network, metadata, self.of_clients(clients), moved, [1.0] * len(clients))
        optimizer.step()

    def _tensors(self) -> dict[str, Tensor]:
        """Return everything that is trained, by name."""
        found: dict[str, Tensor] = {f"network/{n}": p for n, p in self.network.named_parameters()}
        return found | {f"free/{client}": own for client, own in self.free.items()}

    # ------------------------------------------------------------------ checkpoints

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return copies of everything, for a checkpoint: torch steps on in place."""
        about = json.dumps(self.network.about).encode()
        state = {"about": np.frombuffer(about, dtype=np.uint8)}
        state |= as_part("network", {n: t.numpy() for n, t in self.network.state_dict().items()})
        state |= as_part("free", {str(c): own.detach().numpy() for c, own in self.free.items()})
        for name, tensor in self._tensors().items():
            moments = self._optimizer.state[tensor]
            state |= as_part(f"adam/{name}", {key: m.numpy() for key, m in moments.items()})
        return {name: values.copy() for name, values in state.items()}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], **rules: Any) -> "Embeddings":
        """Return what :meth:`state_arrays` returned; ``rules`` are the constructor's arguments."""
        about = json.loads(arrays["about"].tobytes())
        found = cls(Hypernetwork.of(about, _tensors_of(part_of(arrays, "network"))), **rules)
        for client, own in _tensors_of(part_of(arrays, "free")).items():
            found._add(int(client), own)
        for name, tensor in found._tensors().items():
            if moments := _tensors_of(part_of(arrays, f"adam/{name}")):
                found._optimizer.state[tensor] = moments
        return found


def _tensors_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return copies, which may be written to, as tensors."""
    return {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
