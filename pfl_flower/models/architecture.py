"""Architecture: the arguments that decide a network."""

from dataclasses import dataclass

from pfl_flower.models.networks import Shape


@dataclass(frozen=True)
class Architecture:
    """The arguments that decide a network: hashable, so that networks can be cached by it.

    Attributes
    ----------
    model : str
        A key of :data:`~pfl_flower.models.MODELS`; a network of a library as ``library:name`` with
        a key of :data:`~pfl_flower.models.libraries.LIBRARIES`; or a user's function as
        ``module:function``.
    shape : tuple of int
        Shape of one example: (channels, height, width) or (features,); of a node's features in a
        graph.
    num_classes : int
        Number of outputs; 1 for regression.
    norm : str, default "none"
        ``"none"``, ``"batch"`` or ``"group"``.
    adapter_size : int, default 8
        Bottleneck or rank of the adapters, for networks with adapters.
    links : bool, default False
        Whether graph networks predict links (pairs of nodes).
    inputs : tuple of str, default ()
        Names of several inputs of one shape, which the network gets by name.
    pretrained : str or bool, default ""
        Whether a network of a library starts from the library's weights; or the file or folder
        with others; of a network of the app the file of an earlier run's shared arrays.
    download : bool, default False
        Whether weights that are not on this machine are downloaded.
    trainable : str, default "all"
        What is trained: ``"all"``, ``"head"``, ``"blocks:2"`` or ``"lora"``.
    lora_rank, lora_alpha : int and float
        Rank and scale of LoRA.
    lora_targets : str, default ""
        Layers that get LoRA, as paths, ends of paths or patterns, separated by commas.
    freezes : str, default ""
        Rule of what is frozen once the network is built, such as ``adapter.A``; what it does not
        have is no error.
    """

    model: str
    shape: Shape
    num_classes: int
    norm: str = "none"
    adapter_size: int = 8
    links: bool = False
    inputs: tuple[str, ...] = ()
    pretrained: str | bool = ""
    download: bool = False
    trainable: str = "all"
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_targets: str = ""
    freezes: str = ""

    @property
    def weights(self) -> str:
        """What the network starts from: empty for random values, ``"true"`` for the library's.

        Otherwise it is the path of a file or a folder.
        """
        value = str(self.pretrained).strip()
        if value.lower() in ("", "false", "no"):
            return ""
        return "true" if value.lower() in ("true", "yes") else value


OF_ARCHITECTURE = (
    "adapter_size",
    "pretrained",
    "download",
    "trainable",
    "lora_rank",
    "lora_alpha",
    "lora_targets",
)
"""Common run keys that are arguments of an :class:`Architecture` as they are."""
