"""A method's network with its first values, and the scope of every entry of it.

Server and clients need the same, and make it once a process.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from clients import GraphNetwork, Scope, assign_scopes
from clients.entries import entries_of, put_entries
from clients.normalization import settle_spectral_norm, spectral_vectors
from clients.scopes import names_of
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.models import Architecture, build_model
from strategies.arrays import encode, view

_UNKNOWN_TO_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@lru_cache(maxsize=4)
def initial_model(architecture: Architecture, seed: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a network and its first values, made once a process."""
    model = build_model(architecture, seed)
    return model, copy.deepcopy(entries_of(model))


@lru_cache(maxsize=16)
def _scopes(
    architecture: Architecture, seed: int, personal: str, group: str
) -> Mapping[str, Scope]:
    model, _ = initial_model(architecture, seed)
    return assign_scopes(model, personal, group)


@dataclass(frozen=True)
class ModelSetup:
    """What a method trains.

    Parameters
    ----------
    config : RunConfig
        Of the method.
    model : nn.Module
        The network; all clients of a process use it one after another.
    initial : mapping
        State-dict name -> first value.
    scopes : mapping
        State-dict name -> scope.
    """

    config: RunConfig
    model: nn.Module
    initial: Mapping[str, Tensor]
    scopes: Mapping[str, Scope]

    def reset_model(self) -> None:
        """Put the first values into the network."""
        put_entries(self.model, self.initial)

    def settled(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return final arrays, the vectors of spectral norm being those of the weights."""
        names = [n for n in spectral_vectors(self.model) if n in arrays]
        if not names:
            return arrays
        self.reset_model()
        received = {n: torch.from_numpy(view(a).copy()) for n, a in arrays.items()}
        put_entries(self.model, {n: t for n, t in received.items() if n in self.initial})
        settle_spectral_norm(self.model, names)
        entries = entries_of(self.model)
        new = {n: encode(entries[n].cpu().numpy()) for n in names}
        return ArrayRecord({n: new.get(n, array) for n, array in arrays.items()})

    @cached_property
    def shared_names(self) -> list[str]:
        """Entries that travel: of scope ``shared`` or ``group``."""
        return names_of(self.scopes, Scope.SHARED, Scope.GROUP)

    @cached_property
    def shared_parameters(self) -> list[str]:
        """Parameters among them, buffers left out."""
        shared = set(self.shared_names)
        return [name for name, _ in self.model.named_parameters() if name in shared]

    @property
    def personal_names(self) -> list[str]:
        """Entries of which every client has a value of its own."""
        if self.config.row.local_model:
            return list(self.initial)
        return self.config.own_keys.personal_names(self)

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep anything between rounds."""
        kept = self.config.own_keys.personal_names(self)
        return self.config.row.local_model == "kept" or bool(kept)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of values (buffers included) of each scope."""
        names = {"shared": names_of(self.scopes, Scope.SHARED)}
        if grouped := names_of(self.scopes, Scope.GROUP):
            names["group"] = grouped
        names["personal"] = self.personal_names
        return {scope: sum(self.initial[n].numel() for n in own) for scope, own in names.items()}

    def check(self) -> None:
        """Refuse rules that do not fit the network, and a network that does not fit the data.

        Raises
        ------
        ScopeError
            If a rule does not fit.
        ConfigError
            If the network is not for such data, not for the method, or of a type of numbers that
            cannot travel.
        """
        config, graph = self.config, self.config.required_schema.graph
        if isinstance(self.model, GraphNetwork) != graph:
            raise ConfigError(
                f"model {config.model!r} is a {type(self.model).__name__}; {config.dataset!r} "
                f"needs {'a clients.GraphNetwork' if graph else 'another network'}",
                key="model",
                value=config.model,
            )
        if odd := [n for n, values in self.initial.items() if values.dtype in _UNKNOWN_TO_NUMPY]:
            raise ConfigError(
                f"model {config.model!r} has entries of a type that NumPy does not know, so these "
                f"cannot travel: {', '.join(f'{n} ({self.initial[n].dtype})' for n in odd)}; "
                f"convert it with .float()",
                key="model",
                value=config.model,
            )
        config.own_keys.check_model(self)


def model_setup(config: RunConfig) -> ModelSetup:
    """Return what a method trains, made once for a config.

    Raises
    ------
    ScopeError
        If a rule of scopes does not fit the network.
    """
    return config.once("model setup", lambda: _make_setup(config))


def _make_setup(config: RunConfig) -> ModelSetup:
    model, initial = initial_model(config.architecture, config.seed)
    scopes = _scopes(config.architecture, config.seed, config.personal_rule, config.group_rule)
    return ModelSetup(config, model, initial, scopes)
