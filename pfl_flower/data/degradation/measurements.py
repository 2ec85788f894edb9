"""Degraded measurements: from true values to a model's inputs by device, imputation, calibration.

The data quality is that of the measurements before imputation.
"""

import math
from dataclasses import replace
from functools import partial
from logging import WARNING
from typing import Any

import numpy as np
import torch
from flwr.common.logger import log
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from clients.data.data_quality import DataQuality, calibration, reliability_of
from clients.data.preprocessing import Preprocessing
from clients.data.table_cells import width
from pfl_flower.data.client_data import ClientData
from pfl_flower.data.degradation.devices import Device, take_measurements
from pfl_flower.data.degradation.imputation import IMPUTATIONS, empty_columns
from pfl_flower.data.lazy_inputs import LazyInputs
from pfl_flower.data.moments import KnownValues, feature_deviations
from pfl_flower.data.schema import DataSchema, federated_means
from pfl_flower.data.settings import DataSettings
from strategies.randomness import named_seed

Floats = NDArray[np.float64]

ENOUGH_TO_VARY = 20
"""With so many examples, a feature that never varies counts as a stuck sensor."""


def apply_device(
    data: ClientData,
    device: Device,
    declared: Floats | None,
    schema: DataSchema,
    settings: DataSettings,
    client: int,
) -> ClientData:
    """Return a client's examples as its model gets them, with the quality of the measurements.

    Parameters
    ----------
    data : ClientData
        True values; or own measurements, with NaN where they are missing.
    device : Device
        The device that takes the measurements.
    declared : ndarray or None
        Declared error variances of own measurements, ``(d,)``, in the unit of the model.
    schema : DataSchema
        The data schema.
    settings : DataSettings
        Its imputation, and whether inputs are calibrated.
    client : int
        Number of the client.
    """
    splits = (data.train, data.validation, data.test)
    if isinstance(data.train[0], LazyInputs):  # perfect: check_raw refuses what would change them
        exact = math.prod(data.train[0].shape_of_one)
        quality = DataQuality(len(data.train[0]), 0.0, np.zeros(exact), np.ones(exact))
        return replace(data, quality=quality)
    has_missing = any(bool(torch.isnan(inputs).any()) for inputs, _ in splits)
    imputation = IMPUTATIONS[settings.imputation]
    calibrates = settings.calibrate_inputs and bool(declared is not None or device.noise)
    changes = not device.perfect or has_missing or calibrates
    if settings.imputation != "none" or settings.calibrate_inputs:
        own = partial(_fitted, data.train[0], device, declared, schema, settings, client)
        data = replace(data, fit_preprocessing=own)
    if not changes and not imputation.masks and imputation.draws == 1:
        rows = data.train[0].flatten(1).numpy()  # not copied, because images may be large
        return replace(data, quality=_quality(rows, device, declared, schema))
    # One thread, because the number of threads would decide the last bits of sums.
    with threadpool_limits(1, user_api="blas"):
        parts = take_measurements(
            device, [_flat(part[0]) for part in splits], settings.seed, client
        )
        quality = _quality(parts[0], device, declared, schema)
        _log_empty_columns(parts[0], schema, client)
        filled, remaining = _filled(parts, quality, schema, settings, client)
    train, validation, test = (
        (_shaped(part, schema), targets) for part, (_, targets) in zip(filled, splits, strict=True)
    )
    return replace(
        data,
        train=(train[0], train[1].repeat(imputation.draws)),
        validation=validation,
        test=test,
        quality=remaining,
        draws=imputation.draws,
    )


def _fitted(
    inputs: Tensor,
    device: Device,
    declared: Floats | None,
    schema: DataSchema,
    settings: DataSettings,
    client: int,
) -> Preprocessing:
    """Return what :func:`apply_device` does to measurements, as a model file has it.

    It is fitted to the training ``inputs``. The device itself is no part of it: it takes the
    measurements.
    """
    imputation, seed = IMPUTATIONS[settings.imputation], _imputation_seed(settings, client)
    rows = _flat(inputs)
    with threadpool_limits(1, user_api="blas"):
        training, *_ = take_measurements(device, (rows, rows[:0], rows[:0]), settings.seed, client)
        centre = federated_means(schema)
        found = imputation.fitted(training - centre, seed).moved(centre)
        quality = _after_imputation(
            _quality(training, device, declared, schema), training, settings.imputation
        )
        if not (settings.calibrate_inputs and quality.noise.any()):
            return found
        filled = imputation.fill((training - centre,), seed)[0] + centre
        return found.calibrated(*calibration(filled, quality.noise))


