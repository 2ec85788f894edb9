"""Networks of libraries by name: ``torchvision:resnet18``, ``timm:resnet10t``, ``hf:<folder>``."""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clients.data.inputs import MASK, TOKENS, spread_inputs
from clients.model_components.outputs import take_logits
from clients.scopes import select
from pfl_flower.models.architecture import Architecture
from pfl_flower.models.input_type import check_input_names, trial_inputs
from pfl_flower.models.pretrained_weights import check_fit, put_weights, read_weights
from pfl_flower.utils.text import did_you_mean, nearest
from strategies.errors import ArgumentError

New = frozenset[str]
"""Names of entries that pretrained weights do not have."""


@dataclass(frozen=True)
class Library:
    """A library of networks.

    Attributes
    ----------
    module : str
        Its package.
    extra : str
        The extra of this project that installs it; empty if it is always there.
    build : callable
        (arguments, name) -> the network, and the entries of it that are new: no pretrained weights
        were put into them.
    """

    module: str
    extra: str
    build: Callable[[Architecture, str], tuple[nn.Module, New]]


def is_of_library(model: str) -> bool:
    """Return whether a run key ``model`` names a network of a library."""
    library, colon, name = model.partition(":")
    return bool(colon and name) and library in LIBRARIES


def build_of_library(architecture: Architecture) -> tuple[nn.Module, New]:
    """Return a network of a library, and the entries of it that are new.

    Parameters
    ----------
    architecture : Architecture
        Its ``model`` is ``library:name``.

    Raises
    ------
    ArgumentError
        If the library is not installed, has no such network, or the network does not take such
        examples; or if pretrained weights are not there, or do not fit.
    """
    prefix, _, name = architecture.model.partition(":")
    library = LIBRARIES[prefix]
    if importlib.util.find_spec(library.module) is None:
        raise ArgumentError(
            "model",
            architecture.model,
            f"of a library that is installed; {library.module} is not: pip install "
            f"'pfl-flower[{library.extra}]'. `flwr run` installs no extras, so there add "
            f"{library.module} to the dependencies in the pyproject.toml of your project",
        )
    model, new = library.build(architecture, name)
    check_input_names(model, architecture)
    take_logits(model)
    spread_inputs(model)
    model.register_forward_pre_hook(_pad_as_known, with_kwargs=True)
    try_examples(model, architecture)
    return model, new


def try_examples(model: nn.Module, architecture: Architecture) -> None:
    """Refuse a network that does not take such examples.

    Raises
    ------
    ArgumentError
        With what it ended with.
    """
    a, ended = architecture, ""
    for integers in (False, True):
        with trial_inputs(model, a.shape, integers, a.links, a.inputs) as inputs, torch.no_grad():
            try:
                model(inputs)
            except Exception as error:  # a network can raise anything
                ended = ended or f"{type(error).__name__}: {error}".partition("\n")[0]
            else:
                return
    raise ArgumentError(
        "model", a.model, f"a network that takes examples of shape {a.shape}; it ended with {ended}"
    )


