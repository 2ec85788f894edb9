"""Networks inside others: ``torch.compile``, ``DataParallel``, peft, Lightning, Opacus."""

from collections.abc import Iterator

from torch import nn

from clients.model_components.layer_types import declares_component, holds_values, is_a

WRAPPERS = (
    ("torch._dynamo", "OptimizedModule", "_orig_mod"),
    ("torch.nn.parallel", "DataParallel|DistributedDataParallel", "module"),
    ("opacus", "AbstractGradSampleModule", "_module"),
    ("peft", "PeftModel", "base_model"),
    ("peft.tuners", "BaseTuner", "model"),
)
"""Package, name of the class, and the submodule that it wraps."""


def inside(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a network and those inside it, with their paths, the outermost first.

    A network is inside another if that one is a known wrapper, or has no parameters and buffers but
    those of this one submodule.

    Parameters
    ----------
    model : nn.Module
        The network.
    """
    path = ""
    while True:
        yield path, model
        found = wrapped(model) or _only_child(model)
        if found is None:
            return
        path = below(path, found)
        model = model.get_submodule(found)


def wrapped(model: nn.Module) -> str | None:
    """Return the name of the submodule that a known wrapper wraps; None if it is no wrapper."""
    children = dict(model.named_children())
    for package, names, child in WRAPPERS:
        if child in children and is_a(type(model), package, names):
            return child
    return None


def below(path: str, name: str) -> str:
    """Return the path of something in the module at a path."""
    return f"{path}.{name}" if path else name


def _only_child(model: nn.Module) -> str | None:
    if holds_values(model) or declares_component(model):
        return None
    full = [
        name for name, child in model.named_children() if any(map(holds_values, child.modules()))
    ]
    return full[0] if len(full) == 1 else None
