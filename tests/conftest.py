"""What all tests share."""

import pytest
import torch
from hypothesis import settings

from clients.logs import forget
from pfl_flower.grid import identify_process

# The first example pays for imports; what a deadline would find is a busy machine.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _one_thread_and_an_identity(monkeypatch):
    """One torch thread, a process that may make Messages, and nothing said or set before."""
    torch.set_num_threads(1)
    forget()
    identify_process()
    monkeypatch.delenv("PFL_PERSONAL_DIR", raising=False)
