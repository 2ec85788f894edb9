"""Gallery: generated images of three channels, each channel shows another handwritten digit."""

import numpy as np
import torch

from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.sources.sklearn_data import digits
from strategies.randomness import generator

CHANNELS = 3
TRAINING, TEST = 250, 100
"""Number of a client's training and test examples."""


def gallery(request: SourceRequest) -> Examples:
    """Draw every client's images; an image has one label for each of its channels.

    The digits of test images never occur in training images.

    Parameters
    ----------
    request : SourceRequest
        Its seed and its number of clients decide the images.

    Returns
    -------
    examples : Examples
        Inputs ``(N, 3, 8, 8)`` float32 in 0 to 1, targets ``(N, 3)`` int64.
    """
    images = digits(request)
    draw = generator(request.seed, "gallery")
    order = draw.permutation(len(images))
    pools = (order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :])
    chosen, folds, owner = [], [], []
    for fold, count in enumerate((TRAINING, TEST)):
        total = request.num_clients * count
        classes = draw.permuted(np.tile(np.arange(10), (total, 1)), axis=1)[:, :CHANNELS]
        chosen.append(_draw_of_class(images.targets.numpy(), pools[fold], classes, draw))
        folds.append(np.full(total, fold))
        owner.append(np.repeat(np.arange(request.num_clients), count))
    index = torch.from_numpy(np.concatenate(chosen))
    return Examples(
        images.inputs[index].squeeze(2),
        images.targets[index],
        np.concatenate(owner),
        np.concatenate(folds),
    )


def _draw_of_class(
    labels: np.ndarray, pool: np.ndarray, classes: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """Return, for an array of classes, the index of a random example of each from ``pool``."""
    chosen = np.empty_like(classes)
    for label in np.unique(classes):
        wanted = classes == label
        chosen[wanted] = draw.choice(pool[labels[pool] == label], size=wanted.sum())
    return chosen
