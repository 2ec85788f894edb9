"""How strong the proximal term of a personalized model is, and how strong it may be."""

import math

from strategies.errors import ArgumentError


def strength_for(num_examples: int, tau: float) -> float:
    """Return ``1 / (n tau^2)``, the strength that fits an amount of data.

    With a Gaussian prior of deviation ``tau`` around the anchor, the negative log posterior is
    ``n f(theta) + ||theta - theta_0||^2 / (2 tau^2)``, with ``f`` the mean loss of ``n`` examples.

    Raises
    ------
    ArgumentError
        If ``tau`` is not above zero, or the number negative.
    """
    if not tau > 0:
        raise ArgumentError("tau", tau, "above 0")
    if num_examples < 0:
        raise ArgumentError("num_examples", num_examples, "at least 0")
    precision = num_examples * tau**2
    return 1.0 / precision if precision > 0 else math.inf


def check_overshoot(strength: float, largest: float, words: str) -> None:
    """Refuse a strength with which a step to the anchor would go beyond it.

    Raises
    ------
    ArgumentError
        With the largest strength that is possible.
    """
    if strength > largest:
        raise ArgumentError(
            "lambda_",
            strength,
            f"at most {largest:g} ({words}), or every step goes beyond its anchor",
        )
