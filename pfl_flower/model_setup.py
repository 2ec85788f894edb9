"""A method's network, its initial values, and every entry's scope, made once a process."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor, nn

from clients import GraphNetwork, Scope, assign_scopes, trained_parameters
from clients.data.inputs import Inputs
from clients.entries import UNKNOWN_TO_NUMPY, check_replaceable, entries_of, put_entries
from clients.local_training.normalization_buffers import settle_spectral_norm, spectral_vectors
from clients.logs import info_once, warn_once
from clients.model_components.low_rank import draw_zero_halves
from clients.model_components.words import shortened
from clients.scopes import MOVING, components, names_of
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.models import Architecture, build_model
from pfl_flower.models.hidden_state import HiddenState
from pfl_flower.models.input_type import (
    gives_probabilities,
    has_embedding,
    needs_integers,
    trial_inputs,
)
from pfl_flower.sent_bases import with_sent_base
from strategies.arrays import encode, view
from strategies.errors import ArgumentError
from strategies.randomness import named_seed


@lru_cache(maxsize=4)
def _new_model(
    architecture: Architecture, seed: int
) -> tuple[nn.Module, dict[str, Tensor], HiddenState]:
    model = build_model(architecture, seed)
    return model, copy.deepcopy(entries_of(model)), HiddenState(model)


def initial_model(architecture: Architecture, seed: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a network and its first values, made once a process."""
    return _new_model(architecture, seed)[:2]


def forget_networks() -> None:
    """Make networks anew from now on: a user's function may read a file that has changed."""
    _new_model.cache_clear()
    _scopes.cache_clear()


@lru_cache(maxsize=16)
def _scopes(
    architecture: Architecture, seed: int, personal: str, group: str, integers: bool
) -> Mapping[str, Scope]:
    model, _ = initial_model(architecture, seed)
    a = architecture
    with trial_inputs(model, a.shape, integers, a.links, a.inputs) as example:
        return assign_scopes(model, personal, group, example=example)


