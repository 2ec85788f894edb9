"""From true values to what a client's model gets: the device, its quality, imputation, calibration.

The quality is that of the readings as the device gives them, before anything is filled in.
"""

import math
from dataclasses import replace
from logging import WARNING
from typing import Any

import numpy as np
import torch
from flwr.common.logger import log
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from clients.measurement_error.data_quality import DataQuality, calibration, reliability_of
from pfl_flower.data.client_data import ClientData
from pfl_flower.data.client_records import RawClient
from pfl_flower.data.degradation.devices import (
    PER_TIER,
    Device,
    check_share,
    take_measurements,
    tier_values,
)
from pfl_flower.data.degradation.imputation import FILLING, IMPUTATIONS, empty_columns
from pfl_flower.data.moments import KnownValues, feature_deviations
from pfl_flower.data.schema import DataError, DataSchema, fleet_means
from pfl_flower.data.settings import DataSettings
from strategies.randomness import named_seed

Floats = NDArray[np.float64]

ENOUGH_TO_VARY = 20
"""With so many examples, a feature that never varies is taken for a sensor that is stuck."""


def check_measurements(
    settings: DataSettings, shape: tuple[int, ...], graph: bool, streams: bool
) -> None:
    """Refuse devices and imputations that do not fit the kind of data.

    Parameters
    ----------
    settings : of the run
    shape : of one example
    graph, streams : whether examples are nodes of a graph, or come in phases

    Raises
    ------
    DataError
        If something is set that has no meaning for such data.
    """
    imputation = IMPUTATIONS[settings.imputation]
    values = [
        getattr(settings, name)
        for name in (*PER_TIER, "tiers", "corrupted_clients", "calibrate_inputs")
    ]
    if (graph or streams) and (any(values) or settings.imputation != "none"):
        raise DataError(
            f"{settings.dataset!r} is {'a graph' if graph else 'a stream of phases'}, which has no "
            f"devices, imputation or calibration of inputs; leave tiers, missing, noise, stuck, "
            f"clipped, corrupted-clients, imputation and calibrate-inputs at their defaults"
        )
    if len(shape) != 1 and (imputation.vectors or settings.calibrate_inputs):
        what = f"imputation {settings.imputation!r}" if imputation.vectors else "calibrate-inputs"
        fitting = [name for name, row in IMPUTATIONS.items() if not row.vectors]
        raise DataError(
            f"{what} needs examples that are vectors, those of {settings.dataset!r} have shape "
            f"{shape}; use imputation {' or '.join(fitting)}, and no calibrate-inputs"
        )
    if rate := max(tier_values(settings)["missing"]):
        check_share(settings.missingness, rate, math.prod(shape))


def check_raw(raw: RawClient, settings: DataSettings) -> None:
    """Refuse a client's own data that do not fit what is set of devices and imputation.

    Raises
    ------
    DataError
        See :func:`check_measurements`; or if values are missing, and nothing is to take their
        place.
    """
    inputs = raw.train[0]
    check_measurements(settings, inputs.shape[1:], raw.graph is not None, bool(raw.phases))
    parts = [part[0] for part in (raw.train, raw.validation, raw.test) if part is not None]
    lacks = raw.graph is None and any(bool(np.isnan(part).any()) for part in parts)
    if lacks and not IMPUTATIONS[settings.imputation].allows_missing:
        raise DataError(
            f"{settings.dataset!r} has missing values, and imputation {settings.imputation!r} puts "
            f"nothing in their place; set imputation to one of {', '.join(FILLING)}"
        )


def through_device(
    data: ClientData,
    device: Device,
    stated: Floats | None,
    schema: DataSchema,
    settings: DataSettings,
    client: int,
) -> ClientData:
    """Return a client's examples as its model gets them, and how well the client sees.

    Parameters
    ----------
    data : the true values (or readings of one's own, with NaN where they are missing)
    device : what takes the readings
    stated : ``(d,)`` variance of the errors that readings of one's own are stated to have, in the
        unit of the model; None if nothing is stated
    schema : of the federation
    settings : say what is filled in, and whether inputs are calibrated
    client : its number
    """
    splits = (data.train, data.validation, data.test)
    lacks = any(bool(torch.isnan(inputs).any()) for inputs, _ in splits)
    imputation = IMPUTATIONS[settings.imputation]
    calibrates = settings.calibrate_inputs and bool(stated is not None or device.noise)
    changes = not device.perfect or lacks or calibrates
    if not changes and not imputation.masks and imputation.draws == 1:
        rows = data.train[0].flatten(1).numpy()  # as they are: images may be large
        return replace(data, quality=_quality(rows, device, stated, schema))
    # One thread: how many there are would decide on the last bits of sums.
    with threadpool_limits(1, user_api="blas"):
        parts = take_measurements(
            device, [_flat(part[0]) for part in splits], settings.seed, client
        )
        quality = _quality(parts[0], device, stated, schema)
        _tell_of_empty(parts[0], schema, client)
        filled, told = _filled(parts, quality, schema, settings, client)
    train, validation, test = (
        (_shaped(part, schema), targets) for part, (_, targets) in zip(filled, splits, strict=True)
    )
    return replace(
        data,
        train=(train[0], train[1].repeat(imputation.draws)),
        validation=validation,
        test=test,
        quality=told,
        draws=imputation.draws,
    )


