"""Hospitals that differ in how many of their patients are ill, and in size: real tumours."""

from dataclasses import dataclass

import numpy as np
import torch

from pfl_flower.data.records import Examples, SourceRequest
from strategies.randomness import generator

NUM_FEATURES = 30
PREVALENCES = (0.05, 0.60)
"""Of cancer, in the healthiest and in the illest hospital; the others are evenly between."""

SIZES = (60, 400)
"""Patients to learn from, in the smallest and in the largest hospital; evenly on a log scale."""

TESTS = 4
"""Records to test on, for every one to learn from. A validation fraction is of all of them: 0.08 is
40 % of those to learn from, and from 0.2 on there is nothing left to train on."""

NOISE = 3.0
"""Deviation of a measurement's error, in deviations of the feature over all patients."""


@dataclass(frozen=True)
class Hospital:
    """What a hospital is like.

    Attributes
    ----------
    prevalence : share of its patients that have cancer
    size : number of its records to learn from
    """

    prevalence: float
    size: int


def hospitals_of(seed: int, num_clients: int) -> list[Hospital]:
    """Return what every hospital is like: prevalences and sizes in orders of their own."""
    draw = generator(seed, "hospitals")
    prevalences = draw.permutation(np.linspace(*PREVALENCES, num_clients))
    sizes = draw.permutation(np.geomspace(*SIZES, num_clients).round().astype(int))
    return [Hospital(float(p), int(n)) for p, n in zip(prevalences, sizes, strict=True)]


def hospitals(request: SourceRequest) -> Examples:
    """Return scikit-learn's breast-cancer data (Wolberg et al. 1995), hospital by hospital.

    Class 1 is a malignant tumour. A record is a patient's, drawn with replacement from those with
    the disease or without it, and measured anew: normal noise is added to every feature. Half of
    the patients are there to learn from and half to test on, so that nobody is in both, of
    whichever hospital. Within a class all hospitals are alike; what differs is the prevalence.
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
