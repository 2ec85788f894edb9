"""Generated hospitals that differ in the prevalence of cancer and in size, with real tumours."""

from dataclasses import dataclass

import numpy as np
import torch

from pfl_flower.data.records import Examples, SourceRequest
from strategies.randomness import generator

NUM_FEATURES = 30
PREVALENCES = (0.05, 0.60)
"""Lowest and highest prevalence of cancer in a hospital; the others are evenly spaced between."""

SIZES = (60, 400)
"""Training records of the smallest and the largest hospital; others are spaced on a log scale."""

TESTS = 4
"""Number of test records for every training record. A validation fraction refers to all records:
0.08 is 40 % of the training records, and with 0.2 or more no record is left to train on."""

NOISE = 3.0
"""Deviation of the measurement error, in deviations of the feature over all patients."""


@dataclass(frozen=True)
class Hospital:
    """The prevalence and the size of one hospital.

    Attributes
    ----------
    prevalence : float
        Share of its patients that have cancer.
    size : int
        Number of its training records.
    """

    prevalence: float
    size: int


def hospitals_of(seed: int, num_clients: int) -> list[Hospital]:
    """Return every hospital; prevalences and sizes are permuted independently of one another.

    Parameters
    ----------
    seed : int
        Decides both permutations.
    num_clients : int
        Number of hospitals.
    """
    draw = generator(seed, "hospitals")
    prevalences = draw.permutation(np.linspace(*PREVALENCES, num_clients))
    sizes = draw.permutation(np.geomspace(*SIZES, num_clients).round().astype(int))
    return [Hospital(float(p), int(n)) for p, n in zip(prevalences, sizes, strict=True)]


def hospitals(request: SourceRequest) -> Examples:
    """Return scikit-learn's breast-cancer data (Wolberg et al. 1995), hospital by hospital.

    Class 1 is a malignant tumour. A record is a patient, drawn with replacement from those of its
    class, plus normal noise on every feature. Training records show one half of the patients and
    test records the other half, in all hospitals. Within a class all hospitals have the same
    distribution; they differ in prevalence (label shift) and in size.

    Parameters
    ----------
    request : SourceRequest
        Its seed and its number of clients decide the examples.

    Returns
    -------
    examples : Examples
        Inputs ``(N, 30)`` float32, targets ``(N,)`` int64.
    """
    from sklearn.datasets import load_breast_cancer

    features, benign = load_breast_cancer(return_X_y=True)
    ill = benign == 0
    deviation = features.std(axis=0)
    draw = generator(request.seed, "hospitals", "pools")
    groups = [draw.permutation(np.flatnonzero(rows)) for rows in (~ill, ill)]
    pools = [[group[fold::2] for group in groups] for fold in (0, 1)]
    inputs, targets, owner, folds = [], [], [], []
    for client, about in enumerate(hospitals_of(request.seed, request.num_clients)):
        draw = generator(request.seed, "hospitals", client)
        for fold, count in enumerate((about.size, TESTS * about.size)):
            positives = round(about.prevalence * count)
            rows = np.concatenate(
                [
                    draw.choice(pool, number)
                    for pool, number in zip(
                        pools[fold], (count - positives, positives), strict=True
                    )
                ]
            )
            noise = NOISE * deviation * draw.normal(size=(count, NUM_FEATURES))
            inputs.append(features[rows] + noise)
            targets.append(ill[rows])
            owner.append(np.full(count, client))
            folds.append(np.full(count, fold))
    return Examples(
        torch.from_numpy(np.concatenate(inputs)).float(),
        torch.from_numpy(np.concatenate(targets)).long(),
        np.concatenate(owner),
        np.concatenate(folds),
    )
