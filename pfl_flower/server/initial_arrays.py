"""What a run starts from: the arrays of an earlier run's file, and a frozen base among them."""

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from logging import INFO
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord
from flwr.common.logger import log
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from clients import base_fingerprint
from clients.model_components.words import shortened
from clients.state.personal_state import tensor_spec
from pfl_flower.config.run_config import RunConfig
from pfl_flower.frozen_base import network_digests, network_fingerprint
from pfl_flower.model_setup import ModelSetup, initial_model
from pfl_flower.models.lora import layers_with_lora
from pfl_flower.results.shared_file import BASE, LABELS, meaning, read_shared, shared_path
from pfl_flower.server.discovery import FederationError
from pfl_flower.utils.files import under_home
from strategies.arrays import difference, spec_of, to_record

File = tuple[Mapping[str, NDArray[Any]], Mapping[str, str]]
"""(arrays by the names of the network, metadata) of a file."""


def given_base(config: RunConfig, made: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the frozen entries that the file of first arrays has; empty without such a file.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the schema of the data.
    made : mapping
        Frozen entry -> value, as the network's builder makes it.

    Raises
    ------
    FederationError
        If the file cannot be read, or an entry has another shape or dtype.
    """
    if not config.initial:
        return {}
    stored = _read(config)[0]
    given = {name: torch.from_numpy(stored[name].copy()) for name in made if name in stored}
    wanted = tensor_spec({name: made[name] for name in given})
    if words := difference(wanted, tensor_spec(given)):
        raise _unfit(config, f"has another frozen base than {config.model}: {words}", words)
    return given


def first_arrays(setup: ModelSetup, fresh: ArrayRecord) -> ArrayRecord:
    """Return the first shared arrays: those of an earlier run where the config names it.

    Where its file has the frozen base, too, shared entries that it does not have (adapters) keep
    their first values, and so do a head for other classes and what is personal.

    Parameters
    ----------
    setup : ModelSetup
        What the method trains.
    fresh : ArrayRecord
        Those to start from otherwise.

    Raises
    ------
    FederationError
        If the file cannot be read, its arrays do not fit, or they are of other classes, of other
        features or trained on another frozen base.
    """
    config = setup.config
    if not config.initial:
        return fresh
    stored, about = _read(config)
    base = network_digests(config).keys() & stored.keys()
    record = to_record({name: array for name, array in stored.items() if name not in base})
    if base:
        new = _new_head(setup, about) if setup.head_names.isdisjoint(base) else frozenset()
        record = _beside_base(setup, fresh, record, new)
    used = set(fresh) - new if base else set(fresh)
    words = difference(spec_of(fresh), spec_of(record)) or _other_meaning(setup, about, base, used)
    if words:
        raise _unfit(config, f"does not fit {config.method}: {words}", words)
    return record


def _new_head(setup: ModelSetup, about: Mapping[str, str]) -> frozenset[str]:
    """Return the entries of the head, if a file's is for other classes; else none."""
    here = meaning(setup.config.required_schema, "")[LABELS]
    return setup.head_names if about.get(LABELS, here) != here else frozenset()


def _beside_base(
    setup: ModelSetup, fresh: ArrayRecord, stored: ArrayRecord, new: Collection[str]
) -> ArrayRecord:
    """Return the first arrays of a run whose file has its base: the file's where it has them."""
    new = [name for name in fresh if name in new or name not in stored]
    left = [name for name in stored if name not in fresh and name in setup.initial]
    if new or left:
        words = "initial has the frozen base. New: %s. Personal, and not taken from it: %s"
        log(INFO, words, shortened(new) or "nothing", shortened(left) or "nothing")
    unknown = {n: a for n, a in stored.items() if n not in fresh and n not in left}
    return ArrayRecord({n: fresh[n] if n in new else stored[n] for n in fresh} | unknown)


def _read(config: RunConfig) -> File:
    """Return the arrays of the file by the names of the network, and the file's metadata."""
    try:
        path = shared_path(under_home(config.initial))
        found = path.stat()
        arrays, about = _read_once(path, found.st_mtime_ns, found.st_size)
    except (OSError, SafetensorError) as error:
        raise _unfit(config, f"cannot be read: {error}", str(error)) from error
    model, _ = initial_model(config.architecture, config.seed)
    # LoRA makes "query.weight" of the network that was trained "query.base_layer.weight"
    inside = {
        f"{path}.{part}": f"{path}.base_layer.{part}"
        for path in layers_with_lora(model)
        for part in ("weight", "bias")
    }
    return {inside.get(name, name): array for name, array in arrays.items()}, about


@lru_cache(maxsize=1)
def _read_once(path: Path, *_version: int) -> File:
    return read_shared(path)


def _other_meaning(
    setup: ModelSetup, about: Mapping[str, str], given: Collection[str], used: Collection[str]
) -> str:
    """Say what is not as it was when shared arrays were trained: classes, features, frozen base.

    Files of earlier versions do not say it. A base that is given is among what was trained, and
    only what was frozen before that, if anything was, has to be as it was. Classes are of no matter
    where neither what is given nor what else is used of the file makes outputs.
    """
    config = setup.config
    before = {n: digest for n, digest in network_digests(config).items() if n not in given}
    bases = {"", network_fingerprint(config)} if given else set()
    as_good = {json.dumps(base) for base in bases}
    for key, here in meaning(config.required_schema, base_fingerprint(before)).items():
        there = about.get(key, here)
        if there == here or (key == LABELS and setup.head_names.isdisjoint({*given, *used})):
            continue
        if key != BASE or there not in as_good:
            return f"{key}: {there} in the file, {here} in this run"
    return ""


def _unfit(config: RunConfig, what: str, reason: str) -> FederationError:
    words = f"initial={config.initial!r} {what}"
    return FederationError(words, key="initial", value=config.initial, reason=reason)