def _imputation_seed(settings: DataSettings, client: int) -> int:
    return named_seed(settings.seed, "imputation", client)


def _after_imputation(quality: DataQuality, training: Floats, name: str) -> DataQuality:
    """Return the quality with the noise that is left: an imputed value has no measurement error.

    So the mean noise of a feature is in proportion to the share of its values that were measured.
    Values of multiple imputation have the error of measurements.
    """
    if IMPUTATIONS[name].draws > 1:
        return quality
    lost = np.isnan(training).sum(axis=0) / max(len(training), 1)
    return replace(quality, noise=(1.0 - lost) * quality.noise)


def _filled(
    parts: tuple[Floats, ...],
    quality: DataQuality,
    schema: DataSchema,
    settings: DataSettings,
    client: int,
) -> tuple[tuple[Floats, ...], DataQuality]:
    """Return imputed and, if set, calibrated measurements, and the quality after that.

    Calibrated measurements have no error left to correct. Reliability does not change.
    """
    imputation = IMPUTATIONS[settings.imputation]
    quality = _after_imputation(quality, parts[0], settings.imputation)
    centre = federated_means(schema)
    centred = tuple(part - centre for part in parts)  # 0 is the federated mean
    filled = imputation.fill(centred, _imputation_seed(settings, client))
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
    training: NDArray[Any], device: Device, declared: Floats | None, schema: DataSchema
) -> DataQuality:
    """Return the quality that a client reports of its training measurements, ``(N, d)``.

    The noise is that of the device plus the declared one. A feature that never varies over
    :data:`ENOUGH_TO_VARY` measurements has reliability 0: its sensor is stuck, whatever is
    declared. This applies to vectors only (a corner of all images may be dark), and not to features
    that are known to be constant on all clients. A corrupted client reports perfect quality.
    """
    count, size = training.shape
    if device.corrupted:
        return DataQuality(count, 0.0, np.zeros(size), np.ones(size))
    noise = np.full(size, device.noise**2) + (0.0 if declared is None else declared)
    lost = np.isnan(training)
    missing = float(lost.mean()) if lost.size else 0.0
    if len(schema.shape) != 1 and not noise.any():
        return DataQuality(count, missing, noise, np.ones(size))
    training = training.astype(np.float64, copy=False)
    known = KnownValues.of(training)
    # One measurement has no variance: take that of a standardised feature, 1, plus the noise.
    reliability = reliability_of(noise, np.where(known.number > 1, known.variances, 1.0 + noise))
    if len(schema.shape) == 1:
        lowest = np.where(lost, np.inf, training).min(axis=0, initial=np.inf)
        highest = np.where(lost, -np.inf, training).max(axis=0, initial=-np.inf)
        stuck = (known.number >= ENOUGH_TO_VARY) & (lowest == highest)
        if schema.features is not None:
            stuck &= feature_deviations(schema.features) > 0
        stuck[size - width(schema.categories) :] = False  # a ward that a client lacks
        # A stuck feature has no error to correct.
        noise, reliability = np.where(stuck, 0.0, noise), np.where(stuck, 0.0, reliability)
    return DataQuality(count, missing, noise, reliability)


def _log_empty_columns(training: Floats, schema: DataSchema, client: int) -> None:
    if len(empty := empty_columns(training)):
        some = ", ".join(map(str, empty[:10].tolist())) + (", ..." if len(empty) > 10 else "")
        log(
            WARNING,
            "client %d has no training value of feature %s, so %s replaces it",
            client,
            some,
            "the federated mean" if len(schema.shape) == 1 else "0",
        )
