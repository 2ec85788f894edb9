"""Client embeddings of a hypernetwork: the free vectors, their training, checkpoints."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.arrays import as_part, part_of
from strategies.hypernetwork.metadata_encoder import Metadata
from strategies.hypernetwork.network import Hypernetwork
from strategies.hypernetwork.updates import vector_jacobian_product
from strategies.randomness import generator


class Embeddings:
    """Free embeddings of clients, trained together with the hypernetwork by one AdamW optimizer.

    A client that does not take part in a step has no gradient, so neither momentum nor weight
    decay changes its embedding.

    Parameters
    ----------
    network : Hypernetwork
        The network to train.
    learning_rate : float
        Learning rate of AdamW.
    weight_decay : float, default 0.0
        Decoupled weight decay of the network (AdamW, Loshchilov & Hutter 2019). It keeps generated
        models near the common start, and uninformative metadata out of the embeddings.
    decay : float, default 0.0
        Weight decay of the free embeddings of clients with metadata.
    dropout : float, default 0.0
        Probability that training sets the free embedding of a client with metadata to zero.
    seed : int, default 0
        Seed of the initial embeddings and of the dropout.

    Attributes
    ----------
    free : dict of int to Tensor
        Client -> free embedding, ``(embedding_size,)``.
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
        """Initialize the free embeddings of clients that have none.

        With metadata, or for clients that arrive ``late``, it is that of an unseen client.
        Otherwise it is standard normal, because equal embeddings would stay equal.
        """
        for client, known in zip(clients, metadata, strict=True):
            if client not in self.free:
                first = self.network.unseen_client().clone()
                if not known and not late:
                    draw = generator(self._seed, "free", client).normal(size=len(first))
                    first = torch.from_numpy(draw.astype(np.float32))
                self._add(client, first)

    def _add(self, client: int, first: Tensor) -> None:
        self.free[client] = first.requires_grad_(True)
        self._optimizer.add_param_group({"params": [self.free[client]], "weight_decay": 0.0})

    def left_out(
        self, clients: Sequence[int], metadata: Sequence[Metadata], server_round: int
    ) -> set[int]:
        """Draw the clients whose free embeddings are set to zero in a round (dropout)."""
        described = [client for client, known in zip(clients, metadata, strict=True) if known]
        draws = {c: generator(self._seed, "drop", c, server_round).random() for c in described}
        return {client for client, draw in draws.items() if draw < self._dropout}

    def of_clients(self, clients: Sequence[int], left_out: Collection[int] = ()) -> Tensor:
        """Return free embeddings ``(N, embedding_size)``, by default that of an unseen client."""
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
        """Generate the parameters ``(P,)`` of a client.

        One client at a time, so that the last bits do not depend on the number of clients.
        """
        embedding = self.network.embed([metadata], self.of_clients([client], left_out))
        written: NDArray[np.float32] = self.network(embedding)[0].numpy()
        return written

    @torch.no_grad()
    def write_mean(self, metadata: Mapping[int, Metadata]) -> NDArray[np.float32]:
        """Generate the parameters ``(P,)`` at the mean embedding of the training clients."""
        clients = sorted(self.free)
        known = [metadata.get(client, {}) for client in clients]
        mean = self.network.embed(known, self.of_clients(clients)).mean(0, keepdim=True)
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
        """Take an optimizer step on the updates of a round.

        Parameters
        ----------
        clients, metadata, weights : sequence of int
            One each per client; the weights sum to 1.
        moved : ndarray
            Parameters sent less parameters returned, ``(N, P)``.
        left_out : collection of int, default ()
            Clients whose free embeddings were set to zero in this round.
        """
        self._optimizer.zero_grad(set_to_none=True)
        free = self.of_clients(clients, left_out)
        vector_jacobian_product(self.network, metadata, free, moved, weights)
        for client, known, weight in zip(clients, metadata, weights, strict=True):
            own = self.free[client]
            if known and self._decay and own.grad is not None:
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
        """Take a step of an optimizer of free embeddings only, as in :meth:`Hypernetwork.fit`."""
        optimizer.zero_grad(set_to_none=True)
        free = self.of_clients(clients)
        vector_jacobian_product(self.network, metadata, free, moved, [1.0] * len(clients))
        optimizer.step()

    def _tensors(self) -> dict[str, Tensor]:
        """Return all trained tensors by name."""
        found: dict[str, Tensor] = {f"network/{n}": p for n, p in self.network.named_parameters()}
        return found | {f"free/{client}": own for client, own in self.free.items()}

    # ------------------------------------------------------------------ checkpoints

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return a checkpoint: copies, because torch updates tensors in place."""
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
        """Restore from :meth:`state_arrays`; ``rules`` are the constructor's keyword arguments."""
        about = json.loads(arrays["about"].tobytes())
        found = cls(Hypernetwork.of(about, _tensors_of(part_of(arrays, "network"))), **rules)
        for client, own in _tensors_of(part_of(arrays, "free")).items():
            found._add(int(client), own)
        for name, tensor in found._tensors().items():
            if moments := _tensors_of(part_of(arrays, f"adam/{name}")):
                found._optimizer.state[tensor] = moments
        return found


def _tensors_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return writable copies as tensors."""
    return {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
