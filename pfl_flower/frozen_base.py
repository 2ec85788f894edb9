"""The frozen base of a run's network: what is frozen under any of its methods, and fingerprints.

Server and clients compute the same, once a process.
"""

from collections.abc import Mapping
from dataclasses import replace

from clients import Scope, base_fingerprint, frozen_entries
from clients.frozen import base_digests
from clients.scopes import names_of
from pfl_flower.config.run_config import RunConfig
from pfl_flower.model_setup import ModelSetup, initial_model, model_setup


def base_of(config: RunConfig) -> Mapping[str, str]:
    """Return entry -> digest of all that is frozen under a method of a run; hashed once a process.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the schema of the data.
    """

    def find() -> Mapping[str, str]:
        setups = [model_setup(config.for_method(name)) for name in config.method_names]
        names = [name for each in setups for name in names_of(each.scopes, Scope.FROZEN)]
        initial = initial_model(config.architecture, config.seed)[1]
        return base_digests(initial, dict.fromkeys(names))

    return config.once("base", find)


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

    def find() -> str:
        model, entries = initial_model(config.architecture, config.seed)
        frozen = frozen_entries(model)
        return base_fingerprint(base_digests(entries, [n for n in entries if n in frozen]))

    return config.once("network fingerprint", find)


def with_base(config: RunConfig) -> RunConfig:
    """Return a config in whose schema the fingerprint of the frozen base is, where there is one."""
    base = base_fingerprint(base_of(config))
    return config.with_schema(replace(config.required_schema, base=base)) if base else config
