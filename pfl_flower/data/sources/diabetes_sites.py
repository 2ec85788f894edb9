"""Real patients at generated sites: the diabetes data, grouped by a body mass index kept hidden."""

import numpy as np
import torch

from pfl_flower.data.errors import DataError
from pfl_flower.data.records import Examples, SourceRequest
from strategies.randomness import generator

NUM_FEATURES = 9
SMALLEST = 3
"""Fewest patients of a site: one to test on, and two to learn from."""

LARGEST_RATIO = 60.0
"""Ratio of the largest to the smallest weight by which sites share the other patients. The
logarithm of a weight is uniform."""

_BODY_MASS_INDEX = 2
_JITTER = 0.1
"""Deviation of the noise that blurs the borders of sites, in deviations of the body mass index."""


def diabetes_sites(request: SourceRequest) -> Examples:
    """Return scikit-learn's diabetes data (Efron et al. 2004), divided among sites.

    A client is a site whose patients have a similar body mass index, which is not among the
    features. So clients differ by something real that the model cannot see: the progression at
    equal features, and the coefficients of the features. Nothing else is changed. The seed decides
    who is where and the sizes of sites (many small ones and a few large ones).

    Parameters
    ----------
    request : SourceRequest
        Its seed and its number of clients.

    Returns
    -------
    examples : Examples
        Inputs ``(442, 9)`` in their own units and targets ``(442,)``, float32.

    Raises
    ------
    DataError
        If there are too few patients for so many clients.
    """
    from sklearn.datasets import load_diabetes

    features, progression = load_diabetes(return_X_y=True, scaled=False)
    num_clients, patients = request.num_clients, len(features)
    if SMALLEST * num_clients > patients:
        raise DataError(
            f"{num_clients} clients need at least {SMALLEST} patients each, but there are "
            f"{patients}; use at most {patients // SMALLEST} clients",
            key="num_clients",
            value=num_clients,
        )
    draw = generator(request.seed, "sites")
    index = features[:, _BODY_MASS_INDEX]
    order = np.argsort(index + _JITTER * index.std() * draw.normal(size=patients))
    shares = np.exp(draw.uniform(0.0, np.log(LARGEST_RATIO), size=num_clients))
    further = (patients - SMALLEST * num_clients) * np.cumsum(shares / shares.sum())
    ends = SMALLEST * np.arange(1, num_clients + 1) + np.round(further).astype(int)
    owner = np.empty(patients, dtype=np.int64)
    owner[order] = np.searchsorted(ends, np.arange(patients), side="right")
    return Examples(
        torch.from_numpy(np.delete(features, _BODY_MASS_INDEX, axis=1)).float(),
        torch.from_numpy(progression).float(),
        owner,
    )
