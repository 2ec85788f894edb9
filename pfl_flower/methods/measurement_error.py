"""Methods that know how good each client's data are: quality weights, errors in variables."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clients.measurement_error.errors_in_variables import ErrorsInVariablesClient
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.validators import between, key
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.methods.method import SOLVED, Method, MethodKeys
from strategies import ErrorsInVariables, QualityWeighted

if TYPE_CHECKING:
    from pfl_flower.config.run_config import RunConfig


@dataclass(frozen=True)
class QualityWeightedKeys(MethodKeys):
    """Keys of weights by quality."""

    largest_share: float | None = key(
        None,
        "no client counts for more; empty: three times an equal share",
        between(0, 1, open_low=True),
        kind=float,
        to="strategy",
    )
    least_quality: float = key(
        0.0,
        "clients of a lower (1 - missing) x reliability do not count",
        between(0, 1),
        to="strategy",
    )
    update_clip: float = key(
        2.0,
        "longest update, in medians of all clients' updates; 0: any",
        between(0),
        to="strategy",
    )


@dataclass(frozen=True)
class ErrorsInVariablesKeys(MethodKeys):
    """Keys of errors in variables: none, but it refuses some values of the common ones."""

    def check(self, config: "RunConfig") -> None:
        """Refuse inputs without an error, and a network that is not the linear one."""
        if IMPUTATIONS[config.data.imputation].masks:
            raise ConfigError(
                f"method {config.method!r} needs the error of every input, and of those that say "
                f"what is missing there is none; set imputation to mean or conditional",
                key="imputation",
                value=config.data.imputation,
                choices=("mean", "conditional"),
            )
        if config.model not in ("auto", "linear"):
            raise ConfigError(
                f"method {config.method!r} is for model='linear' only, not {config.model!r}",
                key="model",
                value=config.model,
                choices=("linear",),
            )


_ONE_MODEL = "it solves for one model, of which only each client's calibration is personal"

METHODS = {
    "quality-weighted": Method(
        summary="FedAvg by examples x quality of the data; bounded, so that no client can lie much",
        source="DerSimonian & Laird 1986 (weights); Sun et al. 2019, arXiv:1911.07963 (clipping)",
        keys=QualityWeightedKeys,
        refuses={"weighting": "its clients count by examples and quality"},
        strengths={"least-quality": (0.0, 0.3, 0.6)},
        strategy=QualityWeighted,
    ),
    "errors-in-variables": Method(
        summary="a linear model of true values; each client calibrates its own noisy measurements",
        source="Fuller 1987, Measurement Error Models; Carroll et al. 2006; Efron 1975",
        keys=ErrorsInVariablesKeys,
        refuses={
            "personal": _ONE_MODEL,
            "personal-decay": _ONE_MODEL,
            "mu": "nothing is trained in steps",
            "schedule": "nothing is trained in steps",
            "server-momentum": "solved equations are no mean of parameters",
            "weighting": "every example counts alike",
            "calibrate-inputs": "it corrects for measurement errors itself, and would do so twice",
        },
        ignores=SOLVED,
        model="linear",
        sums=True,
        strategy=ErrorsInVariables,
        client=ErrorsInVariablesClient,
    ),
}
