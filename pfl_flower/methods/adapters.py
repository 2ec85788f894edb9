"""Methods for low-rank adapters (LoRA) over a frozen network: FedIT, FFA-LoRA, FedSA-LoRA, FedDPA.

What of the adapters is averaged and what is personal; the head is personal in all of them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from clients import GraphNetwork, Scope, low_rank_pairs, trained_parameters
from clients.adapters.feddpa import FedDPAClient
from clients.model_components.layer_types import layer_of
from clients.scopes import names_of
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.validators import between, key
from pfl_flower.methods.method import Method, MethodKeys
from pfl_flower.models import LOW_RANK_MODELS
from strategies import LowRankAveraging

if TYPE_CHECKING:
    from pfl_flower.config.run_config import RunConfig
    from pfl_flower.model_setup import ModelSetup


@dataclass(frozen=True)
class LowRankKeys(MethodKeys):
    """Keys of a method for low-rank adapters."""

    def check_network(self, config: "RunConfig", model: nn.Module) -> None:
        """Refuse a network without low-rank adapters, or with none that are trained."""
        pairs, trained = low_rank_pairs(model), trained_parameters(model)
        halves = {pair.b for pair in pairs}
        halves |= set() if config.row.freezes else {pair.a for pair in pairs}
        if halves & trained.keys():
            return
        found = "are all frozen (requires_grad is false)" if pairs else "are not there"
        named = config.architecture.model
        raise ConfigError(
            f"method {config.method!r} is for low-rank adapters (LoRA), and those of model "
            f"{named!r} {found}; set trainable=lora, which adds them to a network (by peft), or "
            f"take {', '.join(sorted(LOW_RANK_MODELS))}",
            key="model",
            value=named,
            choices=sorted(LOW_RANK_MODELS),
        )


@dataclass(frozen=True)
class AveragedKeys(LowRankKeys):
    """Keys of a method that averages both halves of low-rank adapters."""

    exact_mean: bool = key(
        False,
        "average the products of the halves of low-rank adapters, truncated to their rank, instead "
        "of each half for itself",
        to="strategy",
    )

    def check(self, config: "RunConfig") -> None:
        """Refuse momentum of halves that are those of a product taken apart anew each round."""
        if self.exact_mean and config.server_momentum:
            raise ConfigError(
                "of an exact mean the halves are found anew in each round, so their steps have no "
                "momentum; set server-momentum to 0, or exact-mean to false",
                key="server-momentum",
                value=config.server_momentum,
            )

    def check_model(self, setup: "ModelSetup") -> None:
        """Refuse an exact mean where it is the plain one."""
        if self.exact_mean and not _averaged(setup):
            raise ConfigError(
                f"with personal={setup.config.personal_rule!r} no low-rank adapter of "
                f"{setup.config.architecture.model!r} has both halves averaged, so the mean is "
                f"exact as it is; set exact-mean to false",
                key="exact-mean",
                value=True,
            )

    def strategy_arguments(self, setup: "ModelSetup") -> dict[str, Any]:
        """Return which arrays are halves of one product beside what is passed on."""
        return super().strategy_arguments(setup) | {"pairs": _averaged(setup)}


def _averaged(setup: "ModelSetup") -> dict[str, str]:
    """Return the halves A -> B of the low-rank adapters of which both are averaged."""
    shared = set(names_of(setup.scopes, Scope.SHARED))
    pairs = low_rank_pairs(setup.model)
    return {pair.a: pair.b for pair in pairs if {pair.a, pair.b} <= shared}


def _with_magnitude(model: nn.Module) -> list[str]:
    """Return the layers with DoRA, which call halves on more than examples: for a weight's norm."""
    layers = ((path, layer_of(module), module) for path, module in model.named_modules())
    return [
        path
        for path, row, module in layers
        if row is not None and row.halves and getattr(module, "lora_magnitude_vector", None)
    ]


@dataclass(frozen=True)
class FedDPAKeys(AveragedKeys):
    """Keys of FedDPA."""

    mixing: float = key(
        0.5,
        "weight of the personal adapter in training, and the largest in predictions",
        between(0, 1),
        to="client",
    )
    instances: int = key(
        5,
        "training examples that an example is compared with to find the weight of the personal "
        "adapter; 0: mixing, whatever the example",
        between(0),
        to="client",
    )

    def check_network(self, config: "RunConfig", model: nn.Module) -> None:
        """Refuse adapters that cannot be mixed for each example."""
        super().check_network(config, model)
        halves = {half for pair in low_rank_pairs(model) for half in (pair.a, pair.b)}
        held = {half.rpartition(".")[0] for half in halves}
        tables = sorted(p for p in held if isinstance(model.get_submodule(p), nn.ParameterDict))
        found = {
            f"the adapters {', '.join(tables)} are of an embedding": tables,
            f"the adapters {', '.join(weighed := _with_magnitude(model))} are DoRA's": weighed,
            "it is for a graph": isinstance(model, GraphNetwork),
        }
        for what, there in found.items():
            if there:
                raise ConfigError(
                    f"feddpa mixes the outputs of adapters, example for example, and of model "
                    f"{config.architecture.model!r} {what}, which has no such outputs; take fedit "
                    f"or fedsa-lora, or adapters (LoRA) of other layers",
                    key="model",
                    value=config.architecture.model,
                )

    def personal_names(self, setup: "ModelSetup") -> list[str]:
        """Return the head, and the adapters, of which every client has one of its own, too."""
        halves = {half for pair in low_rank_pairs(setup.model) for half in (pair.a, pair.b)}
        held = tuple(f"{half.rpartition('.')[0]}." for half in halves)
        own = {*names_of(setup.scopes, Scope.PERSONAL)}
        return [name for name in setup.scopes if name in own or name.startswith(held)]


METHODS = {
    "fedit": Method(
        summary="both halves of low-rank adapters are averaged; personal head",
        source="Zhang et al. 2024, arXiv:2305.05644",
        keys=AveragedKeys,
        defaults={"personal": "head"},
        block="low-rank",
        strategy=LowRankAveraging,
    ),
    "ffa-lora": Method(
        summary="the halves A of low-rank adapters stay at their first values, the B are averaged; "
        "personal head",
        source="Sun et al. 2024, arXiv:2403.12313",
        keys=LowRankKeys,
        defaults={"personal": "head"},
        block="low-rank",
        freezes="adapter.A",
    ),
    "fedsa-lora": Method(
        summary="the halves A of low-rank adapters are averaged, the B are personal, and the head",
        source="Guo et al. 2025, arXiv:2410.01463",
        keys=LowRankKeys,
        defaults={"personal": "head,adapter.B"},
        block="low-rank",
    ),
    "feddpa": Method(
        summary="a shared low-rank adapter and a personal one, mixed for each example; personal "
        "head",
        source="Yang et al. 2024, arXiv:2403.19211",
        keys=FedDPAKeys,
        defaults={"personal": "head"},
        refuses={"schedule": "it trains the personal adapter and the head, then the shared one"},
        block="low-rank",
        strengths={"mixing": (0.25, 0.5, 0.75)},
        strategy=LowRankAveraging,
        client=FedDPAClient,
    ),
}
