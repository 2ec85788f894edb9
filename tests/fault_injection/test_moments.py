"""Every moment at which a device can be struck comes in a run."""

import pytest

from clients.local_training import training
from clients.personal_client import PersonalClient
from clients.state import state_file
from pfl_flower.engines import simulate
from tests.fault_injection.moments import MOMENTS


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_device_is_struck_at_each_moment(monkeypatch, tmp_path, moment):
    # what a moment changes, so that it is changed back
    monkeypatch.setattr(training, "local_step", vars(training)["local_step"])
    monkeypatch.setattr(PersonalClient, "fit", PersonalClient.fit)
    monkeypatch.setattr(state_file, "os", vars(state_file)["os"])
    strikes: list[str] = []
    MOMENTS[moment](lambda: strikes.append(moment))
    config = {"method": "fedper", "baselines": "", "num-server-rounds": 2}
    simulate({**config, "personal-dir": str(tmp_path)}, num_clients=2)
    assert strikes
