"""Reproducible random numbers: named generators derived from one seed.

A generator belongs to (seed, purpose, client, round, ...). So a client's random numbers depend
neither on the clients that ran before it, nor on the engine or the process.
"""

from hashlib import blake2b

import numpy as np


def named_seed(seed: int, *names: int | str) -> int:
    """Return a seed in [0, 2**63): a hash (BLAKE2b) of ``seed`` and of the names in order."""
    text = "/".join([str(seed), *map(repr, names)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: int | str) -> np.random.Generator:
    """Return the NumPy generator of these names, e.g. ``generator(seed, "split", client)``."""
    return np.random.default_rng(named_seed(seed, *names))
