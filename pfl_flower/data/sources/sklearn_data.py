"""scikit-learn's data sets: digits, breast-cancer (Wisconsin) and diabetes."""

import torch

from pfl_flower.data.records import Examples, SourceRequest


def digits(_: SourceRequest) -> Examples:
    """Return 1797 handwritten digits (Alpaydin and Kaynak 1998): pixels 0 to 1, classes 0 to 9.

    Returns
    -------
    examples : Examples
        Inputs ``(1797, 1, 8, 8)`` float32, targets ``(1797,)`` int64.
    """
    from sklearn.datasets import load_digits  # a second to import, so only where needed

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 16.0).float()
    return Examples(images, torch.from_numpy(labels).long())


def breast_cancer(_: SourceRequest) -> Examples:
    """Return 569 breast tumours (Wolberg et al. 1995): 30 features, class 1 is benign.

    Returns
    -------
    examples : Examples
        Inputs ``(569, 30)`` float32, targets ``(569,)`` int64.
    """
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return Examples(torch.from_numpy(features).float(), torch.from_numpy(labels).long())


def diabetes(_: SourceRequest) -> Examples:
    """Return 442 diabetes patients (Efron et al. 2004): 10 features, disease progression.

    Returns
    -------
    examples : Examples
        Inputs ``(442, 10)`` float32 in their own units, targets ``(442,)`` float32.
    """
    from sklearn.datasets import load_diabetes

    features, progression = load_diabetes(return_X_y=True, scaled=False)
    return Examples(torch.from_numpy(features).float(), torch.from_numpy(progression).float())
