"""Lifelong learning on the device: Fisher penalty, proximal term, and changes of the task."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients.lifelong.lifelong import LifelongClient
from pfl_flower.config.validators import between, choice, key, number_or
from pfl_flower.methods.method import LOCAL_MODEL, Method, MethodKeys
from pfl_flower.models.single_examples import check_example_gradients

if TYPE_CHECKING:
    from pfl_flower.client.build import ClientBuild
    from pfl_flower.model_setup import ModelSetup


@dataclass(frozen=True)
class LifelongKeys(MethodKeys):
    """Keys of lifelong learning."""

    lambda_: float | str = key(
        0.4,
        "strength of the Fisher penalty that preserves old tasks",
        number_or(0, math.inf, "inf"),
        kind=(float, str),
    )
    fisher_decay: float = key(
        1.0, "what is left of old Fisher information at a change", between(0, 1), to="client"
    )
    fisher_samples: int = key(
        0, "labels drawn for an example; 0: exact, all classes", between(0), to="client"
    )
    task_changes: str = key(
        "announced", "how lifelong learns of changes", choice("announced", "detected")
    )

    def check_model(self, setup: "ModelSetup") -> None:
        """Refuse a network in which an example has no gradient of its own."""
        if self.lambda_ != 0.0:
            check_example_gradients(setup)

    def client_arguments(self, build: "ClientBuild") -> dict[str, Any]:
        """Return the strength, and which task it is where the data announce it."""
        own = {
            "lambda_": float(self.lambda_),
            "participation": build.config.fraction_train,
            "task_id": build.phase if self.task_changes == "announced" else None,
        }
        return super().client_arguments(build) | own


METHODS = {
    "lifelong": Method(
        summary="learn the new, preserve the old (lambda, Fisher), stay near the mean of all (mu)",
        source="after Kirkpatrick et al. 2017, arXiv:1612.00796",
        keys=LifelongKeys,
        defaults={"mu": 0.2},
        refuses=LOCAL_MODEL,
        local_model="kept",
        strengths={"lambda": (0.1, 1.0, 10.0)},
        client=LifelongClient,
    ),
}
