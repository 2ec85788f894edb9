"""What the clients of a process share: one network, which starts anew for each."""

import torch

from pfl_flower.config.run_config import RunConfig
from pfl_flower.model_setup import model_setup


def test_a_network_starts_anew_after_its_tensors_were_replaced_as_by_a_move_to_a_gpu():
    setup = model_setup(RunConfig(method="fedper", dataset="digits"))
    setup.reset_model()
    setup.model._apply(torch.clone)  # what .to("cuda") does: every tensor is another one
    with torch.no_grad():
        for parameter in setup.model.parameters():
            parameter.fill_(7.0)
    setup.reset_model()
    for name, value in setup.model.state_dict().items():
        torch.testing.assert_close(value, setup.initial[name])