def _filled(
    parts: tuple[Floats, ...],
    quality: DataQuality,
    schema: DataSchema,
    settings: DataSettings,
    client: int,
) -> tuple[tuple[Floats, ...], DataQuality]:
    """Return readings filled in and, if wanted, calibrated, and the quality that is left.

    A value that is filled in has no error of a reading, so that a feature's noise counts as often
    as the feature was read. Of calibrated readings there is no error left for anybody to correct.
    How reliable readings are does not change.
    """
    imputation = IMPUTATIONS[settings.imputation]
    if imputation.draws == 1:  # what is drawn, as readings are, has their error
        lost = np.isnan(parts[0]).sum(axis=0) / max(len(parts[0]), 1)
        quality = replace(quality, noise=(1.0 - lost) * quality.noise)
    centre = fleet_means(schema)
    apart = tuple(part - centre for part in parts)  # 0 is the fleet's mean
    filled = imputation.fill(apart, named_seed(settings.seed, "imputation", client))
    filled = tuple(part + centre for part in filled)
    if settings.calibrate_inputs:
        matrix, mean = calibration(filled[0], quality.noise)
        filled = tuple(mean + (part - mean) @ matrix.T for part in filled)
        quality = replace(quality, noise=np.zeros_like(quality.noise))
    if imputation.masks:
        pairs = zip(filled, parts, strict=True)
        filled = tuple(np.concatenate([part, np.isnan(raw)], axis=1) for part, raw in pairs)
    return filled, quality


def _flat(inputs: Tensor) -> Floats:
    """Return examples as rows of numbers."""
    rows: Floats = inputs.flatten(1).double().numpy()
    return rows


def _shaped(rows: Floats, schema: DataSchema) -> Tensor:
    """Return rows of numbers as float32 examples; vectors may have become longer, or several."""
    made = torch.from_numpy(rows).float()
    return made if len(schema.shape) == 1 else made.reshape(len(made), *schema.shape)


def _quality(
    training: NDArray[Any], device: Device, stated: Floats | None, schema: DataSchema
) -> DataQuality:
    """Return what a client tells of its training readings, ``(N, d)``.

    The noise is what is stated of the device. A feature that never varies over
    :data:`ENOUGH_TO_VARY` readings has reliability 0: its sensor is stuck, whatever is stated. That
    is for vectors only (a corner of all images may be dark), and for features that vary elsewhere,
    where that is known. A corrupted client tells that all is perfect.
    """
    count, size = training.shape
    if device.corrupted:
        return DataQuality(count, 0.0, np.zeros(size), np.ones(size))
    noise = np.full(size, device.noise**2) + (0.0 if stated is None else stated)
    lost = np.isnan(training)
    missing = float(lost.mean()) if lost.size else 0.0
    if len(schema.shape) != 1 and not noise.any():
        return DataQuality(count, missing, noise, np.ones(size))
    training = training.astype(np.float64, copy=False)
    known = KnownValues.of(training)
    # Of one reading or none no variance is known: a true one of 1 is that of standardised features.
    reliability = reliability_of(noise, np.where(known.number > 1, known.variances, 1.0 + noise))
    if len(schema.shape) == 1:
        lowest = np.where(lost, np.inf, training).min(axis=0, initial=np.inf)
        highest = np.where(lost, -np.inf, training).max(axis=0, initial=-np.inf)
        stuck = (known.number >= ENOUGH_TO_VARY) & (lowest == highest)
        if schema.features is not None:
            stuck &= feature_deviations(schema.features) > 0
        # What never varies has no error that would have to be corrected for either.
        noise, reliability = np.where(stuck, 0.0, noise), np.where(stuck, 0.0, reliability)
    return DataQuality(count, missing, noise, reliability)


def _tell_of_empty(training: Floats, schema: DataSchema, client: int) -> None:
    if len(empty := empty_columns(training)):
        some = ", ".join(map(str, empty[:10].tolist())) + (", ..." if len(empty) > 10 else "")
        log(
            WARNING,
            "client %d has no training value of feature %s; %s takes its place",
            client,
            some,
            "the fleet's mean" if len(schema.shape) == 1 else "0",
        )
