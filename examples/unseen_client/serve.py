"""Serve wards that were never seen in training: by their metadata, then with five patients too."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from wards import TRAINED, error, examples, metadata, network

from strategies import Hypernetwork

UNSEEN = range(TRAINED, TRAINED + 6)


def trainer(ward: int, patients: int) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]:
    """Return what trains parameters on a ward's first patients, and returns the result."""
    values, stays = (part[:patients] for part in examples(ward))

    def change(parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        model: nn.Module = network()
        model.load_state_dict(dict(parameters))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.mse_loss(model(values), stays))
            optimizer.step()
        return model.state_dict()

    return change


def with_parameters(parameters: Mapping[str, Tensor]) -> nn.Module:
    """Return the network with generated parameters."""
    model: nn.Module = network()
    model.load_state_dict(dict(parameters), strict=False)
    return model


if __name__ == "__main__":
    hypernetwork = Hypernetwork.load("hypernetwork.safetensors")
    names = ("metadata", "and five patients", "no metadata", "five patients alone")
    errors: dict[str, list[float]] = {name: [] for name in names}
    for ward in UNSEEN:
        about = metadata(ward)
        errors["metadata"].append(error(with_parameters(hypernetwork.generate(about)), ward))
        free = hypernetwork.fit(trainer(ward, 5), about)
        fitted = with_parameters(hypernetwork.generate(about, free))
        errors["and five patients"].append(error(fitted, ward))
        errors["no metadata"].append(error(with_parameters(hypernetwork.generate()), ward))
        alone: Mapping[str, Tensor] = network().state_dict()
        for _ in range(5):  # as many steps as the fit of the embedding takes
            alone = trainer(ward, 5)(alone)
        errors["five patients alone"].append(error(with_parameters(alone), ward))
    for name, found in errors.items():
        print(f"{name:19} root mean squared error {sum(found) / len(found):.2f}")
