"""The data and the network of the project: hospital wards that differ by region and size.

Every ward measures five values of a patient and wants to know the length of the stay. What the
values mean depends on the ward's region and on its number of beds.
"""

import json
from typing import Any

import numpy as np
import torch
from flwr.app import Context
from numpy.typing import NDArray
from torch import Tensor, nn

from clients import (
    ClientDetails,
    Optimization,
    PersonalClient,
    Regression,
    assign_scopes,
    client_app,
    in_memory_loader,
)

REGIONS, FEATURES = ("north", "south", "east"), 5
TRAINED = 24
"""Wards 0 to 23 are trained; the numbers from 24 on are unseen."""


def metadata(ward: int) -> dict[str, str | float]:
    """Return what a ward reports of itself."""
    return {"region": REGIONS[ward % 3], "beds": float(10 + (7 * ward) % 40)}


def examples(ward: int, count: int = 40) -> tuple[Tensor, Tensor]:
    """Return values ``(count, 5)`` and lengths of stay ``(count, 1)`` of a ward's patients."""
    regions = np.random.default_rng(100).normal(size=(len(REGIONS), FEATURES))
    by_beds = np.random.default_rng(101).normal(size=FEATURES)
    about, draw = metadata(ward), np.random.default_rng(ward)
    beds = (float(about["beds"]) - 30.0) / 20.0
    slopes: NDArray[Any] = regions[ward % 3] + beds * by_beds
    values = draw.normal(size=(count, FEATURES))
    stays = values @ slopes + 0.3 * draw.normal(size=count)
    return torch.from_numpy(values).float(), torch.from_numpy(stays).float()[:, None]


def network() -> nn.Module:
    """Return the network, with the same first values on every call."""
    torch.manual_seed(0)
    return nn.Linear(FEATURES, 1)


def error(model: nn.Module, ward: int) -> float:
    """Return the root mean squared error of a model on a ward's patients 40 to 200."""
    values, stays = (part[40:] for part in examples(ward, 200))
    with torch.no_grad():
        return float((model(values) - stays).square().mean().sqrt())


def build(context: Context, config: Any) -> PersonalClient:
    """Return the client of a ward."""
    ward = int(context.node_config["partition-id"])
    model = network()
    values, stays = examples(ward)
    return PersonalClient(
        model,
        assign_scopes(model),
        in_memory_loader(values, stays, 20, shuffle=True),
        test_loader=in_memory_loader(values, stays, 40),
        task=Regression(),
        optimization=Optimization("sgd", 0.05),
        partition_id=ward,
        details=ClientDetails(properties={"metadata": json.dumps(metadata(ward))}),
    )


app = client_app(build)
"""The ClientApp: on real devices, what `flower-supernode` runs."""
