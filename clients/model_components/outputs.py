"""What a network returns, as a tensor of logits."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["take_logits"]


def logits_of(outputs: Any) -> Any:
    """Return the ``logits`` of what a network returned, where it has such; else all of it.

    Networks of transformers return a ``ModelOutput``, and torchvision's Inception and GoogLeNet in
    training a named tuple of logits and auxiliary logits, which are left out.

    Parameters
    ----------
    outputs : object
        What the network returned.
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    logits = getattr(outputs, "logits", None) if logits is None else logits
    return logits if isinstance(logits, Tensor) else outputs


def take_logits(model: nn.Module) -> None:
    """Make a network return its logits where it returns an object that has them.

    Parameters
    ----------
    model : nn.Module
        The network; it gets a hook, once.
    """
    if _hook not in model._forward_hooks.values():
        model.register_forward_hook(_hook)


def _hook(model: nn.Module, inputs: Any, outputs: Any) -> Any:
    return logits_of(outputs)
