"""Whether devices, imputation and calibration of inputs apply to the data at hand."""

import math

import numpy as np

from pfl_flower.data.client_records import RawClient
from pfl_flower.data.degradation.devices import PER_TIER, tier_values
from pfl_flower.data.degradation.imputation import FILLING, IMPUTATIONS
from pfl_flower.data.degradation.missingness import check_share
from pfl_flower.data.errors import DataError
from pfl_flower.data.lazy_inputs import LazyInputs
from pfl_flower.data.settings import DataSettings


def check_measurements(
    settings: DataSettings,
    shape: tuple[int, ...],
    graph: bool,
    streams: bool,
    named: bool = False,
    lazy: bool = False,
) -> None:
    """Check that devices and imputation apply to the data.

    Parameters
    ----------
    settings : DataSettings
        The run keys that decide the data.
    shape : tuple of int
        Shape of one example.
    graph, streams : bool
        Whether examples are nodes of a graph, or come as a stream of phases.
    named : bool, default False
        Whether inputs have names, as token ids and their mask.
    lazy : bool, default False
        Whether inputs are read when a batch needs them.

    Raises
    ------
    DataError
        If a key is set that has no meaning for such data.
    """
    imputation = IMPUTATIONS[settings.imputation]
    names = (*PER_TIER, "tiers", "corrupted_clients", "calibrate_inputs")
    changed = {name: value for name in names if (value := getattr(settings, name))}
    changed |= {"imputation": settings.imputation} if settings.imputation != "none" else {}
    what = {"a graph": graph, "data of inputs by name": named, "a stream of phases": streams}
    what["pictures in files, or a Dataset"] = lazy
    if found := [words for words, is_so in what.items() if is_so and changed]:
        keys = ", ".join(name.replace("_", "-") for name in changed)
        raise DataError(
            f"{settings.dataset!r} is {found[0]}, which has no "
            f"devices, imputation or calibration of inputs; leave {keys} at the default",
            key=keys,
            value=next(iter(changed.values())),
        )
    if len(shape) != 1 and (imputation.vectors or settings.calibrate_inputs):
        key = f"imputation {settings.imputation!r}" if imputation.vectors else "calibrate-inputs"
        fitting = [name for name, row in IMPUTATIONS.items() if not row.vectors]
        raise DataError(
            f"{key} needs examples that are vectors, but those of {settings.dataset!r} have shape "
            f"{shape}; use imputation {' or '.join(fitting)}, and no calibrate-inputs",
            key="imputation" if imputation.vectors else "calibrate-inputs",
            value=settings.imputation if imputation.vectors else True,
            choices=fitting if imputation.vectors else (),
        )
    if rate := max(tier_values(settings)["missing"]):
        check_share(settings.missingness, rate, math.prod(shape))


def check_raw(raw: RawClient, settings: DataSettings) -> None:
    """Check that devices and imputation apply to a client's data.

    Parameters
    ----------
    raw : RawClient
        The client's data.
    settings : DataSettings
        The run keys that decide the data.

    Raises
    ------
    DataError
        See :func:`check_measurements`; or if values are missing without an imputation.
    """
    inputs = raw.train[0]
    shape, graph, lazy = inputs.shape[1:], raw.graph is not None, isinstance(inputs, LazyInputs)
    check_measurements(settings, shape, graph, bool(raw.phases), bool(raw.inputs), lazy)
    if lazy:
        return
    parts = [part[0] for part in (raw.train, raw.validation, raw.test) if part is not None]
    has_missing = raw.graph is None and any(bool(np.isnan(part).any()) for part in parts)
    if has_missing and not IMPUTATIONS[settings.imputation].allows_missing:
        raise DataError(
            f"{settings.dataset!r} has missing values, but imputation {settings.imputation!r} "
            f"fills in no values; set imputation to one of {', '.join(FILLING)}",
            key="imputation",
            value=settings.imputation,
            choices=FILLING,
        )
