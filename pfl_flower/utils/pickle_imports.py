"""What a pickle would import, read off without running it.

A pickle is a program. Where a library unpickles files that others wrote, they are looked through
first: what they ask for must be among what arrays, and dicts and lists of them, are made of.
"""

import pickletools
from pathlib import Path

ALLOWED = frozenset(
    {
        "numpy ndarray",
        "numpy dtype",
        "numpy.core.multiarray _reconstruct",
        "numpy._core.multiarray _reconstruct",
        "scipy.sparse.csr csr_matrix",
        "scipy.sparse._csr csr_matrix",
        "collections defaultdict",
        "__builtin__ list",
        "builtins list",
        "_codecs encode",
    }
)
"""Modules and names, as the operation GLOBAL has them."""

_HIDDEN = frozenset({"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"})
"""Operations that import something without naming it, or that such files do not need."""


class UnsafePickleError(ValueError):
    """A pickle that imports what arrays do not need.

    Attributes
    ----------
    operation : str
        The operation that imports.
    imported : str
        What it imports; empty where the operation does not name it.
    """

    def __init__(self, operation: str, imported: str = "") -> None:
        asked = imported or f"something by {operation}"
        super().__init__(f"it asks for {asked}, which arrays do not need: refused")
        self.operation = operation
        self.imported = imported


def check_pickle(file: Path) -> None:
    """Check that a file is a pickle of nothing but arrays, sparse ones, dicts and lists.

    Raises
    ------
    UnsafePickleError
        If it asks for anything else.
    ValueError
        If it is no pickle.
    """
    for operation, argument, _ in pickletools.genops(file.read_bytes()):
        if operation.name in _HIDDEN:
            raise UnsafePickleError(operation.name)
        if operation.name == "GLOBAL" and argument not in ALLOWED:
            raise UnsafePickleError(operation.name, str(argument))
