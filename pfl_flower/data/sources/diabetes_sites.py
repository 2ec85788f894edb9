"""Real patients, at sites that differ: the diabetes data by body mass index, which nobody notes."""

import numpy as np
import torch

from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.schema import DataError
from strategies.randomness import generator

NUM_FEATURES = 9
SMALLEST = 3
"""Patients of a site at least: one to test on, and two to learn from."""

LARGEST_RATIO = 60.0
"""Of the patients that sites have beyond that; their logarithm is uniform."""

_BODY_MASS_INDEX = 2
_JITTER = 0.1
"""Deviation of what blurs the borders of sites, beside that of the body mass index."""


def diabetes_sites(request: SourceRequest) -> Examples:
    """Return scikit-learn's diabetes data (Efron et al. 2004), site by site.

    A site's patients are alike in body mass index, and it is not among the features. So sites
    differ by something real that the model cannot see: their progression at equal features, and
    what the features are worth. Nothing is planted. Who is where, and the sizes of sites (many
    small ones and a few large ones), depend on the seed.

    Raises
    ------
    DataError
        If there are more sites than patients can be shared out to.
    """
    from sklearn.datasets import load_diabetes

    features, progression = load_diabetes(return_X_y=True, scaled=False)
    sites, patients = request.num_clients, len(features)
    if SMALLEST * sites > patients:
        raise DataError(
            f"{sites} sites of at least {SMALLEST} patients, but there are {patients}; use at "
            f"most {patients // SMALLEST} clients"
        )
    draw = generator(request.seed, "sites")
    index = features[:, _BODY_MASS_INDEX]
    order = np.argsort(index + _JITTER * index.std() * draw.normal(size=patients))
    shares = np.exp(draw.uniform(0.0, np.log(LARGEST_RATIO), size=sites))
    further = (patients - SMALLEST * sites) * np.cumsum(shares / shares.sum())
    ends = SMALLEST * np.arange(1, sites + 1) + np.round(further).astype(int)
    owner = np.empty(patients, dtype=np.int64)
    owner[order] = np.searchsorted(ends, np.arange(patients), side="right")
    return Examples(
        torch.from_numpy(np.delete(features, _BODY_MASS_INDEX, axis=1)).float(),
        torch.from_numpy(progression).float(),
        owner,
    )
