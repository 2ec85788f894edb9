"""Hierarchical Bayes: clients' models have a Gaussian prior that all clients share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients.hierarchical.hierarchical_bayes import HierarchicalBayesClient, prior_parameters
from clients.hierarchical.hierarchical_linear import HierarchicalLinearClient, check_protocol
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.validators import between, choice, key
from pfl_flower.methods.method import LOCAL_MODEL, SOLVED, Method, MethodKeys
from pfl_flower.models.single_examples import check_example_gradients
from pfl_flower.results.hierarchical import write_shrinkage
from strategies import HierarchicalBayes, HierarchicalLinear
from strategies.arrays import linear_coefficients, to_record
from strategies.errors import ArgumentError
from strategies.hierarchical.linear_arrays import PROTOCOLS
from strategies.hierarchical.mixed_effects_em import STRUCTURES

if TYPE_CHECKING:
    from pfl_flower.client.build import ClientBuild
    from pfl_flower.config.run_config import RunConfig
    from pfl_flower.model_setup import ModelSetup


@dataclass(frozen=True)
class HierarchicalLinearKeys(MethodKeys):
    """Keys of linear models with a common prior."""

    protocol: str = key(
        "auto",
        "what clients send; auto: one-shot, iterative for classes",
        choice("auto", *PROTOCOLS),
    )
    covariance: str = key(
        "auto",
        "of clients' coefficients; auto: full, diagonal for classes",
        choice("auto", *STRUCTURES),
    )
    restricted: bool = key(
        True, "count in that the prior's mean is an estimate (REML)", to="strategy"
    )

    def check(self, config: "RunConfig") -> None:
        """Refuse a protocol that the task cannot have."""
        if config.known_schema is not None:
            numbers = config.known_schema.task == "regression"
            check_protocol(self.protocol_for(numbers), numbers)

    def check_model(self, setup: "ModelSetup") -> None:
        """Refuse a network that is not one linear layer."""
        shared = {name: setup.initial[name].numpy() for name in setup.shared_names}
        try:
            linear_coefficients(to_record(shared))
        except ArgumentError as error:
            raise ConfigError(
                f"{setup.config.method} is for linear models: {error}",
                key="model",
                value=setup.config.model,
            ) from error

    def protocol_for(self, numbers: bool) -> str:
        """Return the protocol for numbers, or for classes."""
        if self.protocol != "auto":
            return self.protocol
        return "one-shot" if numbers else "iterative"

    def client_arguments(self, build: "ClientBuild") -> dict[str, Any]:
        """Return the protocol."""
        return {"protocol": self.protocol_for(build.config.required_schema.task == "regression")}

    def strategy_arguments(self, setup: "ModelSetup") -> dict[str, Any]:
        """Return the protocol and the structure of the covariance."""
        numbers = setup.config.required_schema.task == "regression"
        # that of all classes' coefficients is too large to be estimated whole
        automatic = "full" if numbers else "diagonal"
        return super().strategy_arguments(setup) | {
            "protocol": self.protocol_for(numbers),
            "covariance": automatic if self.covariance == "auto" else self.covariance,
        }


@dataclass(frozen=True)
class HierarchicalBayesKeys(MethodKeys):
    """Keys of a prior over a part of a network."""

    prior: str = key("head", "rule: what has a prior", to="client")
    prior_variance: float = key(
        1.0, "first variance of the prior", between(0, 1e30, open_low=True), to="strategy"
    )
    prior_weight: float = key(
        10.0,
        "clients' worth of evidence that all variances of a tensor are one",
        between(0),
        to="strategy",
    )
    posterior_samples: int = key(
        0,
        "draws that predictions are averaged over; 0: the posterior mean",
        between(0),
        to="client",
    )

    def prior_names(self, setup: "ModelSetup") -> tuple[str, ...]:
        """Return the parameters that have a prior."""
        return setup.config.once("prior", lambda: self._prior_names(setup))

    def _prior_names(self, setup: "ModelSetup") -> tuple[str, ...]:
        with setup.trial_inputs() as example:
            return prior_parameters(setup.model, self.prior, setup.scopes, example)

    def client_arguments(self, build: "ClientBuild") -> dict[str, Any]:
        """Return the names that have a prior, in the place of the rule that selects them."""
        names = ",".join(f"./{name}" for name in self.prior_names(build.setup))
        return self.passed_to("client") | {"prior": names}

    def check_model(self, setup: "ModelSetup") -> None:
        """Refuse a rule that selects no parameter, or one that is not shared.

        Refuse a network in which an example has no gradient of its own, too.
        """
        check_example_gradients(setup, self.prior_names(setup))

    def personal_names(self, setup: "ModelSetup") -> list[str]:
        """Return what is personal, and what has a prior."""
        return [*super().personal_names(setup), *self.prior_names(setup)]

    def strategy_arguments(self, setup: "ModelSetup") -> dict[str, Any]:
        """Return the keys, and what has a prior."""
        return super().strategy_arguments(setup) | {"prior_names": self.prior_names(setup)}


METHODS = {
    "hierarchical-linear": Method(
        summary="linear models of the clients' own, weighed against a prior that all share",
        source="Lindley & Smith 1972; Laird & Ware 1982, Biometrics 38",
        keys=HierarchicalLinearKeys,
        refuses=LOCAL_MODEL
        | {
            "mu": "nothing is trained in steps",
            "schedule": "nothing is trained in steps",
            "server-momentum": "a prior is no mean of parameters",
            "weighting": "its clients all count alike",
        },
        ignores=SOLVED,
        model="linear",
        local_model="computed",
        sums=True,
        strategy=HierarchicalLinear,
        client=HierarchicalLinearClient,
        write=write_shrinkage,
    ),
    "hierarchical-bayes": Method(
        summary="shared body; own heads under a Gaussian prior that all clients make together",
        source="empirical Bayes, after Efron & Morris 1973; Laplace's posterior, MacKay 1992",
        keys=HierarchicalBayesKeys,
        strengths={"prior-variance": (0.1, 1.0, 10.0)},
        strategy=HierarchicalBayes,
        client=HierarchicalBayesClient,
        write=write_shrinkage,
    ),
}