def _pad_as_known(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Put the padding token that a network knows where its mask has none.

    Networks such as GPT-2 and Llama classify by the last token that is no padding, and find it by
    its id, not by the mask.
    """
    pad = getattr(getattr(model, "config", None), "pad_token_id", None)
    ids, mask = kwargs.get(TOKENS), kwargs.get(MASK)
    both = isinstance(ids, Tensor) and isinstance(mask, Tensor) and ids.shape == mask.shape
    if not both or not isinstance(pad, int) or pad < 0:
        return None
    return args, {**kwargs, TOKENS: kwargs[TOKENS].masked_fill(mask == 0, pad)}


def _check_name(architecture: Architecture, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name in names:
        return
    library = architecture.model.partition(":")[0]
    question = did_you_mean(name, names, f"{library}:{{}}")
    near = [f"{library}:{each}" for each in nearest(name, names)]
    raise ArgumentError(
        "model",
        architecture.model,
        f"one of the {len(names)} networks of {library}" + (f"; {question}" if question else ""),
        near,
    )


def _head(model: nn.Module, architecture: Architecture) -> frozenset[str]:
    """Return the entries of the head; it is found by examples of zeros where nothing else tells."""
    example = torch.zeros(2, *architecture.shape)
    return select(model, "head", example=example)


def _not_there(architecture: Architecture, what: str) -> ArgumentError:
    return ArgumentError(
        "pretrained",
        architecture.pretrained,
        f"a file or folder on this machine, where {what} is not: set download=true to get it, or "
        f"pretrained to the path of one",
    )


def _torchvision(architecture: Architecture, name: str) -> tuple[nn.Module, New]:
    from torchvision import models

    _check_name(architecture, name, models.list_models(module=models))
    model = models.get_model(name, weights=None, num_classes=architecture.num_classes)
    try_examples(model, architecture)  # before the head is looked for by such examples
    if not architecture.weights:
        return model, frozenset(model.state_dict())
    if architecture.weights == "true":
        published = models.get_model_weights(name).DEFAULT
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
        if not file.is_file():
            if not architecture.download:
                raise _not_there(architecture, file.name)
            published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    else:
        file = Path(architecture.weights)
    return model, put_weights(model, read_weights(file), _head(model, architecture), str(file))


def _timm(architecture: Architecture, name: str) -> tuple[nn.Module, New]:
    import timm

    _check_name(architecture, name, [*timm.list_models(), *timm.list_pretrained()])
    options: dict[str, Any] = {"num_classes": architecture.num_classes}
    published = timm.get_pretrained_cfg(name)
    if len(architecture.shape) == 3:
        options["in_chans"] = architecture.shape[0]
        if published is not None and published.fixed_input_size:
            options["img_size"] = tuple(architecture.shape[1:])
    model = timm.create_model(name, pretrained=False, **options)
    if not architecture.weights:
        return model, frozenset(model.state_dict())
    file = architecture.weights
    if file == "true":
        repository = None if published is None else published.hf_hub_id
        file = _of_hub(architecture, repository or f"timm/{name}", "model.safetensors")
    return model, put_weights(model, read_weights(file), _head(model, architecture), file)


def _of_hub(architecture: Architecture, repository: str, name: str) -> str:
    """Return the path of a file of the Hugging Face Hub, which is downloaded only if asked for."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return hf_hub_download(repository, name, local_files_only=not architecture.download)
    except LocalEntryNotFoundError as error:
        raise _not_there(architecture, f"{name} of {repository}") from error


def _huggingface(architecture: Architecture, name: str) -> tuple[nn.Module, New]:
    import transformers

    image = len(architecture.shape) == 3
    kind = "AutoModelForImageClassification" if image else "AutoModelForSequenceClassification"
    auto = getattr(transformers, kind)
    local = Path(name).expanduser()
    place = str(local) if local.is_dir() else name
    safe = {"trust_remote_code": False, "local_files_only": not architecture.download}
    try:
        config = transformers.AutoConfig.from_pretrained(
            place, num_labels=architecture.num_classes, **safe
        )
    except (OSError, ValueError) as error:
        raise _no_folder(architecture, name, error) from error
    try:
        if not architecture.weights:
            model = auto.from_config(config, trust_remote_code=False)
            return model.float(), frozenset(model.state_dict())
        wanted = architecture.weights
        place = place if wanted == "true" else str(Path(wanted).expanduser())
        with _quiet(transformers.utils.logging):
            model, found = auto.from_pretrained(
                place,
                config=config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **safe,
            )
    except (OSError, ValueError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        raise ArgumentError(
            "pretrained" if architecture.weights else "model",
            architecture.pretrained if architecture.weights else architecture.model,
            f"a folder with config.json and model.safetensors of a network that {kind} knows, or "
            f"such a name on the Hub with download=true ({why})",
        ) from error
    misfits = {n: f"{tuple(a)} instead of {tuple(b)}" for n, a, b in found["mismatched_keys"]}
    head = select(model, "head")
    new = check_fit(model, found["missing_keys"], misfits, found["unexpected_keys"], head, place)
    return model.float(), new


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Silence the report of transformers on what it loaded, which is checked and said here."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _no_folder(architecture: Architecture, name: str, error: Exception) -> ArgumentError:
    folder = Path(name).expanduser()
    there = [each.name for each in folder.parent.iterdir()] if folder.parent.is_dir() else []
    near = [f"hf:{folder.parent / each}" for each in nearest(folder.name, there)]
    question = f"; did you mean {' or '.join(near)}?" if near else ""
    why = str(error).partition("\n")[0]
    return ArgumentError(
        "model",
        architecture.model,
        f"hf:<folder with a config.json>, or hf:<name on the Hugging Face Hub> with download=true "
        f"or in the cache of this machine{question} ({why})",
        near,
    )


LIBRARIES: Mapping[str, Library] = {
    "torchvision": Library("torchvision", "", _torchvision),
    "timm": Library("timm", "timm", _timm),
    "hf": Library("transformers", "hf", _huggingface),
}
"""Word before the colon -> the library. A new one is one row."""
