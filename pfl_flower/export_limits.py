"""In what a model file cannot repeat how its client was judged."""

from clients.inference.example_gradients import mixing_layers
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data.degradation.devices import simulated_devices
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.data.heterogeneity import parse_heterogeneity
from pfl_flower.model_setup import initial_model


def export_limits(config: RunConfig) -> list[str]:
    """Return, in words, in what predicting with a model file is not what the client was judged by.

    Everything else that is done to examples is in the file, and ``python -m clients predict``
    repeats it.
    """
    data, limits = config.data, []
    if config.required_schema.graph:
        limits.append("it is for nodes of the client's graph, which is not in the file")
    if IMPUTATIONS[data.imputation].draws > 1:
        limits.append(
            f"it takes complete examples only, because the draws of imputation "
            f"{data.imputation!r} depend on all examples of a client together"
        )
    if changes := [*parse_heterogeneity(data.heterogeneity), *simulated_devices(data)]:
        limits.append(
            f"it is for examples as the simulated client has them, after {', '.join(changes)}, "
            f"and not as they are in {data.dataset!r}"
        )
    if layers := mixing_layers(initial_model(config.architecture, config.seed)[0]):
        limits.append(
            f"its predictions depend on which examples are asked for together, because "
            f"{', '.join(layers)} normalize by them"
        )
    return limits
