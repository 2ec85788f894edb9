"""Random number generators of torch: a context manager that seeds them and restores them."""

from typing import Any

import torch
from torch import nn

from clients.data.datasets import DatasetError
from clients.local_training.training import device_of


class Seeded:
    """Context manager that seeds torch's global generators and restores their states at exit.

    Parameters
    ----------
    seed : int
        The seed.
    model : nn.Module
        The generator of a CUDA device is seeded only if the model is on that device.
    """

    def __init__(self, seed: int, model: nn.Module) -> None:
        self._seed = seed
        self._generators = [torch.default_generator]
        used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        if used and (device := device_of(model)).type == "cuda":
            self._generators.append(torch.cuda.default_generators[device.index or 0])
        self._before: list[torch.Tensor] = []

    def __enter__(self) -> None:
        self._before = [generator.get_state() for generator in self._generators]
        # Not torch.manual_seed: without a GPU it queues a call for CUDA's start, every time.
        for generator in self._generators:
            generator.manual_seed(self._seed)

    def __exit__(self, *_: Any) -> None:
        for generator, state in zip(self._generators, self._before, strict=True):
            generator.set_state(state)


class ClientStream(Seeded):
    """The random stream of a client: a seeded context, whose errors of data name the client.

    Parameters
    ----------
    seed, model : int and nn.Module
        As in :class:`Seeded`.
    client : int or None
        Number of the client.
    """

    def __init__(self, seed: int, model: nn.Module, client: int | None) -> None:
        super().__init__(seed, model)
        self._client = client

    def __exit__(self, kind: Any, error: BaseException | None, *_: Any) -> None:
        super().__exit__(kind, error, *_)
        if isinstance(error, DatasetError) and error.client is None and self._client is not None:
            raise error.of(self._client) from error
