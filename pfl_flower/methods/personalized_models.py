"""Methods with a whole personalized model a client: Ditto, MR-MTL, pFedMe, APFL and L2GD.

All but APFL hold it near an anchor by ``lambda/2 ||theta_i - theta_0||^2``.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from clients.personalized_models.apfl import APFLClient
from clients.personalized_models.ditto import DittoClient
from clients.personalized_models.l2gd import MOST_AVERAGING, L2GDClient, largest_l2gd_strength
from clients.personalized_models.mr_mtl import MRMTLClient
from clients.personalized_models.pfedme import PFedMeClient
from clients.personalized_models.strength import check_overshoot
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.validators import again, between, key, number_or
from pfl_flower.methods.method import LOCAL_MODEL, Method, MethodKeys

if TYPE_CHECKING:
    from pfl_flower.client.build import ClientBuild
    from pfl_flower.config.run_config import RunConfig


@dataclass(frozen=True)
class AnchorKeys(MethodKeys):
    """Keys of a method that holds each personalized model near an anchor."""

    lambda_: float | str = key(
        0.3,
        "strength of the proximal term that holds a personalized model near its anchor; auto: each "
        "client chooses",
        number_or(0, math.inf, "auto", "inf"),
        kind=(float, str),
    )

    candidates: ClassVar[tuple[float, ...]] = (0.0, 0.1, 0.3, 1.0, math.inf)
    """What clients choose from; the ends are training alone and the shared model."""

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths that clients keep a model for; none where they follow from ``tau``."""
        return self.candidates if self.lambda_ == "auto" else (float(self.lambda_),)

    def check(self, config: "RunConfig") -> None:
        """Refuse a choice that nothing can be chosen on."""
        if self.lambda_ == "auto" and config.streams:
            raise ConfigError(
                f"{config.dataset!r} comes in phases, and a client's validation examples are of "
                f"the phase at hand only: no lambda can be chosen on them for all phases. Set "
                f"phases='joint', or a number",
                key="lambda",
                value="auto",
            )

    def client_arguments(self, build: "ClientBuild") -> dict[str, Any]:
        """Return the strengths, and the share of clients that take part in a round."""
        return super().client_arguments(build) | {
            "lambda_": self.strengths if self.lambda_ == "auto" else float(self.lambda_),
            "participation": build.config.fraction_train,
        }


