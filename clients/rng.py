"""Random number generators of torch: a context manager that seeds them and restores them."""

from typing import Any

import torch
from torch import nn


class Seeded:
    """Context manager that seeds torch's global generators and restores their states at exit.

    Parameters
    ----------
    seed : int
        The seed.
    model : nn.Module
        CUDA generators are seeded only if the model is on a CUDA device.
    """

    def __init__(self, seed: int, model: nn.Module) -> None:
        devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
        self._devices = sorted(devices)
        self._fork = torch.random.fork_rng(devices=self._devices)
        self._seed = seed

    def __enter__(self) -> None:
        self._fork.__enter__()
        # Not torch.manual_seed: without a GPU it queues a call for CUDA's start, every time.
        torch.default_generator.manual_seed(self._seed)
        if self._devices:
            torch.cuda.manual_seed_all(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)
