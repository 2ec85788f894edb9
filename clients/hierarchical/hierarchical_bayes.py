"""The client of a hierarchical Bayesian model: its own value of a part, under a learned prior."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from clients.base_client import PERSONAL_PART, Scalars
from clients.data.loaders import Loader
from clients.entries import canonical_names
from clients.evaluation import Evaluation
from clients.frozen import trained_parameters
from clients.inference.class_scores import calibrated
from clients.inference.fisher import fisher_diagonal
from clients.inference.gaussian_posterior import Gaussian, PosteriorAverage, Values
from clients.local_training.adaptation import ALL, take_examples
from clients.local_training.normalization_buffers import settle_spectral_norm
from clients.local_training.proximal import ProximalTerm
from clients.method_hooks import LocalRound
from clients.model_components.errors import ScopeError
from clients.personal_client import PersonalClient
from clients.scopes import Scope, names_of, select
from clients.state.personal_state import Snapshot, tensor_spec
from clients.task import Classification
from strategies.arrays import Spec
from strategies.errors import ArgumentError
from strategies.protocol import PRIOR_VARIANCE

__all__ = ["HierarchicalBayesClient"]

OWN_PART, PRECISION_PART = "own", "precision"


def prior_parameters(
    model: nn.Module,
    rule: str,
    scopes: Mapping[str, Scope] | None = None,
    example: Any = None,
) -> tuple[str, ...]:
    """Return the parameters that a rule gives a prior; buffers among what it selects have none.

    Parameters
    ----------
    model : Module
        The network.
    rule : str
        See :mod:`clients.scopes`.
    scopes : mapping of str to Scope, optional
        Scope of every state-dict entry; shared by default.
    example : object, optional
        See :func:`clients.select`.

    Raises
    ------
    ScopeError
        If the rule selects no parameter that is trained, or one that is not shared.
    """
    first = canonical_names(model)
    chosen = {first[name] for name in select(model, rule, example=example)}
    names = tuple(trained_parameters(model, chosen))
    if not names:
        raise ScopeError(
            f"the rule {rule!r} selects no parameter that a prior could be over, only "
            f"{sorted(chosen)}; choose a part that is trained, such as 'head' or 'all'",
            rule=rule,
            entries=sorted(chosen),
        )
    if odd := [n for n in names if scopes is not None and scopes[n] is not Scope.SHARED]:
        raise ScopeError(
            f"{odd} are to have a prior, which is shared, and are {scopes[odd[0]]} as well; "  # type: ignore[index]
            f"leave them out of one rule",
            rule=rule,
            entries=odd,
            scopes=[scopes[name] for name in odd],  # type: ignore[index]
        )
    return names


class HierarchicalBayesClient(PersonalClient):
    """Keep an own value ``theta_i`` of a part of the model, under the prior that all clients share.

    Per round, from the received rest and the client's own ``theta_i`` (the prior mean, before
    there is one), minimize the mean loss of its ``n`` examples plus
    ``sum_j (theta_j - mu_j)^2 / (2 n v_j)``, the negative log posterior over ``n``. So a client
    with few examples stays near the others and one with many goes its own way, without a strength
    to tune. The variance of the posterior is Laplace's: ``1 / (1 / v_j + n F_j)`` with the diagonal
    Fisher information ``F`` (MacKay 1992; with the Fisher information: Ritter et al. 2018).

    What is sent: the rest; ``theta_i`` under the model's own names; and as
    ``prior-variance/<name>`` the second moment ``V_i + (theta_i - mu)^2``. So
    the device sends its posterior's mean and variance for the part that has a prior.

    ``theta_i`` is kept in the personal state, and so is ``n F``, from which the posterior variance
    under any prior follows. Metrics: ``shrinkage`` and ``prior-distance``
    (:meth:`clients.inference.gaussian_posterior.Gaussian.shrinkage`,
    :meth:`~clients.inference.gaussian_posterior.Gaussian.distance`), and the ``calibration-error``
    of a classifier.

    Parameters
    ----------
    model, scopes, args, kwargs
        As in :class:`PersonalClient`; what has a prior must be shared. ``proximal_rules`` act on
        the rest only.
    prior : str, default "head"
        Rule, see :mod:`clients.scopes`: what has a prior. Buffers in it are shared.
    posterior_samples : int, default 0
        Predictions are averaged over so many draws of the posterior; 0 for the prediction of its
        mean.

    Raises
    ------
    ArgumentError
        If ``posterior_samples`` is negative.
    ScopeError
        See :func:`prior_parameters`.
    """

    def __init__(
        self,
        model: nn.Module,
        scopes: Mapping[str, Scope],
        *args: Any,
        prior: str = "head",
        posterior_samples: int = 0,
        **kwargs: Any,
    ) -> None:
        if posterior_samples < 0:
            raise ArgumentError("posterior_samples", posterior_samples, "at least 0")
        self.prior_names = prior_parameters(model, prior, scopes)
        self.posterior_samples = posterior_samples
        # A part of one's own to whoever trains: an unseen client fits it, a schedule can name it.
        super().__init__(
            model, {**scopes, **dict.fromkeys(self.prior_names, Scope.PERSONAL)}, *args, **kwargs
        )
        if isinstance(self.task, Classification):
            self.task = calibrated(self.task)
        self.personal_names = names_of(scopes, Scope.PERSONAL)
        # The variances stand beside the model's entries, so that they travel as these do.
        variances = {
            f"{PRIOR_VARIANCE}/{name}": torch.zeros_like(self.entries[name])
            for name in self.prior_names
        }
        self.entries = {**self.entries, **variances}
        self.shared_names = [*names_of(scopes, Scope.SHARED, Scope.GROUP), *variances]
        self._prior = Gaussian({}, {})
        self._precision: Values = {}
        self._fitted_on = self.num_examples

    # ------------------------------------------------------------------ training

    def train_locally(self, current: LocalRound) -> tuple[float, Values]:
        """Train, and say what is kept; as :meth:`PersonalClient.train_locally`."""
        self._take_over(current.before)
        if not self.num_examples:  # its posterior is the prior, whatever that becomes
            return math.nan, self.part(PERSONAL_PART, self.personal_names)
        with self.random(current.number, "train"):
            loss = self.train_model(self.proximal_terms())
        with self.random(current.number, "fisher"):
            self._precision = self._information(self.training_batches)
        variances = self._prior.posterior_variance(self._precision)
        for name, mean in self._prior.mean.items():
            away = self.entries[name] - mean
            self.entries[f"{PRIOR_VARIANCE}/{name}"].copy_(variances[name] + away.square())
        kept = self.part(PERSONAL_PART, self.personal_names)
        kept |= self.part(OWN_PART, self.prior_names)
        return loss, kept | {f"{PRECISION_PART}/{n}": t.cpu() for n, t in self._precision.items()}

    def _take_over(self, before: Snapshot | None) -> None:
        """Read the prior from the entries; put the client's own values in the network."""
        self._read_prior()
        own, precision = (before.part(p) if before else {} for p in (OWN_PART, PRECISION_PART))
        for name in own:
            self.entries[name].copy_(own[name])
            self._precision[name] = precision[name].to(self.entries[name].device)
        if own:
            settle_spectral_norm(self.model, self.shared_names)

    def _read_prior(self) -> None:
        """Take the received prior; before it has seen examples, a client's posterior is that."""
        self._prior = Gaussian(
            {n: self.entries[n].clone() for n in self.prior_names},
            {n: self.entries[f"{PRIOR_VARIANCE}/{n}"].clone() for n in self.prior_names},
        )
        self._precision = {n: torch.zeros_like(v) for n, v in self._prior.mean.items()}

    def _information(self, examples: Loader) -> Values:
        """Return how much the examples say of each parameter: ``n`` times its Fisher."""
        fisher = fisher_diagonal(self.model, examples, self.task, names=self.prior_names)
        return {name: self._fitted_on * value for name, value in fisher.items()}

    def proximal_terms(self) -> list[ProximalTerm]:
        """Return the proximal terms of the rest, and the prior's."""
        held = set(self.prior_names)
        terms = [
            ProximalTerm({n: c for n, c in t.anchor.items() if n not in held}, t.strength)
            for t in super().proximal_terms()
        ]
        return [*terms, self._prior.proximal_term(self._fitted_on)]

    # ------------------------------------------------------------------ evaluation

    def personalize(self, current: LocalRound) -> tuple[Scalars, Evaluation | None]:
        """Put the client's local model together; as :meth:`PersonalClient.personalize`."""
        self._take_over(current.before)
        return {
            "shrinkage": self._prior.shrinkage(self._precision),
            "prior-distance": self._prior.distance(self.entries),
        }, None

    def predictor(self) -> nn.Module:
        """Return the model, or the average over draws of the posterior."""
        draws = self._draws()
        return PosteriorAverage(self.model, draws, self.task) if draws else self.model

    def posterior_draws(self) -> Values:
        """Return the draws that predictions are averaged over; none for those of the mean."""
        draws = self._draws()
        names = self.prior_names if draws else ()
        return {name: torch.stack([each[name] for each in draws]) for name in names}

    def _draws(self) -> list[Values]:
        if not self.posterior_samples:
            return []
        posterior = Gaussian(
            {name: self.entries[name] for name in self.prior_names},
            self._prior.posterior_variance(self._precision),
        )
        return [posterior.draw() for _ in range(self.posterior_samples)]

    def adapt(self, examples: int, steps: int) -> None:
        """Fit the part with a prior (and what is personal) on a few examples, from the prior."""
        self._read_prior()
        few = self.num_examples if examples == ALL else min(examples, self.num_examples)
        self._fitted_on = few
        super().adapt(few, steps)
        if few:
            with self.random(0, "join"):  # the same examples again
                inputs, targets, _ = take_examples(self.training_batches, few)
            self._precision = self._information([(inputs, targets)])

    # ------------------------------------------------------------------ the inside

    def kept_spec(self) -> Spec:
        """Return names, shapes and dtypes of what is kept."""
        specs: Spec = tensor_spec({n: self.entries[n] for n in self.prior_names})
        parts = (OWN_PART, PRECISION_PART)
        return super().kept_spec() | {f"{p}/{n}": spec for p in parts for n, spec in specs.items()}

    @property
    def keeps_state(self) -> bool:
        """Whether there is anything to keep."""
        return True
