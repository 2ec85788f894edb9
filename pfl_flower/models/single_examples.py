"""What methods ask of a network that need the gradients of single examples."""

from collections.abc import Collection
from logging import WARNING
from typing import TYPE_CHECKING

import torch
from flwr.common.logger import log

from clients import GraphNetwork, trained_parameters
from clients.data.inputs import clone
from clients.inference.example_gradients import ExampleGradients, mixing_layers
from pfl_flower.config.errors import ConfigError
from pfl_flower.models.input_type import zeros_example

if TYPE_CHECKING:
    from pfl_flower.model_setup import ModelSetup


def check_example_gradients(setup: "ModelSetup", names: Collection[str] | None = None) -> None:
    """Refuse a network whose examples have no gradients of their own; say if they take a loop.

    Raises
    ------
    ConfigError
        With the layers.
    """
    config, model = setup.config, setup.model
    if mixing := mixing_layers(model):
        raise ConfigError(
            f"{config.method} needs the gradient of every example, and under batch norm without "
            f"running statistics ({', '.join(mixing)}) an example has none of its own; set "
            f"track_running_stats=True, or take another normalization",
            key="model",
            value=config.model,
        )
    if isinstance(model, GraphNetwork):
        return  # it has no graph yet; those of the library can be mapped
    parameters = {
        name: parameter.detach() for name, parameter in trained_parameters(model, names).items()
    }
    schema, was_training = config.required_schema, model.training
    shape = config.architecture.shape
    inputs = zeros_example(shape, schema.integers, names=schema.inputs)
    model.eval()
    try:
        with torch.no_grad():
            targets = config.client_task.outcomes(model(clone(inputs)))[0][0]
        mappable = ExampleGradients(model, config.client_task, parameters).mappable(inputs, targets)
    except Exception as error:  # zeros may be no input that the network knows
        log(WARNING, "%s: the network does not take an example of zeros: %s", config.method, error)
        return
    finally:
        model.train(was_training)
    if not mappable:
        log(
            WARNING,
            "%s: this network does not allow all examples' gradients at once (GRU, RNN, a forward "
            "pass that looks at values or writes in place); they are taken one after another, "
            "which is slower",
            config.method,
        )
