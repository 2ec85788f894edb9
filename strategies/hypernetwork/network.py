"""Hypernetwork: a network that generates the parameters of clients' models from their metadata."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from strategies.errors import ArgumentError
from strategies.hypernetwork.metadata_encoder import Columns, Metadata, encode_all

__all__ = ["Hypernetwork"]

Values = dict[str, Tensor]
"""Name of a parameter -> tensor."""

FIRST_DEVIATION = 0.01
"""Standard deviation of the last layer's initial weights; small, so all clients start alike."""


class Hypernetwork(nn.Module):
    """Generate each client's parameters from its metadata and a free embedding.

    pFedHN (Shamsian et al. 2021, arXiv:2103.04628) with metadata. For the metadata ``m_i`` as a
    vector and the free embedding ``e_i``, a client's parameters are
    ``theta_i = theta_0 + s * h(v_i)`` with ``v_i = W m_i + e_i``.

    ``h`` is a network of one hidden layer and a linear output layer whose initial values are near
    zero. ``theta_0`` are the initial values of the client's model, whose variances suit its layers.
    ``s`` is the standard deviation of the initial values of each tensor; a tensor of equal values,
    such as a bias of zeros, gets that of the whole model. So a step of ``h`` has the same relative
    size in wide and in narrow layers.

    Parameters
    ----------
    start : Tensor
        Name -> initial values of every parameter to generate, of a floating-point dtype.
    columns : Columns
        Columns of the metadata.
    embedding_size : int, default 64
        Length of ``v_i``.
    hidden_size : int, default 64
        Width of the hidden layer.
    seed : int, default 0
        Seed of the hypernetwork's initial values.

    Raises
    ------
    ArgumentError
        If ``start`` is empty or has an array of another dtype, or a size is below 1.
    """

    start: Tensor
    scale: Tensor
    centre: Tensor

    def __init__(
        self,
        start: Mapping[str, NDArray[Any]],
        columns: Columns,
        embedding_size: int = 64,
        hidden_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        dtypes = {name: str(a.dtype) for name, a in start.items()}
        if not start or not all(np.issubdtype(a.dtype, np.floating) for a in start.values()):
            raise ArgumentError(
                "start", dtypes, "at least one array, all of floating-point numbers"
            )
        for name, size in (("embedding_size", embedding_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ArgumentError(name, size, "at least 1")
        self.columns = columns
        self.shapes = {name: (tuple(a.shape), str(a.dtype)) for name, a in start.items()}
        flat = [torch.from_numpy(np.array(a, dtype=np.float32)).reshape(-1) for a in start.values()]
        self.register_buffer("start", torch.cat(flat))
        self.register_buffer("scale", torch.cat(_scales(flat)))
        self.register_buffer("centre", torch.zeros(embedding_size))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.encoder = nn.Linear(columns.size, embedding_size) if columns.size else None
            if self.encoder is not None:
                # a flag that is never set in training has no gradient, so its weights must be zero
                nn.init.zeros_(self.encoder.weight[:, 1 : 2 * len(columns.numbers) : 2])
            self.hidden = nn.Sequential(
                nn.Tanh(), nn.Linear(embedding_size, hidden_size), nn.ReLU()
            )
            self.last = nn.Linear(hidden_size, len(self.start))
            nn.init.normal_(self.last.weight, std=FIRST_DEVIATION)
            nn.init.zeros_(self.last.bias)

    @property
    def embedding_size(self) -> int:
        """Length of an embedding."""
        return len(self.centre)

    def embed(self, clients: Sequence[Metadata], free: Tensor) -> Tensor:
        """Return ``v_i = W m_i + e_i``, ``(N, embedding_size)``; ``free`` has the same shape."""
        if self.encoder is None:
            return free
        embedded: Tensor = self.encoder(torch.from_numpy(encode_all(self.columns, clients))) + free
        return embedded

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the parameters ``(N, P)`` for embeddings ``(N, embedding_size)``."""
        generated: Tensor = self.start + self.scale * self.last(self.hidden(embeddings))
        return generated

    def unseen_client(self) -> Tensor:
        """Return the free embedding ``(embedding_size,)`` of an unseen client.

        It is zero if the network uses metadata, otherwise the mean of the training clients.
        """
        return self.centre if self.encoder is None else torch.zeros_like(self.centre)

    def arrays(self, row: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Split a row ``(P,)`` of parameters into arrays by name, with their shapes and dtypes."""
        found: dict[str, NDArray[Any]] = {}
        begin = 0
        for name, (shape, dtype) in self.shapes.items():
            end = begin + math.prod(shape)
            found[name] = row[begin:end].reshape(shape).astype(dtype, copy=False)
            begin = end
        return found

    def flat(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Concatenate arrays by name to a row ``(P,)``; invert :meth:`arrays`."""
        return np.concatenate([np.asarray(arrays[n], np.float32).reshape(-1) for n in self.shapes])

    @torch.no_grad()
    def generate(self, metadata: Metadata | None = None, free: Tensor | None = None) -> Values:
        """Return the parameters of one client, as an argument of ``model.load_state_dict``.

        Parameters
        ----------
        metadata : Metadata or None, default None
            The client's metadata; empty by default.
        free : Tensor or None, default None
            Its free embedding ``(embedding_size,)``; :meth:`unseen_client` by default.

        Returns
        -------
        Values
            Name -> tensor, of the generated parameters only.

        Raises
        ------
        ArgumentError
            If the metadata have a name that no client of the first round sent.
        """
        unknown = sorted((metadata or {}).keys() - set(self.columns.names))
        if unknown and self.encoder is not None:
            raise ArgumentError("metadata", unknown, f"from the columns {self.columns.names}")
        free = self.unseen_client() if free is None else free
        row = self(self.embed([metadata or {}], free[None]))[0].numpy()
        return {name: torch.from_numpy(np.array(a)) for name, a in self.arrays(row).items()}

    def fit(
        self,
        change: Callable[[Values], Mapping[str, Tensor]],
        metadata: Metadata | None = None,
        free: Tensor | None = None,
        *,
        rounds: int = 5,
        learning_rate: float = 0.05,
    ) -> Tensor:
        """Adapt to an unseen client: fit its free embedding and nothing else.

        A client with few examples fits ``embedding_size`` numbers instead of a whole model: Adam on
        the vector-Jacobian product of the client's update; see
        :func:`strategies.hypernetwork.updates.vector_jacobian_product`.

        Parameters
        ----------
        change : callable
            Function that trains parameters on the client's examples and returns the result.
        metadata : Metadata or None, default None
            The client's metadata.
        free : Tensor or None, default None
            Initial value; :meth:`unseen_client` by default.
        rounds : int, default 5
            Number of calls of ``change``.
        learning_rate : float, default 0.05
            Learning rate of Adam.
        """
        own = (self.unseen_client() if free is None else free).clone().requires_grad_(True)
        optimizer = torch.optim.Adam([own], lr=learning_rate)
        for _ in range(rounds):
            row = self(self.embed([metadata or {}], own[None]))
            before = self.arrays(row[0].detach().numpy())
            after = change({name: torch.from_numpy(np.array(a)) for name, a in before.items()})
            trained = {name: after[name].detach().cpu().numpy() for name in before}
            moved = torch.from_numpy(self.flat(before) - self.flat(trained))
            (own.grad,) = torch.autograd.grad(row, own, moved[None])
            optimizer.step()
        return own.detach()

    # ------------------------------------------------------------------ files

    @property
    def about(self) -> dict[str, str]:
        """The settings of the network, as the metadata of its file."""
        return {
            "columns": self.columns.to_json(),
            "shapes": json.dumps(self.shapes),
            "hidden_size": str(self.last.in_features),
        }

    @classmethod
    def of(cls, about: Mapping[str, str], values: Mapping[str, Tensor]) -> "Hypernetwork":
        """Return the network from its settings (:attr:`about`) and its state dict.

        Raises
        ------
        ArgumentError
            If they do not fit each other, or an entry is missing.
        """
        try:
            shapes = {n: (tuple(s), d) for n, (s, d) in json.loads(about["shapes"]).items()}
            first = {name: np.zeros(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
            columns = Columns.from_json(about["columns"])
            network = cls(first, columns, len(values["centre"]), int(about["hidden_size"]))
            network.load_state_dict(values)
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            raise ArgumentError(
                "about", dict(about), f"that of a hypernetwork ({error})"
            ) from error
        return network

    def to_bytes(self) -> bytes:
        """Return the network as a safetensors file."""
        return save({n: t.contiguous() for n, t in self.state_dict().items()}, metadata=self.about)

    @classmethod
    def load(cls, path: str | Path) -> "Hypernetwork":
        """Return a network from its file, such as a results folder's ``hypernetwork.safetensors``.

        Raises
        ------
        OSError
            If there is no such file.
        ArgumentError
            If the file is damaged or does not hold a hypernetwork; ``value`` is the path.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls.of(about, values)
        except (SafetensorError, ValueError) as error:
            wanted = f"an intact file of a hypernetwork ({error})"
            raise ArgumentError("path", str(path), wanted) from error


def _scales(flat: Sequence[Tensor]) -> list[Tensor]:
    """Return the standard deviation of each tensor's initial values, as a vector of its length."""
    whole = torch.cat(list(flat))
    spread = float(whole.std(correction=0)) or 1.0
    found = []
    for values in flat:
        own = float(values.std(correction=0)) if len(values) else 0.0
        found.append(torch.full((len(values),), own or spread))
    return found