def with_input_type(config: RunConfig) -> RunConfig:
    """Return a config by whose schema inputs are integers only if its network takes no floats.

    Parameters
    ----------
    config : RunConfig
        Of a run, with the merged schema of the clients.

    Raises
    ------
    ConfigError
        If its network has an embedding and takes no floats, and the data are no integers.
    """
    schema = config.required_schema
    model, _ = initial_model(config.architecture, config.seed)
    if schema.graph or schema.inputs or not (schema.integers or has_embedding(model)):
        return config
    needed = needs_integers(model, config.architecture.shape)
    if needed and not schema.integers:
        raise ConfigError(
            f"model {config.model!r} takes integers only, as an embedding does, and the inputs of "
            f"{config.dataset!r} are floats; return integers (x.astype('int64')) from a folder or "
            f"a function, or convert them in the network (inputs.long())",
            key="model",
            value=config.model,
        )
    if needed:
        info_once(f"Model {config.model} takes no floats, so it gets the integers of the data")
        return config
    return config.with_schema(replace(schema, integers=False))


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
        State-dict name -> first value; of a frozen base that the server sent, that.
    scopes : mapping
        State-dict name -> scope.
    hidden : HiddenState
        First values of what the network keeps outside of its state dict.
    """

    config: RunConfig
    model: nn.Module
    initial: Mapping[str, Tensor]
    scopes: Mapping[str, Scope]
    hidden: HiddenState

    def trial_inputs(self) -> AbstractContextManager[Inputs]:
        """Return a context that gives two examples of zeros, to try the network on."""
        architecture, schema = self.config.architecture, self.config.required_schema
        shape, links = architecture.shape, architecture.links
        return trial_inputs(self.model, shape, schema.integers, links, schema.inputs)

    def reset_model(self) -> None:
        """Put the first values into the network."""
        self.reset(self.model)

    def reset(self, model: nn.Module) -> None:
        """Put the first values into the network, or a copy of it, as every message finds it."""
        put_entries(model, self.initial)
        if changed := self.hidden.restore(model):
            warn_once(
                f"The network {self.config.model!r} keeps {', '.join(changed)} outside of its "
                "state dict: that is neither sent nor kept, and starts anew with each message. "
                "What should stay has to be a buffer (register_buffer)"
            )

    def another_draw(self, restart: int, number: int) -> Mapping[str, NDArray[Any]]:
        """Return other first values of the shared parameters, by the network's initialisation.

        What its builder reads from a file is the same in all. Zero halves B of adapters are drawn.

        Parameters
        ----------
        restart, number : int
            Name the draw.
        """
        seed = named_seed(self.config.seed, "another draw", restart, number)
        model = build_model(self.config.architecture, seed)
        entries = entries_of(model)
        draw_zero_halves(model, entries, seed)
        return {name: entries[name].numpy() for name in self.shared_parameters}

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
    def head_names(self) -> frozenset[str]:
        """Entries that make the outputs: where no head is found, all of the network may be one."""
        with self.trial_inputs() as example:
            head = components(self.model, example=example).get("head")
        return frozenset(self.initial if head is None else head)

    @cached_property
    def shared_names(self) -> list[str]:
        """Entries that travel: of scope ``shared`` or ``group``."""
        return names_of(self.scopes, Scope.SHARED, Scope.GROUP)

    @cached_property
    def shared_parameters(self) -> list[str]:
        """Parameters among them that are trained; buffers are left out."""
        shared = set(self.shared_names)
        return list(trained_parameters(self.model, shared))

    @property
    def personal_names(self) -> list[str]:
        """Entries of which every client has a value of its own."""
        if self.config.row.local_model:
            return names_of(self.scopes, *MOVING)
        return self.config.own_keys.personal_names(self)

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep anything between rounds."""
        kept = self.config.own_keys.personal_names(self)
        return self.config.row.local_model == "kept" or bool(kept)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of values (buffers included) of each scope that there is."""
        names = {"shared": names_of(self.scopes, Scope.SHARED)}
        if grouped := names_of(self.scopes, Scope.GROUP):
            names["group"] = grouped
        names["personal"] = self.personal_names
        if frozen := names_of(self.scopes, Scope.FROZEN):
            names["frozen"] = frozen
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
        try:
            check_replaceable(self.model)
        except ArgumentError as error:
            raise ConfigError(str(error), key="model", value=config.model) from error
        if isinstance(self.model, GraphNetwork) != graph:
            raise ConfigError(
                f"model {config.model!r} is a {type(self.model).__name__}; {config.dataset!r} "
                f"needs {'a clients.GraphNetwork' if graph else 'another network'}",
                key="model",
                value=config.model,
            )
        if not trained_parameters(self.model):
            raise ConfigError(
                f"model {config.model!r} has nothing to train: it has no parameters, or all are "
                f"frozen (requires_grad is false); leave its head, or an adapter, trainable",
                key="model",
                value=config.model,
            )
        self._check_types()
        shape, schema = config.architecture.shape, config.required_schema
        tried = (self.model, shape, schema.integers, schema.inputs)
        if schema.labels and not graph and gives_probabilities(*tried):
            warn_once(
                f"The network {config.model!r} gives probabilities (softmax); outputs have to be "
                "logits, from which the loss and predict make probabilities: leave the softmax out"
            )
        config.own_keys.check_model(self)

    def _check_types(self) -> None:
        """Refuse types of numbers that cannot travel, or that the inputs do not fit."""
        config = self.config
        types = {name: values.dtype for name, values in self.initial.items()}
        if odd := [f"{n} ({kind})" for n, kind in types.items() if kind in UNKNOWN_TO_NUMPY]:
            raise ConfigError(
                f"model {config.model!r} has entries of a type that NumPy does not know, so these "
                f"cannot travel: {shortened(odd)}; convert it with .float()",
                key="model",
                value=config.model,
            )
        odd = [f"{n} ({k})" for n, k in types.items() if k in (torch.float16, torch.float64)]
        if not odd or config.required_schema.integers:
            return
        with self.trial_inputs() as example, torch.no_grad():
            try:
                self.model(example)
            except RuntimeError as error:
                raise ConfigError(
                    f"model {config.model!r} does not take float32, which examples are: {error}. "
                    f"Convert it with .float(), or its inputs in its forward; of another type "
                    f"are {shortened(odd)}",
                    key="model",
                    value=config.model,
                ) from error


def model_setup(config: RunConfig) -> ModelSetup:
    """Return what a method trains, made once for a config.

    Raises
    ------
    ScopeError, ValueError
        If a rule does not fit the network, or it lacks what the method is about.
    """
    return config.once("model setup", lambda: _make_setup(config))


def _make_setup(config: RunConfig) -> ModelSetup:
    named = config.architecture, config.seed
    model, initial, hidden = _new_model(*named)
    config.own_keys.check_network(config, model)
    rules = config.personal_rule, config.group_rule
    scopes = _scopes(*named, *rules, config.required_schema.integers)
    return ModelSetup(config, model, with_sent_base(config.schema, initial), scopes, hidden)