@dataclass(frozen=True)
class DeviationKeys(AnchorKeys):
    """Keys of a method whose strength may follow from a deviation."""

    tau: float | None = key(
        None,
        "instead of lambda: deviation of personalized models around the anchor; "
        "lambda = 1 / (n tau^2)",
        between(1e-6),
        kind=float,
        to="client",
    )

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths that clients keep a model for; none where they follow from ``tau``."""
        return super().strengths if self.tau is None else ()

    def check(self, config: "RunConfig") -> None:
        """Refuse two ways to say the same."""
        super().check(config)
        if self.tau is not None and "lambda_" in config.own:
            raise ConfigError(
                "lambda and tau are two ways to say the same; set one", key="tau", value=self.tau
            )

    def client_arguments(self, build: "ClientBuild") -> dict[str, Any]:
        """Return the strengths, or the deviation."""
        given = super().client_arguments(build)
        return given if self.tau is None else given | {"lambda_": None}


@dataclass(frozen=True)
class PFedMeKeys(AnchorKeys):
    """Keys of pFedMe."""

    lambda_: float | str = again(AnchorKeys, "lambda_", 15.0)
    inner_steps: int = key(5, "steps of pfedme on every minibatch", between(1), to="client")
    outer_learning_rate: float = key(
        0.01, "of pfedme's step to the personalized model", between(0, open_low=True), to="client"
    )

    candidates: ClassVar[tuple[float, ...]] = (0.0, 1.0, 5.0, 15.0, math.inf)

    def check(self, config: "RunConfig") -> None:
        """Refuse a strength with which a step would go beyond the anchor."""
        super().check(config)
        for strength in filter(math.isfinite, self.strengths):
            check_overshoot(strength, 1 / self.outer_learning_rate, "1 / outer-learning-rate")


@dataclass(frozen=True)
class L2GDKeys(DeviationKeys):
    """Keys of L2GD."""

    averaging_probability: float | None = key(
        None,
        "of l2gd's coin; empty: as large as lambda needs, at least 0.1",
        between(0.001, 0.999),
        kind=float,
        to="client",
    )

    def check(self, config: "RunConfig") -> None:
        """Refuse an optimizer that unbalances its steps, and a coin that does not fit lambda."""
        super().check(config)
        if config.optimizer != "sgd":
            raise ConfigError(
                "its averaging steps balance plain SGD; set optimizer to 'sgd'",
                key="optimizer",
                value=config.optimizer,
                choices=("sgd",),
            )
        probability = self.averaging_probability
        if not self.strengths and probability is not None:
            raise ConfigError(
                "with tau the coin has to fit it: leave averaging-probability empty",
                key="averaging-probability",
                value=probability,
            )
        largest = largest_l2gd_strength(config.learning_rate, probability or MOST_AVERAGING)
        for strength in filter(math.isfinite, self.strengths):
            check_overshoot(strength, largest, "p / ((1 - p) learning-rate)")


@dataclass(frozen=True)
class APFLKeys(MethodKeys):
    """Keys of APFL."""

    mixing: float | str = key(
        "auto",
        "weight of the personalized model in apfl's mixture; auto: it adapts",
        number_or(0, 1, "auto"),
        kind=(float, str),
    )

    def client_arguments(self, build: "ClientBuild") -> dict[str, Any]:
        """Return the mixing weight; None where it adapts."""
        return {
            "mixing": None if self.mixing == "auto" else self.mixing,
            "participation": build.config.fraction_train,
        }


_STRENGTHS = {"lambda": (0.1, 0.3, 1.0)}
_NO_MU = {"mu": "its proximal term is lambda"}

METHODS = {
    "ditto": Method(
        summary="personalized models near the FedAvg model, which lambda holds them to",
        source="Li et al. 2021, arXiv:2012.04221",
        keys=DeviationKeys,
        refuses=LOCAL_MODEL,
        local_model="kept",
        strengths=_STRENGTHS,
        client=DittoClient,
    ),
    "mr-mtl": Method(
        summary="personalized models near their mean",
        source="Liu et al. 2022, arXiv:2206.07902",
        keys=DeviationKeys,
        refuses=LOCAL_MODEL | _NO_MU,
        local_model="kept",
        strengths=_STRENGTHS,
        client=MRMTLClient,
    ),
    "pfedme": Method(
        summary="personalized models near a minimizer of Moreau envelopes",
        source="Dinh et al. 2020, arXiv:2006.08848",
        keys=PFedMeKeys,
        refuses=LOCAL_MODEL | _NO_MU,
        local_model="kept",
        strengths={"lambda": (1.0, 5.0, 15.0)},
        client=PFedMeClient,
    ),
    "apfl": Method(
        summary="a mixture of a personalized model and the shared one, with a weight that adapts",
        source="Deng et al. 2020, arXiv:2003.13461",
        keys=APFLKeys,
        refuses=LOCAL_MODEL,
        local_model="kept",
        strengths={"mixing": (0.25, 0.5, 0.75)},
        client=APFLClient,
    ),
    "l2gd": Method(
        summary="personalized models near their mean; a coin chooses between a step and the mean",
        source="Hanzely & Richtarik 2020, arXiv:2002.05516",
        keys=L2GDKeys,
        defaults={"weighting": "uniform"},
        refuses=LOCAL_MODEL | _NO_MU,
        local_model="kept",
        strengths=_STRENGTHS,
        client=L2GDClient,
    ),
}
