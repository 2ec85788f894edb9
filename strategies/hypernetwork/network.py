"""A network that writes the parameters of other networks from a description of their clients.

It needs torch, as the only module of this folder: it is a network that is trained.
"""

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

from strategies.hypernetwork.metadata_encoder import Columns, Metadata, encode_all

Values = dict[str, Tensor]
"""Name of a parameter -> tensor."""

FIRST_DEVIATION = 0.01
"""Of the last layer's first weights: every client starts close to the common start."""

VALUES_AT_ONCE = 2**24
"""Generated values that a backward pass holds at once (64 MB of float32)."""


FARTHEST, MOST_TIMES_THE_MEDIAN, FEWEST_FOR_MEDIAN = 30.0, 10.0, 3
"""See :func:`bounded`."""


class Hypernetwork(nn.Module):
    """Write each client's parameters from its metadata and a free part of its own.

    pFedHN (Shamsian et al. 2021, arXiv:2103.04628), with metadata. For metadata ``m_i`` as a vector
    and a free part ``e_i``:

        ``v_i = W m_i + e_i``,  ``theta_i = theta_0 + s * h(v_i)``

    with ``h`` a network of one hidden layer and a linear one that starts near zero around the
    common start ``theta_0``, the model's own first values, which have the variances that its layers
    need. ``s`` is the standard deviation of the first values of each tensor (of a tensor of equal
    values, such as a bias of zeros, that of the whole model): a step of ``h`` means the same in a
    wide layer and in a narrow one.

    Parameters
    ----------
    start : Tensor
        Name -> first values of every parameter that is to be generated, floating point.
    columns : Columns
        Of the metadata.
    embedding_size : int, default 64
        Length of ``v_i``.
    hidden_size : int, default 64
        Of the hidden layer.
    seed : int, default 0
        Of its first values.

    Raises
    ------
    ValueError
        If there is nothing to generate, a value is no floating-point number, or a size is below 1.
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
        if odd := [name for name, a in start.items() if not np.issubdtype(a.dtype, np.floating)]:
            raise ValueError(f"only floating-point numbers can be generated, not {odd}")
        if not start:
            raise ValueError("there is no parameter to generate")
        if embedding_size < 1 or hidden_size < 1:
            raise ValueError(f"sizes must be at least 1, got {embedding_size} and {hidden_size}")
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
                # a flag that is never set in training teaches nothing, so it must mean nothing
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
        """Return the embeddings ``(N, embedding_size)`` of clients with free parts, alike."""
        if self.encoder is None:
            return free
        embedded: Tensor = self.encoder(torch.from_numpy(encode_all(self.columns, clients))) + free
        return embedded

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the parameters ``(N, P)`` for embeddings ``(N, embedding_size)``."""
        generated: Tensor = self.start + self.scale * self.last(self.hidden(embeddings))
        return generated

    def unseen_client(self) -> Tensor:
        """Return the free part of a client that was not trained with the others.

        Zero where metadata say who it is; without metadata the mean of those trained.
        """
        return self.centre if self.encoder is None else torch.zeros_like(self.centre)

    def arrays(self, row: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return the arrays of a row of parameters, by name, in their own shapes and dtypes."""
        found: dict[str, NDArray[Any]] = {}
        begin = 0
        for name, (shape, dtype) in self.shapes.items():
            end = begin + math.prod(shape)
            found[name] = row[begin:end].reshape(shape).astype(dtype, copy=False)
            begin = end
        return found

    def flat(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the row ``(P,)`` of arrays by name."""
        return np.concatenate([np.asarray(arrays[n], np.float32).reshape(-1) for n in self.shapes])

    @torch.no_grad()
    def generate(self, metadata: Metadata | None = None, free: Tensor | None = None) -> Values:
        """Return the parameters of one client, to be given to ``model.load_state_dict``.

        Parameters
        ----------
        metadata : Metadata or None, default None
            What it tells of itself; nothing by default.
        free : Tensor or None, default None
            The free part of its embedding, ``(embedding_size,)``; an unseen client's by default.

        Returns
        -------
        Values
            Name -> tensor; without buffers and parameters that are not generated.

        Raises
        ------
        ValueError
            If metadata have a name that no client of the first round told.
        """
        unknown = sorted((metadata or {}).keys() - set(self.columns.names))
        if unknown and self.encoder is not None:
            raise ValueError(f"unknown metadata {unknown}; known are {self.columns.names}")
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
        """Return a free part that suits a new client's data; nothing else moves.

        A client with few examples fits ``embedding_size`` numbers instead of a whole model: Adam on
        the vector-Jacobian product of what training changed (see :func:`pull_back`).

        Parameters
        ----------
        change : callable
            Trains parameters on the client's examples and returns what they became.
        metadata : Metadata or None, default None
            What it tells of itself.
        free : Tensor or None, default None
            Where to start; an unseen client's by default.
        rounds : int, default 5
            How often ``change`` is called.
        learning_rate : float, default 0.05
            Of Adam.
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
        """What, beside its tensors, makes this network."""
        return {
            "columns": self.columns.to_json(),
            "shapes": json.dumps(self.shapes),
            "hidden_size": str(self.last.in_features),
        }

    @classmethod
    def of(cls, about: Mapping[str, str], values: Mapping[str, Tensor]) -> "Hypernetwork":
        """Return the network of :attr:`about` and a state dict.

        Raises
        ------
        ValueError
            If they do not fit, or something is missing.
        """
        try:
            shapes = {n: (tuple(s), d) for n, (s, d) in json.loads(about["shapes"]).items()}
            first = {name: np.zeros(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
            columns = Columns.from_json(about["columns"])
            network = cls(first, columns, len(values["centre"]), int(about["hidden_size"]))
            network.load_state_dict(values)
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"no hypernetwork: {error}") from error
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
        ValueError
            If it is no hypernetwork, or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls.of(about, values)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path} is no file of a hypernetwork: {error}") from error


def pull_back(
    network: Hypernetwork,
    clients: Sequence[Metadata],
    free: Tensor,
    moved: NDArray[np.float32],
    weights: Sequence[float],
) -> None:
    """Add the gradients of a round to the network's parameters and to ``free``.

    For a client that was sent ``theta_i`` and returned ``theta~_i`` that is the vector-Jacobian
    product ``(d theta_i / d phi)^T (theta_i - theta~_i)`` (Shamsian et al. 2021, Algorithm 1): the
    gradient of ``1/2 ||theta_i - theta~_i||^2`` with ``theta~_i`` held. After one plain step of a
    learning rate it is that rate times the gradient of the client's loss.

    Parameters
    ----------
    network : Hypernetwork
        With the weights that generated what was sent.
    clients : sequence of Metadata
        What they tell of themselves.
    free : Tensor
        ``(N, embedding_size)`` their free parts, as used then.
    moved : ndarray
        ``(N, P)`` what was sent less what came back.
    weights : sequence of float
        One a client; the gradients are summed with them.
    """
    size = max(1, VALUES_AT_ONCE // moved.shape[1])
    shares = torch.tensor(weights, dtype=torch.float32)[:, None]
    for begin in range(0, len(clients), size):
        part = slice(begin, begin + size)
        generated = network(network.embed(clients[part], free[part]))
        torch.autograd.backward(generated, shares[part] * torch.from_numpy(moved[part]))


def _scales(flat: Sequence[Tensor]) -> list[Tensor]:
    """Return the deviation of each tensor's first values, as a vector of its length."""
    whole = torch.cat(list(flat))
    spread = float(whole.std(correction=0)) or 1.0
    found = []
    for values in flat:
        own = float(values.std(correction=0)) if len(values) else 0.0
        found.append(torch.full((len(values),), own or spread))
    return found


def bounded(
    moved: NDArray[np.float32], scale: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return what clients changed, shortened where it is beyond measure, and whom to believe.

    The size of a change is its root mean square in deviations of the first values. With fewer than
    :data:`FEWEST_FOR_MEDIAN` clients it may be :data:`FARTHEST`. With more it may be
    :data:`MOST_TIMES_THE_MEDIAN` the median size, and always 1 (at the end most clients may have
    nothing left to learn); one that is above :data:`FARTHEST`, and 10 times as large as it may be,
    is no honest client's.

    Parameters
    ----------
    moved : ndarray
        ``(N, P)`` what was sent less what came back, finite.
    scale : ndarray
        ``(P,)`` deviation of the first values.

    Returns
    -------
    tuple of 2 ndarray
        ``(N, P)``, and ``(N,)`` False for whom not to believe.
    """
    sizes = np.sqrt(np.square(moved / scale, dtype=np.float64).mean(axis=1))
    many = len(sizes) >= FEWEST_FOR_MEDIAN
    largest = max(1.0, MOST_TIMES_THE_MEDIAN * float(np.median(sizes))) if many else FARTHEST
    factors = np.minimum(1.0, largest / np.maximum(sizes, 1e-30))
    shortened: NDArray[np.float32] = (moved * factors[:, None]).astype(np.float32)
    believed: NDArray[np.bool_] = sizes <= max(FARTHEST, 10 * largest) if many else sizes >= 0
    return shortened, believed
