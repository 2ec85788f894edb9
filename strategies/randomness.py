"""Every random choice flows from one seed, through generators with names.

A generator belongs to (seed, purpose, client, round, ...), so a number drawn by one client does
not depend on which client was served before it, on which engine, or in which process.
"""

from hashlib import blake2b

import numpy as np


def named_seed(seed: int, *names: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on ``seed`` and on every name, in order."""
    text = "/".join([str(seed), *map(repr, names)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: int | str) -> np.random.Generator:
    """Return a NumPy generator of its own for these names, e.g. ``(seed, "split", client)``."""
    return np.random.default_rng(named_seed(seed, *names))
