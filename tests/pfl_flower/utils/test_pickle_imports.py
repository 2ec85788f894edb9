"""Pickles are looked through before anybody runs them."""

import collections
import os
import pickle

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pfl_flower.utils.pickle_imports import UnsafePickleError, check_pickle
from tests.errors import refused


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "content",
    [
        np.eye(3),
        csr_matrix(np.eye(3)),
        collections.defaultdict(list, {0: [1, 2]}),
    ],
    ids=["array", "sparse", "graph"],
)
def test_arrays_may_pass(tmp_path, content, protocol):
    if isinstance(content, csr_matrix) and protocol < 2:
        pytest.skip("older protocols rebuild objects by copyreg, which Planetoid does not need")
    file = tmp_path / "file"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    check_pickle(file)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_program_is_refused_and_does_not_run(tmp_path, protocol):
    file, target = tmp_path / "file", tmp_path / "made"
    file.write_bytes(pickle.dumps([np.eye(2), Evil(target)], protocol=protocol))
    operation = "GLOBAL" if protocol < 4 else "STACK_GLOBAL"
    imported = f"{os.mkdir.__module__} mkdir" if protocol < 4 else ""
    with refused(UnsafePickleError, operation=operation, imported=imported):
        check_pickle(file)
    assert not target.exists()


def test_what_is_no_pickle_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"no pickle at all")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - pickletools' own
        check_pickle(file)
    assert not isinstance(caught.value, UnsafePickleError)
