"""The frozen base of a run's network: what is frozen under any of its methods, and fingerprints.

Server and clients compute the same, once a process.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from clients import Scope, base_fingerprint, frozen_entries
from clients.frozen import base_digests
from clients.scopes import names_of
from pfl_flower.config.run_config import RunConfig
from pfl_flower.model_setup import ModelSetup, initial_model, model_setup
from pfl_flower.sent_bases import with_sent_base


def base_entries(config: RunConfig) -> Mapping[str, Tensor]:
    """Return entry -> value of all that is frozen under a method of a run.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the schema of the data.
    """
    setups = [model_setup(config.for_method(name)) for name in config.method_names]
    names = [name for each in setups for name in names_of(each.scopes, Scope.FROZEN)]
    return {name: setups[0].initial[name] for name in names}


def base_of(config: RunConfig) -> Mapping[str, str]:
    """Return entry -> digest of all that is frozen under a method of a run; hashed once a process.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the schema of the data.
    """

    def find() -> Mapping[str, str]:
        entries = base_entries(config)
        return base_digests(entries, entries)

    return config.once("base", find)


def without_sent_base(config: RunConfig) -> RunConfig:
    """Return a config by whose schema the network has the base that its builder makes.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the schema of the data.
    """
    schema = replace(config.required_schema, base="", sends_base=False)
    return config.once("without sent base", lambda: config.with_schema(schema))


def own_fingerprints(config: RunConfig) -> Mapping[str, str]:
    """Return method -> fingerprint of what is frozen under it; ``""`` where nothing is.

    Files belong to one method, so they go by this one: which other methods a run has does not
    matter to them, and an entry that a rule makes personal is not in the base.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the schema of the data.
    """

    def find() -> Mapping[str, str]:
        base = base_of(config)
        setups = {name: model_setup(config.for_method(name)) for name in config.method_names}
        return {name: _fingerprint_under(setup, base) for name, setup in setups.items()}

    return config.once("own fingerprints", find)


def _fingerprint_under(setup: ModelSetup, base: Mapping[str, str]) -> str:
    return base_fingerprint({name: base[name] for name in names_of(setup.scopes, Scope.FROZEN)})


def network_fingerprint(config: RunConfig) -> str:
    """Return the fingerprint of all that the network's builder froze; ``""`` where that is nothing.

    What is personal does not matter to it: arrays that one method trained may start another.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the schema of the data.
    """
    digests = network_digests(config)
    return config.once("network fingerprint", lambda: base_fingerprint(digests))


def network_digests(config: RunConfig) -> Mapping[str, str]:
    """Return entry -> digest of all that the network's builder froze.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the schema of the data.
    """

    def find() -> Mapping[str, str]:
        model, made = initial_model(config.architecture, config.seed)
        frozen, entries = frozen_entries(model), with_sent_base(config.schema, made)
        return base_digests(entries, [name for name in entries if name in frozen])

    return config.once("network digests", find)
